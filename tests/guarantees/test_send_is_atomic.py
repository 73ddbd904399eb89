"""send is atomic under cancellation, and nothing is ever inserted into an incomplete frame."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import serving_in_memory
from trio_ws import Compression, ConnectionClosedError, Options, WebSocket, connect
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

NO_PINGS = Options(ping_interval=None)


async def fill(ws: WebSocket) -> int:
    """Send until a send blocks, cancel that one, and return the number of sent messages."""
    sent = 0
    with trio.move_on_after(1):
        while True:
            await ws.send(b"%06d" % sent + bytes(10_000))
            sent += 1
    return sent


async def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing(autojump_clock: MockClock) -> None:
    sent = -1

    async def handler(ws: WebSocket) -> None:
        nonlocal sent
        sent = await fill(ws)
        await ws.send(b"after")

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.sleep(2)
        payloads = []
        while (frame := await peer.receive_frame()) is not None and frame.opcode == 2:
            payloads.append(frame.payload)
        # Whole frames, without the cancelled one.
        assert payloads == [b"%06d" % number + bytes(10_000) for number in range(sent)] + [b"after"]
        await peer.send_close(1000)


async def test_a_cancelled_send_leaves_the_compressor_in_step(autojump_clock: MockClock) -> None:
    """The message is sent again. A compressor that had seen it would refer to data that was never sent."""
    options = Options(ping_interval=None, compression=Compression(threshold=0), max_queue_bytes=1)
    sent = -1

    async def handler(ws: WebSocket) -> None:
        nonlocal sent
        noise = random.Random(1)
        sent = 0
        message = b""
        with trio.move_on_after(1):
            while True:
                message = noise.randbytes(1000)
                await ws.send(message)
                sent += 1
        await ws.send(message)

    async with (
        serving_in_memory(handler, options=options) as memory,
        memory.connect(options=options) as ws,
    ):
        await trio.sleep(2)
        noise = random.Random(1)
        for _ in range(sent + 1):
            assert await ws.receive_bytes() == noise.randbytes(1000)
        assert await ws.recv() is None
    assert sent > 0


async def test_a_frame_that_was_begun_is_finished_after_a_cancellation(autojump_clock: MockClock) -> None:
    big = bytes(range(256)) * 2048  # 512 KiB over a link with a capacity of 64 KiB

    async def handler(ws: WebSocket) -> None:
        with trio.move_on_after(1) as scope:
            await ws.send(big)
            await ws.send(b"never sent")
        assert scope.cancelled_caught
        await ws.send(b"next")

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.sleep(3)
        frames = [await peer.receive_frame() for _ in range(2)]
        assert [frame.payload for frame in frames if frame] == [big, b"next"]
        await peer.aclose()


async def test_a_frame_that_was_begun_is_finished_before_a_close(autojump_clock: MockClock) -> None:
    """The peer reads slowly, but within close_timeout."""
    big = bytes(range(256)) * 2048

    async def handler(ws: WebSocket) -> None:
        with trio.move_on_after(1):
            await ws.send(big)
            await ws.send(b"never sent")
        await ws.close(4000, "enough")

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream(max_read=100_000))
        await trio.sleep(8)
        frames = [await peer.receive_frame() for _ in range(2)]
        assert [frame.payload for frame in frames if frame] == [big, b"\x0f\xa0enough"]
        await peer.send_close(4000)


async def test_a_frame_that_is_not_taken_within_the_close_timeout_is_given_up(
    autojump_clock: MockClock,
) -> None:
    ended = []

    async def handler(ws: WebSocket) -> None:
        with trio.move_on_after(1):
            await ws.send(bytes(500_000))
            await ws.send(b"never sent")
        await ws.close()
        ended.append(trio.current_time())
        assert ws.close_received is None

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await trio.sleep(20)
        assert ended == [11]
        with pytest.raises(EOFError):
            await peer.receive_frame()  # only half of the frame arrives


@pytest.mark.repeats
@pytest.mark.parametrize("seed", range(10))
async def test_cancellations_at_random_leave_whole_messages(seed: int, autojump_clock: MockClock) -> None:
    """A send that returned has sent its message once, and a cancelled one has sent nothing."""
    chance = random.Random(seed)
    sent: list[bytes] = []
    cancelled: set[bytes] = set()
    compression = bool(seed % 2)

    async def sender(ws: WebSocket, name: int) -> None:
        for number in range(30):
            message = b"%d/%d:" % (name, number) + chance.randbytes(chance.choice([1, 100, 3000, 30_000]))
            with trio.move_on_after(chance.choice([0, 0.01, 0.5, 10])) as scope:
                await ws.send(message)
                sent.append(message)
            if scope.cancelled_caught:
                cancelled.add(message)
            await trio.sleep(chance.choice([0, 0.01, 0.1]))

    async def handler(ws: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            for name in range(5):
                nursery.start_soon(sender, ws, name)
            for _ in range(20):
                with trio.move_on_after(chance.choice([0, 0.01, 0.5])):
                    await ws.ping()
                await trio.sleep(0.1)

    options = Options(
        ping_interval=None,
        close_timeout=1000,
        send_high_water=5000,
        compression=compression,
        max_queue_bytes=1,
    )
    async with serving_in_memory(handler, options=options) as memory:
        link = await memory.listener.open_link(capacity=chance.choice([50, 5000]), latency=0.05)
        async with connect("ws://test/", stream=link.client, options=options) as ws:
            got: list[bytes] = []
            async for message in ws:
                got.append(message.data or b"")
                await trio.sleep(chance.choice([0, 0.01, 0.5]))
    assert sorted(got) == sorted(sent)
    for name in b"01234":
        assert [data for data in got if data[0] == name] == [data for data in sent if data[0] == name]
    assert cancelled
    assert cancelled.isdisjoint(sent)


async def test_a_frame_that_cannot_be_finished_breaks_the_connection(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.send(bytes(500_000))
        with pytest.raises(ConnectionClosedError):
            await ws.send(bytes(500_000))
        ended.set()

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        link = await memory.listener.open_link()
        await RawPeer.connect(link.client)
        await trio.testing.wait_all_tasks_blocked()
        link.cut()
        await ended.wait()


async def test_a_fragmented_send_that_is_cancelled_closes_with_1011(autojump_clock: MockClock) -> None:
    async def parts() -> AsyncIterator[str]:
        yield "begun"
        await trio.sleep_forever()

    async def handler(ws: WebSocket) -> None:
        with trio.move_on_after(1):
            await ws.send(parts())
        with pytest.raises(ConnectionClosedError):
            await ws.send("spliced in?")

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        frame = await peer.receive_frame()
        assert frame is not None
        assert (frame.opcode, frame.fin, frame.payload) == (1, False, b"begun")
        closing = await peer.receive_frame()
        assert closing is not None
        assert (closing.opcode, closing.payload[:2]) == (8, (1011).to_bytes(2, "big"))
        await peer.send_close(1011)


async def test_a_fragmented_send_that_is_cancelled_before_its_first_part_has_sent_nothing(
    autojump_clock: MockClock,
) -> None:
    async def parts() -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield "never"

    async def handler(ws: WebSocket) -> None:
        with trio.move_on_after(1):
            await ws.send(parts())
        await ws.send("fine")

    async with serving_in_memory(handler, options=NO_PINGS) as memory, memory.connect() as ws:
        assert await ws.receive_text() == "fine"
