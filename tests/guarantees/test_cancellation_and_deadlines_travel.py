"""Cancelling the caller cancels the method. A deadline is sent as the remaining time and ends the method."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Options, WebSocketClient, WebSocketHandler, rpc_method

if TYPE_CHECKING:
    from trio.testing import MockClock

#: No pings, because they would change the measured latency.
QUIET = Options(ping_interval=None)


class Handler(WebSocketHandler):
    """Methods that record when they were cancelled, and their deadlines."""

    def __init__(self) -> None:
        self.cancelled_at: list[float] = []
        self.left: list[float] = []

    async def _until_cancelled(self) -> None:
        self.left.append(trio.current_effective_deadline() - trio.current_time())
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        await self._until_cancelled()

    @rpc_method()
    async def numbers(self, connection: ClientConnection) -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                yield number
        except BaseException:
            self.cancelled_at.append(trio.current_time())
            raise

    @rpc_method()
    async def silent(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        await self._until_cancelled()

    @rpc_method()
    async def take(self, connection: ClientConnection, items: AsyncIterator[int]) -> None:
        async for _ in items:
            await self._until_cancelled()

    @rpc_method()
    async def call_back(self, connection: ClientConnection, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await connection.call("wait")

    @rpc_method()
    async def stream_back(self, connection: ClientConnection) -> int:
        async with connection.stream("numbers", items=int) as numbers:
            return await numbers.receive()


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json", "jsonrpc"])
@pytest.mark.parametrize("latency", [0.0, 1.0])
async def test_cancelling_the_caller_cancels_the_method_after_one_way(
    latency: float, dialect: str, autojump_clock: MockClock
) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        stream = await memory.stream(latency=latency)
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect, options=QUIET) as client:
            began = trio.current_time()
            with trio.move_on_after(5):
                await client.call("wait")
            assert trio.current_time() == began + 5
            await trio.sleep(latency)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.cancelled_at == [began + 5 + latency]


async def test_a_cancellation_without_a_deadline_cancels_the_method(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "wait")
                await trio.sleep(5)
                nursery.cancel_scope.cancel()
            assert trio.current_time() == began + 5
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.cancelled_at == [began + 6]
            assert not client._live.outgoing.pending_calls


@pytest.mark.parametrize("method", ["numbers", "silent"])
async def test_leaving_a_stream_cancels_its_generator(method: str, autojump_clock: MockClock) -> None:
    """While it is suspended at its yield without credit, or waits inside."""
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
            async with client.stream(method) as items:
                await items.receive()
                await trio.sleep(10)
                left = trio.current_time()
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.cancelled_at == [left + 1]


async def test_cancelling_the_caller_of_an_upload_ends_both_ends(autojump_clock: MockClock) -> None:
    handler = Handler()
    ended: list[float] = []

    async def forever() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(trio.current_time())

    async with serving_in_memory(handler, options=QUIET) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "take", forever())
                await trio.sleep(20)
                nursery.cancel_scope.cancel()
                left = trio.current_time()
            assert ended == [left]
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.cancelled_at == [left + 1]
            assert not client._live.outgoing.client_streams


async def test_a_server_cancels_its_calls_to_a_client_too(autojump_clock: MockClock) -> None:
    mine = Handler()
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, handler=mine, options=QUIET) as client:
            began = trio.current_time()
            await client.call("call_back", 5)
            # The call arrives after one second. Its five seconds are reduced by the latency for the client's
            # method. The response takes another second.
            assert trio.current_time() == began + 7
            await trio.sleep(1)
            assert len(mine.cancelled_at) == 1
            assert began + 6 <= mine.cancelled_at[0] <= began + 7
            assert await client.call("stream_back", returns=int) == 0
            await trio.sleep(3)
            assert len(mine.cancelled_at) == 2


async def test_a_deadline_of_five_seconds_leaves_four_over_a_link_of_one(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        stream = await memory.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
            await client.ping()
            began = trio.current_time()
            with pytest.raises(trio.TooSlowError), trio.fail_after(5):
                await client.call("wait")
            assert trio.current_time() == began + 5
            assert handler.left == [4]
            await trio.sleep(1)
            await trio.testing.wait_all_tasks_blocked()
            assert handler.cancelled_at == [began + 6]  # by the abort of the caller, not by the deadline


async def test_deadline_shrinks_with_each_hop(autojump_clock: MockClock) -> None:
    last = Handler()

    class Middle(WebSocketHandler):
        @rpc_method()
        async def pass_on(self, connection: ClientConnection) -> None:
            stream = await far.stream(latency=1)
            async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
                await client.ping()
                await client.call("wait")

    async with (
        serving_in_memory(last, options=QUIET) as far,
        serving_in_memory(Middle(), options=QUIET) as near,
    ):
        stream = await near.stream(latency=1)
        async with WebSocketClient("ws://test/", stream=stream, options=QUIET) as client:
            await client.ping()
            began = trio.current_time()
            with trio.move_on_after(10):
                await client.call("pass_on")
            # One second to the first server, two to connect, two for a ping, one to the second server.
            assert last.left == [10 - 6]
            assert trio.current_time() == began + 10
            await trio.sleep(2)
            await trio.testing.wait_all_tasks_blocked()
            assert last.cancelled_at == [began + 12]  # by the aborts, which take one second per hop


async def test_the_deadline_ends_the_method_even_if_the_caller_is_gone(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler, options=QUIET) as memory:
        link = await memory.listener.open_link(latency=1)
        with trio.CancelScope() as scope:
            async with WebSocketClient("ws://test/", stream=link.client, options=QUIET) as client:
                await client.ping()
                async with trio.open_nursery() as nursery:

                    async def call() -> None:
                        with trio.move_on_after(8):
                            await client.call("wait")

                    nursery.start_soon(call)
                    await trio.sleep(2)
                    link.partition()
                    scope.cancel()
        await trio.sleep(8)
        assert handler.cancelled_at == [12]  # two seconds to connect, two for the ping, and eight
