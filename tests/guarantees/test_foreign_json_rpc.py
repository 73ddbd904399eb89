"""JSON-RPC with servers and clients of other authors."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import guard, serving_in_memory
from trio_ws import (
    ConnectionFailedError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from trio_ws import ClientConnection


@asynccontextmanager
async def calling(
    answer: Callable[[dict[str, Any]], Any], *, agrees: bool = False
) -> AsyncIterator[WebSocketClient]:
    """Connect a client to a server that answers calls with the result of a function: text or an object."""
    link = Link()
    headers = [("Sec-WebSocket-Protocol", "jsonrpc")] if agrees else []

    async def server() -> None:
        peer = await RawPeer.accept(link.server, headers)
        while (frame := await peer.receive_frame()) is not None and frame.opcode == 1:
            reply = answer(json.loads(frame.payload))
            await peer.send_text(reply if isinstance(reply, str) else json.dumps(reply))
        await peer.send_close()
        await peer.aclose()

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server)
            async with WebSocketClient("ws://test", dialect="jsonrpc", stream=link.client) as client:
                yield client


@pytest.mark.parametrize("agrees", [True, False])
async def test_json_rpc_works_without_an_agreed_subprotocol(agrees: bool, autojump_clock: MockClock) -> None:
    def answer(call: dict[str, Any]) -> Any:
        return {"jsonrpc": "2.0", "id": call["id"], "result": sum(call["params"])}

    async with calling(answer, agrees=agrees) as client:
        assert client.dialect == "jsonrpc"
        assert await client.call("add", 1, 2) == 3


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "webshocket.v1"])
async def test_any_other_is_agreed_on_or_refused(dialect: str, autojump_clock: MockClock) -> None:
    link = Link()
    closings: list[object] = []

    async def server() -> None:
        peer = await RawPeer.accept(link.server)
        closings.append(await peer.receive_until_close())
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        with pytest.raises(ConnectionFailedError, match=f"does not support {dialect}"):
            async with WebSocketClient("ws://test", dialect=dialect, stream=link.client):
                pytest.fail("nobody agreed to it")
    assert closings == [(1002, f"{dialect} was not selected")]


@pytest.mark.parametrize("code", [-32000, -32001, -32002, -32003, -32004, -32050, -32768, 3, 2**70])
async def test_the_codes_of_others_mean_what_they_mean(code: int, autojump_clock: MockClock) -> None:
    def answer(call: dict[str, Any]) -> Any:
        return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": "m", "data": [1]}}

    async with calling(answer) as client:
        for ask in (client.call("f"), take_all(client)):
            with pytest.raises(RPCError, match="m") as info:
                await ask
            assert type(info.value) is RPCError
            assert (info.value.code, info.value.data) == (code, [1])
        response = await client.send_rpc("f")
        assert type(response.error) is RPCError


async def take_all(client: WebSocketClient) -> None:
    async with client.stream("f") as items:
        async for _ in items:
            pass


@pytest.mark.parametrize(
    ("code", "kind"),
    [(-32601, RPCMethodNotFoundError), (-32602, RPCInvalidParamsError), (-32603, RPCInternalError)],
)
async def test_the_codes_of_the_specification(
    code: int, kind: type[RPCError], autojump_clock: MockClock
) -> None:
    def answer(call: dict[str, Any]) -> Any:
        return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": "m"}}

    async with calling(answer) as client:
        with pytest.raises(kind):
            await client.call("f")


DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","id":"%s","error":{"code":"ENOENT","message":"x"}}',
        '{"jsonrpc":"2.0","id":"%s","error":"boom"}',
        '{"jsonrpc":"2.0","id":"%s","error":{}}',
        '{"jsonrpc":"2.0","id":"%s"}',
        '{"jsonrpc":"2.0","id":%s,"error":{"code":-1,"message":"x"},"result":null}',
        '{"jsonrpc":"2.0","id":%s.0,"error":{"code":1.0,"message":null}}',
        '{"id":"%s","error":{"code":1e999}}',
        '{"jsonrpc":"2.0","result":1e999,"id":"%s"}',
        '{"jsonrpc":"2.0","id":"%s","result":' + DEEP + "}",
    ],
    ids=lambda text: text[:70],
)
async def test_a_broken_answer_ends_the_call(text: str, autojump_clock: MockClock) -> None:
    async with calling(lambda call: text % call["id"]) as client:
        began = trio.current_time()
        with pytest.raises(RPCError):
            await client.call("f")
        with pytest.raises(RPCError):
            await take_all(client)
        assert trio.current_time() == began
        assert client.connected


class Described(WebSocketHandler[Any]):
    @rpc_method("rpc.discover")
    async def discover(self, connection: ClientConnection[Any]) -> dict[str, str]:
        return {"openrpc": "1.3.2"}

    @rpc_method()
    async def echo(self, connection: ClientConnection[Any], value: Any) -> Any:
        return value

    async def on_receive(self, connection: ClientConnection[Any], packet: Any) -> None: ...


async def test_a_reserved_name_may_be_served(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Described) as memory:
        for dialect in ("jsonrpc", "trio-ws.v1"):
            stream = await memory.stream()
            async with WebSocketClient("ws://test", dialect=dialect, stream=stream) as client:
                assert (await client.call("rpc.discover"))["openrpc"] == "1.3.2"


HUGE = "1" + "0" * 400


@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}", "1" * 5000, "1e999", f"0.{HUGE}", DEEP])
@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc":"2.0","method":"rpc.data","params":{"data":1,"timestamp":%s}}',
        '{"jsonrpc":"2.0","method":"rpc.data","params":{"data":%s}}',
        '{"jsonrpc":"2.0","method":"rpc.channel","params":{"channel":"a","data":1,"timestamp":%s}}',
        '{"jsonrpc":"2.0","method":"rpc.cancel","params":[%s]}',
        '{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":%s}}',
        '{"jsonrpc":"2.0","method":"rpc.item","params":{"id":%s,"item":1}}',
        '{"jsonrpc":"2.0","method":"echo","params":[1],"id":%s}',
        '{"jsonrpc":"2.0","method":"echo","params":[%s],"id":1}',
        '{"jsonrpc":"2.0","result":%s,"id":1}',
        '{"jsonrpc":"2.0","error":{"code":%s},"id":1}',
        '{"jsonrpc":"2.0","result":1,"id":%s}',
    ],
)
async def test_numbers_and_depths_beyond_all_bounds_are_the_clients_mistake(
    text: str, number: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving_in_memory(Described) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[("Sec-WebSocket-Protocol", "jsonrpc")])
        await peer.send_text(text % number)
        await peer.send_text(f"[{text % number}]")
        await peer.send_text('{"jsonrpc":"2.0","method":"echo","params":[7],"id":"next"}')
        while True:
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.opcode == 1
            if json.loads(frame.payload) == {"jsonrpc": "2.0", "result": 7, "id": "next"}:
                break
        await peer.aclose()
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
