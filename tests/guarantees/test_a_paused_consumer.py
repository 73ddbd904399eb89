"""A paused consumer suspends its producer and delays nothing else. Nested calls do not deadlock."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    Options,
    Packet,
    PacketError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

WINDOW = 8
OPTIONS = Options(stream_window=WINDOW)


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.made = 0

    @rpc_method()
    async def numbers(self, connection: ClientConnection, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.made += 1
            yield number

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def slow(self, connection: ClientConnection, seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    @rpc_method()
    async def take_some(self, connection: ClientConnection, items: AsyncIterator[int], pause: float) -> int:
        await anext(items)
        await trio.sleep(pause)
        return 1

    @rpc_method()
    async def sum_of_mine(self, connection: ClientConnection, count: int) -> int:
        total = 0
        async with connection.stream("numbers", count, items=int) as numbers:
            async for number in numbers:
                total += number
        return total

    @rpc_method()
    async def down(self, connection: ClientConnection, depth: int) -> int:
        """Call each other recursively."""
        return 0 if depth == 0 else 1 + await connection.call("down", depth - 1, returns=int)

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send(await connection.call("add", packet.data, 1))


async def test_a_pause_suspends_the_producer_and_nothing_else(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=OPTIONS) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=OPTIONS) as client:
            async with client.stream("numbers", 1000, items=int) as numbers:
                await trio.sleep(100)
                assert handler.made == WINDOW
                began = trio.current_time()
                assert await client.call("add", 1, 2) == 3
                assert trio.current_time() == began
                received = [await numbers.receive() for _ in range(500)]
                await trio.sleep(100)
                assert handler.made - len(received) <= WINDOW
                received += [number async for number in numbers]
            assert received == list(range(1000))


async def test_a_paused_consumer_on_the_server_suspends_its_producer(autojump_clock: MockClock) -> None:
    made = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=OPTIONS) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "take_some", numbers(), 50)
                await trio.sleep(49)
                assert WINDOW <= made <= WINDOW + 1
                began = trio.current_time()
                assert await client.call("add", 1, 2) == 3
                assert trio.current_time() == began


async def test_a_scope_inside_a_generator_may_expire_while_it_is_suspended(
    autojump_clock: MockClock,
) -> None:
    """PEP 789: the cancellation belongs to the generator, which continues after its scope."""

    class Timed(WebSocketHandler):
        @rpc_method()
        async def timed(self, connection: ClientConnection) -> AsyncIterator[str]:
            with trio.move_on_after(5):
                while True:
                    yield "before"
            yield "after"

    options = Options(stream_window=2)
    async with serving_in_memory(Timed(), options=options) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), options=options) as client:
            async with client.stream("timed", items=str) as texts:
                await trio.sleep(10)
                assert [text async for text in texts] == ["before", "before", "after"]


@pytest.mark.repeats
@pytest.mark.parametrize("dialect", ["webshocket.v1", "json", "jsonrpc"])
async def test_without_credits_a_paused_consumer_stops_the_reading(
    dialect: str, autojump_clock: MockClock
) -> None:
    handler = Handler()
    options = Options(max_queue_bytes=10_000)
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect, options=options) as client:
            async with client.stream("numbers", 50_000, items=int) as numbers:
                await trio.sleep(10)
                held = len(numbers._items)
                assert held * 128 <= 10_000 + 65536 * 3
                assert handler.made < 50_000
                assert [number async for number in numbers] == list(range(50_000))


@pytest.mark.parametrize("dialect", ["webshocket.v1", "json"])
async def test_without_credits_a_paused_stream_ends_where_reading_must_go_on(
    dialect: str, autojump_clock: MockClock
) -> None:
    """A call waits for its response, which comes after items that are not consumed."""
    options = Options(max_held_bytes=10_000)
    async with serving_in_memory(Handler()) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect, options=options) as client:
            async with client.stream("numbers", 50_000, items=int) as numbers:
                assert await client.call("slow", 30) == 30  # no item is consumed in the meantime
                received = 0
                with pytest.raises(PacketError, match="max_held_bytes"):
                    async for _ in numbers:
                        received += 1
                assert received * 128 < 10_000 * 2 + 65536
            assert await client.call("add", 3, 4) == 7


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_calls_inside_on_receive_and_inside_methods(limit: int, autojump_clock: MockClock) -> None:
    options = Options(max_concurrent_calls=limit, max_queue_bytes=2000, stream_window=2)
    mine = Handler()
    mine.on_receive = WebSocketHandler.on_receive.__get__(mine)  # type: ignore[method-assign]

    class Plain(WebSocketHandler):
        numbers = Handler.numbers
        add = Handler.add
        down = Handler.down
        made = 0

    async with serving_in_memory(Handler(), options=options) as memory:
        stream = await memory.stream(latency=0.1)
        async with WebSocketClient("ws://test/", stream=stream, handler=Plain, options=options) as client:
            for number in range(3):
                await client.send(number)
                packet = await client.recv()
                assert packet is not None
                assert packet.data == number + 1
            assert await client.call("sum_of_mine", 100) == 4950
            if limit > 1:
                assert await client.call("down", 2) == 2


async def test_both_sides_at_once(autojump_clock: MockClock) -> None:
    results: list[Any] = []

    class Plain(WebSocketHandler):
        numbers = Handler.numbers
        add = Handler.add
        down = Handler.down
        made = 0

    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        stream = await memory.stream(latency=0.1)
        async with WebSocketClient("ws://test/", stream=stream, handler=Plain, options=OPTIONS) as client:

            async def ask(method: str, *args: Any) -> None:
                results.append(await client.call(method, *args))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask, "down", 5)
                    nursery.start_soon(ask, "sum_of_mine", 50)
                    nursery.start_soon(ask, "add", 1, 2)
    assert sorted(results) == [3] * 20 + [5] * 20 + [1225] * 20


async def test_packets_that_are_not_received_do_not_stop_calls(autojump_clock: MockClock) -> None:
    class Talker(WebSocketHandler):
        @rpc_method()
        async def talk(self, connection: ClientConnection, count: int) -> int:
            for number in range(count):
                await connection.send("x" * 1000 + str(number))
            return count

    options = Options(max_held_bytes=20_000)
    async with serving_in_memory(Talker()) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, options=options) as client:
            assert await client.call("talk", 500) == 500
            peer = client._live
            assert peer.delivery.dropped_packets > 0
            assert peer.transport.ledger.held <= 20_000
            packet = await client.recv()
            assert packet is not None
            assert packet.data == "x" * 1000 + str(peer.delivery.dropped_packets)
