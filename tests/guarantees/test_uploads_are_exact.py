"""Arguments that are streams: no credit is lost, and a call raises the exception that ended it."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    Options,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.codecs.base import Request
from trio_ws.rpc.inline_call import resume_coroutine

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_ws.testing import Link

OPTIONS = Options(ping_interval=None, stream_window=4)


class Handler(WebSocketHandler):
    """Consumes streams, and records how they ended."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    async def _take(self, items: AsyncIterator[int]) -> int:
        total = 0
        try:
            async for item in items:
                total += item
        except BaseException as exc:
            self.ends.append(type(exc).__name__)
            raise
        self.ends.append("whole")
        return total

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        return await self._take(items)

    @rpc_method()
    async def both(self, connection: ClientConnection, a: AsyncIterator[int], b: AsyncIterator[int]) -> int:
        totals = []

        async def take(items: AsyncIterator[int]) -> None:
            totals.append(await self._take(items))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, a)
            nursery.start_soon(take, b)
        return sum(totals)

    @rpc_method()
    async def first(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        async for item in items:
            return item
        return -1

    @rpc_method()
    async def double(self, connection: ClientConnection, items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for item in items:
                yield 2 * item
        except BaseException as exc:
            self.ends.append(type(exc).__name__)
            raise
        self.ends.append("whole")

    @rpc_method()
    async def refuse(self, connection: ClientConnection, items: AsyncIterator[int]) -> None:
        await anext(aiter(items))
        raise RPCError("enough")


@asynccontextmanager
async def calling(handler: Handler, latency: float = 0.1) -> AsyncIterator[tuple[WebSocketClient, Link]]:
    async with serving_in_memory(handler, options=OPTIONS) as memory:
        link = await memory.listener.open_link(latency=latency)
        async with WebSocketClient("ws://test/", stream=link.client, options=OPTIONS) as client:
            yield client, link
            peer = client._live
            assert (peer.outgoing.pending_calls, peer.outgoing.sinks, peer.outgoing.client_streams) == (
                {},
                {},
                {},
            )


async def ones(count: int = 1_000_000) -> AsyncIterator[int]:
    for _ in range(count):
        await trio.sleep(0.05)
        yield 1


async def failing(error: BaseException) -> AsyncIterator[int]:
    for _ in range(3):
        await trio.sleep(0.05)
        yield 1
    raise error


async def unfinished(error: Exception) -> AsyncIterator[int]:
    """Raise an exception when the stream is closed early."""
    try:
        while True:
            await trio.sleep(0.05)
            yield 1
    finally:
        raise error


async def stubborn() -> AsyncIterator[int]:
    """End normally when it is cancelled."""
    try:
        while True:
            await trio.sleep(0.05)
            yield 1
    except trio.Cancelled:
        pass


async def slow_to_end() -> AsyncIterator[int]:
    try:
        while True:
            await trio.sleep(0.05)
            yield 1
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(10)


async def use(client: WebSocketClient, method: str, *streams: AsyncIterator[int]) -> list[int]:
    """Call a method, or receive all items of its stream."""
    if method != "double":
        return [await client.call(method, *streams, returns=int)]
    async with client.stream(method, *streams, items=int) as items:
        return [item async for item in items]


async def test_credit_that_comes_before_the_sending_task_has_begun_is_kept(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        link = await memory.listener.open_link()
        async with WebSocketClient("ws://test/", stream=link.client, options=OPTIONS) as client:
            peer = client._live
            call = client.call("total", ones(30))
            trap = call.send(None)
            # The request was sent, and no other task has run.
            (upload,) = peer.outgoing.client_streams.values()
            assert upload.credit == 0
            assert peer.incoming.start_call(Request("__credit__", ["1/0", 3]), None) is None  # type: ignore[arg-type]
            assert upload.credit == 3
            upload.credit = 0
            assert await resume_coroutine(call, trap) == 30


@pytest.mark.parametrize("method", ["total", "both", "double", "first"])
async def test_a_cancellation_leaves_as_cancelled(method: str, autojump_clock: MockClock) -> None:
    streams = 2 if method == "both" else 1
    async with calling(Handler(), latency=1) as (client, _):
        left: list[BaseException] = []
        with trio.move_on_after(1.5 if method == "first" else 5) as scope:
            try:
                await use(client, method, *[ones() for _ in range(streams)])
            except BaseException as exc:
                left.append(exc)
                raise
        assert scope.cancelled_caught
        assert [type(exc) for exc in left] == [trio.Cancelled]


async def test_a_cancellation_while_the_stream_is_cleaned_up(autojump_clock: MockClock) -> None:
    """The response has arrived, and the caller's iterator takes some time to end."""

    async with calling(Handler()) as (client, _):
        left: list[BaseException] = []
        with trio.move_on_after(5) as scope:
            try:
                await client.call("first", slow_to_end())
            except BaseException as exc:
                left.append(exc)
                raise
        assert scope.cancelled_caught
        assert [type(exc) for exc in left] == [trio.Cancelled]


@pytest.mark.parametrize("make", [ones, stubborn])
@pytest.mark.parametrize("method", ["total", "double"])
async def test_the_method_sees_a_cancellation_where_its_caller_was_cancelled(
    method: str, make: Callable[[], AsyncIterator[int]], autojump_clock: MockClock
) -> None:
    """It sees neither an error nor a normal end. Repeated, because tasks run in random order."""
    handler = Handler()
    async with calling(handler) as (client, _):
        for _ in range(20):
            with trio.move_on_after(1):
                await use(client, method, make())
            await trio.sleep(1)
        with trio.move_on_after(1):
            async with client.stream("double", make(), items=int) as items:
                await items.receive()
                await trio.sleep_forever()
        await trio.sleep(1)
        assert handler.ends == ["Cancelled"] * 21


ERRORS = [
    ValueError("mine"),
    RPCError("mine"),
    ConnectionClosedError(1000, "of another connection"),
    ExceptionGroup("mine", [ValueError("a"), ValueError("b")]),
    type("Strange", (BaseException,), {})("mine"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["total", "double"])
async def test_exceptions_of_the_uploaded_stream_leave_unchanged(
    method: str, error: BaseException, autojump_clock: MockClock
) -> None:
    handler = Handler()
    async with calling(handler) as (client, _):
        with pytest.raises(type(error)) as caught:
            await use(client, method, failing(error))
        assert caught.value is error
        await trio.sleep(1)
        assert len(handler.ends) == 1
        assert handler.ends != ["whole"]
        assert await client.call("total", ones(3)) == 3


async def test_streams_that_fail_together_leave_in_a_group(autojump_clock: MockClock) -> None:
    async with calling(Handler()) as (client, _):
        with pytest.raises(ExceptionGroup) as caught:
            await client.call("both", failing(ValueError("a")), unfinished(KeyError("b")))
        assert [type(exc) for exc in caught.value.exceptions] == [ValueError, KeyError]


async def test_an_error_of_the_method_ends_the_stream(autojump_clock: MockClock) -> None:
    async with calling(Handler()) as (client, _):
        with pytest.raises(RPCError, match="enough"):
            await client.call("refuse", ones())


async def test_exceptions_of_the_block_leave_unchanged(autojump_clock: MockClock) -> None:
    async with calling(Handler()) as (client, _):
        with pytest.raises(ZeroDivisionError):
            async with client.stream("double", ones(), items=int) as items:
                raise ZeroDivisionError(await items.receive())


@pytest.mark.parametrize("method", ["total", "double"])
async def test_a_lost_connection_is_one_error(method: str, autojump_clock: MockClock) -> None:
    """Even if the stream waits for room in the write buffer, and so raises an error itself."""

    async def large() -> AsyncIterator[int]:
        while True:
            yield "x" * 100_000  # type: ignore[misc]

    async with serving_in_memory(Handler(), options=OPTIONS) as memory:
        link = await memory.listener.open_link(latency=0.1, capacity=1000)
        with pytest.raises(ConnectionClosedError):
            async with WebSocketClient("ws://test/", stream=link.client, options=OPTIONS) as client:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def lose() -> None:
                        await trio.sleep(1)
                        assert client._live.transport.congested
                        link.cut()

                    with pytest.raises(ConnectionClosedError):
                        await use(client, method, large())
                await client.call("total", ones(1))
