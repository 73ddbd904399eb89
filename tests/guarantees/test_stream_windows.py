"""The window of a stream limits bytes and items in both directions. No credit is lost or counted twice."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    Options,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.codecs.base import Request
from trio_ws.codecs.packets import PacketCodec, TrioWSCodec, WebshocketCodec
from trio_ws.protocol._accel import whole_frame
from trio_ws.protocol.frames import BINARY, FIN
from trio_ws.protocol.masking import extension
from trio_ws.rpc.streams import ItemStream
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.serving import MemoryServer
    from trio_ws.rpc.session import RPCSession

ENCODE = TrioWSCodec()
SIZE = 10_000
#: Maximum number of bytes of an encoded item in addition to its own.
AROUND = 100


class Handler(WebSocketHandler):
    """Sends and receives streams of bytes."""

    def __init__(self) -> None:
        self.made = 0
        self.taken: list[int] = []
        self.go_on = trio.Event()

    @rpc_method()
    async def give(self, connection: ClientConnection, sizes: list[int]) -> AsyncIterator[bytes]:
        for size in sizes:
            self.made += 1
            yield bytes(size)

    @rpc_method()
    async def take(self, connection: ClientConnection, items: AsyncIterator[bytes], pause: float = 0) -> int:
        total = 0
        async for item in items:
            total += len(item)
            self.taken.append(len(item))
            await trio.sleep(pause)
        return total

    @rpc_method()
    async def take_one(self, connection: ClientConnection, items: AsyncIterator[bytes]) -> int:
        async for item in items:
            self.taken.append(len(item))
            await self.go_on.wait()
        return len(self.taken)


async def source(sizes: list[int], made: list[int] | None = None) -> AsyncIterator[bytes]:
    for size in sizes:
        if made is not None:
            made.append(size)
        yield bytes(size)


def peer_of(handler: Handler) -> RPCSession:
    (connection,) = handler.clients
    return connection._live


def check(peer: RPCSession) -> None:
    """Check that the window of each stream equals its granted, waiting and owed bytes."""
    granted = 0
    for stream in peer.outgoing.sinks.values():
        if isinstance(stream, ItemStream) and not stream._ended:
            waiting = sum(size for _, _, size in stream._items)
            assert stream._granted_bytes + stream._owed_bytes + waiting == stream._window_bytes
            assert stream._window_bytes <= peer.outgoing.window_bytes
            assert stream._granted + len(stream._items) <= peer.outgoing.stream_window
            granted += max(0, stream._granted_bytes)
    assert granted == peer.outgoing.granted_bytes


@pytest.mark.parametrize("window", [1, SIZE, 100_000])
async def test_a_paused_consumer_of_a_method_stops_it(window: int, autojump_clock: MockClock) -> None:
    handler = Handler()
    options = Options(stream_window_bytes=window)
    async with serving_in_memory(handler, options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=options) as client:
            async with client.stream("give", [SIZE] * 200, items=bytes) as items:
                await items.receive()
                await trio.sleep(10)
                held = sum(size for _, _, size in items._items)
                # The consumer holds the window and one more item. The generator is suspended at the next one.
                assert held <= window + SIZE + AROUND
                assert handler.made <= 1 + (window // SIZE) + 2
                check(client._live)
                assert len([item async for item in items]) == 199
            assert client._live.outgoing.granted_bytes == 0


@pytest.mark.parametrize("window", [1, SIZE, 100_000])
async def test_a_paused_method_stops_its_caller(window: int, autojump_clock: MockClock) -> None:
    handler = Handler()
    options = Options(stream_window_bytes=window)
    async with serving_in_memory(handler, options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=options) as client:
            made: list[int] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def call() -> None:
                    assert await client.call("take_one", source([SIZE] * 200, made)) == 200

                await trio.sleep(10)
                assert len(made) <= 1 + (window // SIZE) + 2
                assert peer_of(handler).transport.ledger.held <= window + 3 * SIZE
                check(peer_of(handler))
                handler.go_on.set()
            assert peer_of(handler).outgoing.granted_bytes == 0


async def test_a_consumer_that_only_tries_gets_its_items(autojump_clock: MockClock) -> None:
    got: list[int] = []

    class Tries(WebSocketHandler):
        @rpc_method()
        async def take(self, connection: ClientConnection, items: trio.abc.ReceiveChannel[bytes]) -> int:
            assert isinstance(items, ItemStream)
            while True:
                try:
                    got.append(len(items.receive_nowait()))
                except trio.WouldBlock:
                    await trio.sleep(1)
                except trio.EndOfChannel:
                    return sum(got)

    async with serving_in_memory(
        Tries(), options=Options(stream_window_bytes=100, stream_window=2)
    ) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("take", source([1, 200, 3, 400, 5])) == 609


async def test_a_window_grows_while_it_is_used(autojump_clock: MockClock) -> None:
    """Idle streams of small items reserve no memory that a large one needs."""
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(latency=0.1, capacity=10_000_000)
        async with WebSocketClient("ws://test/", stream=stream) as client:
            async with (
                client.stream("give", [100] * 500) as small,
                client.stream("give", [SIZE] * 500) as large,
            ):
                for _ in range(400):
                    await small.receive()
                    await large.receive()
                assert small._window_bytes == 64 * 1024
                assert large._window_bytes >= 256 * 1024
                check(client._live)


async def test_streams_share_what_a_connection_may_hold(autojump_clock: MockClock) -> None:
    """Thirty uploads that are not consumed stay within the connection's limit, and all continue."""
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            ended = 0

            async def upload() -> None:
                nonlocal ended
                await client.call("take_one", source([200_000] * 20))
                ended += 1

            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(upload)
                await trio.sleep(10)
                peer = peer_of(handler)
                assert len(handler.taken) == 30  # each method has received one item
                assert (
                    peer.transport.ledger.held < peer.transport.ledger.max_held
                )  # half of the limit, and some more items
                check(peer)
                # They do not delay other calls.
                assert await client.call("take", source([1] * 10)) == 10
                handler.go_on.set()
            assert ended == 30
            assert (peer.transport.ledger.held, peer.outgoing.granted_bytes) == (0, 0)


# -- third-party peers --------------------------------------------------------------------------------


async def open_raw(memory: MemoryServer) -> RawPeer:
    return await RawPeer.connect(await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")])


async def next_rpc(peer: RawPeer) -> dict[str, Any]:
    frame = await peer.receive_frame()
    assert frame is not None
    if frame.opcode == 8:
        return {"closed": int.from_bytes(frame.payload[:2], "big"), "reason": frame.payload[2:].decode()}
    rpc: dict[str, Any] = msgspec.msgpack.decode(frame.payload)["rpc"]
    return rpc


def item(stream_id: str, size: int) -> bytes:
    rpc = {"type": "response", "call_id": stream_id, "is_stream": True, "response": bytes(size)}
    return msgspec.msgpack.encode({"source": 5, "rpc": rpc})


@pytest.mark.parametrize("payload", [125, 126, 127, 65_535, 65_536])
async def test_headers_of_frames_take_no_credit(payload: int, autojump_clock: MockClock) -> None:
    """They have 2, 4 or 10 bytes."""
    handler = Handler()
    fits = (
        size
        for size in range(max(0, payload - 120), payload)
        if len(ENCODE.items(Request("", call_id="1"))(bytes(size))) == payload
    )
    size = next(fits)
    async with serving_in_memory(handler) as memory:
        peer = await open_raw(memory)
        for call_id, extra in (("1", 0), ("2", 1)):
            handler.made = 0
            granted = 3 * payload + extra
            request = ENCODE.request(call_id, "give", ([size] * 9,), credits=9, credit_bytes=granted)
            await peer.send_frame(2, request)
            for _ in range(3 + extra):
                item = await next_rpc(peer)
                assert (item["call_id"], item["response"]) == (call_id, bytes(size))
            await trio.testing.wait_all_tasks_blocked()
            assert handler.made == 3 + extra
        await peer.send_close()


@pytest.mark.parametrize("codec", [TrioWSCodec(), WebshocketCodec()])
def test_frames_of_items_are_those_of_their_messages(codec: PacketCodec) -> None:
    for call_id in ("1", "x" * 31, "x" * 32, "x" * 256, "\N{SNOWMAN}"):
        request = Request("", call_id=call_id)
        parts, encode = codec.item_parts(request), codec.items(request)
        if extension is None or parts is None or codec.plain_calls is None:
            pytest.skip("this needs the C extension")
        for value in (0, None, "text", b"x" * 200, [1, {"a": 2.5}], bytes(70_000)):
            frame = whole_frame(FIN | BINARY, encode(value), b"")
            assert extension.result_frame(*parts, codec.plain_calls.encode(value)) == frame


async def test_a_consumer_that_counts_no_bytes_gets_its_items(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=Options(stream_window_bytes=1)) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("1", "give", ([SIZE] * 20,), credits=5))
        for _ in range(5):
            assert len((await next_rpc(peer))["response"]) == SIZE
        await peer.send_frame(2, ENCODE.request("", "__credit__", ("1", 16)))
        for _ in range(15):
            assert len((await next_rpc(peer))["response"]) == SIZE
        assert (await next_rpc(peer))["is_end"]
        await peer.send_close()


async def test_credit_in_bytes(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(
            2, ENCODE.request("1", "give", ([SIZE] * 9,), credits=5, credit_bytes=SIZE + 500)
        )
        assert "response" in await next_rpc(peer)
        assert "response" in await next_rpc(peer)  # one item may exceed the window
        with trio.move_on_after(1):
            pytest.fail(str(await next_rpc(peer))[:200])
        await peer.send_frame(2, ENCODE.credit("1", 1, SIZE - 500))  # the credit remains negative
        with trio.move_on_after(1):
            pytest.fail(str(await next_rpc(peer))[:200])
        await peer.send_frame(2, ENCODE.credit("1", 1, 10 * SIZE))
        for _ in range(5):  # until the items are used up
            assert "response" in await next_rpc(peer)
        with trio.move_on_after(1):
            pytest.fail(str(await next_rpc(peer))[:200])
        await peer.send_close()


async def test_a_producer_that_counts_no_bytes_is_served(autojump_clock: MockClock) -> None:
    """An older producer sends as many items as it has credit for, whatever their size."""
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("1", "take", (None, 0.1), streams={"0": "1/0"}))
        credit = left = 0
        for _ in range(200):
            while not credit:
                rpc = await next_rpc(peer)
                assert rpc["method"] == "__credit__", rpc
                credit += rpc["args"][1]
            await peer.send_frame(2, item("1/0", 50_000))
            credit -= 1
            left += 50_000
        await peer.send_frame(
            2,
            msgspec.msgpack.encode(
                {
                    "source": 5,
                    "rpc": {"type": "response", "call_id": "1/0", "is_stream": True, "is_end": True},
                }
            ),
        )
        while (rpc := await next_rpc(peer)).get("method") == "__credit__":
            pass
        assert rpc["response"] == left
        await peer.send_close()


async def test_one_that_goes_past_its_bytes_is_closed_where_reading_cannot_stop(
    autojump_clock: MockClock,
) -> None:
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        peer = await open_raw(memory)
        # The method waits for items, so reading must continue.
        await peer.send_frame(2, ENCODE.request("0", "take", (None,), streams={"0": "0/0"}))
        for number in range(1, 4):
            await peer.send_frame(
                2, ENCODE.request(f"{number}", "take_one", (None,), streams={"0": f"{number}/0"})
            )
        await trio.testing.wait_all_tasks_blocked()
        closed: dict[str, Any] = {}

        async def flood() -> None:
            with trio.move_on_after(5):
                for _ in range(60):
                    for number in range(1, 4):
                        await peer.send_frame(2, item(f"{number}/0", 100_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            while "closed" not in closed:
                closed = await next_rpc(peer)
                server = peer_of(handler) if handler.clients else None
                assert server is None or server.transport.ledger.held < 6 * 1024 * 1024
            nursery.cancel_scope.cancel()
        assert closed["closed"] == 1008
        assert "stream_window_bytes" in closed["reason"]


@pytest.mark.parametrize("size", [-1, 1.5, "1", True, [1]])
async def test_a_bad_number_of_bytes_closes(size: object, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        peer = await open_raw(memory)
        await peer.send_frame(2, ENCODE.request("", "__credit__", ("1", 1), {"bytes": size}))
        assert (await next_rpc(peer))["closed"] == 1008


# -- random order -------------------------------------------------------------------------------------

SIZES = st.lists(st.integers(0, 3000) | st.integers(8000, 30_000), max_size=30)


@examples(80)
@given(
    st.lists(st.tuples(st.booleans(), SIZES, st.floats(0, 0.2)), min_size=1, max_size=5),
    st.integers(1, 5),
    st.sampled_from([1, 100, 2000, 1 << 20]),
    st.sampled_from([40_000, 1 << 20]),
    st.none() | st.floats(0, 2),
)
def test_all_items_arrive_in_any_order_of_events(
    streams: list[tuple[bool, list[int], float]], window: int, size: int, held: int, cut: float | None
) -> None:
    """Concurrent streams in both directions, with windows of any size, possibly with a lost connection."""
    options = Options(stream_window=window, stream_window_bytes=size, max_held_bytes=held, ping_interval=None)

    async def run() -> None:
        handler = Handler()
        done = 0
        async with serving_in_memory(handler, options=options) as memory:
            link = await memory.listener.open_link(latency=0.01)
            async with WebSocketClient("ws://test/", stream=link.client, options=options) as client:

                async def use(upload: bool, sizes: list[int], pause: float) -> None:
                    nonlocal done
                    if upload:
                        assert await client.call("take", source(sizes), pause) == sum(sizes)
                    else:
                        seen = []
                        async with client.stream("give", sizes, items=bytes) as items:
                            async for one in items:
                                seen.append(len(one))
                                await trio.sleep(pause)
                                check(client._live)
                                check(server)
                        assert seen == sizes
                    done += 1

                await client.call("take", source([]))
                server = peer_of(handler)
                with trio.move_on_after(1000 if cut is None else cut):
                    async with trio.open_nursery() as nursery:
                        for one in streams:
                            nursery.start_soon(use, *one)
                if cut is None:
                    assert done == len(streams)
                await trio.sleep(1)
                for peer in (client._live, server):
                    assert not peer.outgoing.sinks
                    assert not peer.outgoing.client_streams
                    assert peer.outgoing.granted_bytes == peer.transport.ledger.held == 0
                assert await client.call("take", source([7] * 20)) == 140

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
