"""Promise 3: recv, receive_* and iteration lose nothing when cancelled, also between fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.kit.serving import serving, serving_in_memory
from trio_ws import Options, WebSocket, connect
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

NO_PINGS = Options(ping_interval=None)


async def numbers(ws: WebSocket) -> None:
    """Send numbers, some alone and some together, in odd moments."""
    for number in range(60):
        await ws.send_json(number)
        if number % 3:
            await trio.sleep(0.7)


async def take_recv(ws: WebSocket) -> Any:
    message = await ws.recv()
    assert message is not None
    return message.json()


async def take_text(ws: WebSocket) -> Any:
    return int(await ws.receive_text())


async def take_json(ws: WebSocket) -> Any:
    return await ws.receive_json(int)


async def take_channel(ws: WebSocket) -> Any:
    return (await ws.receive()).json(int)


async def take_iteration(ws: WebSocket) -> Any:
    return (await anext(ws)).json()


async def take_parts(ws: WebSocket) -> Any:
    return int("".join([str(part) async for part in ws.recv_streaming()]))


@pytest.mark.parametrize(
    "take",
    [take_recv, take_text, take_json, take_channel, take_iteration, take_parts],
    ids=lambda f: f.__name__,
)
async def test_whoever_is_cancelled_loses_nothing(take: Any, autojump_clock: MockClock) -> None:
    async with serving_in_memory(numbers, options=NO_PINGS) as memory, memory.connect(options=NO_PINGS) as ws:
        got: list[int] = []
        cancelled = 0
        while len(got) < 60:
            with trio.move_on_after(0.3) as scope:
                got.append(await take(ws))
            cancelled += scope.cancelled_caught
        assert got == list(range(60))
        assert cancelled > 20


async def test_over_a_socket_too() -> None:
    async def quick(ws: WebSocket) -> None:
        for number in range(300):
            await ws.send_json(number)
            await trio.sleep(0)

    async with serving(quick) as server, connect(server.url) as ws:
        got: list[int] = []
        while len(got) < 300:
            with trio.move_on_after(0.0005):
                got.append(await ws.receive_json(int))
        assert got == list(range(300))


async def test_nothing_of_a_fragmented_message_is_lost(autojump_clock: MockClock) -> None:
    text = "a€b𝄞c" * 30
    data = text.encode()

    async def dribble(peer: RawPeer) -> None:
        for i in range(len(data)):
            await peer.send_frame(1 if i == 0 else 0, data[i : i + 1], fin=i == len(data) - 1)
            await trio.sleep(0.2)

    result: list[str] = []

    async def handler(ws: WebSocket) -> None:
        while True:
            with trio.move_on_after(0.5):
                result.append(await ws.receive_text())
                return

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await dribble(peer)
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close(1000)
    assert result == [text]


@pytest.mark.parametrize("kind", [1, 2])
async def test_streaming_goes_on_in_the_same_message_after_a_cancellation(
    kind: int, autojump_clock: MockClock
) -> None:
    text = "a€b𝄞c" * 30
    data = text.encode()
    parts: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        cancelled = 0
        ended = False
        while not ended:
            with trio.move_on_after(0.1) as scope:
                async for part in ws.recv_streaming():
                    parts.append(part)
                ended = True
            cancelled += scope.cancelled_caught
        assert cancelled > 50
        assert (await ws.receive_text()) == "next"

    async with serving_in_memory(handler, options=NO_PINGS) as memory:
        peer = await RawPeer.connect(await memory.stream())
        for i in range(0, len(data), 2):
            await peer.send_frame(kind if i == 0 else 0, data[i : i + 2], fin=i >= len(data) - 2)
            await trio.sleep(0.25)
        await peer.send_text("next")
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close(1000)
    assert type(parts[0])().join(parts) == (text if kind == 1 else data)


async def test_several_receivers_share_without_loss(autojump_clock: MockClock) -> None:
    got: list[int] = []

    async def worker(ws: WebSocket) -> None:
        while len(got) < 60:
            with trio.move_on_after(0.3):
                got.append(await ws.receive_json(int))

    async with serving_in_memory(numbers, options=NO_PINGS) as memory, memory.connect(options=NO_PINGS) as ws:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(worker, ws)
    assert sorted(got) == list(range(60))
