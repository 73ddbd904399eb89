"""Polling a socket before waiting for it: no data is lost, and polling stops if it finds nothing."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import request as opening_request
from tests.support.serving import serving
from tests.support.wire import frame
from trio_ws import Options, WebSocket
from trio_ws.protocol.frames import BINARY
from trio_ws.websocket import epoll_reader
from trio_ws.websocket.transport import POLLS_TO_SKIP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OPTIONS = Options(ping_interval=None)


@pytest.fixture(params=[0, 4], ids=["shared", "alone"], autouse=True)
def _few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", request.param)


class Steps(trio.abc.Instrument):
    """Counts the steps of tasks that read, or receive messages."""

    def __init__(self) -> None:
        self.count = 0
        self._own = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        # The monitor sweeps at its own times.
        self.count += task is not self._own and task.name != "trio_ws monitor"


class Waits(trio.abc.Instrument):
    """Counts how often trio had to wait for I/O."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += timeout > 0


@asynccontextmanager
async def peer(target: object, path: Path) -> AsyncIterator[socket.socket]:
    """A raw connection whose data arrives immediately, and which has read the response."""
    async with serving(target, host=None, unix_path=path, options=OPTIONS, debug=True):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.connect(str(path))
            sock.send(opening_request())
            await trio.testing.wait_all_tasks_blocked()
            assert sock.recv(65536).endswith(b"\r\n\r\n")
            yield sock


async def test_a_peer_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    received: list[bytes] = []

    async def handler(ws: WebSocket) -> None:
        async for message in ws:
            assert isinstance(message.payload, bytes)
            received.append(message.payload)

    async with peer(handler, tmp_path / "socket") as sock:
        waits = 2 * (POLLS_TO_SKIP + 1)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for number in range(waits):
            sock.send(frame(BINARY, b"%d" % number))
            # Until the handler waits again, after an unsuccessful poll.
            await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(steps)
    assert received == [b"%d" % number for number in range(waits)]
    # One for each that is read, and with a shared reader one for each that is handed over. In addition, there
    # are three times of looking, of three steps, and of one more where a task has the message read.
    each, looking = (2, 4) if epoll_reader.SHARE_THRESHOLD == 0 else (1, 3)
    assert each * waits <= steps.count <= each * waits + 3 * looking


async def test_a_message_that_is_there_is_taken_without_a_wait(tmp_path: Path) -> None:
    begin, done = trio.Event(), trio.Event()
    waits = Waits()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await begin.wait()
        trio.lowlevel.add_instrument(waits)
        for number in range(100):
            sock.send(frame(BINARY, b"%d" % number))
            assert await ws.receive_bytes() == b"%d" % number
        trio.lowlevel.remove_instrument(waits)
        done.set()

    async with peer(handler, tmp_path / "socket") as sock:
        begin.set()
        await done.wait()
    # The first unsuccessful poll makes the reader skip polls for this many waits.
    assert waits.count <= POLLS_TO_SKIP


async def test_a_cancellation_at_the_look_loses_nothing(tmp_path: Path) -> None:
    received: list[bytes] = []
    begin, done = trio.Event(), trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await begin.wait()
        for number in range(2 * POLLS_TO_SKIP):
            with trio.CancelScope() as scope:
                scope.cancel()
                if number % 2:
                    sock.send(frame(BINARY, b"%d" % number))
                received.append(await ws.receive_bytes())
            if number % 2:
                received.append(await ws.receive_bytes())
        done.set()

    async with peer(handler, tmp_path / "socket") as sock:
        begin.set()
        await done.wait()
    assert received == [b"%d" % number for number in range(1, 2 * POLLS_TO_SKIP, 2)]
