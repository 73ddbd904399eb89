"""Proxies: the other side's methods as methods of an object, by a Protocol or a handler class."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    PacketValidationError,
    RPCInvalidParamsError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Point(msgspec.Struct):
    x: int
    y: int


class Handler(WebSocketHandler):
    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int = 1) -> int:
        return a + b

    @rpc_method(alias_name="twice")
    def double(self, connection: ClientConnection, a: int) -> int:
        return a * 2

    @rpc_method()
    async def points(self, connection: ClientConnection, n: int) -> AsyncIterator[Point]:
        for number in range(n):
            yield Point(number, -number)

    @rpc_method()
    async def lie(self, connection: ClientConnection) -> int:
        return "text"  # type: ignore[return-value]

    async def hidden(self) -> None:
        """Not an RPC method."""


class API(Protocol):
    async def add(self, a: int, b: int = 1) -> int: ...
    async def twice(self, a: int) -> str: ...
    def points(self, n: int) -> AsyncIterator[Point]: ...


async def test_a_handler_class(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            proxy = client.proxy(Handler)
            three: int = await proxy.add(1, 2)
            assert three == 3
            assert await proxy.add(a=1) == 2
            assert await proxy.double(4) == 8
            async with proxy.points(2) as points:
                assert [point async for point in points] == [Point(0, 0), Point(1, -1)]
            with pytest.raises(PacketValidationError, match="result of lie"):
                await proxy.lie()
            with pytest.raises(RPCInvalidParamsError):
                await proxy.add("x", 1)  # type: ignore[call-overload]
            assert not hasattr(proxy, "hidden")
            assert not hasattr(proxy, "on_connect")


async def test_a_protocol(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            proxy = client.proxy(API)
            assert await proxy.add(40, 2) == 42
            with pytest.raises(PacketValidationError, match="Expected `str`, got `int`"):
                await proxy.twice(4)
            stream: Any = proxy.points(1)
            async with stream as points:
                assert await points.receive() == Point(0, 0)


async def test_something_that_is_not_a_class_is_refused(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(TypeError, match="made from a class"):
                client.proxy(Handler())  # type: ignore[arg-type]
