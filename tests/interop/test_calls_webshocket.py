"""Calls with the real webshocket 0.5.2: its client on our server, and ours on its."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - the handler's annotations are read
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.serving import guard, serving
from trio_ws import (
    ClientConnection,
    Packet,
    PacketSource,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

pytest.importorskip("webshocket", reason="webshocket is not installed")

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.interop.peers.calls_webshocket"]
BIG = "0123456789" * 30_000


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.abandoned = trio.Event()

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send({"echo": packet.data})

    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b

    @rpc_method()
    def echo(self, connection: ClientConnection, value: Any) -> Any:
        return value

    @rpc_method()
    async def slow(self, connection: ClientConnection, value: int) -> int:
        await trio.sleep(0.05)
        return value

    @rpc_method()
    async def count(self, connection: ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @rpc_method()
    async def ticks(self, connection: ClientConnection) -> AsyncIterator[int]:
        try:
            for number in range(100_000):
                yield number
                await trio.sleep(0.002)
        except BaseException:
            self.abandoned.set()
            raise

    @rpc_method()
    async def broken_count(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    @rpc_method()
    async def fail(self, connection: ClientConnection) -> None:
        raise RPCError("it failed")


async def test_its_client_on_our_server() -> None:
    handler = Handler()
    async with serving(handler) as server:
        done = await trio.run_process([*COMMAND, "client", server.url], capture_stdout=True, cwd=ROOT)
        with trio.fail_after(guard()):
            await handler.abandoned.wait()
    report: dict[str, Any] = json.loads(done.stdout)
    assert report == {
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


@contextmanager
def its_server() -> Iterator[str]:
    with subprocess.Popen([*COMMAND, "server"], stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            yield f"ws://127.0.0.1:{json.loads(process.stdout.readline())}/"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with its_server() as url:
        yield url


@pytest.mark.parametrize("dialect", [None, "webshocket.v1"])
async def test_our_client_on_its_server(url: str, dialect: str | None) -> None:
    with trio.fail_after(guard()):
        async with WebSocketClient(url, dialect=dialect) as client:
            assert client.dialect == "webshocket.v1"
            assert await client.call("add", 10, 20, returns=int) == 30
            assert await client.call("add", a=1, b=2) == 3
            assert await client.call("echo", BIG) == BIG
            assert await client.call("echo", b"\x00\xff", returns=bytes) == b"\x00\xff"
            async with client.stream("count", 100, items=int) as numbers:
                assert [number async for number in numbers] == list(range(100))
            async with client.stream("count", 20_000, items=int) as numbers:
                assert await numbers.receive() == 0
            with pytest.raises(RPCMethodNotFoundError):
                await client.call("nobody")
            with pytest.raises(RPCInvalidParamsError):
                await client.call("add")
            with pytest.raises((RPCInternalError, RPCError)):
                await client.call("fail")
            async with client.stream("broken_count") as numbers:
                assert await numbers.receive() == 1
                with pytest.raises(RPCError):
                    await numbers.receive()

            answers: dict[int, int] = {}

            async def call(number: int) -> None:
                answers[number] = await client.call("slow", number, returns=int)

            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(call, number)
            assert answers == {number: number for number in range(500)}

            await client.send({"hello": 1})
            packet = await client.recv()
            assert packet is not None
            assert packet.data == {"echo": {"hello": 1}}
            assert await client.call("join", "room") is True
            packet = await client.recv()
            assert packet is not None
            assert (packet.source, packet.channel) == (PacketSource.CHANNEL, "room")
            assert packet.data == {"joined": "room"}
