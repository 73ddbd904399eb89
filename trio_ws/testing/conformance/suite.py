"""The suite: a server for drivers and their clients, which returns the verdicts."""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio

from trio_ws.errors import ConnectionClosedError
from trio_ws.server.server import WebSocketServer
from trio_ws.testing.conformance import client_scenes, server_scenes
from trio_ws.testing.conformance.scene import Scene
from trio_ws.testing.conformance.stage import DIALECTS, Stage, ViolationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from trio_ws.websocket.connection import WebSocket

__all__ = ["SCENES", "Scene", "Verdict", "run_conformance"]

#: All scenes, in the order in which they are played.
SCENES = (*client_scenes.SCENES, *server_scenes.SCENES)

#: The environment variable with the URL that a driver connects to.
VARIABLE = "TRIO_WS_CONFORMANCE"


@dataclass(frozen=True)
class Verdict:
    """The result of one scene.

    Attributes:
        scene: the scene's name.
        outcome: ``"skipped"`` if the driver reports that its client lacks a feature that the scene needs.
        reason: what the client did wrong, or which feature it lacks; empty if it passed.
    """

    scene: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str = ""


class Suite:
    """The server. It works with one driver at a time."""

    def __init__(self, patience: float, startup: float) -> None:
        self.patience = patience
        self.startup = startup
        self.put, self.drivers = trio.open_memory_channel[tuple["WebSocket", trio.Event]](0)
        self._stage: Stage | None = None
        self._number = 0
        self._over = trio.Event()

    async def serve(self, ws: WebSocket) -> None:
        """Serve a driver or its client."""
        if ws.path == "/driver":
            await ws.accept()
            over = trio.Event()
            await self.put.send((ws, over))
            await over.wait()
            return
        if self._stage is None or ws.path != f"/scenes/{self._number}":
            await ws.reject(404)
            return
        offered = [name.strip() for name in (ws.header("Sec-WebSocket-Protocol") or "").split(",")]
        chosen = next((name for name in offered if name in DIALECTS), None)
        if chosen is None:
            await ws.reject(400, body=f"offer one of {', '.join(DIALECTS)}\n".encode())
            return
        over = self._over
        await ws.accept(subprotocol=chosen)
        self._stage.connected(ws)
        await over.wait()

    async def play(self, scene: Scene, control: WebSocket, base: str) -> Verdict:
        """Play one scene."""
        self._number += 1
        self._over = trio.Event()
        self._stage = stage = Stage(control, f"{base}/scenes/{self._number}", self.patience)
        try:
            await scene.play(stage)
            return Verdict(scene.name, "passed")
        except ViolationError as exc:
            return Verdict(scene.name, "failed", str(exc))
        finally:
            self._stage = None
            self._over.set()
            with trio.move_on_after(self.patience):
                try:
                    await stage.do("reset")
                    await stage.report("reset", done=True)
                except (ViolationError, ConnectionClosedError):
                    pass  # the next scene will fail because of it


async def _play_all(
    suite: Suite, base: str, scenes: Sequence[Scene], tell: Callable[[Verdict], None] | None
) -> list[Verdict]:
    try:
        with trio.fail_after(suite.startup):
            control, over = await suite.drivers.receive()
            hello = await control.receive_json()
    except trio.TooSlowError:
        absent = Verdict("driver", "failed", f"no driver has said hello within {suite.startup:g} s")
        if tell is not None:
            tell(absent)
        return [absent]
    lacks = set(hello.get("lacks", ()))
    verdicts = []
    for scene in scenes:
        missing = sorted(lacks.intersection(scene.needs))
        if missing:
            verdict = Verdict(scene.name, "skipped", f"the client has no {', '.join(missing)}")
        else:
            try:
                verdict = await suite.play(scene, control, base)
            except ConnectionClosedError as exc:
                verdict = Verdict(scene.name, "failed", f"the driver is gone: {exc}")
        verdicts.append(verdict)
        if tell is not None:
            tell(verdict)
    over.set()
    return verdicts


async def run_conformance(
    command: Sequence[str] | None = None,
    *,
    scenes: Sequence[str] = (),
    port: int = 0,
    patience: float = 10.0,
    startup: float = 10.0,
    tell: Callable[[Verdict], None] | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> list[Verdict]:
    """Test a client through its driver.

    Args:
        command: the driver's command line. The driver connects to the URL in the environment variable
            ``TRIO_WS_CONFORMANCE``, and is killed after the last scene. Default None: wait for a driver that
            was started otherwise.
        scenes: only play scenes whose name contains one of these. Default: all scenes.
        port: the port on 127.0.0.1 that the suite listens on. Default 0: any free port.
        patience: seconds that a client and its driver have for each step. Default 10.
        startup: seconds within which the driver must send its first report. Default 10.
        tell: called with each verdict.
        task_status: started with the URL for drivers.

    Returns:
        The verdicts, in the order of the scenes.

    Raises:
        ValueError: no scene is called that.
        OSError: the program cannot be started, or the port be had.
    """
    chosen = [one for one in SCENES if not scenes or any(part in one.name for part in scenes)]
    if not chosen:
        raise ValueError(f"no scene has a name with {' or '.join(map(repr, scenes))}")
    suite = Suite(patience, startup)
    async with WebSocketServer(suite.serve, port, host="127.0.0.1") as server:
        url = f"{server.url}/driver"
        async with _driver(command, url):
            task_status.started(url)
            return await _play_all(suite, server.url, chosen, tell)


@asynccontextmanager
async def _driver(command: Sequence[str] | None, url: str) -> AsyncIterator[None]:
    if command is None:
        yield
        return
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, env={**os.environ, VARIABLE: url}
    )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
