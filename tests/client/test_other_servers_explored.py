"""Clients of other people's servers: cancelled at each checkpoint, their network cut at each byte."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.examples import every
from trio_ws import (
    ClientConnection,
    Options,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
    session,
)
from trio_ws.dialects import OCPP16
from trio_ws.testing import MemoryListener, explore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws import WebSocket

OPTIONS = Options(open_timeout=5, close_timeout=5, ping_interval=10, ping_timeout=5, drain_timeout=1)


class Served(WebSocketHandler[Any]):
    dialects = (OCPP16(),)

    @rpc_method()
    async def login(self, connection: ClientConnection[Any], token: str) -> str:
        await trio.sleep(0.1)
        return token

    @rpc_method()
    async def ask(self, connection: ClientConnection[Any], value: int) -> Any:
        return await connection.call("own", value=value)

    @rpc_method()
    async def push(self, connection: ClientConnection[Any], value: int) -> None:
        await connection.notify("event", value)


class Own(WebSocketHandler[Any]):
    """The client's handler. It counts calls of on_connect and on_disconnect."""

    def __init__(self) -> None:
        self.open = 0

    async def on_connect(self, connection: ClientConnection[Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.open += 1

    async def on_disconnect(self, connection: ClientConnection[Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.open -= 1

    @rpc_method()
    async def own(self, connection: ClientConnection[Any], value: int) -> dict[str, int]:
        await trio.sleep(0.1)
        return {"value": value}


@asynccontextmanager
async def set_up(connection: ClientConnection[Any]) -> AsyncIterator[None]:
    assert await connection.call("login", token="t") == "t"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield


async def by_json_rpc(listener: MemoryListener) -> None:
    own = Own()
    async with WebSocketServer(Served, listeners=[listener], options=OPTIONS):
        client = WebSocketClient(
            "ws://test/",
            dialect="jsonrpc",
            stream=listener.connect,
            handler=own,
            on_connection=set_up,
            options=OPTIONS,
        )
        try:
            async with client.notifications("event", items=list[int]) as events, client:
                async with client.batch() as batch:
                    asked = [batch.call("ask", value) for value in range(2)]
                    batch.notify("push", 1)
                assert [call.result() for call in asked] == [{"value": 0}, {"value": 1}]
                await client.notify("push", value=2)
                assert [await events.receive() for _ in range(2)] == [[1], [2]]
                assert await client.call("ask", 5) == {"value": 5}
        finally:
            assert own.open == 0


async def by_ocpp(listener: MemoryListener) -> None:
    async with WebSocketServer(Served, listeners=[listener], options=OPTIONS):
        stream = await listener.connect()
        async with (
            WebSocketClient(
                "ws://test/", dialect=OCPP16(), stream=stream, handler=Own, options=OPTIONS
            ) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(ask, client, 1)  # one waits for the other
            await ask(client, 2)


async def ask(client: WebSocketClient, value: int) -> None:
    assert await client.call("ask", value=value) == {"value": value}


async def by_session(listener: MemoryListener) -> None:
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def greet(ws: WebSocket) -> None:
        await ws.send("hello")
        assert await ws.receive_text() == "hello"

    async with WebSocketServer(echo, listeners=[listener], options=OPTIONS):
        async with session(
            "ws://test/", stream=listener.connect, on_connection=greet, reconnect=None, options=OPTIONS
        ) as feed:
            await feed.send(b"one", text=True)
            message = await feed.recv()
            assert message is not None
            assert message.payload == "one"


@pytest.mark.parametrize("test", [by_json_rpc, by_ocpp, by_session])
async def test_nothing_is_left(test: Any, autojump_clock: object) -> None:
    found = await explore(test, faults=("cut", "partition"), every=every(15))
    assert (
        found.checkpoints > 0
    )  # the last that was tried: every few of them, and a test may have just as many
    assert found.carried > 300
