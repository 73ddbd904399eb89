"""A lost connection cancels everything that it started, and ``on_disconnect`` runs once."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import all_tasks, serving_in_memory
from trio_ws import (
    ClientConnection,
    CloseConnection,
    ConnectionClosedError,
    Options,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws.testing import Link


class Handler(WebSocketHandler):
    """Long-running methods of every kind, and a record of those that have ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.disconnected = 0

    async def on_receive(self, connection: ClientConnection, packet: Any) -> None:
        await self._last("on_receive")

    async def on_disconnect(self, connection: ClientConnection) -> None:
        assert sorted(self.ended) == ["on_receive", "stream", "take", "wait"]  # all had ended before
        await trio.sleep(1)
        self.disconnected += 1

    async def _last(self, name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.ended.append(name)

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        await self._last("wait")

    @rpc_method()
    async def stream(self, connection: ClientConnection) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await trio.sleep(0.3)
        finally:
            self.ended.append("stream")

    @rpc_method()
    async def take(self, connection: ClientConnection, items: AsyncIterator[int]) -> None:
        try:
            async for _ in items:
                pass
        finally:
            self.ended.append("take")

    @rpc_method()
    async def leave(self, connection: ClientConnection, code: int) -> None:
        raise CloseConnection(code, "leave")


async def slowly() -> AsyncIterator[int]:
    yield 1
    await trio.sleep_forever()


def lose_by_reset(link: Link) -> None:
    link.cut()


def lose_by_eof(link: Link) -> None:
    link.cut(clean=True)


@pytest.mark.parametrize("lose", [lose_by_reset, lose_by_eof])
async def test_both_ends_of_every_call_end_at_once(lose: Any, autojump_clock: MockClock) -> None:
    handler = Handler()
    errors: list[BaseException] = []
    times: list[float] = []
    before = all_tasks()
    async with serving_in_memory(handler) as memory:
        link = await memory.listener.open_link()
        async with WebSocketClient("ws://test/", stream=link.client) as client:

            async def call(*args: Any) -> None:
                with pytest.raises(ConnectionClosedError) as info:
                    await client.call(*args)
                errors.append(info.value)
                times.append(trio.current_time())

            async def follow() -> None:
                with pytest.raises(ConnectionClosedError) as info:
                    async with client.stream("stream") as items:
                        async for _ in items:
                            pass
                errors.append(info.value)
                times.append(trio.current_time())

            await client.send("on_receive")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, "wait")
                nursery.start_soon(call, "take", slowly())
                nursery.start_soon(follow)
                await trio.sleep(5)
                lost_at = trio.current_time()
                lose(link)
            assert times == [lost_at] * 3
            assert len({id(error) for error in errors}) == 3  # each caller has its own error
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(handler.ended) == ["on_receive", "stream", "take", "wait"]
            with pytest.raises(ConnectionClosedError):
                await client.call("wait")
            with pytest.raises(ConnectionClosedError):
                await client.recv()
        await trio.sleep(1.5)
        assert handler.disconnected == 1
        assert not handler.clients
    assert handler.disconnected == 1
    assert all_tasks() == before


async def test_leaving_the_clients_block_is_such_an_end(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler) as memory:
        async with trio.open_nursery() as nursery:
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:

                async def call(*args: Any) -> None:
                    with pytest.raises(ConnectionClosedError):
                        await client.call(*args)

                await client.send("on_receive")
                nursery.start_soon(call, "wait")
                nursery.start_soon(call, "take", slowly())
                items = client.stream_rpc("stream")
                await anext(items)
                await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(handler.ended) == ["stream", "take", "wait"]
        # The packet arrived before the client's Close frame, so on_receive has close_timeout for it.
        await trio.sleep(Options().close_timeout)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(handler.ended) == ["on_receive", "stream", "take", "wait"]
        await trio.sleep(2)
        assert handler.disconnected == 1


async def test_a_server_that_stops_lets_calls_finish_and_then_cancels_them(autojump_clock: MockClock) -> None:
    class Slow(WebSocketHandler):
        @rpc_method()
        async def wait(self, connection: ClientConnection, seconds: float) -> float:
            await trio.sleep(seconds)
            return seconds

    results: list[Any] = []
    async with serving_in_memory(Slow(), options=Options(drain_timeout=5)) as memory:
        client_stream = await memory.stream()
        async with trio.open_nursery() as nursery:
            async with WebSocketClient("ws://test/", stream=client_stream) as client:

                async def call(seconds: float) -> None:
                    try:
                        results.append(await client.call("wait", seconds))
                    except ConnectionClosedError as exc:
                        results.append(exc.code)

                nursery.start_soon(call, 2)
                nursery.start_soon(call, 100)
                await trio.sleep(1)
                began = trio.current_time()
                report = await memory.server.drain()
                assert trio.current_time() == began + 5
                await trio.testing.wait_all_tasks_blocked()
                assert results == [2, 1001]
                assert report.cancelled == 1


async def test_a_method_closes_the_connection_with_its_code(autojump_clock: MockClock) -> None:
    class Leaving(Handler):
        async def on_disconnect(self, connection: ClientConnection) -> None:
            self.disconnected += 1

    handler = Leaving()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("leave", 4321)
            assert (info.value.code, info.value.reason) == (4321, "leave")
        await trio.sleep(1)
        assert handler.disconnected == 1


async def test_on_disconnect_is_bounded_and_shielded(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    begun: list[float] = []

    class Endless(WebSocketHandler):
        async def on_disconnect(self, connection: ClientConnection) -> None:
            begun.append(trio.current_time())
            await trio.sleep_forever()

    options = Options(close_timeout=3, drain_timeout=1)
    with trio.CancelScope() as scope:
        async with serving_in_memory(Endless(), options=options) as memory:
            await memory.stream()
            async with WebSocketClient("ws://test/", stream=await memory.stream()):
                await trio.sleep(1)
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert len(begun) == 1
    assert trio.current_time() <= 1 + 1 + 3 + 3
    assert "on_disconnect" in caplog.text
