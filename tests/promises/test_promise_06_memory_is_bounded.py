"""Promise 6: memory per connection is bounded by stated numbers.

Bytes that the server took are counted on the link: what it carried, without what still waits there.
"""

from __future__ import annotations

import gc
import math
import tracemalloc
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.kit.serving import echo, guard, request, serving, serving_in_memory
from tests.kit.wire import frame
from trio_ws import (
    Compression,
    ConnectionClosedError,
    ConnectionFailedError,
    HandshakeRejectedError,
    Options,
    WebSocket,
    connect,
)
from trio_ws.testing import Link, RawPeer
from trio_ws.websocket.endpoint import MESSAGE_OVERHEAD
from trio_ws.websocket.transport import READ_SIZE
from trio_ws.wire.deflate import DeflateParams, PerMessageDeflate
from trio_ws.wire.frames import FrameReader, Violation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

    from trio_ws.testing import Direction

DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")
MIB = 1024 * 1024


class Growth:
    """Bytes of Python's memory: what a block left behind, and the most it had at any moment."""

    left = 0
    peak = 0


@contextmanager
def growth() -> Iterator[Growth]:
    result = Growth()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield result
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
        result.left, result.peak = left - before, peak - before
    finally:
        tracemalloc.stop()


def taken(direction: Direction) -> int:
    return direction.carried - direction.pending


def deflated(data: bytes) -> bytes:
    """One message's compressed payload (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int, bits: int = 15) -> bytes:
    """The same for zeros, without ever having them in memory."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    pieces = [deflater.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, deflater.flush(zlib.Z_SYNC_FLUSH)])[:-4]


# -- queued bytes in --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
async def test_the_server_stops_reading_when_the_application_does(
    size: int, autojump_clock: MockClock
) -> None:
    """Each message is charged its bytes and an overhead, so that empty ones are bounded as well."""
    go_on = trio.Event()
    limit, max_read = 50_000, 2000
    wire_size = len(frame(2, bytes(size)))
    count = 100 * limit // (wire_size + MESSAGE_OVERHEAD) // 20
    received = 0
    sent = 0

    async def slow(ws: WebSocket) -> None:
        nonlocal received
        await ws.accept()
        await go_on.wait()
        async for message in ws:
            assert message.data == bytes(size)
            received += 1

    options = Options(max_queue_bytes=limit, ping_interval=None)
    async with serving_in_memory(slow, options=options) as memory, trio.open_nursery() as nursery:
        link = await memory.listener.open_link(capacity=1000, max_read=max_read)
        peer = await RawPeer.connect(link.client)
        await trio.testing.wait_all_tasks_blocked()
        before = taken(link.to_server)

        async def send() -> None:
            nonlocal sent
            for _ in range(count):
                await peer.send_frame(2, bytes(size))
                sent += 1

        nursery.start_soon(send)
        await trio.sleep(1)
        held = taken(link.to_server) - before
        charged = held + MESSAGE_OVERHEAD * (held // wire_size)
        last_read = max_read + MESSAGE_OVERHEAD * (max_read // wire_size + 1)
        assert limit <= charged <= limit + last_read
        assert sent < count  # the peer's send waits
        await trio.sleep(1000)
        assert taken(link.to_server) - before == held
        go_on.set()
        await trio.sleep(1000)
        assert sent == received == count
        await peer.send_close()
        assert await peer.receive_until_close() == (1000, "")


async def test_a_server_stops_reading_from_a_socket_too() -> None:
    go_on = trio.Event()
    limit, size, count = 100_000, 10_000, 2000
    handlers: list[WebSocket] = []
    received = 0

    async def slow(ws: WebSocket) -> None:
        nonlocal received
        await ws.accept()
        handlers.append(ws)
        await go_on.wait()
        async for _ in ws:
            received += 1

    async with serving(slow, options=Options(max_queue_bytes=limit)) as server:
        async with connect(server.url) as client, trio.open_nursery() as nursery:

            async def send() -> None:
                for _ in range(count):
                    await client.send(bytes(size))

            nursery.start_soon(send)
            while not handlers or not handlers[0]._full:
                await trio.sleep(0.001)
            (ws,) = handlers
            held = len(ws._inbox)
            while client.buffered_bytes < 65536:
                await trio.sleep(0.001)  # until the kernels' buffers are full
            for _ in range(100):
                await trio.sleep(0.001)
            assert len(ws._inbox) == held
            assert limit <= sum(len(item) + MESSAGE_OVERHEAD for item in ws._inbox) + size
            assert sum(map(len, ws._inbox)) <= limit + READ_SIZE
            go_on.set()
        while received < count:
            await trio.sleep(0.001)


async def test_the_parts_of_one_long_message_are_charged_too(autojump_clock: MockClock) -> None:
    """A message may be larger than the queue, yet while nobody asks for it no more than that is read."""
    go_on = trio.Event()
    limit, size = 50_000, 700_000
    got: list[bytes] = []

    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        got.append(await ws.receive_bytes())

    async with serving_in_memory(slow, options=Options(max_queue_bytes=limit)) as memory:
        async with trio.open_nursery() as nursery:
            link = await memory.listener.open_link(capacity=1000)
            peer = await RawPeer.connect(link.client)
            nursery.start_soon(peer.send_frame, 2, bytes(size))
            await trio.sleep(1)
            assert limit <= taken(link.to_server) <= limit + 2000
            go_on.set()
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()
    assert got == [bytes(size)]


async def test_compressed_messages_are_charged_what_they_inflate_to(autojump_clock: MockClock) -> None:
    go_on = trio.Event()
    limit, size, count = 50_000, 10_000, 100
    handlers: list[WebSocket] = []

    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        await go_on.wait()
        for _ in range(count):
            assert await ws.receive_bytes() == bytes(size)

    payload = deflated(bytes(size))
    assert len(payload) < 40
    options = Options(max_queue_bytes=limit, compression=Compression(client_no_context_takeover=True))
    async with serving_in_memory(slow, options=options) as memory, trio.open_nursery() as nursery:
        stream = await memory.stream(capacity=50)
        peer = await RawPeer.connect(stream, headers=[DEFLATE])

        async def send() -> None:
            for _ in range(count):
                await peer.send_frame(2, payload, rsv1=True)

        nursery.start_soon(send)
        await trio.sleep(1)
        held = sum(map(len, handlers[0]._inbox))
        assert limit - size < held <= limit + 2 * size
        go_on.set()
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()


@pytest.mark.xfail(
    strict=True, reason="one read of compressed messages is inflated as a whole, whatever it makes"
)
async def test_one_read_of_compressed_messages_stays_within_the_bound(autojump_clock: MockClock) -> None:
    """Each message keeps to max_message_size, and sixty of them arrive in one read of 64 KiB."""
    go_on = trio.Event()
    handlers: list[WebSocket] = []

    async def slow(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        await go_on.wait()

    options = Options(compression=Compression(client_no_context_takeover=True))
    async with serving_in_memory(slow, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[DEFLATE])
        await peer.send_raw(frame(2, deflated(bytes(MIB)), rsv=4) * 60)
        await trio.testing.wait_all_tasks_blocked()
        try:
            held = sum(map(len, handlers[0]._inbox))
            assert held <= options.max_queue_bytes + (options.max_message_size or 0) + READ_SIZE
        finally:
            await peer.aclose()
            go_on.set()


# -- queued bytes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("size", [1, 1000, 20_000])
async def test_what_waits_to_be_written_is_bounded_however_many_send(
    size: int, compression: bool, autojump_clock: MockClock
) -> None:
    mark, senders, each = 10_000, 20, 1000 if size == 1 else 5
    sizes: list[int] = []
    handlers: list[WebSocket] = []

    async def send(ws: WebSocket) -> None:
        for _ in range(each):
            await ws.send(bytes(size))
            sizes.append(ws.buffered_bytes)

    async def flood(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        async with trio.open_nursery() as nursery:
            for _ in range(senders):
                nursery.start_soon(send, ws)

    # What a link has taken is no longer ours, so let it take little.
    options = Options(send_high_water=mark, compression=compression, ping_interval=None, close_timeout=1000)
    async with serving_in_memory(flood, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(capacity=2000, max_read=1999))
        await trio.testing.wait_all_tasks_blocked()
        assert handlers[0].buffered_bytes >= mark
        got = 0
        while (received := await peer.receive_frame()) is not None and received.opcode == 2:
            sizes.append(handlers[0].buffered_bytes)
            got += 1
        await peer.send_close()
    assert got == senders * each
    assert max(sizes) <= mark + size + 10


async def test_fragments_that_wait_to_be_written_are_bounded(autojump_clock: MockClock) -> None:
    sizes: list[int] = []

    async def parts(ws: WebSocket) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1000)
            sizes.append(ws.buffered_bytes)

    async with serving_in_memory() as memory:
        options = Options(send_high_water=5000, ping_interval=None)
        link = await memory.listener.open_link(capacity=500)
        async with connect("ws://test/", stream=link.client, options=options) as ws:
            await ws.send(parts(ws))
            assert await ws.receive_bytes() == bytes(100_000)
    assert 5000 <= max(sizes) <= 5000 + 1000 + 10


# -- an overhead charged per fragment ---------------------------------------------------------------


def reader(limit: int | None = MIB) -> tuple[list[Any], FrameReader]:
    messages: list[Any] = []
    return messages, FrameReader(messages, client=False, max_message_size=limit)


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize("between", [b"", frame(9, b"still there")], ids=["alone", "with pings"])
def test_empty_fragments_grow_nothing(opcode: int, between: bytes) -> None:
    """By not one byte for five hundred of them, so by none for two million."""
    messages, frames = reader()
    some = (frame(0, fin=False) + between) * 500
    frames.feed(frame(opcode, b"", fin=False) + some)
    frames.events.clear()
    with growth() as grown:
        for _ in range(10):
            frames.feed(some)
            frames.events.clear()
    assert grown.left < 500
    frames.feed(frame(0, b"end"))
    assert messages == ["end" if opcode == 1 else b"end"]


def test_fragments_of_one_byte_cost_what_they_carry() -> None:
    count = 3000
    messages, frames = reader()
    frames.feed(frame(2, b"", fin=False))
    some = frame(0, b"x", fin=False) * 1000
    with growth() as grown:
        for _ in range(count // 1000):
            frames.feed(some)
    assert frames.held == count
    assert grown.left < 2 * count + 2000
    frames.feed(frame(0))
    assert messages == [b"x" * count]


@pytest.mark.parametrize("chunk", [1, 1000, 4095, 4096, 16_384])
def test_an_unfinished_frame_costs_what_it_carries_however_it_arrives(chunk: int) -> None:
    count = 200_000 if chunk > 1 else 5000
    data = frame(2, bytes(count))
    messages, frames = reader()
    with growth() as grown:
        for i in range(0, len(data) - 1, chunk):
            frames.feed(data[i : min(i + chunk, len(data) - 1)])
    assert frames.held == count - 1
    assert grown.left < 1.3 * count + 2000
    frames.feed(data[-1:])
    assert messages == [bytes(count)]


@pytest.mark.parametrize("size", [1, 7])
def test_fragments_end_at_the_limit_to_the_byte(size: int) -> None:
    for limit, closes in ((7 * 40, False), (7 * 40 - 1, True)):
        _, frames = reader(limit)
        frames.feed(frame(2, b"", fin=False) + frame(0, bytes(size), fin=False) * (280 // size))
        codes = [event.code for event in frames.events if isinstance(event, Violation)]
        assert codes == [1009] * closes
        assert frames.held == (0 if closes else 280)  # what is refused is not kept either


async def test_many_empty_fragments_reach_a_waiting_receiver(autojump_clock: MockClock) -> None:
    """They are charged against the queue, which must not stall a message that somebody waits for."""
    got: list[str] = []

    async def handler(ws: WebSocket) -> None:
        got.append(await ws.receive_text())

    async with serving_in_memory(handler, options=Options(max_queue_bytes=1000)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(1, b"", fin=False)

        async def more() -> None:
            for _ in range(30):
                await peer.send_raw(frame(0, fin=False) * 100)
                await trio.testing.wait_all_tasks_blocked()

        with growth() as grown:
            await more()
        assert grown.left < 12_000  # half a pointer for each
        await peer.send_frame(0, b"end")
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()
    assert got == ["end"]


async def test_empty_fragments_that_nobody_waits_for_stop_the_reading(autojump_clock: MockClock) -> None:
    go_on = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        assert await ws.receive_text() == "end"

    async with serving_in_memory(handler, options=Options(max_queue_bytes=1000)) as memory:
        async with trio.open_nursery() as nursery:
            link = await memory.listener.open_link(capacity=100)
            peer = await RawPeer.connect(link.client)
            some = frame(1, fin=False) + frame(0, fin=False) * 2000
            nursery.start_soon(peer.send_raw, some + frame(0, b"end"))
            await trio.sleep(1)
            assert taken(link.to_server) < 2000
            go_on.set()
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()


# -- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"X: y\r\n", b"x" * 100])
async def test_a_request_head_without_end_is_refused_at_its_limit(
    line: bytes, autojump_clock: MockClock
) -> None:
    limit, max_read = 5000, 100
    async with serving_in_memory(options=Options(max_header_bytes=limit)) as memory:
        async with trio.open_nursery() as nursery:
            link = await memory.listener.open_link(capacity=100, max_read=max_read)

            async def pour() -> None:
                with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                    await link.client.send_all(request()[:-2])
                    while True:
                        await link.client.send_all(line)

            nursery.start_soon(pour)
            answer = await RawPeer(link.client, client=True).receive_head()
            read = taken(link.to_server)
            await link.client.aclose()
    assert answer.startswith(b"HTTP/1.1 431 ")
    # The answer is written, and what still comes is dropped for a while so that it can be read.
    assert read <= limit + 2 * max_read


async def test_a_response_head_without_end_is_refused_at_its_limit(autojump_clock: MockClock) -> None:
    limit, max_read = 5000, 100
    link = Link(max_read=max_read)
    link.to_client.capacity = 100

    async def pour() -> None:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await link.server.send_all(b"HTTP/1.1 101 Switching Protocols\r\n")
            while True:
                await link.server.send_all(b"X: y\r\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        with pytest.raises(ConnectionFailedError):
            async with connect("ws://test/", stream=link.client, options=Options(max_header_bytes=limit)):
                pytest.fail("it opened")
    assert taken(link.to_client) <= limit + max_read
    assert trio.current_time() == 0


async def test_the_body_of_a_rejection_is_cut(autojump_clock: MockClock) -> None:
    """Also one without end, which is not waited for past open_timeout."""
    link = Link(capacity=10_000)

    async def pour() -> None:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await link.server.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            while True:
                await link.server.send_all(bytes(10_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        with growth() as grown, pytest.raises(HandshakeRejectedError) as info:
            async with connect("ws://test/", stream=link.client):
                pytest.fail("it opened")
    assert info.value.body == bytes(65536)
    assert grown.peak < MIB
    assert trio.current_time() <= 10


# -- inflated bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fragments", [1, 7, 1000])
async def test_a_deflate_bomb_closes_with_1009_having_inflated_no_more_than_the_limit(
    fragments: int, autojump_clock: MockClock
) -> None:
    payload = bomb(30 * MIB)
    assert len(payload) < 40_000
    handlers: list[WebSocket] = []
    codes: list[int] = []

    async def handler(ws: WebSocket) -> None:
        handlers.append(ws)
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        codes.append(info.value.code)

    options = Options(compression=True, max_message_size=MIB)
    async with serving_in_memory(handler, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[DEFLATE])
        size = math.ceil(len(payload) / fragments)

        async def explode() -> None:
            for i in range(0, len(payload), size):
                piece = payload[i : i + size]
                await peer.send_frame(0 if i else 2, piece, rsv1=not i, fin=i + size >= len(payload))

        with growth() as grown:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(explode)
                closing = await peer.receive_until_close()
                nursery.cancel_scope.cancel()
        assert closing is not None
        assert closing[0] == 1009
        deflate = handlers[0]._deflate
        assert deflate is not None
        assert deflate._inflated <= MIB + 1
        assert grown.peak < 4 * MIB
        await peer.aclose()
    assert codes == [1009]


async def test_a_client_is_safe_from_bombs_too(autojump_clock: MockClock) -> None:
    link = Link()
    payload = bomb(20 * MIB, 12)
    answer = (DEFLATE[0], DEFLATE[1] + "; server_max_window_bits=12")

    async def server() -> None:
        peer = await RawPeer.accept(link.server, headers=[answer])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_raw, frame(2, payload, rsv=4, masked=False))
            closing = await peer.receive_until_close()
            nursery.cancel_scope.cancel()
        assert closing is not None
        assert closing[0] == 1009
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        options = Options(compression=True, max_message_size=100_000)
        with growth() as grown:
            async with connect("ws://test/", stream=link.client, options=options) as ws:
                with pytest.raises(ConnectionClosedError) as info:
                    await ws.recv()
                assert info.value.code == 1009
                assert ws._deflate is not None
                assert ws._deflate._inflated <= 100_001
        assert grown.peak < 2 * MIB


# -- text limits count bytes ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one read", "byte by byte", "fragments", "compressed", "streamed"])
@pytest.mark.parametrize("char", ["x", "é", "€", "𝄞"])
async def test_text_limits_count_bytes(form: str, char: str, autojump_clock: MockClock) -> None:
    limit = 120  # of bytes; a multiple of each character's
    fitting = char * (limit // len(char.encode()))
    got: list[str] = []
    codes: list[int] = []

    async def handler(ws: WebSocket) -> None:
        try:
            while True:
                if form == "streamed":
                    got.append("".join([str(part) async for part in ws.recv_streaming()]))
                else:
                    got.append(await ws.receive_text())
        except ConnectionClosedError as exc:
            codes.append(exc.code)

    options = Options(max_message_size=limit, compression=form == "compressed")
    with trio.fail_after(guard()):
        async with serving_in_memory(handler, options=options) as memory:
            stream = await memory.stream(max_read=1 if form == "byte by byte" else None)
            peer = await RawPeer.connect(stream, headers=[DEFLATE] if form == "compressed" else [])
            for text in (fitting, fitting + char):
                data = text.encode()
                if form == "fragments":
                    for i, byte in enumerate(data):
                        await peer.send_frame(0 if i else 1, bytes([byte]), fin=i == len(data) - 1)
                elif form == "compressed":
                    await peer.send_frame(1, deflated(data), rsv1=True)
                else:
                    await peer.send_frame(1, data)
            closing = await peer.receive_until_close()
            assert closing is not None
            assert closing[0] == 1009
            await peer.aclose()
    assert got == [fitting]
    assert codes == [1009]


def test_a_bomb_in_utf_8_is_measured_in_bytes() -> None:
    """The same where the inflated text is checked as it comes."""
    for chars, closes in ((100, False), (101, True)):
        deflate = PerMessageDeflate(
            client=False,
            params=DeflateParams(15, 15, False, False),
            compression=Compression(),
            max_message_size=300,
        )
        messages: list[Any] = []
        frames = FrameReader(messages, client=False, max_message_size=300, deflate=deflate)
        frames.feed(frame(1, deflated(("€" * chars).encode()), rsv=4))
        assert [getattr(event, "code", None) for event in frames.events] == [1009] * closes
        assert messages == ([] if closes else ["€" * chars])


async def test_the_limits_do_not_get_in_the_way_of_an_echo_at_them(autojump_clock: MockClock) -> None:
    options = Options(max_message_size=100_000, max_queue_bytes=1, send_high_water=1)
    async with serving_in_memory(echo, options=options) as memory, memory.connect(options=options) as ws:
        for _ in range(3):
            await ws.send(bytes(100_000))
            assert await ws.receive_bytes() == bytes(100_000)
