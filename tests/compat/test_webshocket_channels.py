"""Channels, broadcasts and packets with `trio_ws.compat.webshocket`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import trio

from tests.compat.test_webshocket_calls import serving, until
from tests.support.serving import guard
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import ClientConnection, Packet, PacketSource
from trio_ws.testing import MemoryListener, RawPeer


class Rooms(webshocket.WebSocketHandler[Any]):
    @webshocket.rpc_method()
    async def join(self, connection: ClientConnection[Any], room: Any) -> bool:
        return connection.subscribe(room)

    @webshocket.rpc_method()
    async def leave(self, connection: ClientConnection[Any], room: Any) -> None:
        connection.unsubscribe(room)

    @webshocket.rpc_method()
    async def name(self, connection: ClientConnection[Any], name: str) -> None:
        connection.name = name

    @webshocket.rpc_method()
    async def say(self, connection: ClientConnection[Any], room: str, text: str) -> None:
        self.publish(room, {"from": connection.name, "text": text}, (connection,))


def connection_of(server: webshocket.WebSocketServer[Any], name: str) -> ClientConnection[Any]:
    found: ClientConnection[Any]
    (found,) = [one for one in server.handler.clients if one.session_state.get("name") == name]
    return found


async def data_of(client: webshocket.WebSocketClient, count: int) -> list[Any]:
    return [(await client.recv()).data for _ in range(count)]


async def test_publishing() -> None:
    async with serving(Rooms) as (server, ada):
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}") as bob:
            for client, name, rooms in ((ada, "ada", ["a", "b"]), (bob, "bob", "a")):
                await client.send_rpc("name", name)
                assert (await client.send_rpc("join", rooms)).data is True
            first, second = connection_of(server, "ada"), connection_of(server, "bob")
            assert first.subscribed_channel == {"a", "b"}
            assert server.channels == {"a": {first, second}, "b": {first}}

            assert inspect.isawaitable(server.publish("a", 1))
            server.publish(["a", "b"], 2)
            server.publish({"b"}, 3)
            server.publish("a", 4, exclude=(second,))
            server.publish("a", 5, exclude=None, predicate=webshocket.IsEqual("name", "bob"))
            server.publish("a", 6, [first])
            server.publish("nobody", 7)
            await server.publish("a", 8)
            assert await data_of(ada, 6) == [1, 2, 2, 3, 4, 8]
            assert await data_of(bob, 5) == [1, 2, 5, 6, 8]
            await bob.send_rpc("say", "a", "hi")
            packet = await ada.recv()
            assert packet == Packet(PacketSource.CHANNEL, {"from": "bob", "text": "hi"}, channel="a")

            await ada.send_rpc("leave", ["a", "b", "never"])
            assert server.channels == {"a": {second}}
        await until(lambda: len(server.clients) == 1)
        assert server.channels == {}


async def test_globs() -> None:
    async with serving(Rooms) as (server, client):
        assert (await client.send_rpc("join", ["news.*", "sport.?", "market.[AB]", "news.tech"])).data
        for number, room in enumerate(
            ["news.tech", "news.", "sport.1", "sport.11", "market.A", "market.C", "new"]
        ):
            server.publish(room, number)
        assert await data_of(client, 4) == [0, 1, 2, 4]
        (connection,) = server.clients
        assert server.patterns == {
            "news.*": {connection},
            "sport.?": {connection},
            "market.[AB]": {connection},
        }
        await client.send_rpc("leave", ["news.*", "sport.?"])
        assert list(server.patterns) == ["market.[AB]"]
        server.publish("news.x", 1)
        server.publish("market.B", 2)
        assert await data_of(client, 1) == [2]


async def test_how_many_channels_a_client_may_hold() -> None:
    async with serving(Rooms, max_subscribed_channels=3) as (server, client):
        assert (await client.send_rpc("join", ["a", "b"])).data is True
        assert (await client.send_rpc("join", ["c", "d"])).data is False
        assert (await client.send_rpc("join", ["a", "c"])).data is True
        assert (await client.send_rpc("join", "d")).data is False
        (connection,) = server.clients
        assert connection.subscribed_channel == {"a", "b", "c"}
        assert server.handler.subscribe(connection, ["d", "e"]) is None
        assert connection.subscribed_channel == {"a", "b", "c", "d", "e"}
        server.handler.unsubscribe(connection, ("a", "b"))
        assert set(server.channels) == {"c", "d", "e"}
    async with serving(Rooms, max_subscribed_channels=0) as (_, client):
        assert (await client.send_rpc("join", [str(number) for number in range(100)])).data is True


async def test_broadcasting() -> None:
    async with serving(Rooms) as (server, ada):
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}") as bob:
            await ada.send_rpc("name", "ada")
            await bob.send_rpc("name", "bob")
            second = connection_of(server, "bob")
            server.broadcast("all", correlation_id="7", channel="x", timestamp=1.5)
            server.broadcast("ada", exclude=(second,))
            server.broadcast("bob", predicate=webshocket.IsEqual("name", "bob"))
            server.broadcast("nobody", predicate=lambda _: 1 / 0)
            server.broadcast(Packet(PacketSource.BROADCAST, "ready", timestamp=2.5))
            first = await ada.recv()
            assert first == Packet(
                PacketSource.BROADCAST, "all", channel="x", timestamp=1.5, correlation_id="7"
            )
            assert await data_of(ada, 1) == ["ada"]
            assert await ada.recv() == Packet(PacketSource.BROADCAST, "ready", timestamp=2.5)
            assert await data_of(bob, 3) == ["all", "bob", "ready"]


async def test_ready_packets() -> None:
    async with serving(Rooms) as (server, client):
        await client.send_rpc("join", "a")
        packet: Packet[Any] = Packet(PacketSource.CHANNEL, 1, timestamp=3.0)
        server.publish("a", packet)
        assert await client.recv() == packet
        (connection,) = server.clients
        custom: Packet[Any] = Packet(data="x", source=PacketSource.UNKNOWN, correlation_id="9")
        connection.send(custom)
        assert await client.recv() == custom
        with pytest.raises(webshocket.PacketError, match="Cannot broadcast non-broadcast packet"):
            server.broadcast(custom)
        with pytest.raises(webshocket.PacketError, match="Cannot publish non-channel packet"):
            server.publish("a", custom)
        for send in (client.send, connection.send, server.broadcast):
            with pytest.raises(webshocket.PacketError, match="cannot be sent") as caught:
                send(object())
            assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(("size", "chunk_size", "frames"), [(60, 50, 2), (90, 200, 1), (200_000, 65536, 4)])
@pytest.mark.parametrize("subprotocol", ["webshocket.v1", None])
async def test_long_messages_go_in_frames(
    size: int, chunk_size: int, frames: int, subprotocol: str | None
) -> None:
    listener = MemoryListener()
    server = webshocket.WebSocketServer("memory", 1)
    headers = [] if subprotocol is None else [("Sec-WebSocket-Protocol", subprotocol)]
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            await server.start(nursery=nursery, listeners=[listener])
            async with await RawPeer.connect(await listener.connect(), headers=headers) as peer:
                connection = await server.accept()
                connection.send(Packet(PacketSource.CUSTOM, "x" * size), chunk_size)
                parts = [await peer.receive_frame() for _ in range(frames)]
                assert [part.opcode for part in parts if part] == [2] + [0] * (frames - 1)
                assert [part.fin for part in parts if part] == [False] * (frames - 1) + [True]
                payload = b"".join(part.payload for part in parts if part)
                assert b"x" * size in payload
                assert max(len(part.payload) for part in parts if part) <= chunk_size
            await server.close()


async def test_unread_messages_close_the_connection() -> None:
    async with serving(Rooms) as (server, client):
        (connection,) = server.clients
        blob = b"x" * 1_000_000
        with pytest.raises(webshocket.ConnectionClosedError):
            for _ in range(100):
                connection.send(blob)
        with pytest.raises(webshocket.WebSocketError):
            while True:
                await client.recv()


async def test_awaiting_waits_for_room() -> None:
    async with serving(Rooms) as (server, client):
        (connection,) = server.clients
        blob = b"x" * 1_000_000

        async def send() -> None:
            for _ in range(50):
                await connection.send(blob)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(50):
                assert len((await client.recv()).data) == len(blob)
        for _ in range(50):
            await client.send(b"x" * 100_000)
        assert (await client.send_rpc("join", "a")).data is True
