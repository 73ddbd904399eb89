"""Big messages: whole, in order, among small ones, over sockets and streams, and cut off in the middle."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.kit.serving import request, serving, serving_in_memory
from tests.kit.wire import frame
from trio_ws import ConnectionClosedError, Options, WebSocket, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MIB = 1 << 20
OPTIONS = Options(max_message_size=4 * MIB, max_queue_bytes=8 * MIB, send_high_water=64 * MIB)
# Around what one read takes, and where a payload is sent beside its header.
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
async def test_what_waits_behind_a_big_message_goes_out_in_order(link: str) -> None:
    """More than the kernel takes is sent in one go: the rest, large and small by turns, has to wait."""
    sent = [bytes([i]) * (3 * MIB) for i in range(8)]
    sent += [b"%d" % i * size for i, size in enumerate([10, 70_000, 1, 2, 200_000, 65_535, 65_536, 4])]
    all_sent = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        for item in sent:
            await ws.send(item)
        assert ws.buffered_bytes > 0
        all_sent.set()
        async for _ in ws:
            pass

    async with client_of(handler, link) as ws:
        await all_sent.wait()
        for item in sent:
            assert await ws.receive_bytes() == item


@pytest.mark.parametrize("reset", [False, True])
async def test_a_peer_that_leaves_within_a_big_message(reset: bool) -> None:
    whole = frame(2, bytes(400_000))
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


async def test_a_peer_that_stops_within_a_big_message_is_waited_for() -> None:
    whole = frame(2, bytes(400_000))
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
