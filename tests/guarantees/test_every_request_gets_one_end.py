"""Every request ends exactly once, in every dialect, whatever the method or the caller does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Options, RPCError, WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

QUIET = Options(ping_interval=None)
NOT_FOUND, INVALID, INTERNAL, APPLICATION = -32601, -32602, -32603, -32001


class Odd(BaseException):
    """An exception that methods should not raise."""


class Handler(WebSocketHandler):
    """Methods that end in all possible ways."""

    @rpc_method()
    async def ok(self, connection: ClientConnection) -> str:
        return "ok"

    @rpc_method()
    def plain(self, connection: ClientConnection) -> str:
        return "ok"

    @rpc_method()
    async def later(self, connection: ClientConnection, seconds: float = 1) -> str:
        await trio.sleep(seconds)
        return "ok"

    @rpc_method()
    async def nothing(self, connection: ClientConnection) -> None:
        return

    @rpc_method()
    async def strange_result(self, connection: ClientConnection) -> object:
        return object()

    @rpc_method()
    def strange_plain(self, connection: ClientConnection) -> object:
        return {1: object()}

    @rpc_method()
    async def strange_later(self, connection: ClientConnection) -> object:
        await trio.sleep(1)
        return object()

    @rpc_method()
    async def strange_item(self, connection: ClientConnection) -> AsyncIterator[object]:
        yield object()

    @rpc_method()
    async def empty_text(self, connection: ClientConnection) -> None:
        raise RPCError("")

    @rpc_method()
    async def key_error(self, connection: ClientConnection) -> None:
        raise KeyError("x")

    @rpc_method()
    async def key_error_later(self, connection: ClientConnection) -> None:
        await trio.sleep(1)
        raise KeyError("x")

    @rpc_method()
    async def stop(self, connection: ClientConnection) -> None:
        raise StopAsyncIteration

    @rpc_method()
    def stop_plain(self, connection: ClientConnection) -> None:
        raise StopIteration

    @rpc_method()
    async def group(self, connection: ClientConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fail)
            await trio.sleep_forever()

    async def _fail(self) -> None:
        await trio.sleep(1)
        raise ValueError("in a nursery")

    @rpc_method()
    async def old_cancelled(self, connection: ClientConnection) -> None:
        caught: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as exc:
                caught = exc
        assert caught is not None
        raise caught

    @rpc_method()
    async def stream(self, connection: ClientConnection) -> AsyncIterator[int]:
        for number in range(3):
            yield number

    @rpc_method()
    async def stream_that_fails(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        raise RPCError("no more", code=APPLICATION)

    @rpc_method()
    async def stream_that_breaks(self, connection: ClientConnection) -> AsyncIterator[int]:
        yield 1
        raise KeyError("x")


class Asker:
    """A raw peer that encodes requests of one dialect, and records all responses."""

    def __init__(self, peer: RawPeer, dialect: str) -> None:
        self.peer = peer
        self.dialect = dialect

    async def ask(self, call_id: str, method: str, *args: Any, **more: Any) -> None:
        if self.dialect == "jsonrpc":
            message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": args, "id": call_id}
            await self.peer.send_frame(1, json.dumps(message).encode())
            return
        rpc = {"type": "request", "method": method, "args": args, "call_id": call_id, **more}
        packet = {"source": 5, "rpc": rpc}
        if self.dialect.endswith("json"):
            await self.peer.send_frame(1, json.dumps(packet).encode())
        else:
            await self.peer.send_frame(2, msgspec.msgpack.encode(packet))

    async def abort(self, call_id: str) -> None:
        if self.dialect == "jsonrpc":
            message = {"jsonrpc": "2.0", "method": "rpc.cancel", "params": [call_id]}
            await self.peer.send_frame(1, json.dumps(message).encode())
        else:
            await self.ask("", "__abort__", call_id)

    async def ends(self, seconds: float = 100) -> list[tuple[str, Any]]:
        """Return the calls that ended within this time: the id, and the error code or None."""
        ends: list[tuple[str, Any]] = []
        with trio.move_on_after(seconds):
            while (frame := await self.peer.receive_frame()) is not None:
                assert frame.opcode in (1, 2), frame
                if frame.opcode == 1:
                    packet = json.loads(frame.payload)
                else:
                    packet = msgspec.msgpack.decode(frame.payload)
                if self.dialect == "jsonrpc":
                    if "method" not in packet:
                        ends.append((packet["id"], packet.get("error", {}).get("code")))
                else:
                    rpc = packet["rpc"]
                    if not rpc.get("is_stream") or rpc.get("is_end"):
                        ends.append((rpc["call_id"], rpc.get("error")))
        return ends


DIALECTS = ["trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json", "jsonrpc"]
ENDINGS = {
    "ok": None,
    "plain": None,
    "later": None,
    "nothing": None,
    "strange_result": INTERNAL,
    "strange_plain": INTERNAL,
    "strange_later": INTERNAL,
    "strange_item": INTERNAL,
    "empty_text": APPLICATION,
    "key_error": INTERNAL,
    "key_error_later": INTERNAL,
    "stop": INTERNAL,
    "stop_plain": INTERNAL,
    "group": INTERNAL,
    "old_cancelled": INTERNAL,
    "stream": None,
    "stream_that_fails": APPLICATION,
    "stream_that_breaks": INTERNAL,
    "nobody": NOT_FOUND,
}


async def asker(memory: Any, dialect: str) -> Asker:
    headers = [] if dialect == "json" else [("Sec-WebSocket-Protocol", dialect)]
    return Asker(await RawPeer.connect(await memory.stream(), headers=headers), dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("method", ENDINGS)
async def test_whatever_a_method_does(method: str, dialect: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, dialect)
        await asked.ask("a", method)
        await asked.ask("b", "later", 50)
        assert await asked.ends() == [("a", ENDINGS[method]), ("b", None)]
        await asked.peer.send_close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_all_at_once(dialect: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, dialect)
        for method in ENDINGS:
            await asked.ask(method, method)
        assert sorted(await asked.ends(), key=str) == sorted(ENDINGS.items(), key=str)
        await asked.peer.send_close()


@pytest.mark.parametrize("method", ["stream", "nobody", "stream_that_fails", "strange_item", "ok"])
async def test_a_call_that_expects_a_stream(method: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, "trio-ws.v1")
        await asked.ask("a", method, credits=10)
        assert await asked.ends() == [("a", ENDINGS[method])]
        await asked.peer.send_close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_id_that_is_in_use(dialect: str, autojump_clock: MockClock) -> None:
    """Both requests end once: the second one with an error, the first one with its result."""
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, dialect)
        await asked.ask("a", "later")
        await asked.ask("a", "later")
        assert await asked.ends() == [("a", INVALID), ("a", None)]
        await asked.ask("a", "ok")
        assert await asked.ends() == [("a", None)]
        await asked.peer.send_close()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_aborts(dialect: str, autojump_clock: MockClock) -> None:
    """Aborts of a running call, of no call, and malformed ones. Only JSON-RPC answers the aborted call."""
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, dialect)
        await asked.abort("nothing")
        await asked.ask("a", "later", 20)
        await asked.abort("a")
        await asked.abort("a")
        if dialect != "jsonrpc":
            await asked.ask("", "__abort__")
            await asked.ask("", "__abort__", 7, None)
            await asked.ask("", "__abort__", ["a"])
        await asked.ask("b", "ok")
        ends = await asked.ends()
        if dialect == "jsonrpc":
            assert sorted(ends) == [("a", -32004), ("b", None)]
        else:
            assert ends == [("b", None)]
        handler = memory.server.handler
        assert handler is not None
        (connection,) = handler.clients
        assert not connection._live.incoming.running
        await asked.peer.send_close()


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json"])
async def test_a_call_without_an_id_is_answered_with_one(dialect: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        asked = await asker(memory, dialect)
        await asked.ask("", "ok")
        ((call_id, error),) = await asked.ends()
        assert call_id
        assert error is None
        await asked.peer.send_close()


async def test_calls_are_answered_before_system_exit(
    autojump_clock: MockClock,
) -> None:
    class Breaking(WebSocketHandler):
        @rpc_method()
        async def leave(self, connection: ClientConnection) -> None:
            raise SystemExit(3)

    with pytest.RaisesGroup(SystemExit, allow_unwrapped=True):
        async with serving_in_memory(Breaking()) as memory:
            stream = await memory.stream()
            async with WebSocketClient("ws://test/", stream=stream) as client:
                response = await client.send_rpc("leave")
                assert response.error is not None
                assert response.error.code == INTERNAL
                await trio.sleep(1)


async def test_a_callers_errors_are_exceptions(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler(), options=QUIET) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for method, code in ENDINGS.items():
                if method.startswith("str") and method not in (
                    "strange_plain",
                    "strange_result",
                    "strange_later",
                ):
                    with pytest.raises(RPCError):
                        await client.call(method)
                elif code is None:
                    assert await client.call(method) in ("ok", None)
                else:
                    with pytest.raises(RPCError) as info:
                        await client.call(method)
                    assert info.value.code == code
            async with client.stream("ok") as items:
                with pytest.raises(RPCError, match="not a stream"):
                    await items.receive()
