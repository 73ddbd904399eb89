"""WebSocket over memory links: sending, receiving, streaming and closing, seen from both sides."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from trio_ws import (
    CloseFrame,
    Compression,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionEndedError,
    MessageError,
    Options,
    WebSocket,
    WebSocketMessage,
    WebSocketServer,
    connect,
)
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NO_PINGS = Options(ping_interval=None)


@asynccontextmanager
async def pair(
    options: Options = NO_PINGS, client_options: Options | None = None, **link: Any
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Yield the client's and the server's end of one connection."""
    listener = MemoryListener()
    async with WebSocketServer(listeners=[listener], options=options) as server:
        stream = await listener.connect(**link)
        async with connect("ws://test/x?y=1", stream=stream, options=client_options or options) as client:
            yield client, await server.accept()


@asynccontextmanager
async def raw_client(options: Options = NO_PINGS, **link: Any) -> AsyncIterator[tuple[RawPeer, WebSocket]]:
    """Yield a scripted client and the server's end."""
    listener = MemoryListener()
    async with WebSocketServer(listeners=[listener], options=options) as server:
        peer = await RawPeer.connect(await listener.connect(**link))
        yield peer, await server.accept()
        await peer.aclose()


@pytest.mark.parametrize("compression", [False, True, Compression(threshold=0, level=1)])
async def test_every_kind_of_send_arrives_as_what_it_is(compression: Any, autojump_clock: object) -> None:
    options = Options(compression=compression, ping_interval=None)
    async with pair(options) as ends:
        for a, b in (ends, ends[::-1]):
            await a.send("hé")
            await a.send(b"\x00")
            await a.send(bytearray(b"\x01"))
            await a.send(memoryview(b"\x02"))
            await a.send(WebSocketMessage.text("t"))
            await a.send(WebSocketMessage.binary(b"b"))
            await a.send_text("")
            await a.send_binary(b"")
            await a.send_bytes(b"x" * 70_000)
            await a.send_json({"x": [1, None]})
            got = [await b.recv() for _ in range(10)]
            assert got == [
                WebSocketMessage.text("hé"),
                WebSocketMessage.binary(b"\x00"),
                WebSocketMessage.binary(b"\x01"),
                WebSocketMessage.binary(b"\x02"),
                WebSocketMessage.text("t"),
                WebSocketMessage.binary(b"b"),
                WebSocketMessage.text(""),
                WebSocketMessage.binary(b""),
                WebSocketMessage.binary(b"x" * 70_000),
                WebSocketMessage.text('{"x":[1,null]}'),
            ]


async def test_str_subclasses_are_text(autojump_clock: object) -> None:
    class Name(str):
        __slots__ = ()

    async with pair() as (client, server):
        await client.send(Name("ada"))
        assert await server.receive_text() == "ada"


async def test_typed_receives(autojump_clock: object) -> None:
    class Move(msgspec.Struct):
        x: int

    async with pair() as (client, server):
        await client.send("a")
        await client.send(b"b")
        await client.send_json({"x": 1})
        await client.send_json({"x": "one"})
        await client.send("c")
        await client.send(b"d")
        assert await server.receive_text() == "a"
        assert await server.receive_bytes() == b"b"
        assert await server.receive_json(type=Move) == Move(1)
        with pytest.raises(MessageError, match=r"\$\.x"):
            await server.receive_json(type=Move)
        with pytest.raises(MessageError) as info:
            await server.receive_bytes()
        assert info.value.message == WebSocketMessage.text("c")
        with pytest.raises(MessageError) as info:
            await server.receive_text()
        assert info.value.message == WebSocketMessage.binary(b"d")


async def test_wrong_arguments_raise_at_once_with_the_fix(autojump_clock: object) -> None:
    async with pair() as (client, server):
        wrong: Any = client
        with pytest.raises(TypeError, match="use send_json"):
            await wrong.send({"x": 1})
        with pytest.raises(TypeError, match="use send_binary"):
            await wrong.send_text(b"x")
        with pytest.raises(TypeError, match="use send_text"):
            await wrong.send_binary("x")
        with pytest.raises(TypeError):
            await client.send_json(object())
        with pytest.raises(ValueError, match="at most 125"):
            await client.ping(b"x" * 126)
        with pytest.raises(ValueError, match="cannot be sent"):
            await client.close(1006)
        with pytest.raises(ValueError, match="123 bytes"):
            await client.close(1000, "x" * 124)
        await client.send("still open")
        assert await server.receive_text() == "still open"


async def test_connection_is_a_trio_channel_and_an_iterator(autojump_clock: object) -> None:
    async with pair() as (client, server):
        await client.send("a")
        await client.send("b")
        await client.close()
        assert isinstance(server, trio.abc.Channel)
        assert (await server.receive()).text == "a"
        assert [message.text async for message in server] == ["b"]
        with pytest.raises(trio.EndOfChannel):
            await server.receive()
        assert await server.recv() is None
        with pytest.raises(ConnectionClosedError) as info:
            await server.receive_text()
        assert info.value.code == 1000


async def test_both_close_codes_and_their_order_are_kept(autojump_clock: object) -> None:
    async with pair() as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.close, 4001, "client")
            with pytest.raises(ConnectionClosedError) as info:
                await server.recv()
        assert info.value.received == CloseFrame(4001, "client")
        assert info.value.sent == CloseFrame(4001, "")
        assert (server.close_code, server.close_reason) == (4001, "client")
        assert server.peer_closed_first
        assert not client.peer_closed_first
        assert (client.close_sent, client.close_received) == (
            CloseFrame(4001, "client"),
            CloseFrame(4001, ""),
        )
        assert client.closed
        assert server.closed
        assert isinstance(info.value, trio.BrokenResourceError)


async def test_use_after_our_own_close_is_a_closed_resource_error(autojump_clock: object) -> None:
    async with pair() as (client, _):
        assert client.close_code is None
        assert client.close_reason is None
        await client.aclose()
        await client.close()  # a second close has no effect
        for use in (client.recv, lambda: client.send("x"), client.ping, client.receive_text):
            with pytest.raises(ConnectionClosedLocallyError) as info:
                await use()
            assert isinstance(info.value, trio.ClosedResourceError)


async def test_closing_by_a_message(autojump_clock: object) -> None:
    async with pair() as (client, server):
        await client.send(WebSocketMessage.close(4002, "m"))
        with pytest.raises(ConnectionClosedError, match="4002"):
            await server.recv()


async def test_ping_measures_the_way_there_and_back(autojump_clock: object) -> None:
    async with pair(latency=0.25) as (client, server):
        assert client.latency is None
        assert await client.ping() == 0.5
        assert await server.ping("payload") == 0.5
        assert client.latency == server.latency == 0.5


async def test_an_unasked_pong_and_a_ping_message_are_sent(autojump_clock: object) -> None:
    async with raw_client() as (peer, server):
        await server.send(WebSocketMessage.pong(b"a"))
        await server.send(WebSocketMessage.ping(b"b"))
        frames = [await peer.receive_frame() for _ in range(2)]
        assert [(frame.opcode, frame.payload) for frame in frames if frame] == [(0xA, b"a"), (0x9, b"b")]


async def test_two_pings_of_one_payload_are_refused_and_a_later_pong_answers_earlier_pings(
    autojump_clock: object,
) -> None:
    async with raw_client() as (peer, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.ping, b"1")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.ping, b"2")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ValueError, match="another payload"):
                await server.ping(b"1")
            await peer.send_frame(0xA, b"unasked")
            await peer.send_frame(0xA, b"2")
        assert server.connected


async def test_a_ping_ends_with_the_connection(autojump_clock: object) -> None:
    async with raw_client() as (peer, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_close, 1000)
            with pytest.raises(ConnectionClosedError):
                await server.ping()


@pytest.mark.parametrize("compression", [False, True])
async def test_an_async_iterable_is_one_fragmented_message(compression: bool, autojump_clock: object) -> None:
    async def parts(kind: type) -> AsyncIterator[Any]:
        for part in ("a", "", "é" * 200):
            yield part if kind is str else part.encode()

    async with pair(Options(compression=compression, ping_interval=None)) as (client, server):
        await client.send(parts(str))
        assert await server.receive_text() == "a" + "é" * 200
        await server.send(parts(bytes))
        assert await client.receive_bytes() == ("a" + "é" * 200).encode()


async def test_an_empty_iterable_sends_nothing(autojump_clock: object) -> None:
    async def nothing() -> AsyncIterator[str]:
        return
        yield "x"

    async with pair() as (client, server):
        await client.send(nothing())
        await client.send("next")
        assert await server.receive_text() == "next"


async def test_no_message_lands_inside_a_fragmented_one(autojump_clock: object) -> None:
    go_on = trio.Event()

    async def parts() -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()
        yield "b"

    async with pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, parts())
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client.send, "other")
        assert await client.ping() == 0  # control frames may go between fragments
        go_on.set()
        assert await server.receive_text() == "ab"
        assert await server.receive_text() == "other"


@pytest.mark.parametrize("second", [b"bytes", 3])
async def test_a_message_that_cannot_be_finished_closes_with_1011(
    second: Any, autojump_clock: object
) -> None:
    closed = False

    async def parts() -> AsyncIterator[Any]:
        nonlocal closed
        try:
            yield "a"
            yield second
        finally:
            closed = True

    async with pair() as (client, server):
        with pytest.raises(TypeError):
            await client.send(parts())
        assert closed
        with pytest.raises(ConnectionClosedError) as info:
            await server.recv()
        assert info.value.code == 1011


async def test_recv_streaming_gives_parts_as_they_come(autojump_clock: object) -> None:
    async with raw_client() as (peer, server):
        parts = server.recv_streaming()
        await peer.send_frame(1, b"one \xe2\x82", fin=False)
        assert await anext(parts) == "one "
        with pytest.raises(MessageError, match="finish it"):
            await server.recv()
        await peer.send_frame(0, b"\xac two", fin=False)
        assert await anext(parts) == "€ two"
        await peer.send_frame(0, b"")
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
        await peer.send_frame(2, b"whole")
        assert [part async for part in server.recv_streaming()] == [b"whole"]
        await peer.send_frame(2, b"")
        assert [part async for part in server.recv_streaming()] == [b""]


async def test_recv_streaming_at_the_end(autojump_clock: object) -> None:
    async with raw_client() as (peer, server):
        await peer.send_close(1000)
        assert [part async for part in server.recv_streaming()] == []
    async with raw_client() as (peer, server):
        await peer.send_frame(1, b"half", fin=False)
        parts = server.recv_streaming()
        assert await anext(parts) == "half"
        await peer.send_close(1000)
        with pytest.raises(ConnectionClosedError):
            await anext(parts)


async def test_state_and_request_are_told(autojump_clock: object) -> None:
    async with pair() as (client, server):
        assert client.connected
        assert server.accepted
        assert not server.closed
        assert (server.path, server.query_string, server.query_params) == ("/x", "y=1", {"y": ["1"]})
        assert server.header("HOST") == "test"
        assert server.header("nothing", "else") == "else"
        assert server.headers.get("upgrade") == "websocket"
        assert server.request.method == "GET"
        assert server.response_headers is None
        assert client.response_headers is not None
        assert client.response_headers.get("upgrade") == "websocket"
        assert client.subprotocol is None
        assert server.path_params == {}
        assert client.local_address is client.remote_address is None
        assert client.buffered_bytes == 0
        assert "client open '/x'" in repr(client)
        await client.close()
        assert "client closed" in repr(client)


async def test_wait_closed_leaves_messages_where_they_are(autojump_clock: object) -> None:
    async with pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(server.wait_closed)
        await trio.testing.wait_all_tasks_blocked()
        await client.send("a")
        assert await server.receive_text() == "a"
        await client.send("b")
        await client.close()
        assert await server.receive_text() == "b"


async def test_every_method_is_a_checkpoint(autojump_clock: object) -> None:
    async with pair() as (client, server):
        await client.send("a")
        await client.send("b")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            for use in (
                server.recv,
                server.receive,
                lambda: server.send("x"),
                lambda: server.send_json(1),
                server.ping,
                server.wait_closed,
                lambda: anext(server.recv_streaming()),
            ):
                with pytest.raises(trio.Cancelled):
                    await use()
        assert await server.receive_text() == "a"
        assert await server.receive_text() == "b"


@pytest.mark.parametrize("code", [1000, 1001, 1008])
@pytest.mark.parametrize("name", ["receive", "receive_text", "receive_bytes", "receive_json"])
async def test_a_clean_end_is_the_same_for_every_receive(
    name: str, code: int, autojump_clock: object
) -> None:
    async with pair() as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.close, code, "reason")
            with pytest.raises(trio.EndOfChannel if code != 1008 else ConnectionClosedError) as caught:
                await getattr(client, name)()
        if code == 1008:
            assert not isinstance(caught.value, trio.EndOfChannel)
        if name != "receive":
            assert isinstance(caught.value, ConnectionClosedError)
            assert (caught.value.code, caught.value.reason) == (code, "reason")
            assert caught.value.received == CloseFrame(code, "reason")


async def test_after_our_own_close_no_receive_says_that_the_peer_ended(autojump_clock: object) -> None:
    async with pair() as (client, _):
        await client.close()
        with pytest.raises(ConnectionClosedLocallyError) as caught:
            await client.receive_text()
        assert not isinstance(caught.value, ConnectionEndedError)
