"""Programs for the statements of webshocket's reference, with `trio_ws.compat.webshocket`.

Names, parameters, defaults, values, fields and exceptions are compared one by one in
tests/compat/test_webshocket_api.py; here is what is said of them.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
import trio
import trio.testing

from tests.coming_from.forms import in_compat
from tests.compat import test_webshocket_api as api
from tests.compat.test_webshocket_calls import serving, serving_in_memory, until
from tests.support.serving import guard
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import ConnectionState, Packet, PacketSource, RPCErrorCode, ServerState


class Handler(webshocket.WebSocketHandler):
    async def on_receive(self, connection: webshocket.ClientConnection, packet: Packet[Any]) -> None:
        connection.send(packet.data)

    @webshocket.rpc_method()
    async def ping(self, connection: webshocket.ClientConnection) -> str:
        return "pong"


@in_compat
def test_a01_signatures() -> None:
    """Every class, method and function has the parameters and defaults of the reference."""
    for name, expected in api.SIGNATURES.items():
        assert api.parameters(api.named(webshocket, name)) == expected


@in_compat
def test_a02_enums() -> None:
    """The enums `ClientType`, `ConnectionState`, `PacketSource`, `RPCErrorCode` have its members and values."""
    for name, members in api.ENUMS.items():
        assert {one.name: one.value for one in api.named(webshocket, name)} == members


@in_compat
def test_a03_exceptions() -> None:
    """The exceptions have the same base classes, including its own `ConnectionError` and `TimeoutError`."""
    for name, parent in api.PARENTS.items():
        assert issubclass(api.named(webshocket, name), getattr(webshocket, parent, Exception))


@in_compat
def test_a04_structures() -> None:
    """`Packet`, `RPCRequest` and `RPCResponse` have its fields, in its order."""
    packet: Packet[Any] = Packet(
        PacketSource.RPC, None, webshocket.RPCRequest("add", (1,), {}, "7"), "c", 1.5, "id"
    )
    assert (packet.source, packet.rpc and packet.rpc.call_id, packet.channel) == (5, "7", "c")
    assert (packet.timestamp, packet.correlation_id) == (1.5, "id")


@in_compat
def test_a05_serialize() -> None:
    """`serialize(packet)` returns msgpack, and `deserialize(data)` the packet."""
    packet: Packet[Any] = Packet(PacketSource.CUSTOM, {"a": b"\x00"})
    assert webshocket.packets.deserialize(webshocket.packets.serialize(packet)) == packet


@in_compat
async def test_a06_client_attributes() -> None:
    """A client has `uri`, `state`, `ssl_context`, `logger` and `on_receive_callback`."""

    async def on_receive(packet: Packet[Any]) -> None: ...

    client = webshocket.WebSocketClient("ws://localhost:5000", on_receive)
    assert (client.uri, client.ssl_context) == ("ws://localhost:5000", None)
    assert client.state is ConnectionState.DISCONNECTED
    assert isinstance(client.logger, logging.Logger)
    assert client.on_receive_callback is on_receive


@in_compat
async def test_a07_client_connect() -> None:
    """`connect()` returns the client, also outside of a block; `close()` closes it."""
    async with serving(Handler) as (server, _):
        client = webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}")
        assert await client.connect() is client
        await client.close()
        assert client.state is ConnectionState.CLOSED


@in_compat
async def test_a08_connect_fails() -> None:
    """`connect(retry=True)` raises `ConnectionFailedError` when all attempts have failed."""

    async def fail() -> trio.abc.Stream:
        raise OSError("no route")

    with pytest.raises(webshocket.ConnectionFailedError, match="All connection attempts failed"):
        await webshocket.WebSocketClient("ws://test/").connect(retry=True, max_retry_attempt=1, stream=fail)


@in_compat
async def test_a09_client_recv(autojump_clock: trio.testing.MockClock) -> None:
    """`recv(timeout=30)` raises a `TimeoutError` after that time; None means no limit."""
    async with serving_in_memory(Handler) as (_, client):
        with pytest.raises(webshocket.TimeoutError):
            await client.recv()
        assert trio.current_time() == pytest.approx(30, abs=1)
        client.send(1)
        assert (await client.recv(timeout=None)).data == 1


@in_compat
async def test_a10_not_connected() -> None:
    """`send`, `recv`, `send_rpc` and `stream_rpc` raise `WebSocketError` if the client is not connected."""
    client = webshocket.WebSocketClient("ws://localhost:5000")
    with pytest.raises(webshocket.WebSocketError):
        client.send("x")
    for call in (client.recv, lambda: client.send_rpc("x"), lambda: anext(client.stream_rpc("x"))):
        with pytest.raises(webshocket.WebSocketError):
            await call()


@in_compat
async def test_a11_send_rpc() -> None:
    """`send_rpc` returns an `RPCResponse` with `response`, `data`, `error`, `is_stream` and `is_end`."""
    async with serving(Handler) as (_, client):
        response = await client.send_rpc("ping")
        assert (response.response, response.data, response.error) == ("pong", "pong", None)
        assert (response.is_stream, response.is_end) == (False, False)
        failed = await client.send_rpc("pong")
        assert failed.error is RPCErrorCode.METHOD_NOT_FOUND


@in_compat
async def test_a12_rpc_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """A call that takes too long raises `RPCTimeoutError`."""

    class Slow(webshocket.WebSocketHandler):
        @webshocket.rpc_method()
        async def sleep(self, connection: webshocket.ClientConnection) -> None:
            await trio.sleep_forever()

    async with serving_in_memory(Slow) as (_, client):
        with pytest.raises(webshocket.RPCTimeoutError):
            await client.send_rpc("sleep")


@in_compat
async def test_a13_raise_on_rate_limit() -> None:
    """`raise_on_rate_limit` raises `RateLimitError`: by default in `stream_rpc`, and not in `send_rpc`."""

    class Limited(webshocket.WebSocketHandler):
        @webshocket.rate_limit(limit=0)
        @webshocket.rpc_method()
        async def call(self, connection: webshocket.ClientConnection) -> None: ...

        @webshocket.rate_limit(limit=0)
        @webshocket.rpc_method()
        async def stream(self, connection: webshocket.ClientConnection) -> Any:
            yield 1

    async with serving(Limited) as (_, client):
        assert (await client.send_rpc("call")).error is RPCErrorCode.RATE_LIMIT_EXCEEDED
        with pytest.raises(webshocket.RateLimitError):
            await client.send_rpc("call", raise_on_rate_limit=True)
        with pytest.raises(webshocket.RateLimitError):
            await anext(client.stream_rpc("stream"))
        item = await anext(client.stream_rpc("stream", raise_on_rate_limit=False))
        assert item.error is RPCErrorCode.RATE_LIMIT_EXCEEDED


@in_compat
async def test_a14_server_attributes() -> None:
    """A server has `handler`, `host`, `port`, `max_connection`, `ssl_context`, `logger` and `state`."""
    server = webshocket.WebSocketServer("127.0.0.1", 5000, clientHandler=Handler, max_connection=3)
    assert isinstance(server.handler, Handler)
    assert (server.host, server.port, server.max_connection) == ("127.0.0.1", 5000, 3)
    assert (server.ssl_context, server.state) == (None, ServerState.CLOSED)
    assert isinstance(server.logger, logging.Logger)


@in_compat
async def test_a15_server_start_and_close() -> None:
    """`start()` starts to accept clients; `close()` stops that, and waits for the connections to close."""
    server = webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=Handler)
    assert await server.start() is server
    client = await webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}").connect()
    await client.send_rpc("ping")
    await server.close()
    assert not server.clients
    await until(lambda: client.state is ConnectionState.DISCONNECTED)


@in_compat
async def test_a16_serve_forever() -> None:
    """`serve_forever()` starts the server and waits until it is closed."""
    server = webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=Handler)
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_forever)
            await until(lambda: server.state is ServerState.SERVING)
            await server.close()


@in_compat
async def test_a17_accept() -> None:
    """`accept()` waits for a client; it raises TypeError with a handler, and `WebSocketError` before `start`."""
    server: webshocket.WebSocketServer[Any] = webshocket.WebSocketServer("127.0.0.1", 0)
    with pytest.raises(webshocket.WebSocketError):
        await server.accept()
    async with server, webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}"):
        assert isinstance(await server.accept(), webshocket.ClientConnection)
    async with serving(Handler) as (other, _):
        with pytest.raises(TypeError):
            await other.accept()


@in_compat
async def test_a18_connection_attributes() -> None:
    """A connection has `client_type`, `connection_state`, `session_state`, `uid`, `logger`, `remote_address`."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        (connection,) = server.clients
        assert connection.client_type is webshocket.ClientType.FRAMEWORK
        assert connection.connection_state is ConnectionState.CONNECTED
        assert connection.session_state == {}
        assert isinstance(connection.uid, uuid.UUID)
        assert isinstance(connection.logger, logging.Logger)
        assert connection.remote_address[0] == "127.0.0.1"


@in_compat
async def test_a19_connection_recv() -> None:
    """`connection.recv()` returns a `Packet`; plain data becomes one of source CUSTOM."""
    server: webshocket.WebSocketServer[Any] = webshocket.WebSocketServer("127.0.0.1", 0)
    async with server:
        import trio_ws  # noqa: PLC0415

        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            connection = await server.accept()
            await ws.send('{"plain": "json"}')
            assert await connection.recv(timeout=10.0) == Packet(PacketSource.CUSTOM, {"plain": "json"})


@in_compat
async def test_a20_connection_recv_fails(autojump_clock: trio.testing.MockClock) -> None:
    """It raises `ReceiveTimeoutError` after the timeout, and `ConnectionClosedError` if the client has disconnected."""
    async with serving_in_memory(webshocket.DefaultWebSocketHandler) as (server, client):
        connection = await server.accept()
        with pytest.raises(webshocket.ReceiveTimeoutError):
            await connection.recv(timeout=10.0)
        await client.close()
        with pytest.raises(webshocket.ConnectionClosedError):
            await connection.recv()


@in_compat
async def test_a21_connection_send() -> None:
    """`connection.send(data, chunk_size)` wraps data in a `Packet`, and sends a `Packet` unchanged."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        (connection,) = server.clients
        connection.send({"status": "success"})
        assert await client.recv() == Packet(PacketSource.CUSTOM, {"status": "success"})
        packet: Packet[Any] = Packet(data="Custom", source=PacketSource.CUSTOM, correlation_id="7")
        connection.send(packet, 10)
        assert await client.recv() == packet


@in_compat
async def test_a22_connection_close() -> None:
    """`connection.close(code, reason)` closes it."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        (connection,) = server.clients
        connection.close(4000, b"enough")
        assert connection.connection_state is ConnectionState.CLOSED
        with pytest.raises(webshocket.WebSocketError):
            await client.recv()


@in_compat
async def test_a23_subscribe() -> None:
    """`subscribe(channel or channels)` returns True, or False if `max_subscribed_channels` is reached."""
    async with serving(Handler, max_subscribed_channels=2) as (server, client):
        await client.send_rpc("ping")
        (connection,) = server.clients
        assert connection.subscribe(["room2", "news.*"]) is True
        assert connection.subscribe("room1") is False
        assert connection.subscribed_channel == {"room2", "news.*"}
        connection.unsubscribe(["room2", "news.*"])
        assert connection.subscribed_channel == set()


@in_compat
async def test_a24_handler_mappings() -> None:
    """A handler has `clients`, and `channels` and `patterns`, which map names to sets of connections."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        handler = server.handler
        (connection,) = handler.clients
        handler.subscribe(connection, ["room", "news.*"])
        assert handler.channels == {"room": {connection}}
        assert handler.patterns == {"news.*": {connection}}
        handler.unsubscribe(connection, ("room", "news.*"))
        assert handler.channels == handler.patterns == {}


@in_compat
async def test_a25_default_handler() -> None:
    """`DefaultWebSocketHandler` keeps packets for `accept()` and `recv()`."""
    async with serving(webshocket.DefaultWebSocketHandler) as (server, client):
        client.send("x")
        assert (await (await server.accept()).recv()).data == "x"


@in_compat
async def test_a26_hooks() -> None:
    """`on_connect`, `on_receive` and `on_disconnect` are called for each client."""
    seen: list[str] = []

    class Hooks(webshocket.WebSocketHandler):
        async def on_connect(self, connection: webshocket.ClientConnection) -> None:
            seen.append("connect")

        async def on_receive(self, connection: webshocket.ClientConnection, packet: Packet[Any]) -> None:
            seen.append(packet.data)

        async def on_disconnect(self, connection: webshocket.ClientConnection) -> None:
            seen.append("disconnect")

    async with serving(Hooks) as (_, client):
        client.send("x")
        await until(lambda: "x" in seen)
        await client.close()
        await until(lambda: len(seen) == 3)
    assert seen == ["connect", "x", "disconnect"]


@in_compat
async def test_a27_broadcast_fields() -> None:
    """`broadcast(data, exclude, predicate, **kwargs)` passes fields of the packet on."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        server.broadcast("x", None, None, timestamp=1.5, correlation_id="7")
        assert await client.recv() == Packet(PacketSource.BROADCAST, "x", timestamp=1.5, correlation_id="7")


@in_compat
async def test_a28_wrong_source() -> None:
    """A packet of another source raises `PacketError` in `broadcast` and in `publish`."""
    handler = Handler()
    packet: Packet[Any] = Packet(PacketSource.CUSTOM, 1)
    with pytest.raises(webshocket.PacketError):
        handler.broadcast(packet)
    with pytest.raises(webshocket.PacketError):
        handler.publish("room", packet)


@in_compat
async def test_a29_publish_to_many() -> None:
    """`publish` takes one channel or many, and `exclude` by position."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("ping")
        (connection,) = server.clients
        connection.subscribe(["room1", "room2"])
        server.publish(["room1", "room2"], "Hello!")
        server.publish("room1", "not you", (connection,))
        server.publish("room1", "last")
        assert [(await client.recv()).data for _ in range(3)] == ["Hello!", "Hello!", "last"]


@in_compat
async def test_a30_register() -> None:
    """`register_rpc_method(func, alias_name)` adds a decorated function; any other raises ValueError."""

    @webshocket.rpc_method()
    async def late(connection: webshocket.ClientConnection) -> str:
        return "here"

    async def plain(connection: webshocket.ClientConnection) -> None: ...

    async with serving(Handler) as (server, client):
        server.handler.register_rpc_method(late, "later")
        assert (await client.send_rpc("later")).data == "here"
        with pytest.raises(ValueError, match="non-RPC"):
            server.handler.register_rpc_method(plain)


@in_compat
def test_a31_predicates() -> None:
    """`Has`, `Is`, `IsEqual`, `Any` and `All` test the session state, and have a readable `repr`."""
    has = webshocket.Has("username")
    connection = api.Connection(username="ada", is_admin=False)
    assert has(connection)
    assert not webshocket.Is("is_admin")(connection)
    assert webshocket.IsEqual("username", "ada")(connection)
    assert webshocket.Any(has).predicates == webshocket.All(has).predicates == (has,)
    assert has.key == "username"


@in_compat
async def test_a32_error_codes() -> None:
    """The codes of errors: method, parameters, internal, application."""

    class Failing(webshocket.WebSocketHandler):
        @webshocket.rpc_method()
        async def internal(self, connection: webshocket.ClientConnection) -> None:
            raise ZeroDivisionError

        @webshocket.rpc_method()
        async def application(self, connection: webshocket.ClientConnection, a: int) -> None:
            raise webshocket.RPCError("come back tomorrow")

    async with serving(Failing) as (_, client):
        answers = [
            await client.send_rpc("nothing"),
            await client.send_rpc("application"),
            await client.send_rpc("application", "text"),
            await client.send_rpc("internal"),
            await client.send_rpc("application", 1),
        ]
    assert [answer.error for answer in answers] == [
        RPCErrorCode.METHOD_NOT_FOUND,
        RPCErrorCode.INVALID_PARAMS,
        RPCErrorCode.INVALID_PARAMS,
        RPCErrorCode.INTERNAL_SERVER_ERROR,
        RPCErrorCode.APPLICATION_ERROR,
    ]
    assert answers[-1].response == "come back tomorrow"
