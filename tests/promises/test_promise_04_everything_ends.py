"""Promise 4: aclose, leaving the block, ping and drain end in their stated times, and wake every waiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.kit.serving import serving, serving_in_memory
from trio_ws import CloseFrame, ConnectionClosedError, Options, WebSocket, WebSocketServer, connect
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

OPTIONS = Options(ping_interval=None, close_timeout=7, drain_timeout=5)


async def deaf_server(stream: trio.abc.Stream, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Shakes hands and never reads again."""
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
            assert woken == [0]  # at once: nothing more can be sent
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
        while not told:
            await trio.sleep(0.001)
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


async def test_drain_ends_in_its_time_with_peers_that_read_nothing(autojump_clock: MockClock) -> None:
    async def flood(ws: WebSocket) -> None:
        while True:
            await ws.send(bytes(10_000))

    async def sleeper(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep_forever()

    for handler, finished in ((flood, 1), (sleeper, 0)):
        listener = MemoryListener()
        async with WebSocketServer(handler, listeners=[listener], options=OPTIONS) as server:
            await RawPeer.connect(await listener.connect())
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            report = await server.drain()
            assert trio.current_time() - began <= 5
            assert report.finished + report.cancelled == 1
            assert report.finished == (finished if trio.current_time() - began < 5 else 0)
            assert server.connections == frozenset()


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


@pytest.mark.parametrize("ending", ["peer closes", "link is cut", "link ends", "we close"])
async def test_every_waiter_wakes_when_the_connection_ends(ending: str, autojump_clock: MockClock) -> None:
    woken: set[str] = set()

    async def waiter(name: str, use: Any) -> None:
        try:
            await use()
        except (ConnectionClosedError, StopAsyncIteration, trio.EndOfChannel):
            pass
        woken.add(name)

    listener = MemoryListener()
    async with WebSocketServer(listeners=[listener], options=OPTIONS) as server:
        link = await listener.open_link()
        peer = await RawPeer.connect(link.client)
        ws = await server.accept()
        await fill(ws)
        waits = {
            "recv": ws.recv,
            "receive": ws.receive,
            "iteration": lambda: anext(ws),
            "parts": lambda: anext(ws.recv_streaming()),
            "text": ws.receive_text,
            "send": lambda: ws.send("x"),
            "ping": ws.ping,
            "wait_closed": ws.wait_closed,
        }
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for name, use in waits.items():
                    nursery.start_soon(waiter, name, use)
                await trio.testing.wait_all_tasks_blocked()
                assert woken == set()
                if ending == "peer closes":
                    await peer.send_close(4000)
                elif ending == "link is cut":
                    link.cut()
                elif ending == "link ends":
                    await peer.aclose()
                else:
                    await ws.close()
        assert woken == set(waits)
