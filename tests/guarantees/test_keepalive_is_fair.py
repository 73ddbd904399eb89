"""Keepalive closes no connection of a peer that is alive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import serving_in_memory
from trio_ws import ConnectionClosedError, Options, WebSocket, WebSocketServer, connect
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ws.testing import Frame

OPTIONS = Options(ping_interval=20, ping_timeout=15)


async def until_the_end(ws: WebSocket) -> None:
    async for _ in ws:
        pass


async def test_a_silent_peer_is_pinged_and_given_up_in_the_stated_time(autojump_clock: MockClock) -> None:
    ended = []

    async def handler(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert info.value.code == 1011
        assert isinstance(info.value.__cause__, TimeoutError)
        ended.append(trio.current_time())

    async with serving_in_memory(handler, options=OPTIONS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.opcode == 9
        assert trio.current_time() == 20
        closed = await peer.receive_until_close()
        assert closed is not None
        assert closed[0] == 1011
        assert "ping_timeout" in closed[1]
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [35]


@pytest.mark.parametrize("patience", [15, 60, None])
async def test_an_answered_ping_is_followed_by_the_next_after_one_interval(
    patience: float | None, autojump_clock: MockClock
) -> None:
    options = Options(ping_interval=20, ping_timeout=patience)
    async with serving_in_memory(until_the_end, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream())
        pinged: list[float] = []
        while len(pinged) < 5:
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.opcode == 9
            pinged.append(trio.current_time())
            await peer.send_frame(0xA, frame.payload)
        assert pinged == [20, 40, 60, 80, 100]
        await peer.aclose()


async def test_any_inbound_byte_counts_as_life(autojump_clock: MockClock) -> None:
    """The peer sends one long frame, and never a pong."""
    async with serving_in_memory(until_the_end, options=OPTIONS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(2, b"", length=1000)
        for _ in range(1000):
            await trio.sleep(14)
            await peer.send_raw(b"x")
        assert trio.current_time() == 14_000
        assert len(memory.server.connections) == 1
        await peer.aclose()


async def test_the_full_timeout_begins_anew_with_a_byte(autojump_clock: MockClock) -> None:
    """The connection is closed only after the full timeout without a byte."""
    ended = []

    async def handler(ws: WebSocket) -> None:
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        ended.append(trio.current_time())

    async with serving_in_memory(handler, options=OPTIONS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.sleep(34)  # a ping was sent at 20, and the timeout would expire at 35
        await peer.send_raw(b"\x82")
        await trio.sleep(200)
        assert len(ended) == 1
        assert 34 + 15 <= ended[0] <= 35 + 20 + 15
        await peer.aclose()


async def test_a_client_gives_a_dead_server_up_in_the_same_time(autojump_clock: MockClock) -> None:
    async with serving_in_memory(until_the_end, options=Options(ping_interval=None)) as memory:
        link = await memory.listener.open_link()
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            await trio.sleep(50)  # a connection to a healthy server stays open
            link.partition()
            with pytest.raises(ConnectionClosedError) as info:
                await ws.recv()
            assert isinstance(info.value.__cause__, TimeoutError)
            assert info.value.sent is not None
            assert info.value.received is None
            # The last bytes were the pong at 40; the ping at 60 was not answered.
            assert trio.current_time() == 75
        link.cut()


async def test_no_ping_where_bytes_come_anyway(autojump_clock: MockClock) -> None:
    async with serving_in_memory(until_the_end, options=OPTIONS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        for _ in range(20):
            await trio.sleep(10)
            await peer.send_text("here")
        await peer.send_close(1000)
        assert await peer.receive_frame() is not None  # the Close frame is the first frame
        await peer.expect_eof()


async def test_a_slow_application_never_kills_a_healthy_peer(autojump_clock: MockClock) -> None:
    """Our side does not read for an hour, and the peer's pongs are queued after unread messages."""
    options = Options(ping_interval=20, ping_timeout=15, max_queue_bytes=10_000)
    got = 0

    async def slow(ws: WebSocket) -> None:
        nonlocal got
        await ws.accept()
        await trio.sleep(3600)
        async for message in ws:
            got += len(message.data or b"")

    async with serving_in_memory(slow, options=options) as memory:
        client_options = Options(ping_interval=None)
        async with memory.connect(options=client_options) as ws:
            for _ in range(50):
                await ws.send(bytes(10_000))
            await trio.sleep(100)
    assert got == 500_000


@pytest.mark.parametrize("server_pings", [False, True])
async def test_an_application_that_never_reads_answers_pings_and_sees_pongs(
    server_pings: bool, autojump_clock: MockClock
) -> None:
    """While the receive buffer is not full; a few unread messages make no difference."""
    done = trio.Event()

    async def busy(ws: WebSocket) -> None:
        await ws.accept()
        await trio.sleep(3600)
        assert ws.connected
        assert (ws.latency is not None) is server_pings
        done.set()

    silent = Options(ping_interval=None)
    async with serving_in_memory(busy, options=OPTIONS if server_pings else silent) as memory:
        async with memory.connect(options=silent if server_pings else OPTIONS) as ws:
            for _ in range(10):
                await ws.send("not read")
            await done.wait()
            assert (ws.latency is not None) is not server_pings


def test_an_application_that_never_reads_a_socket_does_so_too() -> None:
    clock = trio.testing.MockClock()
    handlers: list[WebSocket] = []

    async def busy(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        await trio.sleep(2000)

    async def main() -> None:
        async with WebSocketServer(busy, host="127.0.0.1", options=OPTIONS) as server:
            peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))

            async def answer() -> None:
                while (frame := await peer.receive_frame()) is not None and frame.opcode != 8:
                    assert frame.opcode == 9
                    await peer.send_frame(0xA, frame.payload)

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(answer)
                    for _ in range(1000):
                        clock.jump(0.01)  # the keepalive task checks connections periodically
                        await trio.testing.wait_all_tasks_blocked()
                        clock.jump(1)
                        await trio.testing.wait_all_tasks_blocked()
                    (ws,) = handlers
                    assert ws.connected
                    assert ws.latency is not None
                    nursery.cancel_scope.cancel()
            finally:
                await peer.aclose()
                clock.autojump_threshold = 0

    trio.run(main, clock=clock)


async def test_a_write_blocked_past_the_timeout_ends_the_connection(autojump_clock: MockClock) -> None:
    """The peer sends, but does not read."""
    ended = []

    async def flood(ws: WebSocket) -> None:
        try:
            while True:
                await ws.send(bytes(10_000))
        finally:
            ended.append(trio.current_time())

    async with serving_in_memory(flood, options=OPTIONS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        with trio.move_on_after(200):
            try:
                while True:
                    await trio.sleep(5)
                    await peer.send_text("x")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        assert 20 <= ended[0] <= 20 + 20 + 15


async def test_a_write_that_moves_slowly_does_not(autojump_clock: MockClock) -> None:
    async def flood(ws: WebSocket) -> None:
        for _ in range(40):
            await ws.send(bytes(10_000))

    options = Options(ping_interval=20, ping_timeout=15, close_timeout=1000)
    async with serving_in_memory(flood, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(max_read=9000))
        frames = 0
        while (frame := await peer.receive_frame()) is not None and frame.opcode != 8:
            frames += frame.opcode == 2
            if frame.opcode == 9:
                await peer.send_frame(0xA, frame.payload)
            await trio.sleep(5)
        assert trio.current_time() > 100
        assert frames == 40
        await peer.send_close(1000)


async def test_latency_above_the_interval_does_no_harm(autojump_clock: MockClock) -> None:
    options = Options(ping_interval=2, ping_timeout=15, open_timeout=100, close_timeout=100)
    async with serving_in_memory(until_the_end, options=options) as memory:
        stream = await memory.stream(latency=6)
        async with connect("ws://test/", stream=stream, options=options) as ws:
            await trio.sleep(1000)
            assert ws.connected
            assert ws.latency == 12


async def test_latency_tells_the_last_round_trip(autojump_clock: MockClock) -> None:
    # Only the client pings, because a ping from the server would count as a received byte.
    async with serving_in_memory(until_the_end, options=Options(ping_interval=None)) as memory:
        link = await memory.listener.open_link(latency=0.5)
        async with connect("ws://test/", stream=link.client, options=OPTIONS) as ws:
            assert ws.latency is None
            await trio.sleep(30)
            assert ws.latency == 1
            link.latency = 2
            await trio.sleep(100)
            assert ws.latency == 4
            link.latency = 3
            assert await ws.ping() == 6  # an explicit ping is measured as well
            assert ws.latency == 6


@pytest.mark.parametrize("payload", [lambda _: b"", lambda ping: ping.payload], ids=["any pong", "its pong"])
def test_a_program_that_stood_still_does_not_blame_the_peer(payload: Callable[[Frame], bytes]) -> None:
    """The clock jumps past every deadline while the peer's pong has not been read."""
    clock = trio.testing.MockClock()

    async def main() -> None:
        listener = MemoryListener()
        async with WebSocketServer(until_the_end, listeners=[listener], options=OPTIONS) as server:
            try:
                link = await listener.open_link()
                peer = await RawPeer.connect(link.client)
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(20)
                await trio.testing.wait_all_tasks_blocked()
                ping = await peer.receive_frame()
                assert ping is not None
                assert ping.opcode == 9
                # In one step, so that no task of the server runs in between.
                pong = b"\x8a" + bytes([0x80 | len(payload(ping))]) + bytes(4) + payload(ping)
                link.carry(link.to_server, memoryview(pong))
                link.wake()
                clock.jump(1000)
                await trio.testing.wait_all_tasks_blocked()
                assert len(server.connections) == 1
            finally:
                clock.autojump_threshold = 0

    trio.run(main, clock=clock)


def test_a_program_that_stood_still_does_not_blame_the_peer_over_a_socket() -> None:
    """The pong is in the kernel's buffer. A peer that is really gone is still detected."""
    clock = trio.testing.MockClock()

    async def main() -> None:
        async with WebSocketServer(until_the_end, host="127.0.0.1", options=OPTIONS) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            sock: Any = stream.socket
            peer = await RawPeer.connect(stream)
            try:
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(10):
                    clock.jump(20)
                    ping = await peer.receive_frame()
                    assert ping is not None
                    assert ping.opcode == 9
                    # Without trio, so that no task of the server runs in between.
                    assert os.write(sock.fileno(), b"\x8a\x80\x00\x00\x00\x00") == 6
                    clock.jump(1000)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(server.connections) == 1
                clock.jump(20)
                assert await peer.receive_frame() is not None
                clock.jump(15)
                await trio.testing.wait_all_tasks_blocked()
                assert len(server.connections) == 0
            finally:
                await peer.aclose()
                clock.autojump_threshold = 0

    trio.run(main, clock=clock)


async def test_pings_can_be_left_out_and_never_give_up(autojump_clock: MockClock) -> None:
    for options, pings in (
        (Options(ping_interval=None), 0),
        (Options(ping_interval=20, ping_timeout=None), 5),
    ):
        async with serving_in_memory(until_the_end, options=options) as memory:
            peer = await RawPeer.connect(await memory.stream())
            await trio.sleep(110)
            for _ in range(pings):
                frame = await peer.receive_frame()
                assert frame is not None
                assert frame.opcode == 9
            with trio.move_on_after(1) as scope:
                await peer.receive_frame()
            assert scope.cancelled_caught
            assert len(memory.server.connections) == 1
            await peer.aclose()
