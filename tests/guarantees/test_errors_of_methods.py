"""A TypeError inside a method is its own, invalid parameters are named, and no internal text leaks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock

SECRET = "the password is swordfish"


class Person(msgspec.Struct):
    name: str
    age: int


class Handler(WebSocketHandler):
    @rpc_method()
    async def greet(self, connection: ClientConnection, person: Person, times: int = 1) -> str:
        return f"hello {person.name} " * times

    @rpc_method()
    def halve(self, connection: ClientConnection, number: int) -> int:
        return number // 2

    @rpc_method()
    async def type_error(self, connection: ClientConnection) -> None:
        raise TypeError(SECRET)

    @rpc_method()
    def plain_type_error(self, connection: ClientConnection) -> int:
        return len(SECRET) + SECRET  # type: ignore[operator]

    @rpc_method()
    async def stream_error(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        raise ValueError(SECRET)


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json", "jsonrpc"])
@pytest.mark.parametrize(
    ("method", "args", "kwargs", "name", "path"),
    [
        ("greet", ({"name": "a", "age": "old"},), {}, "person", "$.person.age"),
        ("greet", (), {}, "person", "$.person"),
        ("greet", (), {"person": {"name": "a", "age": 1}, "time": 2}, "time", "$.time"),
        ("halve", ("x",), {}, "number", "$.number"),
        ("halve", (1, 2), {}, "halve", "$[1]"),
        ("halve", (True,), {}, "number", "$.number"),
        ("halve", (), {"number": None}, "number", "$.number"),
        ("halve", (), {"connection": 1, "number": 1}, "connection", "$.connection"),
    ],
)
async def test_bad_parameters_are_named(
    method: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    path: str,
    dialect: str,
    autojump_clock: MockClock,
) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), dialect=dialect) as client:
            with pytest.raises(RPCInvalidParamsError, match=name) as info:
                await client.call(method, *args, **kwargs)
            if dialect in ("trio-ws.v1", "trio-ws.v1.json", "jsonrpc"):
                assert info.value.data["path"] == path
            assert await client.call("halve", 84) == 42


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("method", ["type_error", "plain_type_error", "stream_error"])
async def test_unexpected_exceptions_are_only_in_the_servers_log(
    method: str, debug: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.ERROR)
    async with serving_in_memory(Handler(), debug=debug) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(RPCInternalError) as info:
                if method == "stream_error":
                    async for _ in client.stream_rpc(method):
                        pass
                else:
                    await client.call(method)
            text = str(info.value)
            assert ("swordfish" in text) is (debug and method != "plain_type_error")
            assert ("Error" in text) is debug
            (record,) = caplog.records
            assert info.value.data["id"] in record.getMessage()
            assert record.exc_info is not None
            assert isinstance(record.exc_info[1], TypeError | ValueError)
            assert await client.call("halve", 2) == 1


async def test_an_error_that_was_meant_arrives_as_it_is(autojump_clock: MockClock) -> None:
    class Meaning(WebSocketHandler):
        @rpc_method()
        async def refuse(self, connection: ClientConnection) -> None:
            raise RPCError("not today", code=-31000, data={"until": "tomorrow"})

    for dialect, code, data in (
        ("trio-ws.v1", -31000, {"until": "tomorrow"}),
        ("jsonrpc", -31000, {"until": "tomorrow"}),
        ("webshocket.v1", -32001, None),
        ("json", -32001, None),
    ):
        async with serving_in_memory(Meaning()) as memory:
            stream = await memory.stream()
            async with WebSocketClient("ws://test/", stream=stream, dialect=dialect) as client:
                with pytest.raises(RPCError, match="not today") as info:
                    await client.call("refuse")
                assert (info.value.code, info.value.data) == (code, data)
