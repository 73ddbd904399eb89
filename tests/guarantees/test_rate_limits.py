"""Rate limits apply to every window of time, and the error says when to retry, even before a disconnect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    RateLimit,
    RateLimitError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    rate_limit,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


def user(connection: Any) -> Any:
    return connection.request.query_params["user"][0]


class Handler(WebSocketHandler):
    @rate_limit(limit=3, period=10)
    @rpc_method()
    async def limited(self, connection: ClientConnection) -> str:
        return "ok"

    @rate_limit(limit=3, period=10)
    @rpc_method(alias_name="other")
    def limited_too(self, connection: ClientConnection) -> str:
        return "ok"

    @rate_limit(limit=1, period="1m", disconnect_on_limit_exceeded=True)
    @rpc_method()
    async def strict(self, connection: ClientConnection) -> str:
        return "ok"

    @rate_limit(limit=2, period="1m", key=user)
    @rpc_method()
    async def by_user(self, connection: ClientConnection) -> str:
        return "ok"


async def tries(client: WebSocketClient, method: str, count: int) -> int:
    allowed = 0
    for _ in range(count):
        response = await client.send_rpc(method)
        assert response.error is None or isinstance(response.error, RateLimitError)
        allowed += response.error is None
    return allowed


@pytest.mark.repeats
async def test_a_window_never_contains_twice_the_limit(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            allowed: list[float] = []
            for _ in range(1000):
                if (await client.send_rpc("limited")).error is None:
                    allowed.append(trio.current_time())
                await trio.sleep(0.1)
            assert len(allowed) == 30
            for first, fourth in zip(allowed, allowed[3:], strict=False):
                assert fourth - first >= 10


async def test_aliases_are_apart_and_other_clients_too(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await tries(client, "limited", 5) == 3
            assert await tries(client, "other", 5) == 3
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as second:
                assert await tries(second, "limited", 5) == 3


async def test_the_error_says_when_to_retry(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await tries(client, "limited", 1) == 1
            await trio.sleep(4)
            assert await tries(client, "limited", 2) == 2
            with pytest.raises(RateLimitError) as info:
                await client.call("limited")
            assert info.value.retry_after == pytest.approx(6)
            await trio.sleep(info.value.retry_after - 0.01)
            assert await tries(client, "limited", 1) == 0
            await trio.sleep(0.02)
            assert await tries(client, "limited", 1) == 1


async def test_the_reply_is_sent_before_the_disconnect(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("strict") == "ok"
            with pytest.raises(RateLimitError):
                await client.call("strict")
            with pytest.raises(ConnectionClosedError) as info:
                await client.recv()
            assert info.value.code == 1008


async def test_reconnecting_does_not_refill_a_limit_by_principal(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        allowed = 0
        for _ in range(4):
            stream = await memory.stream()
            async with WebSocketClient("ws://test/?user=alice", stream=stream) as client:
                allowed += await tries(client, "by_user", 1)
        assert allowed == 2
        async with WebSocketClient("ws://test/?user=bob", stream=await memory.stream()) as client:
            assert await tries(client, "by_user", 3) == 2


async def test_names_that_do_not_exist_are_limited_too(autojump_clock: MockClock) -> None:
    class Limited(Handler):
        default_rate_limit = RateLimit(5, 60)

    async with serving_in_memory(Limited()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            kinds = [type((await client.send_rpc(f"nobody{number}")).error) for number in range(8)]
            assert kinds == [RPCMethodNotFoundError] * 5 + [RateLimitError] * 3
