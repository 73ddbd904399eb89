"""Honest clients of a server that is attacked, and the server itself.

Invariants: an honest client checks everything that it receives. None of its operations may take longer than
`PATIENCE`, whatever the attackers do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read
from typing import TYPE_CHECKING, Any

import trio

from trio_ws import (
    App,
    ClientConnection,
    Request,
    RPCError,
    WebSocket,
    WebSocketClient,
    WebSocketError,
    WebSocketHandler,
    WebSocketMessage,
    connect,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws import Packet

__all__ = ["Methods", "call_for_ever", "echo", "echo_for_ever", "get_for_ever", "listener", "site"]

#: Seconds that one operation of an honest client may take.
PATIENCE = 2.0
#: Seconds between two operations of an honest client.
PAUSE = 1.0


class Methods(WebSocketHandler):
    """Methods of every kind, and the number of running ones."""

    client_globs = True
    list_methods = True
    channel_policy = "drop_oldest"

    def __init__(self) -> None:
        self.running = self.connected = self.disconnected = 0

    async def on_connect(self, connection: ClientConnection) -> None:
        await trio.sleep(0.1)
        self.connected += 1

    async def on_disconnect(self, connection: ClientConnection) -> None:
        self.disconnected += 1

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await trio.sleep(0.05)

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return not name.startswith("honest")

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any = None) -> Any:
        return value

    @rpc_method()
    def plain(self, connection: ClientConnection, value: Any = None) -> Any:
        return value

    @rpc_method()
    def page(self, connection: ClientConnection, value: Any = None) -> str:
        return "x" * 600

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: Any = None) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1

    @rpc_method()
    async def fail(self, connection: ClientConnection, value: Any = None) -> None:
        raise RPCError("as it should", data=value)

    @rpc_method()
    async def pages(self, connection: ClientConnection) -> AsyncIterator[str]:
        self.running += 1
        try:
            while True:
                yield "x" * 100
                await trio.sleep(0.05)  # otherwise no time would pass under a mock clock
        finally:
            self.running -= 1

    @rpc_method()
    async def numbers(self, connection: ClientConnection, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @rpc_method()
    async def keep(self, connection: ClientConnection, items: AsyncIterator[Any]) -> None:
        self.running += 1
        try:
            await trio.sleep_forever()
        finally:
            self.running -= 1

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[Any]) -> int:
        self.running += 1
        try:
            return len([item async for item in items])
        finally:
            self.running -= 1

    @rpc_method()
    async def ask(self, connection: ClientConnection, value: Any = None) -> str:
        """Call the client, and consume a stream from it."""
        self.running += 1
        try:
            answer = await connection.call("anything", value)
            async with connection.stream("more") as items:
                return f"{answer!r:.10} {len([item async for item in items])}"
        except WebSocketError as exc:
            return type(exc).__name__
        finally:
            self.running -= 1

    @rpc_method()
    def tell(self, connection: ClientConnection, channel: str, data: Any = None) -> int:
        try:
            return self.publish(channel, data)
        except ValueError as exc:
            raise RPCError("no channel goes by this name") from exc

    @rpc_method()
    def join(self, connection: ClientConnection, name: str) -> bool:
        return name.startswith("honest ") and connection.subscribe(name, policy="disconnect")


async def echo(ws: WebSocket) -> None:
    """Echo all messages."""
    async for message in ws:
        await ws.send(message)


def listener(methods: Methods) -> App:
    """Return an App with a message listener that echoes, some messages after a pause."""
    app = App()

    async def on_connect(ws: WebSocket) -> None:
        await methods.on_connect(ws)  # type: ignore[arg-type]

    async def on_disconnect(ws: WebSocket) -> None:
        await methods.on_disconnect(ws)  # type: ignore[arg-type]

    @app.listener("/", on_connect=on_connect, on_disconnect=on_disconnect)
    async def send_back(ws: WebSocket, data: WebSocketMessage) -> WebSocketMessage:
        methods.running += 1
        try:
            if len(data.payload) % 3 == 1:
                await trio.sleep(0.01)
        finally:
            methods.running -= 1
        return data

    return app


def site(methods: Methods) -> App:
    """Return an App with all of these, and HTTP routes."""
    app = App()
    app.websocket("/")(echo)
    app.mount("/calls", methods)

    @app.http("/page")
    async def page(request: Request) -> str:
        return "x" * 5000

    @app.http("/post", methods=["POST"])
    async def post(request: Request) -> int:
        return len(request.body)

    return app


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def rounds(one: Callable[[int], Awaitable[None]], stop: trio.Event) -> None:
    """Repeat an operation until the attackers have disconnected, and once more."""
    number, last = 0, False
    while not last:
        last = stop.is_set()
        with trio.fail_after(PATIENCE):
            await one(number)
        number += 1
        with trio.move_on_after(PAUSE):
            await stop.wait()


async def echo_for_ever(stream: trio.abc.Stream, stop: trio.Event, **options: Any) -> None:
    """Be an honest client of the echo."""
    async with connect("ws://localhost/", stream=stream, proxy=None, **options) as ws:

        async def one(number: int) -> None:
            text = f"{number}" * 100
            await ws.send(text)
            assert await ws.receive_text() == text
            await ws.ping()

        await rounds(one, stop)


async def call_for_ever(
    stream: trio.abc.Stream, path: str, dialect: str, methods: Methods, stop: trio.Event, **options: Any
) -> None:
    """Be an honest client of the methods."""
    full = dialect == "trio-ws.v1"
    async with WebSocketClient(
        f"ws://localhost{path}", stream=stream, dialect=dialect, proxy=None, **options
    ) as client:
        assert await client.call("join", f"honest {dialect}")

        async def one(number: int) -> None:
            assert await client.call("echo", [number]) == [number]
            assert await client.call("plain", number, returns=int) == number
            async with client.stream("numbers", 7, items=int) as items:
                assert [item async for item in items] == list(range(7))
            if full:
                assert await client.call("total", numbers(7)) == 7
            methods.publish(f"honest {dialect}", number)
            packet = await client.recv()
            assert packet is not None
            assert packet.data == number

        await rounds(one, stop)


async def get_for_ever(dial: Callable[[], Awaitable[trio.abc.Stream]], stop: trio.Event) -> None:
    """Be an honest client of plain HTTP, with a new connection for each request."""

    async def one(number: int) -> None:
        stream = await dial()
        async with stream:
            await stream.send_all(b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
            data = bytearray()
            async for piece in stream:
                data += piece
        assert data.startswith(b"HTTP/1.1 200 "), bytes(data[:100])
        assert data.endswith(b"x" * 5000)

    await rounds(one, stop)
