"""Promise 2: send is atomic under cancellation. Nothing is ever spliced into a half-sent frame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.kit.serving import serving_in_memory
from trio_ws import Compression, ConnectionClosedError, Options, WebSocket
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

NO_PINGS = Options(ping_interval=None)


async def fill(ws: WebSocket) -> int:
    """Send until a send waits, cancel that one, and give how many were sent."""
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
        # Frame after frame, none half, none of the cancelled one.
        assert payloads == [b"%06d" % number + bytes(10_000) for number in range(sent)] + [b"after"]
        await peer.send_close(1000)


async def test_a_cancelled_send_leaves_the_compressor_in_step(autojump_clock: MockClock) -> None:
    options = Options(ping_interval=None, compression=Compression(threshold=0), max_message_size=None)
    sent = -1

    async def handler(ws: WebSocket) -> None:
        nonlocal sent
        import random

        noise = random.Random(1)
        sent = 0
        with trio.move_on_after(1):
            while True:
                await ws.send(noise.randbytes(10_000))
                sent += 1
        await ws.send("after " * 100)

    async with serving_in_memory(handler, options=options) as memory:
        async with memory.connect(
            options=Options(ping_interval=None, compression=True, max_queue_bytes=1)
        ) as ws:
            await trio.sleep(2)
            import random

            noise = random.Random(1)
            for _ in range(sent):
                assert await ws.receive_bytes() == noise.randbytes(10_000)
            assert await ws.receive_text() == "after " * 100
    assert sent > 0


async def test_a_frame_that_was_begun_is_finished_after_a_cancellation(autojump_clock: MockClock) -> None:
    big = bytes(range(256)) * 2048  # 512 KiB over a link that holds 64

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
