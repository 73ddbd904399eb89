"""`trio_ws.compat.webshocket` with the real webshocket 0.5.2: either side may migrate first."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.interop.test_calls_webshocket import BIG, COMMAND, ROOT, its_server
from tests.support.serving import guard
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import ClientConnection, Packet, PacketSource, RPCErrorCode

pytest.importorskip("webshocket", reason="webshocket is not installed")


class Handler(webshocket.WebSocketHandler):
    def __init__(self) -> None:
        super().__init__()
        self.abandoned = trio.Event()

    async def on_receive(self, connection: ClientConnection, packet: Packet[Any]) -> None:
        connection.send({"echo": packet.data})

    @webshocket.rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method()
    async def echo(self, connection: ClientConnection, value: Any) -> Any:
        return value

    @webshocket.rpc_method()
    async def slow(self, connection: ClientConnection, value: int) -> int:
        await trio.sleep(0.05)
        return value

    @webshocket.rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> Any:
        for number in range(n):
            yield number

    @webshocket.rpc_method()
    async def ticks(self, connection: ClientConnection) -> Any:
        try:
            for number in range(100_000):
                yield number
                await trio.sleep(0.002)
        finally:
            self.abandoned.set()

    @webshocket.rpc_method()
    async def broken_count(self, connection: ClientConnection) -> Any:
        yield 1
        raise ValueError("broken")

    @webshocket.rpc_method()
    async def fail(self, connection: ClientConnection) -> None:
        raise webshocket.RPCError("it failed")


async def test_its_client_on_our_server() -> None:
    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=Handler) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            done = await trio.run_process([*COMMAND, "client", url], capture_stdout=True, cwd=ROOT)
            await server.handler.abandoned.wait()
    assert json.loads(done.stdout) == {
        "add": [30, None],
        "kwargs": 3,
        "big": True,
        "bytes": True,
        "stream": list(range(100)),
        "abandoned": [0, 1, 2, 3, 4],
        "unknown": -32601,
        "failing": -32001,
        "invalid": -32602,
        "broken_stream": [None, -32603],
        "many": True,
        "packet": {"echo": {"hello": 1}},
    }


async def test_our_client_on_its_server() -> None:
    with its_server() as url, trio.fail_after(guard()):
        async with webshocket.WebSocketClient(url) as client:
            assert (await client.send_rpc("add", 10, 20)).data == 30
            assert (await client.send_rpc("echo", BIG)).data == BIG
            assert [item.data async for item in client.stream_rpc("count", 100)] == list(range(100))
            async for _ in client.stream_rpc("count", 20_000):
                break
            items = [item async for item in client.stream_rpc("broken_count")]
            assert [item.data for item in items] == [1, "\nStream aborted: broken"]
            for method, code, text in (
                ("nobody", RPCErrorCode.METHOD_NOT_FOUND, "RPC method 'nobody' not found."),
                ("add", RPCErrorCode.INVALID_PARAMS, "Server error (TypeError)"),
                ("fail", RPCErrorCode.INTERNAL_SERVER_ERROR, "Server error (ValueError): it failed"),
            ):
                response = await client.send_rpc(method)
                assert response.error is code
                assert text in response.response
            client.send({"hello": 1})
            assert (await client.recv()).data == {"echo": {"hello": 1}}
            assert (await client.send_rpc("join", "room")).data is True
            packet = await client.recv()
            assert packet == Packet(PacketSource.CHANNEL, {"joined": "room"}, channel="room")
