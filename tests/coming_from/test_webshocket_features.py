"""Programs for the statements of webshocket's page of features, with `trio_ws.compat.webshocket`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

import trio_ws
from tests.coming_from.forms import in_compat
from tests.compat.test_webshocket_calls import serving, serving_in_memory, until
from tests.compat.test_webshocket_lives import test_tls, test_trying_again
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import RPCErrorCode

USED = (test_tls, test_trying_again)  # run there


class Handler(webshocket.WebSocketHandler):
    @webshocket.rpc_method()
    async def add(self, connection: webshocket.ClientConnection, a: int, b: int) -> int:
        return a + b

    @webshocket.rpc_method(alias_name="multiply")
    async def mul(self, connection: webshocket.ClientConnection, a: int, b: int) -> int:
        return a * b

    @webshocket.rpc_method()
    async def count_to(self, connection: webshocket.ClientConnection, n: int) -> Any:
        for i in range(1, n + 1):
            yield i
            await trio.sleep(0)

    @webshocket.rpc_method()
    async def login(self, connection: webshocket.ClientConnection, username: str) -> str:
        connection.username = username
        connection.is_admin = False
        return f"Logged in as {username}"

    @webshocket.rpc_method()
    async def whoami(self, connection: webshocket.ClientConnection) -> Any:
        return connection.username

    @webshocket.rpc_method()
    async def set(self, connection: webshocket.ClientConnection, key: str, value: Any) -> Any:
        connection[key] = value
        return connection[key]

    @webshocket.rpc_method()
    async def join(self, connection: webshocket.ClientConnection, room: str) -> str:
        connection.subscribe(room)
        return f"Joined {room}"

    @webshocket.rpc_method()
    async def send_message(self, connection: webshocket.ClientConnection, room: str, msg: str) -> None:
        self.publish(room, {"user": connection.username, "msg": msg}, exclude=(connection,))

    @webshocket.rate_limit(limit=5, period="1m")
    @webshocket.rpc_method()
    async def expensive_query(self, connection: webshocket.ClientConnection, q: str) -> str:
        return q

    @webshocket.rate_limit(limit=2, period="10s", disconnect_on_limit_exceeded=True)
    @webshocket.rpc_method()
    async def chat(self, connection: webshocket.ClientConnection, msg: str) -> str:
        return msg

    @webshocket.rpc_method(requires=webshocket.Is("is_admin"))
    async def admin_action(self, connection: webshocket.ClientConnection) -> str:
        return "Secret data"

    @webshocket.rpc_method(
        requires=webshocket.All(webshocket.Has("username"), webshocket.IsEqual("role", "editor"))
    )
    async def edit(self, connection: webshocket.ClientConnection, doc_id: str) -> str:
        return f"Editing {doc_id}"


def another(server: webshocket.WebSocketServer[Any]) -> webshocket.WebSocketClient:
    return webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}")


@in_compat
async def test_f01_methods() -> None:
    """`@rpc_method()` lets clients call a method of a handler by its name."""
    async with serving(Handler) as (_, client):
        assert (await client.send_rpc("add", 10, 20)).data == 30


@in_compat
async def test_f02_alias() -> None:
    """Clients call a method by its `alias_name`, and not by the name of the function."""
    async with serving(Handler) as (_, client):
        assert (await client.send_rpc("multiply", 3, 7)).data == 21
        assert (await client.send_rpc("mul", 3, 7)).error is RPCErrorCode.METHOD_NOT_FOUND


@in_compat
async def test_f03_client_block() -> None:
    """`async with WebSocketClient(uri) as client` connects; leaving the block closes."""
    async with serving(Handler) as (server, _):
        async with another(server) as client:
            assert client.state.name == "CONNECTED"
        assert client.state.name == "CLOSED"


@in_compat
async def test_f04_streams() -> None:
    """An async generator method is a stream: `async for packet in client.stream_rpc(...)`, `packet.data`."""
    async with serving(Handler) as (_, client):
        assert [packet.data async for packet in client.stream_rpc("count_to", 5)] == [1, 2, 3, 4, 5]


@in_compat
async def test_f05_session_state() -> None:
    """Attributes of a connection are session state, which lasts as long as the connection."""
    async with serving(Handler) as (_, client):
        assert (await client.send_rpc("login", "alice")).data == "Logged in as alice"
        assert (await client.send_rpc("whoami")).data == "alice"


@in_compat
async def test_f06_state_is_cleaned_up() -> None:
    """The next connection of the same client starts without session state."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("login", "alice")
        await client.close()
        await until(lambda: not server.clients)
        await client.connect()
        assert (await client.send_rpc("whoami")).error is RPCErrorCode.INTERNAL_SERVER_ERROR


@in_compat
async def test_f07_state_by_key() -> None:
    """`connection["username"]` is the same as `connection.username`."""
    async with serving(Handler) as (_, client):
        assert (await client.send_rpc("set", "username", "alice")).data == "alice"
        assert (await client.send_rpc("whoami")).data == "alice"


@in_compat
async def test_f08_channels() -> None:
    """`connection.subscribe(room)` and `self.publish(room, data)`."""
    async with serving(Handler) as (server, client):
        assert (await client.send_rpc("join", "lobby")).data == "Joined lobby"
        server.publish("lobby", 1)
        assert (await client.recv()).data == 1


@in_compat
async def test_f09_exclude() -> None:
    """`exclude=(connection,)` keeps a message from its sender."""
    async with serving(Handler) as (server, ada):
        async with another(server) as bob:
            for client, name in ((ada, "ada"), (bob, "bob")):
                await client.send_rpc("login", name)
                await client.send_rpc("join", "lobby")
            await ada.send_rpc("send_message", "lobby", "hi")
            await bob.send_rpc("send_message", "lobby", "hello")
            assert (await ada.recv()).data == {"user": "bob", "msg": "hello"}
            assert (await bob.recv()).data == {"user": "ada", "msg": "hi"}


@in_compat
async def test_f10_globs() -> None:
    """Globs with `*`, `?` and `[]` subscribe to all channels that match."""
    async with serving(Handler) as (server, client):
        for glob in ("news.*", "sport.?", "market.[AB]"):
            await client.send_rpc("join", glob)
        for number, name in enumerate(["news.tech", "sport.1", "sport.12", "market.A", "market.C"]):
            server.publish(name, number)
        assert [(await client.recv()).data for _ in range(3)] == [0, 1, 3]


@in_compat
async def test_f11_broadcast() -> None:
    """`broadcast()` reaches all clients, subscribed or not; a predicate filters them."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("set", "is_admin", False)
        server.broadcast("Admin notice", predicate=webshocket.Is("is_admin"))
        server.broadcast("Server is shutting down in 5 minutes")
        packet = await client.recv()
        assert (packet.source, packet.data) == (
            webshocket.PacketSource.BROADCAST,
            "Server is shutting down in 5 minutes",
        )


@in_compat
async def test_f12_rate_limit(autojump_clock: trio.testing.MockClock) -> None:
    """`@rate_limit(limit=5, period="1m")` limits calls; further ones get RATE_LIMIT_EXCEEDED."""
    async with serving_in_memory(Handler) as (_, client):
        errors = [(await client.send_rpc("expensive_query", "x")).error for _ in range(6)]
        assert errors == [None] * 5 + [RPCErrorCode.RATE_LIMIT_EXCEEDED]
        await trio.sleep(60)
        assert (await client.send_rpc("expensive_query", "x")).error is None


@in_compat
async def test_f13_disconnect() -> None:
    """`disconnect_on_limit_exceeded=True` closes the connection after the error was sent."""
    async with serving(Handler) as (_, client):
        for _ in range(2):
            await client.send_rpc("chat", "x")
        assert (await client.send_rpc("chat", "x")).error is RPCErrorCode.RATE_LIMIT_EXCEEDED
        await until(lambda: client.state is webshocket.ConnectionState.DISCONNECTED)


@in_compat
@pytest.mark.parametrize("period", ["30s", "5m", "1h"])
def test_f14_periods(period: str) -> None:
    """Periods are written "30s", "5m", "1h"."""

    @webshocket.rate_limit(limit=1, period=period)
    @webshocket.rpc_method()
    async def method(connection: webshocket.ClientConnection) -> None: ...

    with pytest.raises(ValueError, match="period"):
        webshocket.rate_limit(limit=1, period=f"{period}x")


@in_compat
async def test_f15_access() -> None:
    """`requires=` is a predicate; a client for which it is false gets ACCESS_DENIED."""
    async with serving(Handler) as (_, client):
        assert (await client.send_rpc("admin_action")).error is RPCErrorCode.ACCESS_DENIED
        await client.send_rpc("set", "is_admin", True)
        assert (await client.send_rpc("admin_action")).data == "Secret data"


@in_compat
async def test_f16_composed() -> None:
    """`All` and `Any` compose predicates."""
    async with serving(Handler) as (_, client):
        await client.send_rpc("login", "alice")
        assert (await client.send_rpc("edit", "7")).error is RPCErrorCode.ACCESS_DENIED
        await client.send_rpc("set", "role", "editor")
        assert (await client.send_rpc("edit", "7")).data == "Editing 7"


@in_compat
async def test_f17_publish_predicate() -> None:
    """`publish(..., predicate=IsEqual("region", "us-east"))` filters subscribers."""
    async with serving(Handler) as (server, client):
        await client.send_rpc("join", "alerts")
        server.publish("alerts", 1, predicate=webshocket.IsEqual("region", "us-east"))
        await client.send_rpc("set", "region", "us-east")
        server.publish("alerts", 2, predicate=webshocket.IsEqual("region", "us-east"))
        assert (await client.recv()).data == 2


@in_compat
async def test_f18_retry(autojump_clock: trio.testing.MockClock) -> None:
    """`connect(retry=True, max_retry_attempt=5, retry_interval=2)` retries with increasing delays, also after a loss."""
    async with serving_in_memory(Handler) as (_server, _):
        tries = 0

        async def reach() -> trio.abc.Stream:
            nonlocal tries
            tries += 1
            if tries in (1, 3):
                raise OSError("not now")
            return await first.pop().connect()

        from trio_ws.testing import MemoryListener  # noqa: PLC0415

        listener = MemoryListener()
        first = [listener, listener]
        other = webshocket.WebSocketServer("memory", 1, clientHandler=Handler)
        await other.start(listeners=[listener])
        client = webshocket.WebSocketClient("ws://test/")
        await client.connect(retry=True, max_retry_attempt=5, retry_interval=2, stream=reach)
        assert (await client.send_rpc("add", 1, 2)).data == 3
        (connection,) = other.clients
        connection.close(1012)
        await until(lambda: other.clients and connection not in other.clients)
        assert (await client.send_rpc("add", 1, 2)).data == 3
        assert tries == 4
        await client.close()
        await other.close()


@in_compat
async def test_f19_tls() -> None:
    """`ssl_context=` enables TLS on both sides."""
    await test_tls()


@in_compat
async def test_f20_other_languages() -> None:
    """JSON packets of any WebSocket client are answered, in binary frames."""
    async with serving(Handler) as (server, _):
        async with trio_ws.connect(f"ws://127.0.0.1:{server.port}") as ws:
            rpc = {"type": "request", "method": "add", "args": [10, 20], "kwargs": {}}
            await ws.send(json.dumps({"rpc": rpc, "source": 5}))
            assert json.loads(await ws.receive_bytes())["rpc"]["response"] == 30
