"""The start and end of servers, clients and connections of `trio_ws.compat.webshocket`."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.compat.test_webshocket_calls import serving, serving_in_memory, state_of, until
from tests.support.serving import all_tasks, guard
from trio_ws import Options, TLSInfo
from trio_ws.compat import webshocket
from trio_ws.compat.webshocket import ClientConnection, ConnectionState, Packet, PacketSource, ServerState
from trio_ws.testing import MemoryListener

ROOT = Path(__file__).parents[2]


def url_of(server: webshocket.WebSocketServer[Any], scheme: str = "ws") -> str:
    return f"{scheme}://127.0.0.1:{server.port}"


async def test_outside_of_a_block() -> None:
    before = all_tasks()
    server = webshocket.WebSocketServer("127.0.0.1", 0)
    assert server.state == 1
    assert await server.start() is server
    assert await server.start() is server
    assert state_of(server) is ServerState.SERVING
    client = webshocket.WebSocketClient(url_of(server))
    assert state_of(client) is ConnectionState.DISCONNECTED
    assert await client.connect() is client
    assert state_of(client) is ConnectionState.CONNECTED
    connection = await server.accept()
    client.send("Hello")
    assert (await connection.recv()).data == "Hello"
    connection.send({"hello": "world"})
    packet = await client.recv()
    assert packet == Packet(PacketSource.CUSTOM, {"hello": "world"})
    await client.close()
    assert state_of(client) is ConnectionState.CLOSED
    with pytest.raises(webshocket.ConnectionClosedError, match="client is not connected"):
        await connection.recv()
    await server.close()
    assert state_of(server) is ServerState.CLOSED
    await server.close()
    await client.close()
    await trio.testing.wait_all_tasks_blocked()
    assert all_tasks() == before


async def test_a_server_and_a_client_may_begin_again() -> None:
    server = webshocket.WebSocketServer("127.0.0.1", 0)
    client = webshocket.WebSocketClient("ws://127.0.0.1")
    for _ in range(2):
        server.port = 0
        await server.start()
        client.uri = url_of(server)
        await client.connect()
        await client.connect()
        client.send("again")
        await until(lambda: len(server.clients) == 1)
        connection = await server.accept()
        if connection not in server.clients:
            connection = await server.accept()
        assert (await connection.recv()).data == "again"
        await server.close()
        await until(lambda: client.state is not ConnectionState.CONNECTED)
        assert state_of(client) is ConnectionState.DISCONNECTED


async def test_in_a_nursery_of_the_program() -> None:
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            server = webshocket.WebSocketServer("127.0.0.1", 0)
            await server.start(nursery=nursery)
            client = await webshocket.WebSocketClient(url_of(server)).connect(nursery=nursery)
            client.send(1)
            assert (await (await server.accept()).recv()).data == 1
            nursery.cancel_scope.cancel()
        assert state_of(server) is ServerState.CLOSED
        assert state_of(client) is ConnectionState.DISCONNECTED


async def test_serving_forever_begins_to_serve() -> None:
    server = webshocket.WebSocketServer("127.0.0.1", 0)
    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_forever)
            await until(lambda: server.state is ServerState.SERVING)
            async with webshocket.WebSocketClient(url_of(server)) as client:
                client.send("x")
                await (await server.accept()).recv()
            await server.close()
        with trio.move_on_after(0.01) as scope:
            await server.serve_forever()
        assert scope.cancelled_caught
        assert state_of(server) is ServerState.CLOSED
        async with server:
            nursery_ended = trio.Event()

            async def wait() -> None:
                await server.serve_forever()
                nursery_ended.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await server.close()
            assert nursery_ended.is_set()


async def test_an_address_that_cannot_be_had() -> None:
    async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
        for start in ("start", "serve_forever"):
            other = webshocket.WebSocketServer("127.0.0.1", server.port)
            with pytest.raises(OSError, match="in use"):
                await getattr(other, start)()
            assert other.state is ServerState.CLOSED
        with pytest.raises(OSError, match="in use"):
            async with webshocket.WebSocketServer("127.0.0.1", server.port):
                pass


async def test_exceptions_leave_blocks_as_they_were_raised() -> None:
    server = webshocket.WebSocketServer("127.0.0.1", 0)
    with pytest.raises(KeyError):
        async with server:
            async with webshocket.WebSocketClient(url_of(server)):
                raise KeyError
    assert state_of(server) is ServerState.CLOSED


async def test_a_server_that_is_not_there() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    client = webshocket.WebSocketClient(f"ws://127.0.0.1:{port}")
    with pytest.raises(webshocket.ConnectionFailedError) as caught:
        await client.connect()
    assert isinstance(caught.value, ConnectionRefusedError)
    assert state_of(client) is ConnectionState.DISCONNECTED
    with pytest.raises(ConnectionRefusedError):
        async with client:
            pass
    with pytest.raises(webshocket.InvalidURIError):
        await webshocket.WebSocketClient("http://127.0.0.1").connect()


async def test_trying_again(autojump_clock: trio.testing.MockClock) -> None:
    listener = MemoryListener()
    tries: list[float] = []

    async def fail() -> trio.abc.Stream:
        tries.append(trio.current_time())
        raise OSError("no route")

    client = webshocket.WebSocketClient("ws://test/")
    with pytest.raises(webshocket.ConnectionFailedError, match="All connection attempts failed"):
        await client.connect(retry=True, stream=fail)
    assert state_of(client) is ConnectionState.CLOSED
    waits = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(tries) == 3
    assert 2 <= waits[0] <= 3
    assert 4 <= waits[1] <= 5

    server = webshocket.WebSocketServer("memory", 1)

    async def start_later() -> None:
        await trio.sleep(5)
        await server.start(listeners=[listener])

    async def reach() -> trio.abc.Stream:
        if server.state is ServerState.CLOSED:
            raise OSError("not yet")
        return await listener.connect()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_later)
        await client.connect(retry=True, max_retry_attempt=5, retry_interval=1, stream=reach)
    assert state_of(client) is ConnectionState.CONNECTED

    # The page also says that it reconnects.
    first = await server.accept()
    first.close(1012, b"restart")
    assert first.connection_state == ConnectionState.CLOSED
    second = await server.accept()
    await until(lambda: client.state is ConnectionState.CONNECTED)
    client.send("again")
    assert (await second.recv()).data == "again"
    await client.close()
    await server.close()


async def test_without_a_connection() -> None:
    client = webshocket.WebSocketClient("ws://127.0.0.1:1")
    with pytest.raises(webshocket.WebSocketError, match="Cannot send data: client is not connected"):
        client.send("x")
    with pytest.raises(webshocket.WebSocketError, match="not connected"):
        await client.recv()
    with pytest.raises(webshocket.WebSocketError, match="not connected"):
        await client.send_rpc("x")
    with pytest.raises(webshocket.WebSocketError, match="not connected"):
        async for _ in client.stream_rpc("x"):
            pass
    with pytest.raises(webshocket.WebSocketError, match="server is not started"):
        await webshocket.WebSocketServer("127.0.0.1", 0).accept()


async def test_a_call_whose_connection_ends() -> None:
    class Handler(webshocket.WebSocketHandler[Any]):
        @webshocket.rpc_method()
        async def close(self, connection: ClientConnection[Any]) -> None:
            connection.close(4000, "enough")

        @webshocket.rpc_method()
        async def stream(self, connection: ClientConnection[Any]) -> Any:
            yield 1
            connection.close(4001)
            yield 2

    async with serving(Handler) as (_, client):
        with pytest.raises(webshocket.ConnectionClosedError) as caught:
            await client.send_rpc("close")
        assert (caught.value.code, caught.value.reason) == (4000, "enough")
        assert state_of(client) is ConnectionState.DISCONNECTED
        await client.connect()
        with pytest.raises(webshocket.ConnectionClosedError):
            async for _ in client.stream_rpc("stream"):
                pass


async def test_accept_is_for_the_default_handler() -> None:
    class Handler(webshocket.WebSocketHandler[Any]):
        @webshocket.rpc_method()
        async def take(self, connection: ClientConnection[Any]) -> None:
            await connection.recv()

    async with serving(Handler) as (server, client):
        with pytest.raises(TypeError, match="Cannot use manual accept"):
            await server.accept()
        response = await client.send_rpc("take")
        assert "DefaultWebSocketHandler" in response.response


async def test_accept_raises_when_the_server_closes() -> None:
    server = await webshocket.WebSocketServer("127.0.0.1", 0).start()
    failures: list[str] = []

    async def accept() -> None:
        with pytest.raises(webshocket.WebSocketError) as caught:
            await server.accept()
        failures.append(str(caught.value))

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await server.close()
    assert len(failures) == 2


async def test_a_client_that_has_left_before_it_is_accepted() -> None:
    async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
        for number in range(40):
            async with webshocket.WebSocketClient(url_of(server)) as client:
                if number % 2:
                    client.send(number)
                    await client.send_rpc("nothing")
        await until(lambda: not server.clients)
        found = [(await (await server.accept()).recv()).data for _ in range(16)]
        assert not server._to_accept
        assert found == list(range(9, 40, 2))  # the last 16 of those that sent something


async def test_receiving_takes_30_seconds_at_most(autojump_clock: trio.testing.MockClock) -> None:
    async with serving_in_memory(webshocket.DefaultWebSocketHandler) as (server, client):
        connection = await server.accept()
        for receive in (client.recv, connection.recv):
            before = trio.current_time()
            with pytest.raises(webshocket.ReceiveTimeoutError, match="after 30") as caught:
                await receive()
            assert trio.current_time() - before == pytest.approx(30, abs=0.1)
            assert isinstance(caught.value, webshocket.TimeoutError)
            with pytest.raises(webshocket.ReceiveTimeoutError, match="after 1"):
                await receive(timeout=1)
            with trio.move_on_after(1000) as scope:
                await receive(timeout=None)
            assert scope.cancelled_caught
        client.send("x")
        await client.send_rpc("nothing")
        assert (await connection.recv(timeout=0)).data == "x"


async def test_hooks() -> None:
    seen: list[str] = []

    class Handler(webshocket.WebSocketHandler[Any]):
        async def on_connect(self, connection: ClientConnection[Any]) -> None:
            seen.append(f"connect {connection in self.clients}")
            connection.send("welcome")
            packet = await connection.recv(timeout=None)
            connection.send(f"got {packet.data}")

        async def on_receive(self, connection: ClientConnection[Any], packet: Packet[Any]) -> None:
            seen.append(f"receive {packet.data}")
            connection.subscribe("room")
            connection.send(seen[-1])

        async def on_disconnect(self, connection: ClientConnection[Any]) -> None:
            seen.append(f"disconnect {connection in self.clients} {connection.connection_state.name}")
            assert connection.subscribed_channel == set()

    async with serving(Handler) as (server, client):
        assert (await client.recv()).data == "welcome"
        client.send("one")
        client.send("two")
        assert (await client.recv()).data == "got one"
        assert (await client.recv()).data == "receive two"
        assert set(server.channels) == {"room"}
        await client.close()
        await until(lambda: len(seen) == 3)
        assert seen == ["connect True", "receive two", "disconnect False DISCONNECTED"]
        assert dict(server.channels) == {}


@pytest.mark.parametrize("hook", ["on_connect", "on_receive"])
async def test_a_hook_that_fails_costs_one_connection(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    class Handler(webshocket.WebSocketHandler[Any]):
        async def on_connect(self, connection: ClientConnection[Any]) -> None:
            await self.maybe("on_connect")

        async def on_receive(self, connection: ClientConnection[Any], packet: Packet[Any]) -> None:
            await self.maybe("on_receive")

        async def maybe(self, name: str) -> None:
            if name == hook and self.breaks:
                raise ZeroDivisionError

        breaks = True

    async with serving(Handler) as (server, client):
        if hook == "on_receive":
            client.send("x")
        with pytest.raises(webshocket.ConnectionClosedError):
            await client.recv()
        await until(lambda: not server.clients)
        Handler.breaks = False
        await client.connect()
        client.send("x")
        assert (await client.send_rpc("nothing")).error is webshocket.RPCErrorCode.METHOD_NOT_FOUND
    assert "ZeroDivisionError" in caplog.text


async def test_callbacks() -> None:
    received: list[Any] = []
    both = trio.Event()

    async def on_receive(packet: Packet[Any]) -> None:
        received.append(packet.data)
        if len(received) == 2:
            both.set()

    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
            client = webshocket.WebSocketClient(url_of(server), on_receive=on_receive)
            assert client.on_receive_callback is on_receive
            await client.connect()
            other = await webshocket.WebSocketClient(url_of(server)).connect()
            other.on_receive_callback = on_receive
            server.broadcast("x")
            await until(lambda: len(server.clients) == 2)
            if not received:
                server.broadcast("x")
            server.broadcast("x")
            await both.wait()
            (await server.accept()).send("last")
            (await server.accept()).send("last")
            await server.close()
            await until(lambda: received[-2:] == ["last", "last"])
            await client.close()
            await other.close()


async def test_a_callback_that_fails_leaves_the_block() -> None:
    async def on_receive(packet: Packet[Any]) -> None:
        raise ZeroDivisionError

    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
            client = webshocket.WebSocketClient(url_of(server), on_receive)
            with pytest.raises(ZeroDivisionError):
                async with client:
                    (await server.accept()).send("x")
                    await trio.sleep_forever()
            assert state_of(client) is ConnectionState.CLOSED


async def test_a_callback_that_fails_in_the_background_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def on_receive(packet: Packet[Any]) -> None:
        raise ZeroDivisionError

    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
            client = await webshocket.WebSocketClient(url_of(server), on_receive).connect()
            connection = await server.accept()
            connection.send("x")
            await until(lambda: client.state is not ConnectionState.CONNECTED)
            with pytest.raises(webshocket.ConnectionClosedError):
                await connection.recv()
    assert "ZeroDivisionError" in caplog.text


async def test_a_callback_may_close_its_client() -> None:
    async def on_receive(packet: Packet[Any]) -> None:
        await client.close()

    with trio.fail_after(guard()):
        async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
            client = webshocket.WebSocketClient(url_of(server), on_receive)
            async with client:
                connection = await server.accept()
                connection.send("x")
                with pytest.raises(webshocket.ConnectionClosedError) as caught:
                    await connection.recv()
                assert caught.value.code == 1000
                assert state_of(client) is ConnectionState.CLOSED


async def test_a_connection_too_many_gets_503() -> None:
    async with webshocket.WebSocketServer("127.0.0.1", 0, max_connection=1) as server:
        async with webshocket.WebSocketClient(url_of(server)):
            with pytest.raises(webshocket.ConnectionFailedError, match="503"):
                await webshocket.WebSocketClient(url_of(server)).connect()


async def test_cancelled_starts_leave_nothing() -> None:
    before = all_tasks()
    async with webshocket.WebSocketServer("127.0.0.1", 0) as server:
        client = webshocket.WebSocketClient(url_of(server))
        other = webshocket.WebSocketServer("127.0.0.1", 0)
        for begin in (client.connect, other.start):
            with trio.CancelScope() as scope:
                scope.cancel()
                await begin()
            assert scope.cancelled_caught
        assert state_of(client) is ConnectionState.DISCONNECTED
        assert state_of(other) is ServerState.CLOSED
        async with trio.open_nursery() as nursery:
            pass
        for begin in (client.connect, other.start):
            with pytest.raises(RuntimeError, match="closed"):
                await begin(nursery=nursery)
        await client.close()
        await other.close()
        await client.connect()
        await client.close()
    await trio.testing.wait_all_tasks_blocked()
    assert all_tasks() == before


async def test_options_and_headers() -> None:
    server = webshocket.WebSocketServer("127.0.0.1", 0)
    async with server:
        client = webshocket.WebSocketClient(url_of(server))
        await client.connect(extra_headers={"X-Name": "ada"})
        connection = await server.accept()
        assert connection.request.headers.get("x-name") == "ada"
        await client.close()
    await server.start(options=Options(max_message_size=100))
    await client.connect()
    client.send("x" * 200)
    with pytest.raises(webshocket.WebSocketError):
        await client.recv()
    await server.close()


async def test_tls() -> None:
    import ssl  # noqa: PLC0415

    ca = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    ca.configure_trust(client_context)
    async with webshocket.WebSocketServer("127.0.0.1", 0, ssl_context=server_context) as server:
        uri = f"wss://localhost:{server.port}"
        async with webshocket.WebSocketClient(uri, ssl_context=client_context) as client:
            client.send("secure")
            connection = await server.accept()
            assert (await connection.recv()).data == "secure"
            assert isinstance(connection.request.tls, TLSInfo)
        with pytest.raises(webshocket.ConnectionFailedError):
            await webshocket.WebSocketClient(uri).connect()


PROGRAM = """
import trio
import trio_ws.compat.webshocket as webshocket

class Handler(webshocket.WebSocketHandler):
    async def on_disconnect(self, connection):
        print("left", flush=True)

    @webshocket.rpc_method()
    async def stop(self, connection):
        {stop}

async def main():
    server = webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=Handler)
    await server.start()
    client = await webshocket.WebSocketClient(f"ws://127.0.0.1:{{server.port}}").connect()
    {body}

trio.run(main)
"""


@pytest.mark.parametrize(
    ("body", "stop", "code", "output", "error"),
    [
        ("", "pass", 0, "left", ""),
        ("await client.send_rpc('stop')", "raise KeyboardInterrupt", 1, "left", "KeyboardInterrupt"),
        ("raise ValueError", "pass", 1, "left", "ValueError"),
    ],
)
async def test_unclosed_objects_end_with_the_program(
    body: str, stop: str, code: int, output: str, error: str
) -> None:
    program = PROGRAM.format(body=body, stop=stop)
    with trio.fail_after(guard()):
        done = await trio.run_process(
            [sys.executable, "-c", program],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=ROOT,
        )
    assert done.stdout.decode().split() == [output]
    text = done.stderr.decode()
    assert done.returncode == code or error == "KeyboardInterrupt", text
    assert text.rstrip().endswith(error), text
    assert "TrioInternalError" not in text
