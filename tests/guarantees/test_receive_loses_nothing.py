"""recv, receive_* and iteration lose nothing when they are cancelled, even between fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving, serving_in_memory
from trio_ws import MessageError, Options, WebSocket, WebSocketMessage, connect
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

NO_PINGS = Options(ping_interval=None)


async def numbers(ws: WebSocket) -> None:
    """Send numbers at irregular times, some alone and some together."""
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


async def take_bytes(ws: WebSocket) -> Any:
    try:
        return int(await ws.receive_bytes())
    except MessageError as exc:  # the message is text, and is available in the error
        assert isinstance(exc.message, WebSocketMessage)
        return exc.message.json()


async def take_json(ws: WebSocket) -> Any:
    return await ws.receive_json(int)


async def take_channel(ws: WebSocket) -> Any:
    return (await ws.receive()).json(int)


async def take_iteration(ws: WebSocket) -> Any:
    return (await anext(ws)).json()


async def take_parts(ws: WebSocket) -> Any:
    return int("".join([str(part) async for part in ws.recv_streaming()]))


TAKES = [take_recv, take_text, take_bytes, take_json, take_channel, take_iteration, take_parts]
every_way = pytest.mark.parametrize("take", TAKES, ids=lambda f: f.__name__)


@every_way
async def test_a_cancelled_receive_loses_nothing(take: Any, autojump_clock: MockClock) -> None:
    async with serving_in_memory(numbers, options=NO_PINGS) as memory, memory.connect(options=NO_PINGS) as ws:
        got: list[int] = []
        cancelled = 0
        while len(got) < 60:
            with trio.move_on_after(0.3) as scope:
                got.append(await take(ws))
            cancelled += scope.cancelled_caught
        assert got == list(range(60))
        assert cancelled > 20


@pytest.mark.repeats
@every_way
@pytest.mark.parametrize("latency", [0, 0.5])
async def test_nothing_is_lost_in_the_very_moment_of_its_arrival(
    take: Any, latency: float, autojump_clock: MockClock
) -> None:
    """Data arrives exactly at a deadline; either may come first."""

    async def by_the_clock(ws: WebSocket) -> None:
        for number in range(100):
            await ws.send_json(number)
            await trio.sleep(1)

    async with serving_in_memory(by_the_clock, options=NO_PINGS) as memory:
        link = await memory.listener.open_link(latency=latency)
        async with connect("ws://test/", stream=link.client, options=NO_PINGS) as ws:
            got: list[int] = []
            cancelled = 0
            deadline = trio.current_time()
            while len(got) < 100:
                deadline += 0.5
                with trio.move_on_at(deadline) as scope:
                    got.append(await take(ws))
                cancelled += scope.cancelled_caught
    assert got == list(range(100))
    assert cancelled > 50


@every_way
async def test_a_receive_that_was_cancelled_before_takes_nothing(
    take: Any, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(numbers, options=NO_PINGS) as memory, memory.connect(options=NO_PINGS) as ws:
        await trio.sleep(100)  # until all of them have arrived
        for number in range(60):
            for _ in range(2):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    pytest.fail(f"it took {await take(ws)}")
                assert scope.cancelled_caught
            assert await take(ws) == number


@pytest.mark.repeats
@pytest.mark.parametrize("take", [take for take in TAKES if take is not take_parts], ids=lambda f: f.__name__)
@pytest.mark.parametrize("compression", [False, True])
async def test_every_way_to_receive_may_be_cancelled_between_fragments(
    take: Any, compression: bool, autojump_clock: MockClock
) -> None:
    """The message consists of one digit per fragment, over a link that delivers one byte at a time."""

    async def digits(number: int) -> AsyncIterator[str]:
        for digit in str(number):
            await trio.sleep(0.2)
            yield digit

    async def handler(ws: WebSocket) -> None:
        for number in range(10):
            await ws.send(digits(10**18 + number))

    options = Options(ping_interval=None, compression=compression)
    async with serving_in_memory(handler, options=options) as memory:
        link = await memory.listener.open_link(max_read=1)
        async with connect("ws://test/", stream=link.client, options=options) as ws:
            got: list[int] = []
            cancelled = 0
            while len(got) < 10:
                with trio.move_on_after(0.07) as scope:
                    got.append(await take(ws))
                cancelled += scope.cancelled_caught
    assert got == [10**18 + number for number in range(10)]
    assert cancelled > 300


async def test_over_a_socket_too() -> None:
    async def quick(ws: WebSocket) -> None:
        for number in range(300):
            await ws.send_json(number)
            await trio.lowlevel.checkpoint()

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

    async with (
        serving_in_memory(numbers, options=NO_PINGS) as memory,
        memory.connect(options=NO_PINGS) as ws,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(worker, ws)
    assert sorted(got) == list(range(60))
