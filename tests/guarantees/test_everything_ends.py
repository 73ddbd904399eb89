"""aclose, leaving the block, ping and drain end in their stated times, and wake all waiting tasks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.inspect import is_write_blocked
from tests.support.serving import guard, serving, serving_in_memory
from tests.support.watching import until
from trio_ws import CloseFrame, ConnectionClosedError, Options, WebSocket, WebSocketServer, connect
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

OPTIONS = Options(ping_interval=None, close_timeout=7, drain_timeout=5)


async def deaf_server(stream: trio.abc.Stream, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Perform the opening handshake, and never read again."""
    peer = await RawPeer.accept(stream)
    task_status.started(peer)
    await trio.sleep_forever()


async def fill(ws: WebSocket) -> None:
    with trio.move_on_after(1):
        while True:
            await ws.send(bytes(10_000))


@pytest.mark.parametrize("blocked", [False, True])
async def test_leaving_the_block_ends_with_a_peer_that_reads_nothing(
    blocked: bool, autojump_clock: MockClock
) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        link = await listener.open_link()
        nursery.start_soon(deaf_server, link.server)
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            if blocked:
                await fill(ws)
            began = trio.current_time()
        assert trio.current_time() - began == 7
        assert ws.closed
        nursery.cancel_scope.cancel()


async def test_aclose_ends_with_a_sender_blocked_and_wakes_it(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    woken = []

    async def blocked_sender(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError):
            while True:
                await ws.send(bytes(10_000))
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        link = await listener.open_link()
        nursery.start_soon(deaf_server, link.server)
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            nursery.start_soon(blocked_sender, ws)
            await trio.testing.wait_all_tasks_blocked()
            await ws.aclose()
            assert trio.current_time() == 7
            assert woken == [0]  # immediately, because no more data can be sent
        nursery.cancel_scope.cancel()


async def test_a_cancelled_aclose_closes_at_once(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        link = await listener.open_link()
        nursery.start_soon(deaf_server, link.server)
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            with trio.move_on_after(2) as scope:
                await ws.aclose()
            assert scope.cancelled_caught
            assert ws.closed
            assert trio.current_time() == 2
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 2


async def test_cancelling_the_block_closes_at_once_and_says_1001() -> None:
    told: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        assert await ws.recv() is None
        told.append(ws.close_received)

    async with serving(handler) as server:
        with trio.CancelScope() as scope:
            async with connect(server.url):
                scope.cancel()
                await trio.sleep_forever()
        await until(lambda: told)
    assert told == [CloseFrame(1001, "")]


async def test_a_ping_without_a_pong_ends_with_the_callers_deadline_or_the_connection(
    autojump_clock: MockClock,
) -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        link = await listener.open_link()
        nursery.start_soon(deaf_server, link.server)
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            with trio.move_on_after(3) as scope:
                await ws.ping()
            assert scope.cancelled_caught
            nursery.start_soon(ws.close)
            with pytest.raises(ConnectionClosedError):
                await ws.ping()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_ping_ends_by_itself_with_a_peer_that_reads_nothing(
    blocked: bool, autojump_clock: MockClock
) -> None:
    """It ends when keepalive closes the connection, while it waits for its pong or for room to write."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        link = await listener.open_link()
        nursery.start_soon(deaf_server, link.server)
        options = Options(ping_interval=20, ping_timeout=15)
        async with connect("ws://test/", stream=link.client, options=options) as ws:
            if blocked:
                await fill(ws)
            with pytest.raises(ConnectionClosedError) as info:
                await ws.ping()
            assert isinstance(info.value.__cause__, TimeoutError)
            assert trio.current_time() <= (20 if blocked else 0) + 20 + 15
        nursery.cancel_scope.cancel()


async def test_an_aclose_that_is_cancelled_from_the_start_closes_and_wakes_a_blocked_sender() -> None:
    """Over a socket whose buffer is full, because the peer does not read."""
    done = trio.Event()
    woken: list[WebSocket] = []

    async def flood(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError):
            while True:
                await ws.send(bytes(100_000))
        woken.append(ws)

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, ws)
            await until(lambda: is_write_blocked(ws) and ws.buffered_bytes >= 65536)
            assert not woken
            with trio.CancelScope() as scope:
                scope.cancel()
                await ws.aclose()
            assert scope.cancelled_caught
            assert ws.closed
        assert woken == [ws]
        done.set()

    async with serving(handler) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await RawPeer.connect(stream)
        await done.wait()
        await stream.aclose()


async def test_many_closes_at_once_end_together_and_one_may_be_cancelled(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    ends: list[float] = []

    async def close(ws: WebSocket) -> None:
        await ws.close()
        ends.append(trio.current_time())

    for patience, end in ((100.0, 7.0), (2.0, 2.0)):
        ends.clear()
        async with trio.open_nursery() as nursery:
            link = await listener.open_link()
            nursery.start_soon(deaf_server, link.server)
            async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
                began = trio.current_time()
                async with trio.open_nursery() as closers:
                    for _ in range(3):
                        closers.start_soon(close, ws)
                    with trio.move_on_after(patience):
                        await ws.aclose()
                assert [time - began for time in ends] == [end] * 3
            nursery.cancel_scope.cancel()


async def test_drain_ends_in_its_time_with_peers_that_read_nothing(autojump_clock: MockClock) -> None:
    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(bytes(10_000))

    async def sleeper(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep_forever()

    for handler in (flood, sleeper):
        listener = MemoryListener()
        async with WebSocketServer(handler, listeners=[listener], options=OPTIONS) as server:
            await RawPeer.connect(await listener.connect())
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            report = await server.drain()
            assert trio.current_time() - began == 5
            assert (report.finished, report.cancelled) == (0, 1)
            assert server.connections == frozenset()


async def test_leaving_a_server_ends_in_its_time_also_when_it_is_cancelled(autojump_clock: MockClock) -> None:
    """With silent peers that do not read, one in each state that could delay the end."""

    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(bytes(10_000))

    for cancelled in (False, True):
        listener = MemoryListener()
        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with WebSocketServer(flood, listeners=[listener], options=OPTIONS) as server:
                await RawPeer.connect(await listener.connect())
                await (await listener.connect()).send_all(b"GET / HT")
                await listener.connect()
                await trio.testing.wait_all_tasks_blocked()
                if cancelled:
                    scope.cancel()
                    await trio.sleep_forever()
        assert trio.current_time() - began == 5
        assert scope.cancelled_caught is cancelled
        assert server.state == "closed"  # pyright: ignore[reportPossiblyUnboundVariable]


async def test_drain_can_be_cancelled_from_outside(autojump_clock: MockClock) -> None:
    async def sleeper(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep_forever()

    async with serving_in_memory(sleeper, options=OPTIONS) as memory:
        await RawPeer.connect(await memory.stream())
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1) as scope:
            await memory.server.drain(timeout=100)
        assert scope.cancelled_caught
        assert trio.current_time() == 1


async def wait_in_every_way(ws: WebSocket, end: Any) -> None:
    """Start a task for each method that waits, and check that all of them end with the connection."""
    waits: dict[str, Any] = {
        "recv": ws.recv,
        "receive": ws.receive,
        "iteration": lambda: anext(ws),
        "parts": lambda: anext(ws.recv_streaming()),
        "text": ws.receive_text,
        "bytes": ws.receive_bytes,
        "json": ws.receive_json,
        "send": lambda: ws.send("x"),
        "ping": ws.ping,
        "wait_closed": ws.wait_closed,
    }
    if ws.buffered_bytes < 65536:
        del waits["send"]  # it would not wait
    woken: set[str] = set()

    async def waiter(name: str) -> None:
        try:
            await waits[name]()
        except (ConnectionClosedError, StopAsyncIteration, trio.EndOfChannel):
            pass
        woken.add(name)

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            for name in waits:
                nursery.start_soon(waiter, name)
            await trio.testing.wait_all_tasks_blocked()
            assert woken == set()
            await end()
    assert woken == set(waits)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("ending", ["peer closes", "peer breaks the protocol", "cut", "end", "we", "silence"])
async def test_every_waiter_wakes_when_the_connection_ends(
    ending: str, blocked: bool, autojump_clock: MockClock
) -> None:
    listener = MemoryListener()
    options = Options(ping_interval=20 if ending == "silence" else None, close_timeout=7, drain_timeout=5)
    async with WebSocketServer(listeners=[listener], options=options) as server:
        link = await listener.open_link()
        peer = await RawPeer.connect(link.client)
        ws = await server.accept()
        if blocked:
            await fill(ws)

        async def end() -> None:
            if ending == "peer closes":
                await peer.send_close(4000)
            elif ending == "peer breaks the protocol":
                await peer.send_frame(3)
            elif ending == "cut":
                link.cut()
            elif ending == "end":
                await peer.aclose()
            elif ending == "we":
                await ws.close()

        began = trio.current_time()
        await wait_in_every_way(ws, end)
        assert trio.current_time() - began <= (60 if ending == "silence" else 7)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("ending", ["peer closes", "end", "we", "cancelled"])
async def test_every_waiter_wakes_over_a_socket_too(ending: str, blocked: bool) -> None:
    async with serving(None) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        peer = await RawPeer.connect(stream)
        ws = await server.accept()

        async def flood() -> None:
            while True:
                await ws.send(bytes(100_000))

        if blocked:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                await until(lambda: is_write_blocked(ws) and ws.buffered_bytes >= 65536)
                nursery.cancel_scope.cancel()

        async def read_on() -> None:
            with contextlib.suppress(trio.BrokenResourceError, EOFError):
                if await peer.receive_until_close() is not None:
                    await peer.send_close()

        async def end() -> None:
            if ending == "peer closes":
                await peer.send_close(4000)
                await read_on()
            elif ending == "end":
                await stream.aclose()
            elif ending == "cancelled":
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await ws.close()
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read_on)
                    await ws.close()

        await wait_in_every_way(ws, end)
        await stream.aclose()
