"""Dialects of other authors: the services of the codec around them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from tests.support.simulated_server import simulated_server
from trio_ws import (
    ConnectionClosedError,
    ConnectionFailedError,
    Options,
    PacketError,
    RPCError,
    RPCMethodNotFoundError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.dialects import Answer, Call, Dialect, Failure, MsgPackFormat, Refusal, params_of
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from trio.testing import MockClock

    from trio_ws import ClientConnection


class Short(Dialect):
    """``{"q": method, "a": arguments, "n": id}``, ``{"r": result, "n": id}``, ``{"e": text, "n": id}``."""

    name = "short"

    def read(self, message: Any) -> Call | Answer | Failure | Refusal | None:
        if "q" in message:
            call = Call(message["q"], message.get("a", []), {}, message.get("n"))
            return Refusal(call, -32602, "no arguments") if message.get("a", 0) is None else call
        if "r" in message:
            return Answer(message["n"], message["r"])
        if "e" in message:
            return Failure(message["n"], -32001, message["e"], message)
        return None

    def call(self, call_id: str, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return {"q": method, "a": list(args), "n": call_id}

    def notification(self, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return {"q": method, "a": list(args)}

    def answer(self, call: Call, value: Any) -> Any:
        return {"r": value, "n": call.id}

    def failure(self, call: Call, code: int, text: str, data: Any) -> Any:
        return {"e": text, "n": call.id, "code": code, "data": data}

    def cancel(self, call_id: str) -> Any:
        return {"stop": call_id}


class Packed(Short):
    name = "packed"
    subprotocols = ("packed.v1", "packed.v2")
    format = MsgPackFormat()


class Math(WebSocketHandler[Any]):
    dialects = (Short(), Packed())

    @rpc_method()
    def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b

    @rpc_method()
    async def ask_back(self, connection: ClientConnection[Any]) -> int:
        return await connection.call("own", 20, returns=int) + 1

    @rpc_method()
    def fail(self, connection: ClientConnection[Any]) -> None:
        raise RPCError("failed", data=object())

    @rpc_method()
    async def count(self, connection: ClientConnection[Any]) -> AsyncIterator[int]:
        yield 1

    @rpc_method()
    async def push(self, connection: ClientConnection[Any]) -> None:
        await connection.notify("event", 1)


class Own(WebSocketHandler[Any]):
    @rpc_method()
    async def own(self, connection: ClientConnection[Any], value: int) -> int:
        return 2 * value


@pytest.mark.parametrize("dialect", [Short(), Packed(), [Packed(), Short()]])
async def test_both_sides_speak_it(dialect: Any, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Math) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test", dialect=dialect, handler=Own, stream=stream) as client:
            assert client.dialect == (dialect[0] if isinstance(dialect, list) else dialect).name
            assert await client.call("add", 1, 2, returns=int) == 3
            assert await client.call("ask_back") == 41
            async with client.notifications("event") as events:
                await client.call("push")
                assert await events.receive() == [1]
            with pytest.raises(RPCError, match="failed"):
                await client.call("fail")
            for name in ("nobody", "add", "count"):
                with pytest.raises(RPCError):
                    await client.call(name)
            for refused in (client.send(1), client.stream("count").__aenter__()):
                with pytest.raises(PacketError):
                    await refused
            await client.notify("add", 1, 2)
            assert await client.call("add", 3, 4) == 7


async def test_a_cancelled_call_is_given_up(autojump_clock: MockClock) -> None:
    async with simulated_server(dialect=Short()) as (client, server):
        with trio.move_on_after(1):
            await client.call("slow")
        assert await server.receive() == {"q": "slow", "a": [], "n": "1"}
        assert await server.receive() == {"stop": "1"}
        await server.send({"r": "too late", "n": "1"}, {"e": "too late", "n": "1"}, {"greeting": 1})
        await server.send({"q": "nobody", "n": [1, {"x": 2}]})
        assert (await server.receive())["n"] == [1, {"x": 2}]
        await server.send({"q": "nobody", "a": None, "n": 5}, {"q": "__abort__", "n": 6})
        await server.send({"q": "x" * 300, "n": 7})
        assert [(await server.receive())["code"] for _ in range(3)] == [-32602, -32601, -32602]
        await server.send({"q": "nobody", "a": None})  # a notification, so that nothing is sent
        await client.notify("next")
        assert (await server.receive())["q"] == "next"


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        ("not json", 1007, "this is not a message of short"),
        ("[", 1007, "this is not a message of short"),
        ("5", 1002, "this is not a message of short"),
        ({"r": 1}, 1002, "this is not a message of short"),
        ({"r": 1, "n": 1}, 1002, "this is not a message of short"),  # an id that is not a string
        ({"r": 1, "n": []}, 1002, "this is not a message of short"),
        ({"q": 1, "n": "1"}, 1002, "this is not a message of short"),
        ({"q": "x", "a": {}, "n": "1"}, 1002, "this is not a message of short"),
        ({"e": 5, "n": "1"}, 1002, "this is not a message of short"),
        ({"r": 1, "n": "77"}, 1002, "no call has the id 77"),
        ({"e": "m", "n": "abc"}, 1002, "no call has the id abc"),
        ({"r": 1, "n": "9" * 5000}, 1002, "no call has the id 999"),
    ],
)
async def test_an_invalid_message_ends_the_connection_with_its_cause(
    message: Any, code: int, reason: str, autojump_clock: MockClock
) -> None:
    async with simulated_server(dialect=Short()) as (client, server), trio.open_nursery() as nursery:

        async def answer() -> None:
            await server.receive()
            await server.send(message)

        nursery.start_soon(answer)
        with pytest.raises(ConnectionClosedError, match=reason) as info:
            await client.call("f")
        assert info.value.code == code


async def test_too_large_messages_are_not_decoded(autojump_clock: MockClock) -> None:
    options = Options(max_decoded_bytes=20_000)
    async with simulated_server(dialect=Short(), options=options) as (client, server):
        await server.send({"q": "x", "a": [[]] * 5000})
        assert (await server.receive())[0] == 1009
        assert not client.connected


class Broken(Short):
    def failure(self, call: Call, code: int, text: str, data: Any) -> Any:
        raise ZeroDivisionError


async def test_a_dialect_that_cannot_tell_of_a_failure_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with simulated_server(dialect=Broken()) as (client, server):
        await server.send({"q": "nobody", "n": 1}, {"q": "nobody", "n": 2})
        await client.notify("next")
        assert (await server.receive())["q"] == "next"
        assert client.connected
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert {record.getMessage() for record in failures} == {"short cannot tell of the failure of a call"}


class OneAtATime(Short):
    calls_at_once = 1


async def test_calls_take_turns(autojump_clock: MockClock) -> None:
    class Nesting(WebSocketHandler[Any]):
        @rpc_method()
        async def nested(self, connection: ClientConnection[Any]) -> Any:
            return await connection.call("inner")

    async with simulated_server(dialect=OneAtATime(), handler=Nesting) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "first")
            assert (await server.receive())["q"] == "first"
            nursery.start_soon(client.call, "second")
            await server.send({"q": "nested", "n": 9})
            inner = await server.receive()  # this one does not wait: "first" may wait for it
            assert inner["q"] == "inner"
            await server.send({"r": 5, "n": inner["n"]})
            assert await server.receive() == {"r": 5, "n": 9}
            await server.send({"r": 0, "n": "1"})
            second = await server.receive()
            assert second["q"] == "second"
            await server.send({"r": 0, "n": second["n"]})
        with trio.move_on_after(1):
            await client.call("given up")
        await server.receive()
        assert "stop" in await server.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.call, "after")
            after = await server.receive()
            await server.send({"r": 0, "n": after["n"]})


async def test_a_server_that_selects_no_subprotocol(autojump_clock: MockClock) -> None:
    text = r"supports none of packed\.v1, packed\.v2"
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionFailedError, match=text)):
        async with simulated_server(dialect=Packed()):
            pytest.fail("nothing was agreed on")


async def test_a_server_keeps_its_own_dialects(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Math) as memory:
        for name in ("trio-ws.v1", "jsonrpc"):
            async with WebSocketClient("ws://test", dialect=name, stream=await memory.stream()) as client:
                assert await client.call("add", 1, 2) == 3
                with pytest.raises(RPCMethodNotFoundError):
                    await client.call("nobody")
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "jsonrpc, packed.v2")]
        )
        assert b"packed.v2" in peer.head  # the methods of the handler take precedence
        await peer.aclose()


@pytest.mark.parametrize("wrong", [5, [5], Short, [Short], [], "short"])
def test_invalid_dialects(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"dialect|Short\(\)"):
        WebSocketClient("ws://test", dialect=wrong)


def test_named_arguments_or_all_of_them_as_one() -> None:
    assert params_of([], {"a": 1}, "x") == {"a": 1}
    assert params_of([{"a": 1}], {}, "x") == {"a": 1}
    for args, kwargs in (([1, 2], {}), ([1], {"a": 1})):
        with pytest.raises(PacketError, match="by name"):
            params_of(args, kwargs, "x")
