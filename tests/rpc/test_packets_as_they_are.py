"""A `Packet` that is passed to `send`, `publish` or `broadcast` is sent unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    HandshakeRejectedError,
    Packet,
    PacketError,
    PacketSource,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus

CUSTOM = Packet(PacketSource.CUSTOM, {"a": 1}, timestamp=1.5, correlation_id="7")


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.received: list[Packet] = []

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        self.received.append(packet)
        await connection.send(packet)

    @rpc_method()
    def join(self, connection: ClientConnection, room: str) -> bool:
        return connection.subscribe(room)


def joining(server: Any) -> WebSocketClient:
    return WebSocketClient("ws://test/", stream=server.listener.open_link_nowait().client)


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "webshocket.v1", "json"])
async def test_sending(dialect: str) -> None:
    handler = Handler()
    async with serving_in_memory(handler) as server:
        stream = server.listener.open_link_nowait().client
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect) as client:
            await client.send(CUSTOM)
            assert await client.recv() == CUSTOM
            assert handler.received == [CUSTOM]
            for wrong in (Packet(PacketSource.RPC), Packet(PacketSource.RPC, 1)):
                with pytest.raises(PacketError, match="source RPC"):
                    await client.send(wrong)


async def test_publishing() -> None:
    handler = Handler()
    async with serving_in_memory(handler) as server, joining(server) as client:
        await client.call("join", "room")
        async with handler.channels.subscribe("room") as subscription:
            packet = Packet(PacketSource.CHANNEL, 1, timestamp=2.5, correlation_id="x")
            assert handler.publish("room", packet) == 2
            expected = Packet(PacketSource.CHANNEL, 1, "room", None, 2.5, "x")
            assert await client.recv() == expected
            assert await subscription.receive() == expected
            assert handler.publish("room", expected) == 2
            assert await client.recv() == expected
        handler.broadcast(Packet(PacketSource.BROADCAST, 2, timestamp=3.5))
        assert await client.recv() == Packet(PacketSource.BROADCAST, 2, timestamp=3.5)
        with pytest.raises(PacketError, match="publish\\(\\) takes packets of source CHANNEL, not CUSTOM"):
            handler.publish("room", CUSTOM)
        with pytest.raises(PacketError, match="takes packets of source BROADCAST, not CHANNEL"):
            handler.broadcast(expected)
        with pytest.raises(PacketError, match="names the channel 'room', not 'other'"):
            handler.publish("other", expected)


async def test_publishing_to_another_process() -> None:
    bus = InMemoryBus()
    handlers = Handler(), Handler()
    async with serving_in_memory(handlers[0], broker=InMemoryBroker(bus)):
        async with (
            serving_in_memory(handlers[1], broker=InMemoryBroker(bus)) as server,
            joining(server) as client,
        ):
            await client.call("join", "room")
            handlers[0].publish("room", Packet(PacketSource.CHANNEL, 1, timestamp=2.5, correlation_id="x"))
            assert await client.recv() == Packet(PacketSource.CHANNEL, 1, "room", None, 2.5, "x")
            handlers[0].publish("room", 2)
            assert await client.recv() == Packet(PacketSource.CHANNEL, 2, "room")
            with pytest.raises(PacketError):
                handlers[0].publish("room", Packet(PacketSource.CHANNEL, 1, correlation_id=object()))


async def test_rejecting_with_headers() -> None:
    class Closed(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.reject(401, "who are you?", [("WWW-Authenticate", "Bearer")])

    async with serving_in_memory(Closed()) as server:
        with pytest.raises(HandshakeRejectedError) as caught:
            async with joining(server):
                pass
    assert caught.value.headers.get("www-authenticate") == "Bearer"
    assert caught.value.body == b"who are you?"


async def test_more_subprotocols_of_a_client() -> None:
    class Offered(Handler):
        @rpc_method()
        def offered(self, connection: ClientConnection) -> list[str]:
            return connection._ws.offered_subprotocols

        @rpc_method()
        def cookies(self, connection: ClientConnection) -> dict[str, str]:
            return connection.request.cookies

    async with serving_in_memory(Offered()) as server:
        stream = server.listener.open_link_nowait().client
        async with WebSocketClient(
            "ws://test/",
            stream=stream,
            subprotocols=["token.abc"],
            headers=[("Cookie", 'a=1; b="2"; a=3; broken; c=d=e'), ("Cookie", "f= g ")],
        ) as client:
            assert client.dialect == "trio-ws.v1"
            assert (await client.call("offered"))[-1] == "token.abc"
            assert await client.call("cookies") == {"a": "1", "b": "2", "c": "d=e", "f": "g"}


async def test_a_server_that_agrees_to_another_subprotocol_is_spoken_to_in_json() -> None:
    async with serving_in_memory(Handler(), subprotocols=["token.abc"]) as server:
        stream = server.listener.open_link_nowait().client
        async with WebSocketClient("ws://test/", stream=stream, subprotocols=["token.abc"]) as client:
            assert client.dialect == "json"
            assert await client.call("join", "room") is True


async def test_a_server_that_was_not_entered() -> None:
    from trio_ws import WebSocketServer  # noqa: PLC0415

    server = WebSocketServer(port=0)
    with trio.fail_after(10):
        with pytest.raises(RuntimeError, match="enter its block"):
            await server.serve_forever()
        with pytest.raises(RuntimeError, match="enter its block"):
            await server.accept()
        async with server:
            pass
        with pytest.raises(RuntimeError, match="block was left"):
            await server.serve_forever()
        with pytest.raises(trio.ClosedResourceError):
            await server.accept()
