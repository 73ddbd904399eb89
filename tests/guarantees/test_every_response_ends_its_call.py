"""A response with a readable id ends its call, whatever else is wrong with it, so no call hangs."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from trio_ws import (
    ConnectionClosedError,
    RPCError,
    WebSocketClient,
    WebSocketServer,
)
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

DIALECTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "trio-ws.v1": (msgspec.msgpack.encode, msgspec.msgpack.decode),
    "webshocket.v1": (msgspec.msgpack.encode, msgspec.msgpack.decode),
    "json": (lambda value: msgspec.json.encode(value).decode(), msgspec.json.decode),
}

#: The fields of a response in addition to its type and its id.
UNREADABLE: list[dict[str, Any]] = [
    {"error": "ENOENT"},
    {"error": {"code": 1}},
    {"error": 1.5},
    {"error": True},
    {"error": [], "response": "text"},
    {"is_stream": "yes"},
    {"is_end": 1},
    {"is_stream": None, "is_end": None},
    {"type": "response", "call_id": 7},
    {"source": 4},
    {"source": None},
    {"source": 9},
]


@asynccontextmanager
async def answering(dialect: str, change: dict[str, Any]) -> AsyncIterator[tuple[WebSocketClient, list[str]]]:
    """Connect a client to a server whose responses are valid, except those of the method "odd"."""
    encode, decode = DIALECTS[dialect]
    aborted: list[str] = []

    async def serve(ws: Any) -> None:
        async for message in ws:
            rpc = decode(message.payload)["rpc"]
            if rpc["method"] == "__abort__":
                aborted.extend(rpc["args"])
            if rpc["method"].startswith("__"):
                continue
            response = {"type": "response", "call_id": rpc["call_id"]}
            packet: dict[str, Any] = {"source": 5, "rpc": response}
            if rpc["method"] == "odd":
                response |= change
                if "source" in change:
                    packet["source"] = response.pop("source")
                    if packet["source"] is None:
                        del packet["source"]
                if response["call_id"] == 7:
                    response["call_id"] = int(rpc["call_id"])
            await ws.send(encode(packet))

    listener = MemoryListener()
    subprotocols = [dialect] if dialect != "json" else []
    async with WebSocketServer(serve, listeners=[listener], subprotocols=subprotocols):
        async with WebSocketClient("ws://test/", stream=await listener.connect(), dialect=dialect) as client:
            yield client, aborted


@pytest.mark.parametrize("change", UNREADABLE, ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_call_and_a_stream_end(
    dialect: str, change: dict[str, Any], caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_ws.rpc")
    async with answering(dialect, change) as (client, aborted):
        with trio.fail_after(5):
            for _ in range(2):
                with pytest.raises(RPCError, match="the answer cannot be read"):
                    await client.call("odd")
                async with client.stream("odd") as items:
                    with pytest.raises(RPCError, match="the answer cannot be read"):
                        await items.receive()
            # Only this call has failed.
            assert await client.call("right") is None
        peer = client._live
        assert (peer.outgoing.pending_calls, peer.outgoing.sinks) == ({}, {})
        if "source" not in change:
            assert len(aborted) == 4
            records = [record for record in caplog.records if f"not a {dialect} " in record.getMessage()]
            assert len(records) == 4
            assert all(record.levelno == logging.INFO for record in records)


@pytest.mark.parametrize("change", [{}, {"response": None}, {"is_end": True}, {"error_data": 1}], ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_responses_without_value_and_error_are_null(
    dialect: str, change: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with answering(dialect, change) as (client, _):
        with trio.fail_after(5):
            assert await client.call("odd") is None


@pytest.mark.parametrize(
    "change", [{"response": 1, "error": -32001}, {"response": ["a"], "error": 7}, {"error": 0}], ids=str
)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_responses_with_value_and_error_are_errors(
    dialect: str, change: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with answering(dialect, change) as (client, _):
        with trio.fail_after(5), pytest.raises(RPCError) as info:
            await client.call("odd")
        assert info.value.code == change["error"]


@pytest.mark.parametrize("change", [{"call_id": None}, {"call_id": "7" * 1000}, {"type": "reply"}], ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_without_an_id_ends_the_connection(
    dialect: str, change: dict[str, Any], autojump_clock: MockClock
) -> None:
    async with answering(dialect, change) as (client, _):
        with trio.fail_after(5), pytest.raises(ConnectionClosedError) as info:
            await client.call("odd")
        assert info.value.sent is not None
        assert info.value.sent.code == 1007
