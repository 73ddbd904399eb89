"""Deep nesting, numbers of any size and invalid keys, in every place where data is decoded."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import logging
import uuid
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
import trio

from tests.support.serving import exchange, request, serving, serving_in_memory, status_of
from trio_ws import (
    App,
    BlockingWebSocket,
    ClientConnection,
    MessageError,
    PacketValidationError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketMessage,
    connect,
    rpc_method,
)
from trio_ws.channels.hub import Hub
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import WebSocket

DEEP = "[" * 50_000 + "]" * 50_000
HUGE = "1" + "0" * 400
TEXTS = {
    "deep": DEEP,
    "deep and open": "[" * 50_000,
    "deep objects": '{"a":' * 50_000,
    "huge integer": "1" * 5000,
    "huge fraction": "1e999",
    "nothing": "",
    "cut": '{"a": [1, ',
}
#: Valid JSON that does not match the type.
UNFIT: list[tuple[str, Any]] = [
    ("[[1]]", set),
    ('[{"a":1}]', frozenset),
    ('{"a":1}', dict[int, int]),
    ("1e400", float),
    (HUGE, float),
    ("1" * 5000, int),
    ('"1e99999999999999999999"', decimal.Decimal),
    ('"P99999999999999D"', dt.timedelta),
    ('"9999-99-99T00:00:00Z"', dt.datetime),
    ('"no"', uuid.UUID),
]


CASES: list[tuple[str, Any]] = [*((text, Any) for text in TEXTS.values()), *UNFIT]


def shown(value: object) -> str:
    return next((name for name, text in TEXTS.items() if text == value), str(value)[:30])


@pytest.mark.parametrize(("text", "kind"), CASES, ids=shown)
class TestJSON:
    def test_of_a_message(self, text: str, kind: Any) -> None:
        for message in (WebSocketMessage.text(text), WebSocketMessage.binary(text.encode())):
            with pytest.raises(MessageError, match="not the requested JSON") as info:
                message.json(kind)
            assert len(str(info.value)) < 500

    async def test_receive_json(self, text: str, kind: Any, autojump_clock: MockClock) -> None:
        async with serving_in_memory() as memory, memory.connect() as ws:
            await ws.send(text)
            with pytest.raises(MessageError):
                await ws.receive_json(kind)
            await ws.send("1")
            assert await ws.receive_json(int) == 1

    async def test_in_a_thread(self, text: str, kind: Any) -> None:
        seen: list[str] = []

        def handler(ws: BlockingWebSocket) -> None:
            with pytest.raises(MessageError):
                ws.receive_json(kind)
            seen.append("refused")

        async with serving(handler) as server, connect(server.url) as ws:
            await ws.send(text)
            await ws.wait_closed()
        assert seen == ["refused"]

    async def test_of_a_request(self, text: str, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
        app = App()

        @app.http("/", methods=["POST"])
        async def post(request: Any) -> Any:
            return request.json(kind)

        body = text.encode()[:60_000]
        head = request(f"Content-Length: {len(body)}", method="POST")
        async with serving(app) as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            assert status_of(await exchange(stream, head + body)) == 400
        assert not [record for record in caplog.records if record.levelno > logging.WARNING]


class Echo(WebSocketHandler[Any]):
    @rpc_method()
    async def echo(self, connection: ClientConnection[Any], value: Any = None) -> Any:
        return value

    @rpc_method()
    async def total(self, connection: ClientConnection[Any], numbers: set[int]) -> int:
        return sum(numbers)

    @rpc_method()
    async def price(self, connection: ClientConnection[Any], of: decimal.Decimal) -> str:
        return str(of)

    async def on_receive(self, connection: ClientConnection[Any], packet: Any) -> None: ...


async def test_conversion_errors_of_results(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Echo) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for value, kind in (
                ([[1]], set),
                ("1e99999999999999999999", decimal.Decimal),
                ({"a": 1}, dict[int, int]),
            ):
                with pytest.raises(PacketValidationError):
                    await client.call("echo", value, returns=kind)
            with pytest.raises(TypeError):
                await client.call("echo", 1, returns=5)  # 5 is not a type


def pack(**members: Any) -> bytes:
    return msgspec.msgpack.encode({"source": 5, "rpc": {"type": "request", "call_id": "1", **members}})


#: Maps with a list or a map as a key: 0x81 is a map of one item, 0x91 a list of one item.
NO_KEYS = [b"\x81\x81\x01\x02\x03", b"\x81\x91\x81\x01\x02\x03"]
#: Ten thousand nested lists, and a million.
NESTED = [b"\x91" * 10_000 + b"\x01", b"\x91" * 1_000_000]
# Deep enough for Python 3.14, where the size of the stack limits recursion.
TOO_DEEP = b"\x91" * 400_000 + b"\x01"

MSGPACK = {
    "deep": NESTED[0],
    "deep and open": NESTED[1],
    "no key": NO_KEYS[0],
    "no key within": NO_KEYS[1],
    "deep data": msgspec.msgpack.encode({"source": 4})[:-8] + b"\x82\xa6source\x04\xa4data" + NESTED[0],
    "data with no key": b"\x82\xa6source\x04\xa4data" + NO_KEYS[0],
    "deep argument": pack(method="echo", args=[msgspec.Raw(NESTED[0])]),
    "argument with no key": pack(method="echo", args=[msgspec.Raw(NO_KEYS[0])]),
    "list in a set": pack(method="total", args=[[[1]]]),
    "huge decimal": pack(method="price", args=["1e99999999999999999999"]),
    "abort of a list": pack(method="__abort__", args=[[1]]),
    "abort of a map": pack(method="__abort__", args=[{"a": 1}]),
    "abort of a map by name": pack(method="__abort__", kwargs={"call_id": {}}),
    "credit for a list": pack(method="__credit__", args=[[1], 1]),
    "credit of 2 ** 63": pack(method="__credit__", args=["1", 2**63]),
    "deadline of a list": pack(method="__deadline__", args=[[1], 1]),
    "deadline of infinity": pack(method="__deadline__", args=["1", float("inf")]),
    "subscribe to a list": pack(method="__subscribe__", args=[[[1]]]),
    "streams": pack(method="echo", streams={"0": "x" * 300}),
    "timeout": pack(method="echo", timeout=float("nan")),
    "timestamp": msgspec.msgpack.encode({"source": 4, "timestamp": 2**64 - 1}),
    "answer to a call": msgspec.msgpack.encode(
        {"source": 5, "rpc": {"type": "response", "call_id": "9", "error": 2**64 - 1}}
    ),
}
ECHO = '{"source":5,"rpc":{"type":"request","method":"echo","call_id":"1","args":[%s]}}'
JSON = {
    "deep": DEEP,
    "deep and open": "[" * 50_000,
    "deep data": '{"source":4,"data":' + DEEP + "}",
    "huge timestamp": '{"source":4,"timestamp":' + HUGE + "}",
    "huge source": '{"source":' + HUGE + "}",
    "huge fraction": '{"source":4,"data":1e999}',
    "huge argument": '{"source":5,"rpc":{"type":"request","method":"echo","call_id":"1","args":['
    + HUGE
    + "]}}",
    "deep argument": '{"source":5,"rpc":{"type":"request","method":"echo","call_id":"1","args":['
    + DEEP
    + "]}}",
    "credit": '{"source":5,"rpc":{"type":"request","method":"__credit__","args":[{},1]}}',
    "abort": '{"source":5,"rpc":{"type":"request","method":"__abort__","args":[{}]}}',
}
PACKETS: list[tuple[str, str, str | bytes]] = [
    *(("trio-ws.v1", name, payload) for name, payload in MSGPACK.items()),
    *(("webshocket.v1", name, payload) for name, payload in MSGPACK.items()),
    *(("json", name, payload) for name, payload in JSON.items()),
]


@pytest.mark.parametrize(("dialect", "name", "payload"), PACKETS, ids=lambda value: str(value)[:20])
async def test_packets(
    dialect: str,
    name: str,
    payload: str | bytes,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is answered, dropped, or closes the connection with a code for invalid data."""
    headers = [] if dialect == "json" else [("Sec-WebSocket-Protocol", dialect)]
    ask: Any = {"source": 5, "rpc": {"type": "request", "method": "echo", "call_id": "next", "args": [7]}}
    async with serving_in_memory(Echo) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=headers)
        send_as = 1 if dialect == "json" else 2
        encode = msgspec.json.encode if dialect == "json" else msgspec.msgpack.encode
        await peer.send_frame(send_as, payload.encode() if isinstance(payload, str) else payload)
        await peer.send_frame(send_as, encode(ask))
        while True:
            frame = await peer.receive_frame()
            assert frame is not None
            if frame.opcode == 8:
                assert int.from_bytes(frame.payload[:2], "big") in (1002, 1003, 1007, 1008, 1009)
                break
            # A message that begins with a bracket selects JSON-RPC. Packets are then not requests.
            if b"next" in frame.payload or b"-32600" in frame.payload:
                break
        await peer.aclose()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "payload", [*NO_KEYS, TOO_DEEP, NESTED[1], b"", b"\xc1", msgspec.msgpack.encode({"data": b"\x81\x91"})]
)
def test_invalid_payloads_of_a_broker(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    Hub().receive("news", payload)
    assert "invalid message from the broker" in caplog.text
    Hub().receive("news", msgspec.msgpack.encode({"data": payload}))


async def test_a_client_whose_server_answers_like_that(autojump_clock: MockClock) -> None:
    """The call raises an error of trio_ws."""

    async def answer(ws: WebSocket) -> None:
        await ws.accept("jsonrpc")
        async for message in ws:
            call = json.loads(cast("str", message.text))
            await ws.send(f'{{"jsonrpc":"2.0","id":"{call["id"]}","result":{DEEP}}}')

    async with serving_in_memory(answer, subprotocols=["jsonrpc"]) as memory:
        async with WebSocketClient("ws://test/", dialect="jsonrpc", stream=await memory.stream()) as client:
            response = await client.send_rpc("f")
            assert response.error is not None
            assert response.error.code == -32700
