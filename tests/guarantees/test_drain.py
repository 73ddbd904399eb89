"""Cancelling a server sends 1001 to all peers within the drain timeout.

Meanwhile, new handshakes get status 503. No task remains.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator  # noqa: TC003 - a handler's annotations are read
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import (
    all_tasks,
    echo,
    exchange,
    guard,
    read_to_end,
    request,
    serving,
    serving_in_memory,
    status_of,
)
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    DrainReport,
    Options,
    Packet,
    WebSocketHandler,
    WebSocketServer,
    connect,
    rpc_method,
    serve,
)
from trio_ws.testing import MemoryListener, RawPeer
from trio_ws.websocket import epoll_reader

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from trio.testing import MockClock

    from trio_ws import WebSocket


async def ignore_the_close(ws: WebSocket) -> None:
    """A handler that never uses its connection again."""
    await ws.accept()
    await trio.sleep_forever()


async def test_cancelling_says_1001_to_everyone_and_leaves_no_task(autojump_clock: MockClock) -> None:
    before = all_tasks()
    listener = MemoryListener()
    said: list[tuple[int, str] | None] = []

    async def client(peer: RawPeer) -> None:
        said.append(await peer.receive_until_close())
        await peer.send_close(1001)
        await peer.expect_eof()

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(echo, 0, listeners=[listener], **kw))
            for _ in range(20):
                clients.start_soon(client, await RawPeer.connect(await listener.connect(latency=0.1)))
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(0.2)
    assert said == [(1001, "")] * 20
    assert all_tasks() == before


@pytest.mark.parametrize("leave", ["end", "cancel", "raise"])
async def test_all_peers_receive_1001_however_the_block_is_left(
    leave: str, autojump_clock: MockClock
) -> None:
    before = all_tasks()
    listener = MemoryListener()
    server = WebSocketServer(echo, listeners=[listener])
    stream = await listener.connect()
    peer = RawPeer(stream, client=True)
    with trio.CancelScope() as scope:
        try:
            async with server:
                await RawPeer.connect(stream)
                await peer.send_text("x")
                await peer.receive_frame()
                if leave == "cancel":
                    scope.cancel()
                    await server.serve_forever()
                if leave == "raise":
                    raise KeyError("mine")
        except KeyError:
            assert leave == "raise"
    assert scope.cancelled_caught == (leave == "cancel")
    assert server.state == "closed"
    assert server.connections == frozenset()
    assert await peer.receive_until_close() == (1001, "")
    assert all_tasks() == before


async def test_over_sockets_too(caplog: pytest.LogCaptureFixture) -> None:
    before = all_tasks()
    async with serving() as server, trio.open_nursery() as nursery:
        codes: list[int] = []

        async def client(*, task_status: trio.TaskStatus[None]) -> None:
            async with connect(server.url) as ws:
                task_status.started()
                assert await ws.recv() is None
                assert ws.close_code is not None
                codes.append(ws.close_code)

        for _ in range(10):
            await nursery.start(client)
        assert await server.drain() == DrainReport(finished=10, cancelled=0)
    assert codes == [1001] * 10
    assert all_tasks() == before
    assert not caplog.records


@pytest.mark.parametrize("drain_timeout", [0.5, 7])
async def test_a_handler_that_ignores_the_close_is_cancelled_when_the_time_is_over(
    drain_timeout: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = all_tasks()
    options = Options(drain_timeout=drain_timeout)
    cancelled_at: list[float] = []

    async def handler(ws: WebSocket) -> None:
        try:
            await ignore_the_close(ws)
        finally:
            cancelled_at.append(trio.current_time())

    async with serving_in_memory(handler, options=options) as memory:
        peers = [await RawPeer.connect(await memory.stream()) for _ in range(3)]
        began = trio.current_time()
    assert trio.current_time() - began == pytest.approx(drain_timeout)
    assert [when - began for when in cancelled_at] == pytest.approx([drain_timeout] * 3)
    for peer in peers:
        assert await peer.receive_until_close() == (1001, "")
    assert all_tasks() == before
    (record,) = caplog.records
    assert "3 handlers" in record.getMessage()
    assert "drain_timeout" in record.getMessage()


async def test_peers_that_read_nothing_and_handlers_that_send_end_in_time(autojump_clock: MockClock) -> None:
    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(b"x" * 10_000)

    before = all_tasks()
    async with serving_in_memory(flood, options=Options(drain_timeout=5, ping_interval=None)) as memory:
        for _ in range(3):
            await RawPeer.connect(await memory.stream(capacity=1000))
        await trio.sleep(1)
        began = trio.current_time()
    # A waiting sender is woken by the close, and ends. The drain timeout interrupts the closing of its
    # connection.
    assert trio.current_time() - began == pytest.approx(5)
    assert all_tasks() == before


async def test_handlers_get_the_time_to_finish(autojump_clock: MockClock) -> None:
    saved: list[float] = []

    async def save_at_the_end(ws: WebSocket) -> None:
        async for _ in ws:
            pass
        await trio.sleep(3)
        saved.append(trio.current_time())

    async with serving_in_memory(save_at_the_end) as memory, memory.connect() as ws:
        await ws.send("x")
        began = trio.current_time()
        assert await memory.server.drain() == DrainReport(finished=1, cancelled=0)
        assert [when - began for when in saved] == pytest.approx([3])
        assert memory.server.state == "closed"


async def test_drain_counts_tells_its_code_and_reason_and_takes_its_own_time(
    autojump_clock: MockClock,
) -> None:
    async def handler(ws: WebSocket) -> None:
        if ws.path == "/ignore":
            await ignore_the_close(ws)
        await echo(ws)

    async with serving_in_memory(handler) as memory:
        peers = [await RawPeer.connect(await memory.stream(), path) for path in ("/", "/ignore", "/ignore")]
        for peer in peers[:1]:
            await peer.send_close(1000)
        polite = await RawPeer.connect(await memory.stream())
        ends: list[Any] = []

        async def answer_the_close() -> None:
            ends.append(await polite.receive_until_close())
            await polite.send_close(1012)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_the_close)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            report = await memory.server.drain(1012, "new version", timeout=2)
        assert trio.current_time() - began == pytest.approx(2)
        assert report == DrainReport(finished=1, cancelled=2)
        assert [report.finished, report.cancelled] == [1, 2]
        assert ends == [(1012, "new version")]
        for peer in peers[1:]:
            assert await peer.receive_until_close() == (1012, "new version")
    assert trio.current_time() - began == pytest.approx(2)


async def test_a_drain_of_zero_seconds_cancels_at_once(autojump_clock: MockClock) -> None:
    async with serving_in_memory(ignore_the_close) as memory:
        peer = await RawPeer.connect(await memory.stream())
        began = trio.current_time()
        assert await memory.server.drain(timeout=0) == DrainReport(finished=0, cancelled=1)
        assert trio.current_time() == began
        await peer.receive_until_close()  # the data that was sent without waiting


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"code": 1006}, "1006 cannot be sent"),
        ({"reason": "x" * 124}, "must not exceed 123 bytes"),
        ({"timeout": -1}, "timeout must be 0 seconds or more"),
        ({"timeout": math.nan}, "timeout must be 0 seconds or more"),
    ],
)
async def test_wrong_arguments_raise_at_once_and_drain_nothing(kwargs: dict[str, Any], error: str) -> None:
    async with serving_in_memory() as memory, memory.connect() as ws:
        with pytest.raises(ValueError, match=error):
            await memory.server.drain(**kwargs)
        await ws.send("on it goes")
        assert await ws.receive_text() == "on it goes"
        assert memory.server.state == "serving"


async def test_new_handshakes_get_503_while_draining_and_after_it(autojump_clock: MockClock) -> None:
    async with serving_in_memory(ignore_the_close) as memory:
        await RawPeer.connect(await memory.stream())
        half = await memory.stream()
        await half.send_all(request()[:30])
        answers: list[int] = []

        async def come_late() -> None:
            await trio.sleep(1)
            assert memory.server.state == "draining"
            response = await exchange(await memory.stream(), request())
            assert b"\r\nRetry-After: " in response
            answers.append(status_of(response))
            answers.append(status_of(await exchange(half, request()[30:])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_late)
            await memory.server.drain()
        assert answers == [503, 503]
        # The block continues, so late clients can still connect.
        assert await read_to_end(await memory.stream()) == b""


async def test_new_handshakes_over_sockets_get_503_after_a_drain() -> None:
    async with serving() as server:
        assert await server.drain() == DrainReport(0, 0)
        for _ in range(3):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                assert status_of(await read_to_end(stream)) == 503


async def test_a_silent_client_in_its_handshake_does_not_hold_up_the_drain(autojump_clock: MockClock) -> None:
    before = all_tasks()
    async with serving_in_memory() as memory:
        silent = await memory.stream()
        await silent.send_all(b"GET")
        await trio.sleep(1)
        began = trio.current_time()
    assert trio.current_time() == began
    assert await read_to_end(silent) == b""
    assert all_tasks() == before


async def test_a_client_that_was_not_accepted_yet_gets_503_and_its_handler_an_error(
    autojump_clock: MockClock,
) -> None:
    learned: list[ConnectionClosedError] = []

    async def ponder(ws: WebSocket) -> None:
        await trio.sleep(3)
        with pytest.raises(ConnectionClosedError) as info:
            await ws.accept()
        learned.append(info.value)

    async with serving_in_memory(ponder) as memory:
        stream = await memory.stream()
        await stream.send_all(request())
        await trio.sleep(1)
        assert await memory.server.drain() == DrainReport(finished=1, cancelled=0)
        assert status_of(await read_to_end(stream)) == 503
    assert len(learned) == 1


async def test_connections_that_accept_did_not_return_do_not_delay_the_drain(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(None) as memory:
        peer = await RawPeer.connect(await memory.stream())
        began = trio.current_time()
        with trio.move_on_after(0):
            await memory.server.drain()
        await peer.send_close(1001)
    assert trio.current_time() == began
    assert await peer.receive_until_close() == (1001, "")


async def test_a_waiting_accept_raises(autojump_clock: MockClock) -> None:
    async with serving_in_memory(None) as memory, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError, match="shutting down"):
                await memory.server.accept()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await memory.server.drain()


async def test_two_drains_at_once_both_report(autojump_clock: MockClock) -> None:
    reports: list[DrainReport] = []

    async def drain(server: WebSocketServer, timeout: float) -> None:  # noqa: ASYNC109
        reports.append(await server.drain(timeout=timeout))

    async with serving_in_memory(ignore_the_close) as memory:
        await RawPeer.connect(await memory.stream())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, memory.server, 2)
            nursery.start_soon(drain, memory.server, 60)
        assert trio.current_time() == pytest.approx(2)
    assert sum(report.cancelled for report in reports) == 1


async def test_a_cancelled_drain_leaves_the_server_draining_and_the_block_finishes_it(
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(ignore_the_close, options=Options(drain_timeout=4)) as memory:
        await RawPeer.connect(await memory.stream())
        with trio.move_on_after(1) as scope:
            await memory.server.drain(timeout=100)
        assert scope.cancelled_caught
        assert memory.server.state == "draining"
        assert len(memory.server.connections) == 1
    assert trio.current_time() == pytest.approx(5)


class Interrupted(WebSocketHandler):
    """Methods that raise KeyboardInterrupt, as Ctrl+C does in any user code."""

    def _interrupt(self) -> None:
        raise KeyboardInterrupt

    @rpc_method()
    def plain(self, connection: ClientConnection) -> None:
        self._interrupt()

    @rpc_method()
    async def at_once(self, connection: ClientConnection) -> None:
        self._interrupt()

    @rpc_method()
    async def later(self, connection: ClientConnection) -> None:
        await trio.lowlevel.checkpoint()
        self._interrupt()

    @rpc_method()
    async def in_a_nursery(self, connection: ClientConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(self.later, connection)

    @rpc_method()
    async def stream(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        self._interrupt()

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        self._interrupt()


async def struck(ws: WebSocket) -> None:
    async for _ in ws:
        raise KeyboardInterrupt


async def struck_in_a_nursery(ws: WebSocket) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await struck(ws)


METHODS = ("plain", "at_once", "later", "in_a_nursery", "stream", "")


@pytest.mark.parametrize("sockets", [False, True])
@pytest.mark.parametrize(
    ("target", "method"),
    [(struck, None), (struck_in_a_nursery, None), *((Interrupted, method) for method in METHODS)],
)
async def test_all_peers_receive_1001_after_ctrl_c_in_a_handler(
    target: Any, method: str | None, *, sockets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets share a reader here, and methods start in its task."""
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    before = all_tasks()
    codes: list[int | None] = []
    rpc = {"type": "request", "method": method, "call_id": "1"} if method else None
    options = Options(drain_timeout=0.01 if target is struck_in_a_nursery else 60)

    async def client(
        opening: AbstractAsyncContextManager[WebSocket], *, task_status: trio.TaskStatus[None]
    ) -> None:
        async with opening as ws:
            task_status.started()
            if opening is several[-1]:
                await ws.send_json({"source": 5, "rpc": rpc} if rpc else {"source": 4, "data": "x"})
            async for _ in ws:
                pass
            codes.append(ws.close_code)

    with trio.fail_after(guard()):
        async with trio.open_nursery() as clients:
            with pytest.raises(KeyboardInterrupt):
                async with AsyncExitStack() as stack:
                    if sockets:
                        server = await stack.enter_async_context(serving(target, options=options))
                        several: list[Any] = [connect(server.url) for _ in range(3)]
                    else:
                        memory = await stack.enter_async_context(serving_in_memory(target, options=options))
                        several = [memory.connect() for _ in range(3)]
                    for opening in several:
                        await clients.start(client, opening)
                    await trio.sleep_forever()
    assert codes == [1001] * 3
    assert all_tasks() == before
