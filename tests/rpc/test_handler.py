"""WebSocketHandler and ClientConnection: accepting clients, their attributes, and their end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    CloseConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    Packet,
    RateLimit,
    RateLimitError,
    RPCAccessDeniedError,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)

if TYPE_CHECKING:
    from trio.testing import MockClock


class Rejecting(WebSocketHandler):
    """Refuses in the way that the path names."""

    def __init__(self) -> None:
        self.left: list[str] = []

    async def on_connect(self, connection: ClientConnection) -> None:
        way = connection.request.path
        if way == "/denied":
            raise RPCAccessDeniedError("not you")
        if way == "/exception":
            raise CloseConnection(4000, "no")
        if way == "/error":
            raise ValueError("a bug")
        if way == "/reject":
            await connection.reject(418, "a teapot")
        if way == "/close":
            await connection.close()
        if way == "/accept":
            before: str = connection.connection_state
            await connection.accept(headers=(("X-Door", "open"),))
            assert (before, connection.connection_state) == ("connecting", "connected")

    async def on_disconnect(self, connection: ClientConnection) -> None:
        assert connection.connection_state in ("closed", "closing")
        self.left.append(connection.uid)

    @rpc_method()
    async def me(self, connection: ClientConnection) -> dict[str, Any]:
        return {
            "uid": connection.uid,
            "type": connection.client_type,
            "state": connection.connection_state,
            "address": connection.remote_address,
            "subprotocol": connection.subprotocol,
            "latency": connection.latency,
            "params": connection.path_params,
            "seconds": await connection.ping(),
            "repr": repr(connection),
        }

    @rpc_method()
    async def leave(self, connection: ClientConnection) -> str:
        await connection.close(4001, "as asked")
        return "never seen"


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/denied", 403, b""),
        ("/exception", 403, b""),
        ("/error", 500, b""),
        ("/reject", 418, b"a teapot"),
        ("/close", 403, b""),
    ],
)
async def test_on_connect_refuses(
    path: str, status: int, body: bytes, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.ERROR)
    handler = Rejecting()
    async with serving_in_memory(handler) as memory:
        with pytest.raises(HandshakeRejectedError) as refused:
            async with WebSocketClient(f"ws://test{path}", stream=await memory.stream()):
                pytest.fail("let in")
        assert (refused.value.status, refused.value.body) == (status, body)
        assert not handler.clients
        assert handler.left == []
        assert len(caplog.records) == (path == "/error")
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert (await client.call("me"))["state"] == "connected"


async def test_attributes_of_a_client_connection(autojump_clock: MockClock) -> None:
    handler = Rejecting()
    async with serving_in_memory(handler) as memory:
        stream = await memory.stream(latency=0.5)
        async with WebSocketClient("ws://test/accept", stream=stream) as client:
            assert client.websocket.response_headers is not None
            assert client.websocket.response_headers.get("x-door") == "open"
            me = await client.call("me")
            (connection,) = handler.clients
            assert me == {
                "uid": connection.uid,
                "type": "trio-ws.v1",
                "state": "connected",
                "address": None,
                "subprotocol": "trio-ws.v1",
                "latency": None,
                "params": {},
                "seconds": 1.0,
                "repr": f"<ClientConnection {connection.uid} connected None>",
            }
        await trio.sleep(1)
        assert handler.left == [me["uid"]]


async def test_closing_from_within_a_call(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Rejecting()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            with pytest.raises(ConnectionClosedError) as info:
                await client.call("leave")
            assert (info.value.code, info.value.reason) == (4001, "as asked")


async def test_an_error_of_on_receive_closes_with_1011_and_is_logged_once(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    class Broken(WebSocketHandler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            if packet.data == "wait":
                await trio.sleep(1)
            if packet.data == "leave":
                raise CloseConnection(4002, "left")
            raise KeyError(packet.data)

    for data, code in (("now", 1011), ("wait", 1011), ("leave", 4002)):
        caplog.clear()
        async with serving_in_memory(Broken()) as memory:
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
                await client.send(data)
                with pytest.raises(ConnectionClosedError) as info:
                    await client.recv()
                assert info.value.code == code
        assert len([record for record in caplog.records if record.exc_info]) == (code == 1011)


async def test_debug_lets_the_error_of_on_receive_out_of_the_server(autojump_clock: MockClock) -> None:
    class Broken(WebSocketHandler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            raise KeyError(packet.data)

    with pytest.raises(KeyError, match="now"):
        async with serving_in_memory(Broken(), debug=True) as memory:
            async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
                await client.send("now")
                await trio.sleep_forever()


async def test_packets_arrive_one_after_the_other(autojump_clock: MockClock) -> None:
    got: list[Any] = []

    class Slow(WebSocketHandler):
        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await trio.sleep(0.1 * (packet.data % 3))
            got.append(packet.data)
            await connection.send(packet.data)

    async with serving_in_memory(Slow()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            for number in range(50):
                await client.send(number)
            assert [(await anext(client)).data for _ in range(50)] == list(range(50))
    assert got == list(range(50))


async def test_methods_can_be_added_while_running(autojump_clock: MockClock) -> None:
    async def double(connection: ClientConnection, number: int) -> int:
        """Twice."""
        return number * 2

    handler = WebSocketHandler[Any]()
    async with serving_in_memory(handler) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert isinstance((await client.send_rpc("double", 2)).error, RPCError)
            handler.register_rpc_method(double)
            handler.register_rpc_method(double, "twice", limit=RateLimit(1, 60))
            assert await client.call("double", 2) == 4
            assert await client.call("twice", 2) == 4
            with pytest.raises(RateLimitError):
                await client.call("twice", 2)
            with pytest.raises(ValueError, match="already"):
                handler.register_rpc_method(double)
            assert handler.rpc_methods["double"].describe()["doc"] == "Twice."
            assert set(handler.rpc_methods) == {"double", "twice"}


def test_wrong_targets_are_refused_at_once() -> None:
    class BadHint(WebSocketHandler):
        @rpc_method()
        async def method(self, connection: ClientConnection, value: trio.Event) -> None: ...

    with pytest.raises(TypeError, match="value"):
        WebSocketServer(BadHint)
    with pytest.raises(TypeError, match="handler must be a WebSocketHandler"):
        WebSocketClient("ws://test/", handler=print)  # type: ignore[arg-type]


async def test_a_connection_that_is_not_accepted_says_so(autojump_clock: MockClock) -> None:
    said: list[str] = []

    class Early(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            try:
                await connection.call("anything")
            except RuntimeError as exc:
                said.append(str(exc))

    async with serving_in_memory(Early()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()):
            pass
    assert len(said) == 1
    assert "accept" in said[0]
