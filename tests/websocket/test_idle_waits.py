"""A task that waits for a message does so in few coroutines, whatever came before.

Control frames for which no task waits wake none: a task that is woken for nothing waits again in nested
coroutines. These took 1.2 KiB of each idle connection after the first ping of keepalive, and almost as much
until the first message.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.serving import serving
from tests.support.watching import DEFLATE, until
from trio_ws import Options
from trio_ws.protocol.frames import FIN, PING, PONG, TEXT
from trio_ws.protocol.framing import masked_frame
from trio_ws.testing import RawPeer
from trio_ws.websocket import epoll_reader
from trio_ws.websocket.internals import parts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws import WebSocket

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no epoll")


class Steps(trio.abc.Instrument):
    """Counts the steps of one task."""

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


@pytest.mark.parametrize("headers", [[], [DEFLATE]])
async def test_a_task_that_waits_for_a_message_sleeps_through_control_frames(
    headers: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    steps = Steps()
    latencies: list[float] = []

    async def handler(ws: WebSocket) -> None:
        steps.task = trio.lowlevel.current_task()
        async for message in ws:
            await ws.send(message)

    async with serving(handler, options=Options(ping_interval=None)) as server:
        peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port), headers=headers)
        await until(lambda: server.connections)
        (ws,) = server.connections
        liveness = parts_of(ws).liveness
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        for text in (b"a", b"b"):
            # Its own ping, ours of keepalive, and a pong that nobody asked for.
            await peer.send_raw(masked_frame(FIN | PING, text))
            pong = await peer.receive_frame()
            assert pong is not None
            assert pong.payload == text
            liveness.keepalive_ping()
            ping = await peer.receive_frame()
            assert ping is not None
            await peer.send_raw(masked_frame(FIN | PONG, ping.payload))
            await until(lambda: liveness.pings is None)
            await peer.send_raw(masked_frame(FIN | PONG, b"?"))
            await wait_all_tasks_blocked()
            assert steps.count == 0

            async def ping_it() -> None:
                latencies.append(await ws.ping(b"mine"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ping_it)
                asked = await peer.receive_frame()
                assert asked is not None
                assert asked.payload == b"mine"
                await peer.send_raw(masked_frame(FIN | PONG, asked.payload))
            await peer.send_raw(masked_frame(FIN | TEXT, text))
            answer = await peer.receive_frame()
            assert answer is not None
            assert answer.payload == text
            await wait_all_tasks_blocked()
            steps.count = 0
        trio.lowlevel.remove_instrument(steps)
        await peer.send_close()
        assert await peer.receive_until_close() == (1000, "")
        await peer.aclose()
    assert len(latencies) == 2


def nested(coroutine: Any) -> list[str]:
    """Return the names of the coroutines in which a task waits."""
    names = []
    while hasattr(coroutine, "cr_await"):
        # One of the extension has no name.
        names.append(getattr(coroutine, "__qualname__", type(coroutine).__name__).rpartition(".")[2])
        coroutine = coroutine.cr_await
    return names


async def in_a_loop(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def by_recv(ws: WebSocket) -> None:
    while (message := await ws.recv()) is not None:
        await ws.send(message)


@pytest.mark.parametrize("handler", [in_a_loop, by_recv])
@pytest.mark.parametrize("accepts", [False, True])
async def test_it_waits_in_no_more_coroutines_before_the_first_message_than_after(
    handler: Callable[[WebSocket], Awaitable[None]], accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    tasks: list[trio.lowlevel.Task] = []

    async def serve(ws: WebSocket) -> None:
        tasks.append(trio.lowlevel.current_task())
        if accepts:
            await ws.accept()
        await handler(ws)

    async with serving(serve, options=Options(ping_interval=None)) as server:
        peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
        await until(lambda: server.connections)
        await wait_all_tasks_blocked()
        (task,) = tasks
        before = nested(task.coro)
        assert handler.__name__ in before
        assert "_next_message" not in before
        await peer.send_raw(masked_frame(FIN | TEXT, b"a"))
        assert await peer.receive_frame() is not None
        await wait_all_tasks_blocked()
        assert len(nested(task.coro)) <= len(before)
        await peer.send_close()
        await peer.aclose()


async def test_a_close_behind_a_ping_wakes_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    ended = trio.Event()

    async def handler(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        ended.set()

    async with serving(handler, options=Options(ping_interval=None)) as server:
        peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
        await until(lambda: server.connections)
        await wait_all_tasks_blocked()
        await peer.send_raw(masked_frame(FIN | PING, b"") + b"\x88\x80\0\0\0\0")
        await ended.wait()
        await peer.aclose()
