"""WebSocketClient: its block, its dialects, and the errors for wrong uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import all_tasks, serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    ConnectionFailedError,
    Packet,
    PacketError,
    PacketValidationError,
    RPCError,
    RPCMethodNotFoundError,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Handler(WebSocketHandler):
    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send(packet.data)

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any) -> Any:
        return value

    @rpc_method()
    async def ask(self, connection: ClientConnection, method: str) -> Any:
        return await connection.call(method, 1)

    @rpc_method()
    async def bye(self, connection: ClientConnection) -> None:
        await connection.close(1000, "bye")


class Mine(WebSocketHandler):
    def __init__(self) -> None:
        self.got: list[Any] = []

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        if packet.data == "bug":
            raise ValueError("of the client's own handler")
        self.got.append(packet.data)

    @rpc_method()
    async def double(self, connection: ClientConnection, value: int) -> int:
        return value * 2


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (None, "trio-ws.v1"),
        ("trio-ws.v1", "trio-ws.v1"),
        ("webshocket.v1", "webshocket.v1"),
        ("json", "json"),
        ("jsonrpc", "jsonrpc"),
    ],
)
async def test_dialects(dialect: str | None, name: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect, handler=Mine) as client:
            assert client.dialect == name
            assert client.connected
            assert await client.call("echo", [1, "two", None, {"three": 3.0}]) == [
                1,
                "two",
                None,
                {"three": 3.0},
            ]
            assert await client.ping() == 0
            if name == "webshocket.v1":
                with pytest.raises(RPCError):
                    await client.call("ask", "double")
            else:
                assert await client.call("ask", "double") == 2
        assert not client.connected


async def test_the_clients_own_handler_takes_the_packets(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    mine = Mine()
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream(), handler=mine) as client:
            await client.send("hello")
            await trio.sleep(1)
            assert mine.got == ["hello"]
            with pytest.raises(RuntimeError, match="on_receive"):
                await client.recv()
            await client.send("bug")
            await trio.sleep(1)
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("echo", 1)
            assert info.value.code == 1011
    assert "of the client's own handler" in caplog.text


async def test_iteration_ends_with_a_clean_close(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            await client.send(1)
            await client.send(2)
            await trio.sleep(1)
            with pytest.raises(ConnectionClosedError):
                await client.call("bye")
            assert [packet.data async for packet in client] == [1, 2]
            assert await client.recv() is None


async def test_the_blocks_own_exception_leaves_it_as_it_was(autojump_clock: MockClock) -> None:
    before = all_tasks()
    async with serving_in_memory(Handler()) as memory:
        with pytest.raises(KeyError, match="mine"):
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
                await client.call("echo", 1)
                raise KeyError("mine")
        with pytest.raises(RPCError):
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
                await client.call("nobody")
    assert all_tasks() == before


async def test_wrong_uses(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="dialect must be one of"):
        WebSocketClient("ws://test/", dialect="xml")
    client = WebSocketClient("ws://test/")
    with pytest.raises(RuntimeError, match="not connected"):
        await client.call("echo", 1)
    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(RuntimeError, match="once"):
                async with client:
                    pass
            with pytest.raises(PacketError):
                await client.call("echo", object())
            with pytest.raises(PacketError):
                await client.send(object())
            with pytest.raises(PacketValidationError, match="result of echo"):
                await client.call("echo", "text", returns=int)
            response = await client.send_rpc("nobody")
            assert "error" in repr(response)
            with pytest.raises(RPCError):
                response.result()
            response = await client.send_rpc("echo", 5)
            assert (response.result(), response.data) == (5, 5)
            assert "5" in repr(response)

            async def items() -> Any:
                yield 1

            with pytest.raises(TypeError, match="async with"):
                async for _ in client.stream_rpc("echo", items()):
                    pass
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect="json") as client:
            with pytest.raises(PacketError, match=r"trio-ws\.v1"):
                await client.call("echo", items())


async def test_a_server_that_does_not_answer_calls(autojump_clock: MockClock) -> None:
    async def echo(ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async with serving_in_memory(echo) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert client.dialect == "json"
            with pytest.raises(RPCMethodNotFoundError):  # our own request came back, and so did our answer
                await client.call("echo", 1)
            assert client.connected


async def test_a_failed_connection_is_told(autojump_clock: MockClock) -> None:
    with pytest.raises(ConnectionFailedError):
        async with WebSocketClient("ws://127.0.0.1:9/"):
            pytest.fail("connected")
