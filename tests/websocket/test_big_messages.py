"""Big messages: complete, in order, among small ones, over sockets and streams, and cut off in the middle."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.inspect import bytes_of_unfinished_message, post, queue_full, waiting_messages
from tests.support.serving import request, serving, serving_in_memory
from tests.support.watching import MIB, until
from tests.support.wire import frame
from trio_ws import ConnectionClosedError, Options, WebSocket, connect
from trio_ws.protocol.frames import BINARY
from trio_ws.websocket.transport import READ_SIZE, SEND_SIZE, SocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OPTIONS = Options(max_message_size=4 * MIB, max_queue_bytes=8 * MIB, send_high_water=64 * MIB)
# Sizes around that of one read, and around that of payloads which are not copied to their header.
SIZES = [5, 16_383, 16_384, 65_522, 65_536, 122_880, 0, 300_001, 125, 2 * MIB + 3, 65_535, 3, MIB]


@asynccontextmanager
async def client_of(target: object, link: str) -> AsyncIterator[WebSocket]:
    if link == "socket":
        async with (
            serving(target, options=OPTIONS, debug=True) as server,
            connect(server.url, options=OPTIONS) as ws,
        ):
            yield ws
    else:
        async with (
            serving_in_memory(target, options=OPTIONS, debug=True) as memory,
            memory.connect(options=OPTIONS) as ws,
        ):
            yield ws


@pytest.mark.parametrize("link", ["socket", "stream"])
async def test_messages_of_every_size_arrive_in_order_both_ways(link: str) -> None:
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    sent: list[str | bytes] = []
    for size in SIZES:
        sent += [os.urandom(size), "é" * (size // 2), b"small"]

    async with client_of(echo, link) as ws:

        async def send() -> None:
            for item in sent:
                await ws.send(item)
                if len(item) % 2:
                    await ws.ping()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for item in sent:
                message = await ws.receive()
                assert message.payload == item


@pytest.mark.parametrize("link", ["socket", "stream"])
async def test_messages_behind_a_big_one_are_sent_in_order(link: str) -> None:
    """Large and small messages, more than the kernel accepts, are sent at once, so that some of them wait."""
    sent = [bytes([i]) * (3 * MIB) for i in range(8)]
    sent += [b"%d" % i * size for i, size in enumerate([10, 70_000, 1, 2, 200_000, 65_535, 65_536, 4])]
    posted = [b"a" * 70_000, b"b" * 80_000, b"c"]
    all_sent = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        for item in sent:
            await ws.send(item)
        for item in posted:
            post(ws, BINARY, item)
        assert ws.buffered_bytes > 0
        all_sent.set()
        async for _ in ws:
            pass

    async with client_of(handler, link) as ws:
        await all_sent.wait()
        for item in sent + posted:
            assert await ws.receive_bytes() == item


@pytest.mark.parametrize("reset", [False, True])
async def test_a_peer_that_leaves_within_a_big_message(reset: bool) -> None:
    whole = frame(BINARY, bytes(400_000))
    left = trio.Event()
    error: ConnectionClosedError | None = None
    done = trio.Event()

    async def handler(ws: WebSocket) -> None:
        nonlocal error
        await ws.accept()
        await left.wait()
        with pytest.raises(ConnectionClosedError) as info:
            await ws.receive_bytes()
        error = info.value
        done.set()

    async with serving(handler, options=OPTIONS, debug=True) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(request())
        await stream.receive_some()
        await stream.send_all(whole[:300_000])
        if reset:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        left.set()
        await done.wait()
    assert error is not None
    assert error.code == 1006
    assert isinstance(error.__cause__, ConnectionResetError) is reset


async def test_a_peer_that_stops_within_a_big_message_is_waited_for() -> None:
    whole = frame(BINARY, bytes(400_000))
    received: list[bytes] = []

    async def handler(ws: WebSocket) -> None:
        received.append(await ws.receive_bytes())
        await ws.send("thanks")

    async with serving(handler, options=OPTIONS, debug=True) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(request())
            await stream.receive_some()
            for start in (0, 150_000, 399_000):
                await stream.send_all(whole[start : {0: 150_000, 150_000: 399_000}.get(start)])
                await trio.testing.wait_all_tasks_blocked()
            assert (await stream.receive_some()).startswith(b"\x81\x06thanks")
    assert received == [bytes(400_000)]


async def test_a_big_answer_stays_behind_the_small_ones_of_its_burst() -> None:
    async def handler(ws: WebSocket) -> None:
        async for message in ws:  # all three come in one read, so that the first answers are gathered
            await ws.send(message.payload if len(message.payload) < 5 else bytes(20_000))

    async with serving(handler, options=OPTIONS, debug=True) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(request())
            await stream.receive_some()
            await stream.send_all(frame(BINARY, b"1") + frame(BINARY, b"large") + frame(BINARY, b"2"))
            expected = b"\x82\x011" + b"\x82\x7e\x4e\x20" + bytes(20_000) + b"\x82\x012"
            got = b""
            while len(got) < len(expected):
                got += await stream.receive_some()
            assert got == expected


@asynccontextmanager
async def unix_client(target: object, path: Path, options: Options) -> AsyncIterator[socket.socket]:
    """A raw connection on which sent data arrives immediately. Most of the response is not read."""
    async with serving(target, host=None, unix_path=path, options=options, debug=True):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
            sock.connect(str(path))
            sock.send(request())
            await trio.lowlevel.wait_readable(sock)
            assert sock.recv(12) == b"HTTP/1.1 101"
            yield sock


class Steps(trio.abc.Instrument):
    """Counts the steps of a task."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task = task
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


async def test_one_turn_takes_all_that_has_come_of_big_messages(tmp_path: Path) -> None:
    payload = os.urandom(80_000)
    counters: list[Steps] = []
    steps: list[int] = []
    done = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        counters.append(Steps(trio.lowlevel.current_task()))
        for _ in range(2):
            assert await ws.receive_bytes() == payload
            steps.append(counters[0].count)
        trio.lowlevel.remove_instrument(counters[0])
        done.set()

    async with unix_client(handler, tmp_path / "socket", OPTIONS) as sock:
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(counters[0])
        data = frame(BINARY, payload) * 2
        assert sock.send(data) == len(data)
        await done.wait()
    assert steps == [1, 1]


async def test_reading_stops_at_max_queue_bytes(tmp_path: Path) -> None:
    go_on = trio.Event()
    handlers: list[WebSocket] = []
    received: list[bytes] = []

    async def busy(ws: WebSocket) -> None:
        await ws.accept()
        handlers.append(ws)
        await go_on.wait()
        received.append(await ws.receive_bytes())

    options = Options(max_queue_bytes=1000)
    async with unix_client(busy, tmp_path / "socket", options) as sock:
        data = frame(BINARY, bytes(100_000))
        assert sock.send(data) == len(data)
        await until(lambda: handlers and queue_full(handlers[0]))
        assert not waiting_messages(handlers[0])
        assert 0 < bytes_of_unfinished_message(handlers[0]) <= READ_SIZE
        go_on.set()
        await until(lambda: bool(received))
    assert received == [bytes(100_000)]


async def test_large_reads_stop_at_max_queue_bytes_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    handlers: list[WebSocket] = []
    done = trio.Event()
    read_now = SocketTransport.read_now

    def recorded(transport: SocketTransport, size: int) -> bytes | memoryview:
        sizes.append(size)
        return read_now(transport, size)

    monkeypatch.setattr(SocketTransport, "read_now", recorded)

    async def busy(ws: WebSocket) -> None:
        await ws.accept()
        for _ in range(100):
            await ws.receive_bytes()
        handlers.append(ws)
        await done.wait()

    options = Options(max_queue_bytes=300_000)
    async with unix_client(busy, tmp_path / "socket", options) as sock:
        left = memoryview(frame(BINARY, bytes(20_000)) * 200)
        while left and not (handlers and queue_full(handlers[0])):
            await trio.lowlevel.checkpoint()
            with suppress(BlockingIOError):
                left = left[sock.send(left) :]
        assert left
        waiting = sum(map(len, waiting_messages(handlers[0])))
        done.set()
        assert waiting + bytes_of_unfinished_message(handlers[0]) <= 300_000 + READ_SIZE
    assert max(sizes) > READ_SIZE


async def test_a_reset_that_is_met_while_reading_on_is_the_cause(tmp_path: Path) -> None:
    causes: list[BaseException | None] = []
    done = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        with pytest.raises(ConnectionClosedError) as info:
            await ws.receive_bytes()
        causes.append(info.value.__cause__)
        done.set()

    async with unix_client(handler, tmp_path / "socket", OPTIONS) as sock:
        await trio.testing.wait_all_tasks_blocked()
        part = frame(BINARY, bytes(400_000))[:150_000]
        assert sock.send(part) == len(part)
        sock.close()  # resets the connection, because of unread data
        await done.wait()
    assert [type(cause) for cause in causes] == [ConnectionResetError]


@pytest.mark.parametrize("waits", [True, False])
async def test_the_kernel_gets_only_so_much_at_once(waits: bool) -> None:
    """It would take several MiB and milliseconds."""
    message = bytes(4 * MIB)
    left: list[int] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        if waits:
            await ws.send(message)
        else:
            ws.send_nowait(message)
        left.append(ws.buffered_bytes)
        assert await ws.recv() is None

    async with serving(handler) as server:
        async with connect(server.url, options=Options(max_message_size=4 * MIB)) as ws:
            assert await ws.receive_bytes() == message
    assert left[0] >= len(message) - SEND_SIZE
