"""The memory of a connection has stated limits: messages that wait for a reader, and headers.

The link counts the bytes that the server has read: those that were sent, without those that are still in the
link. The other limits are tested in test_sizes_are_bounded.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.inspect import queue_full, waiting_messages
from tests.support.serving import echo, request, serving, serving_in_memory
from tests.support.watching import DEFLATE, MIB, deflated, growth, taken, until
from tests.support.wire import frame
from trio_ws import (
    Compression,
    ConnectionFailedError,
    HandshakeRejectedError,
    Options,
    WebSocket,
    connect,
)
from trio_ws.testing import Link, RawPeer
from trio_ws.websocket.transport import BIG_READ_SIZE, READ_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

#: The number of bytes that are charged for each message in addition to its own, see `Options`.
OVERHEAD = 128


# -- received bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
async def test_the_server_stops_reading_when_the_application_does(
    size: int, autojump_clock: MockClock
) -> None:
    """Each message is charged its bytes and an overhead, so that empty ones are bounded as well."""
    go_on = trio.Event()
    limit, max_read = 50_000, 2000
    wire_size = len(frame(2, bytes(size)))
    count = 100 * limit // (wire_size + OVERHEAD) // 20
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
        charged = held + OVERHEAD * (held // wire_size)
        last_read = max_read + OVERHEAD * (max_read // wire_size + 1)
        assert limit <= charged <= limit + last_read
        assert sent < count  # the peer's send is blocked
        await trio.sleep(1000)
        assert taken(link.to_server) - before == held
        go_on.set()
        await trio.sleep(1000)
        assert sent == received == count
        await peer.send_close()
        assert await peer.receive_until_close() == (1000, "")


# A read is larger within a big message.
@pytest.mark.parametrize(("size", "one_read"), [(10_000, READ_SIZE), (90_000, BIG_READ_SIZE)])
async def test_a_server_stops_reading_from_a_socket_too(size: int, one_read: int) -> None:
    go_on = trio.Event()
    limit, count = 100_000, 20_000_000 // size
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
            await until(lambda: handlers and queue_full(handlers[0]))
            (ws,) = handlers
            held = len(waiting_messages(ws))
            await until(lambda: client.buffered_bytes >= 65536)  # the kernel's buffers are full
            for _ in range(1000):
                await trio.lowlevel.checkpoint()
            assert len(waiting_messages(ws)) == held
            assert limit <= sum(len(item) + OVERHEAD for item in waiting_messages(ws)) + size
            assert sum(map(len, waiting_messages(ws))) <= limit + one_read
            go_on.set()
        await until(lambda: received == count)


async def test_the_parts_of_one_long_message_are_charged_too(autojump_clock: MockClock) -> None:
    """A message may be larger than the queue. Until it is requested, only the size of the queue is read."""
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
        held = sum(map(len, waiting_messages(handlers[0])))
        assert limit - size < held <= limit + 2 * size
        go_on.set()
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()


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
            held = sum(map(len, waiting_messages(handlers[0])))
            assert held <= options.max_queue_bytes + (options.max_message_size or 0) + READ_SIZE
            waiting_messages(handlers[0]).clear()
            assert await handlers[0].receive_bytes() == bytes(MIB)  # the rest of that read
        finally:
            await peer.aclose()
            go_on.set()


# -- bytes to be written ----------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("size", [1, 1000, 20_000])
async def test_unwritten_bytes_are_bounded_for_any_number_of_senders(
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

    # Bytes in the link do not count, so its capacity is small.
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


async def test_the_limits_do_not_get_in_the_way_of_an_echo_at_them(autojump_clock: MockClock) -> None:
    options = Options(max_message_size=100_000, max_queue_bytes=1, send_high_water=1)
    async with serving_in_memory(echo, options=options) as memory, memory.connect(options=options) as ws:
        for _ in range(3):
            await ws.send(bytes(100_000))
            assert await ws.receive_bytes() == bytes(100_000)


# -- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"X: y\r\n", b"x" * 100])
async def test_a_request_head_without_end_is_refused_at_its_limit(
    line: bytes, autojump_clock: MockClock
) -> None:
    limit, max_read = 5000, 100
    options = Options(max_header_bytes=limit)
    async with serving_in_memory(options=options) as memory, trio.open_nursery() as nursery:
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
    # The response is sent. Further data is discarded for a while, so that the client can read the response.
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
    """A body without end is read until open_timeout at most."""
    link = Link(capacity=10_000)

    async def pour() -> None:
        with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
            await link.server.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            while True:
                await link.server.send_all(bytes(10_000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        # A client allocates a block for messages of this size at its start, and frees it.
        options = Options(max_message_size=65536)
        with growth() as grown, pytest.raises(HandshakeRejectedError) as info:
            async with connect("ws://test/", stream=link.client, options=options):
                pytest.fail("it opened")
    assert info.value.body == bytes(65536)
    assert grown.peak < MIB
    assert trio.current_time() <= 10
