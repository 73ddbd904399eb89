"""Deferred frames: large messages of synchronous code are compressed in pieces, once, and in order.

The tests count the steps of the tasks that write. Other tasks can run between two steps.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.serving import EchoHandler, serving_in_memory
from trio_ws import (
    ClientConnection,
    Compression,
    ConnectionClosedError,
    Options,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
    broadcast,
    connect,
    rpc_method,
)
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate
from trio_ws.protocol.frames import BINARY, FIN, RSV1
from trio_ws.websocket.deferred_frame import DEFLATED_AT_ONCE, DeferredFrame, deflated_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

DEFLATE = Options(
    ping_interval=None,
    max_message_size=8 << 20,
    max_queue_bytes=8 << 20,
    compression=Compression(level=1),
    channel_max_bytes=8 << 20,
)
BIG = random.Random(1).randbytes(1 << 19) + bytes(1 << 19)
PIECES = len(BIG) // DEFLATED_AT_ONCE


class Steps(trio.abc.Instrument):
    """Counts the steps of each kind of task."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count[task.name.rpartition(".")[2]] += 1


@contextmanager
def counted() -> Iterator[Counter[str]]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps.count
    finally:
        trio.lowlevel.remove_instrument(steps)


def late(*, masked: bool = False) -> DeferredFrame:
    deflate = PerMessageDeflate(
        client=False,
        params=DeflateParams(),
        compression=Compression(level=1),
        max_message_size=None,
    )
    return DeferredFrame(FIN | BINARY, BIG, deflate, masked=masked)


def payload_of(frame: bytes) -> bytes:
    """Return the payload of an unmasked deferred frame."""
    assert frame[0] == FIN | RSV1 | BINARY
    assert frame[1] == 127
    return zlib.decompressobj(-15).decompress(frame[10:])


class Rooms(WebSocketHandler):
    @rpc_method()
    def join(self, connection: ClientConnection) -> bool:
        return connection.subscribe("room")

    @rpc_method()
    def big(self, connection: ClientConnection) -> str:
        return "x" * len(BIG)

    @rpc_method()
    def hide(self, connection: ClientConnection) -> None:
        self.publish("room", "before", exclude=[connection])
        self.publish("room", BIG.hex())
        self.publish("room", "after")


async def test_send_nowait_deflates_in_turns(autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    async with serving_in_memory(handler, options=DEFLATE) as memory, memory.connect(options=DEFLATE) as ws:
        await wait_all_tasks_blocked()
        with counted() as steps:
            ws.send_nowait(BIG)
            assert await ws.receive_bytes() == BIG
        assert steps["_drain"] >= PIECES


async def test_a_broadcast_is_deflated_in_turns_and_once_for_all(autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    async with serving_in_memory(handler, options=DEFLATE) as memory, trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            async with memory.connect(options=DEFLATE) as ws:
                task_status.started()
                got.append(await ws.receive_bytes())

        for _ in range(10):
            await nursery.start(listen)
        await wait_all_tasks_blocked()
        zeros = bytes(len(BIG))  # compressed and written in one step
        with counted() as steps:
            assert broadcast(handler.open, zeros) == 10
            await wait_all_tasks_blocked()
        assert got == [zeros] * 10
        assert PIECES <= steps["_drain"] <= 2 * PIECES + 10 * 5


async def test_a_publish_and_an_answer_are_deflated_in_turns(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Rooms(), options=DEFLATE) as memory:
        link = memory.listener.open_link_nowait()
        async with WebSocketClient("ws://test/", stream=link.client, options=DEFLATE) as client:
            with counted() as steps:
                assert await client.call("big") == "x" * len(BIG)
            assert steps["_drain"] >= PIECES
            await client.call("join")
            with counted() as steps:
                await client.call("hide")
                packets = [await client.recv(), await client.recv()]
            assert [packet.data for packet in packets if packet] == [BIG.hex(), "after"]
            assert steps["_drain"] >= PIECES


@pytest.mark.parametrize("forgets", [False, True])
async def test_deferred_frame_keeps_order_and_compression_context(
    forgets: bool, autojump_clock: MockClock
) -> None:
    options = Options(
        ping_interval=None,
        max_message_size=8 << 20,
        send_high_water=8 << 20,
        compression=Compression(
            level=1, client_no_context_takeover=forgets, server_no_context_takeover=forgets
        ),
    )
    small = [(b"number %d, " % number) * 50 for number in range(5)]
    got: list[bytes] = []

    async def parts() -> AsyncIterator[bytes]:
        yield small[3][:100]
        yield small[3][100:]

    async def handler(ws: WebSocket) -> None:
        got.extend([message.data or b"" async for message in ws])

    async with serving_in_memory(handler, options=options) as memory:
        async with memory.connect(options=options) as ws:
            ws.send_nowait(small[0])
            ws.send_nowait(BIG)
            ws.send_nowait(small[1])
            ws.send_nowait(BIG)
            await ws.send(small[2])
            await ws.send(parts())
            await ws.send(BIG)
            ws.send_nowait(small[4])
        await wait_all_tasks_blocked()
    assert got == [small[0], BIG, small[1], BIG, small[2], small[3], BIG, small[4]]


async def test_the_bounds_count_all_of_it_before_it_is_made(autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    options = Options(ping_interval=None, compression=True, channel_max_bytes=len(BIG) - 1)
    async with (
        serving_in_memory(handler, options=options) as memory,
        memory.connect(options=DEFLATE) as ws,
    ):
        await wait_all_tasks_blocked()
        zeros = bytes(len(BIG))
        ws.send_nowait(zeros)
        assert ws.buffered_bytes == len(BIG)
        with pytest.raises(trio.WouldBlock):
            ws.send_nowait(b"more")
        assert broadcast(handler.open, zeros) == 1
        assert broadcast(handler.open, b"too much") == 0
        assert await ws.receive_bytes() == zeros
        with pytest.raises(ConnectionClosedError) as closed:
            await ws.receive_bytes()
        assert closed.value.code == 1013


async def test_a_connection_that_breaks_meanwhile_gets_nothing_of_it(autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    async with serving_in_memory(handler, options=DEFLATE) as memory, memory.connect(options=DEFLATE) as ws:
        link = memory.listener.open_link_nowait()
        with pytest.raises(ConnectionClosedError):
            async with connect("ws://test/", stream=link.client, options=DEFLATE) as broken:
                await wait_all_tasks_blocked()
                assert broadcast(reversed(handler.open), BIG) == 2
                for _ in range(PIECES // 2):
                    await trio.lowlevel.checkpoint()
                await trio.aclose_forcefully(link.client)
                await broken.receive_bytes()
        assert await ws.receive_bytes() == BIG
        assert broadcast(handler.open, b"after") == 1
        assert await ws.receive_bytes() == b"after"


async def test_another_task_continues_the_work_of_a_cancelled_one(autojump_clock: MockClock) -> None:
    frame = late()
    made: list[bytes] = []

    async def make() -> None:
        made.append(await frame.frame())

    async with trio.open_nursery() as nursery, trio.open_nursery() as inner:
        inner.start_soon(make)
        await trio.lowlevel.checkpoint()
        for _ in range(3):
            nursery.start_soon(make)
        for _ in range(PIECES // 2):
            await trio.lowlevel.checkpoint()
        assert not made
        inner.cancel_scope.cancel()
    assert [payload_of(one) for one in made] == [BIG] * 3
    assert await frame.frame() == made[0]


async def test_waiting_tasks_continue_a_few_at_a_time(autojump_clock: MockClock) -> None:
    frame = late()
    in_a_turn: list[int] = []
    woken: list[int] = []

    async def wait() -> None:
        await frame.frame()
        woken.append(1)

    class Turns(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            in_a_turn.append(len(woken))

    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(wait)
    trio.lowlevel.remove_instrument(turns)
    assert len(woken) == 50
    steps = [after - before for before, after in itertools.pairwise(in_a_turn)]
    assert max(steps) <= 8


@pytest.mark.parametrize("size", [DEFLATED_AT_ONCE, DEFLATED_AT_ONCE + 1])
def test_only_large_ones_are_late(size: int) -> None:
    deflate = PerMessageDeflate(
        client=False, params=DeflateParams(), compression=Compression(), max_message_size=None
    )
    made: Any = deflated_frame(FIN | BINARY, bytes(size), deflate)
    assert isinstance(made, DeferredFrame) is (size > DEFLATED_AT_ONCE)
    if isinstance(made, DeferredFrame):
        assert len(made) == size
