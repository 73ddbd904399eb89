"""Calls, streams, sessions, access and limits with `trio_ws.compat.webshocket`, over sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable  # noqa: TC003 - annotations of methods are read
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import trio_ws
from tests.support.serving import guard
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import ClientConnection, Packet, PacketSource, RPCErrorCode
from trio_ws.testing import MemoryListener


class Handler(webshocket.WebSocketHandler[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.stream_ended = trio.Event()

    async def on_receive(self, connection: ClientConnection[Any], packet: Packet[Any]) -> None:
        connection.send({"echo": packet.data, "source": int(packet.source)})

    @webshocket.rpc_method()
    async def add(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method(alias_name="multiply")
    async def mul(self, connection: ClientConnection[Any], a: int, b: int) -> int:
        return a * b

    @webshocket.rpc_method()
    async def count_to(self, connection: ClientConnection[Any], n: int) -> AsyncIterator[int]:
        try:
            for i in range(1, n + 1):
                yield i
                await trio.sleep(0)
        finally:
            self.stream_ended.set()

    @webshocket.rpc_method()
    async def fail_midway(self, connection: ClientConnection[Any]) -> AsyncIterator[str]:
        yield "one"
        raise ValueError("not my day")

    @webshocket.rpc_method()
    async def fail(self, connection: ClientConnection[Any]) -> None:
        raise ValueError("not my day")

    @webshocket.rpc_method()
    async def refuse(self, connection: ClientConnection[Any]) -> None:
        raise webshocket.RPCError("come back tomorrow")

    @webshocket.rpc_method()
    async def unencodable(self, connection: ClientConnection[Any]) -> object:
        return object()

    @webshocket.rpc_method()
    async def login(self, connection: ClientConnection[Any], username: str) -> str:
        connection.username = username
        connection.is_admin = username == "root"
        return f"Logged in as {username}"

    @webshocket.rpc_method()
    async def whoami(self, connection: ClientConnection[Any]) -> list[object]:
        return [connection.username, connection["username"], connection.session_state["username"]]

    @webshocket.rpc_method(requires=webshocket.Is("is_admin"))
    async def secret(self, connection: ClientConnection[Any]) -> str:
        return "secret"

    @webshocket.rpc_method(requires=webshocket.Is("is_admin"))
    async def secrets(self, connection: ClientConnection[Any]) -> AsyncIterator[str]:
        yield "secret"

    @webshocket.rate_limit(limit=2)
    @webshocket.rpc_method()
    async def twice(self, connection: ClientConnection[Any]) -> str:
        return "done"

    @webshocket.rpc_method()
    @webshocket.rate_limit(limit=1, period="1m", disconnect_on_limit_exceeded=True)
    async def once(self, connection: ClientConnection[Any]) -> AsyncIterator[str]:
        yield "done"

    @webshocket.rpc_method()
    @webshocket.rate_limit(limit=0, period="1m")
    async def never(self, connection: ClientConnection[Any]) -> None: ...

    @webshocket.rpc_method()
    async def anything(self, connection: ClientConnection[Any], value: complex) -> str:
        return type(value).__name__

    @webshocket.rpc_method()
    async def sleep(self, connection: ClientConnection[Any], seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        finally:
            self.ended.append("sleep")

    async def hidden(self, connection: ClientConnection[Any]) -> None: ...


def state_of(what: Any) -> Any:
    """Return its state. Without this function, type checkers assume the state of an earlier assert."""
    return what.state


async def until(condition: Callable[[], object]) -> None:
    """Poll until a condition holds."""
    with trio.fail_after(guard()):
        while not condition():
            await trio.sleep(0.001)


@asynccontextmanager
async def serving(
    handler: Any = Handler, **kwargs: Any
) -> AsyncIterator[tuple[webshocket.WebSocketServer[Any], webshocket.WebSocketClient]]:
    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=handler, **kwargs) as server:
            async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}") as client:
                yield server, client


@asynccontextmanager
async def serving_in_memory(
    handler: Any = Handler, **kwargs: Any
) -> AsyncIterator[tuple[webshocket.WebSocketServer[Any], webshocket.WebSocketClient]]:
    """The same under the mock clock."""
    listener = MemoryListener()
    server = webshocket.WebSocketServer("memory", 1, clientHandler=handler, **kwargs)
    async with trio.open_nursery() as nursery:
        await server.start(nursery=nursery, listeners=[listener])
        client = webshocket.WebSocketClient("ws://test/")
        await client.connect(nursery=nursery, stream=listener.connect)
        yield server, client
        await client.close()
        await server.close()


async def test_a_call() -> None:
    async with serving() as (_, client):
        response = await client.send_rpc("add", 10, 20)
        assert isinstance(response, webshocket.RPCResponse)
        assert (response.data, response.response, response.error) == (30, 30, None)
        assert (await client.send_rpc("add", a=1, b=2)).data == 3
        assert (await client.send_rpc("multiply", 3, 7)).data == 21


@pytest.mark.parametrize(
    ("method", "args", "code", "text"),
    [
        ("mul", (3, 7), RPCErrorCode.METHOD_NOT_FOUND, "RPC method 'mul' not found."),
        ("hidden", (), RPCErrorCode.METHOD_NOT_FOUND, "RPC method 'hidden' not found."),
        ("add", (1,), RPCErrorCode.INVALID_PARAMS, "b"),
        ("add", (1, 2, 3), RPCErrorCode.INVALID_PARAMS, "at most 2"),
        ("add", (1, "two"), RPCErrorCode.INVALID_PARAMS, "b"),
        ("fail", (), RPCErrorCode.INTERNAL_SERVER_ERROR, "Server error (ValueError): not my day"),
        ("refuse", (), RPCErrorCode.APPLICATION_ERROR, "come back tomorrow"),
        ("secret", (), RPCErrorCode.ACCESS_DENIED, "Access denied for RPC method 'secret'."),
        ("never", (), RPCErrorCode.RATE_LIMIT_EXCEEDED, "rate limit"),
    ],
)
async def test_how_a_call_fails(method: str, args: tuple[Any, ...], code: RPCErrorCode, text: str) -> None:
    async with serving() as (_, client):
        response = await client.send_rpc(method, *args)
        assert response.error is code
        assert text in response.response
        assert (await client.send_rpc("add", 1, 1)).data == 2


async def test_a_result_that_cannot_be_encoded_is_an_error() -> None:
    async with serving() as (_, client):
        assert (await client.send_rpc("unencodable")).error is RPCErrorCode.INTERNAL_SERVER_ERROR


async def test_the_text_of_an_exception_may_stay_on_the_server() -> None:
    class Discreet(Handler):
        send_error_text = False

    async with serving(Discreet) as (_, client):
        response = await client.send_rpc("fail")
        assert response.error is RPCErrorCode.INTERNAL_SERVER_ERROR
        assert "not my day" not in response.response
        (*_, last) = [item async for item in client.stream_rpc("fail_midway")]
        assert "not my day" not in last.response


async def test_an_annotation_that_cannot_be_held_to_is_ignored() -> None:
    async with serving() as (_, client):
        assert (await client.send_rpc("anything", [1])).data == "list"


async def test_a_stream() -> None:
    async with serving() as (_, client):
        items = [packet async for packet in client.stream_rpc("count_to", 5)]
        assert [item.data for item in items] == [1, 2, 3, 4, 5]
        assert all(item.is_stream and item.error is None and not item.is_end for item in items)
        assert len({item.call_id for item in items}) == 1


async def test_leaving_a_stream_ends_the_method() -> None:
    async with serving() as (server, client):
        async for packet in client.stream_rpc("count_to", 1_000_000):
            if packet.data == 3:
                break
        await server.handler.stream_ended.wait()
        assert (await client.send_rpc("add", 1, 1)).data == 2


async def test_how_a_stream_fails() -> None:
    async with serving() as (_, client):
        items = [item async for item in client.stream_rpc("fail_midway")]
        assert [item.response for item in items] == ["one", "Stream aborted: not my day"]
        assert items[-1].error is RPCErrorCode.INTERNAL_SERVER_ERROR
        assert items[-1].is_end
        (denied,) = [item async for item in client.stream_rpc("secrets")]
        assert denied.error is RPCErrorCode.ACCESS_DENIED
        (missing,) = [item async for item in client.stream_rpc("nothing")]
        assert missing.error is RPCErrorCode.METHOD_NOT_FOUND


async def test_session_state() -> None:
    async with serving() as (server, client):
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}") as other:
            assert (await client.send_rpc("login", "alice")).data == "Logged in as alice"
            assert (await other.send_rpc("login", "bob")).data == "Logged in as bob"
            assert (await client.send_rpc("whoami")).data == ["alice"] * 3
            assert {connection.username for connection in server.handler.clients} == {"alice", "bob"}
        assert (await client.send_rpc("secret")).error is RPCErrorCode.ACCESS_DENIED
        await client.send_rpc("login", "root")
        assert (await client.send_rpc("secret")).data == "secret"


async def test_any_name_can_be_session_state() -> None:
    class Names(webshocket.WebSocketHandler[Any]):
        @webshocket.rpc_method()
        async def use(self, connection: ClientConnection[Any]) -> list[Any]:
            connection.send = "taken"  # type: ignore[assignment, method-assign]
            connection["state"] = 1
            found = [connection.session_state["send"], connection.state, "state" in connection]
            del connection.state
            del connection["send"]
            for name in ("state", "send"):
                with pytest.raises(KeyError):
                    connection[name]
            with pytest.raises(AttributeError, match="nothing"):
                connection.nothing  # noqa: B018
            with pytest.raises(AttributeError, match="nothing"):
                del connection.nothing
            connection.send("still here")
            return found

    async with serving(Names) as (_, client):
        assert (await client.send_rpc("use")).data == ["taken", 1, True]
        assert (await client.recv()).data == "still here"


async def test_attributes_of_a_connection() -> None:
    found: list[Any] = []

    class Known(webshocket.WebSocketHandler[Any]):
        @webshocket.rpc_method()
        async def look(self, connection: ClientConnection[Any]) -> None:
            found.append(connection)

    async with serving(Known, max_subscribed_channels=7) as (server, client):
        await client.send_rpc("look")
        connection = found[0]
        assert connection in server.clients
        assert connection.client_type is webshocket.ClientType.FRAMEWORK
        assert connection.connection_state == webshocket.ConnectionState.CONNECTED
        assert connection.max_subscribed_channels == 7
        assert connection.remote_address[0] == "127.0.0.1"
        assert connection.uid.version == 4
        assert connection.logger.name == "webshocket.connection"
        assert connection.subscribed_channel == set()
        assert connection.request.target == "/"
        assert str(connection.uid) in repr(connection)
        await client.close()
        await until(lambda: not server.clients)
        assert connection.connection_state == webshocket.ConnectionState.DISCONNECTED
        with pytest.raises(webshocket.ConnectionClosedError):
            connection.send("too late")


async def test_rate_limits(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as (_, client):
        assert [(await client.send_rpc("twice")).error for _ in range(2)] == [None, None]
        refused = await client.send_rpc("twice")
        assert refused.error is RPCErrorCode.RATE_LIMIT_EXCEEDED
        assert refused.response == "Rate limit exceeded for RPC method 'twice'."
        with pytest.raises(webshocket.RateLimitError):
            await client.send_rpc("twice", raise_on_rate_limit=True)
        await trio.sleep(1)
        assert (await client.send_rpc("twice")).error is None


async def test_a_rate_limit_of_a_stream_closes_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as (_, client):
        assert [item.data async for item in client.stream_rpc("once")] == ["done"]
        with pytest.raises(webshocket.RateLimitError):
            async for _ in client.stream_rpc("once"):
                pass
        await until(lambda: client.state is not webshocket.ConnectionState.CONNECTED)
        assert state_of(client) is webshocket.ConnectionState.DISCONNECTED


async def test_a_rate_limit_of_a_stream_need_not_raise(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as (_, client):
        assert [item.data async for item in client.stream_rpc("once")] == ["done"]
        (item,) = [item async for item in client.stream_rpc("once", raise_on_rate_limit=False)]
        assert item.error is RPCErrorCode.RATE_LIMIT_EXCEEDED


async def test_a_call_takes_30_seconds_at_most(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory() as (server, client):
        before = trio.current_time()
        with pytest.raises(webshocket.RPCTimeoutError) as caught:
            await client.send_rpc("sleep", 100)
        assert trio.current_time() - before == pytest.approx(30, abs=0.1)
        assert isinstance(caught.value, webshocket.TimeoutError)
        await until(lambda: server.handler.ended)
        assert trio.current_time() - before < 31


async def test_calls_that_run_at_once_are_limited(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory(rpc_task_limit=2) as (_, client):
        before = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.send_rpc, "sleep", 1)
        assert trio.current_time() - before == pytest.approx(3, abs=0.1)


async def test_methods_come_while_it_serves() -> None:
    @webshocket.rpc_method(alias_name="say_my_name")
    async def say(connection: ClientConnection[Any]) -> str:
        return "Heisenberg"

    @webshocket.rpc_method()
    async def say_another(connection: ClientConnection[Any]) -> str:
        return "Walter"

    async with serving() as (server, client):
        server.register_rpc_method(say)
        assert (await client.send_rpc("say_my_name")).data == "Heisenberg"
        server.handler.register_rpc_method(say_another, "say_my_name")
        assert (await client.send_rpc("say_my_name")).data == "Walter"


async def test_a_browser_speaks_json_in_binary_frames() -> None:
    async with serving() as (server, _):
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            request = {"type": "request", "method": "add", "args": [10, 20], "kwargs": {}}
            await ws.send_text(json.dumps({"rpc": request, "source": 5}))
            answer = json.loads(await ws.receive_bytes())
            assert answer["rpc"]["response"] == 30
            for text, source in (('{"source": 4, "data": 1}', 4), ("no JSON", 3), ('{"a": 1}', 3)):
                await ws.send_text(text)
                answer = json.loads(await ws.receive_bytes())
                assert answer["data"]["source"] == source
                assert answer["source"] == PacketSource.CUSTOM


async def test_our_own_client_may_call() -> None:
    async with serving() as (server, _):
        async with trio_ws.WebSocketClient(f"ws://127.0.0.1:{server.port}") as client:
            assert client.dialect == "trio-ws.v1"
            assert await client.call("add", 1, 2) == 3
            async with client.stream("count_to", 1000, items=int) as numbers:
                assert [number async for number in numbers] == list(range(1, 1001))
