"""Session state cannot overwrite the API or the records of rate limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    Is,
    RateLimitError,
    RPCAccessDeniedError,
    WebSocketClient,
    WebSocketHandler,
    rate_limit,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

# Two public attributes may be set: the state, and the time when the connection expires.
API = sorted(set(dir(ClientConnection)) - {"state", "expires_at"})


class Handler(WebSocketHandler):
    @rpc_method()
    async def set(self, connection: ClientConnection, name: str, value: Any) -> None:
        connection[name] = value

    @rpc_method()
    async def get(self, connection: ClientConnection, name: str) -> Any:
        return connection[name]

    @rpc_method(requires=Is("is_admin"))
    def for_admins(self, connection: ClientConnection) -> str:
        return "welcome"

    @rate_limit(limit=1, period="1h")
    @rpc_method()
    async def once(self, connection: ClientConnection) -> None:
        for name in list(connection):
            del connection[name]


@pytest.fixture
def connections() -> list[ClientConnection]:
    return []


async def some_connection(memory: Any) -> ClientConnection:
    (connection,) = memory.server.handler.clients
    assert isinstance(connection, ClientConnection)
    return connection


async def test_a_name_of_the_api_is_refused_with_the_reason(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            await client.call("set", "x", 1)
            connection = await some_connection(memory)
            for name in API:
                before = getattr(connection, name, None)
                with pytest.raises(AttributeError, match="part of the API"):
                    setattr(connection, name, "mine")
                with pytest.raises(AttributeError, match="part of the API"):
                    connection[name] = "mine"
                assert name not in connection
                if not name.startswith("__"):
                    after = getattr(connection, name, None)
                    assert after == before or callable(after)
            assert await client.call("get", "x") == 1


async def test_attributes_and_keys_are_the_same(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            await client.call("set", "username", "alice")
            connection = await some_connection(memory)
            assert connection.username == connection["username"] == "alice"
            assert "username" in connection
            assert list(connection) == ["username"]
            del connection["username"]
            assert "username" not in connection
            with pytest.raises(KeyError):
                connection["username"]
            with pytest.raises(AttributeError):
                connection.username  # noqa: B018
            assert connection.get("username", "nobody") == "nobody"
            connection.username = "bob"
            del connection.username
            assert connection.get("username") is None


async def test_predicates_look_at_the_session(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(RPCAccessDeniedError):
                await client.call("for_admins")
            await client.call("set", "is_admin", True)
            assert await client.call("for_admins") == "welcome"


async def test_the_limiter_remembers_whatever_the_session_does(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            await client.call("once")
            connection = await some_connection(memory)
            connection.__dict__.clear()
            with pytest.raises(RateLimitError):
                await client.call("once")


async def test_typed_state(autojump_clock: MockClock) -> None:
    @dataclass
    class State:
        visits: int = 0

    class Typed(WebSocketHandler[State]):
        @rpc_method()
        async def visit(self, connection: ClientConnection[State]) -> int:
            connection.state.visits += 1
            return connection.state.visits

    async with serving_in_memory(Typed()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert [await client.call("visit") for _ in range(3)] == [1, 2, 3]
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("visit", returns=int) == 1


async def test_state_of_type_any_is_not_instantiated(autojump_clock: MockClock) -> None:
    class Untyped(WebSocketHandler[Any]):
        @rpc_method()
        async def state(self, connection: ClientConnection[Any]) -> bool:
            return connection.state is None

    async with serving_in_memory(Untyped()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("state") is True
