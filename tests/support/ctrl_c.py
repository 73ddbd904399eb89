"""A program that receives Ctrl+C at a given line of trio_ws; tests/test_ctrl_c.py runs it as a process.

``python -m tests.support.ctrl_c SCRIPT STEP`` interrupts every STEP-th line that the server's own tasks run,
each in a run of its own. It prints how many runs ended in which way, as JSON. A hang ends the process with a
traceback. SCRIPT is "echo" for a function that serves clients, "calls" for a handler whose methods they call,
or "app" for an App with a middleware and a lifespan around such a function.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

import trio_ws
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import FrameType

OURS = trio_ws.__file__.removesuffix("__init__.py")


class CtrlCInjector:
    """Counts the lines of trio_ws that the server's tasks run, and sends Ctrl+C at one of them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.lines = 0

    def call(self, frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        return self.line if name.startswith(OURS) and "testing" not in name else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and _is_servers():
            self.lines += 1
            if self.lines == self.target:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.line


def _is_servers() -> bool:
    try:
        return trio.lowlevel.current_task().name != "client"
    except RuntimeError:
        return False


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def echoed(listener: MemoryListener) -> None:
    async with trio_ws.connect("ws://test/", stream=await listener.connect()) as ws:
        for _ in range(3):
            await ws.send("hello")
            await ws.recv()


class Calls(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def at_once(self, connection: trio_ws.ClientConnection) -> None:
        return

    @trio_ws.rpc_method()
    async def later(self, connection: trio_ws.ClientConnection) -> None:
        await trio.sleep(0.1)


async def called(listener: MemoryListener) -> None:
    async with trio_ws.WebSocketClient("ws://test/", stream=await listener.connect()) as client:
        for _ in range(2):
            await client.call("at_once")
            await client.call("later")


app = trio_ws.App()
app.websocket("/")(echo)


@app.middleware
@app.lifespan
async def nothing(ws_or_app: object) -> AsyncIterator[None]:
    yield


SCRIPTS: dict[str, tuple[Any, Any]] = {
    "echo": (echo, echoed),
    "calls": (Calls, called),
    "app": (app, echoed),
}


async def main(script: str) -> None:
    target, client = SCRIPTS[script]
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(target, listeners=[listener]):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client, listener, name="client")
            nursery.start_soon(client, listener, name="client")
        await trio.sleep(1)


def run(script: str, target: int) -> tuple[str, int]:
    injector = CtrlCInjector(target)
    sys.settrace(injector.call)
    try:
        trio.run(main, script, clock=MockClock(autojump_threshold=0))
    except KeyboardInterrupt:
        return "KeyboardInterrupt", injector.lines
    except BaseExceptionGroup as group:  # from this program's own nursery, with the errors of the clients
        assert group.subgroup(KeyboardInterrupt) is not None
        return "KeyboardInterrupt", injector.lines
    finally:
        sys.settrace(None)
    return "done", injector.lines


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)
    script, step = sys.argv[1], int(sys.argv[2])
    ending, total = run(script, 0)
    assert ending == "done"
    sys.stdout.write(json.dumps(Counter(run(script, target)[0] for target in range(1, total, step))))
