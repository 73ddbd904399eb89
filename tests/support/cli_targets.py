"""The targets of ``trio-ws serve`` in tests: one App with a route for each case of the commands."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - methods' annotations are read while the program runs
from typing import Any

import trio

import trio_ws

app = trio_ws.App()


@app.websocket("/echo")
async def echo(ws: trio_ws.WebSocket) -> None:
    """Echo all messages."""
    async for message in ws:
        await ws.send(message)


@app.websocket("/shout")
async def shout(ws: trio_ws.WebSocket) -> None:
    """Answer each message with another one."""
    async for message in ws:
        await ws.send(f"{message.text}!")


@app.websocket("/flood")
async def flood(ws: trio_ws.WebSocket) -> None:
    """Answer the first message with a thousand copies of it."""
    message = await ws.receive()
    for _ in range(1000):
        await ws.send(message)
    await mute(ws)


@app.websocket("/mute")
async def mute(ws: trio_ws.WebSocket) -> None:
    """Receive all messages, and send none."""
    async for _ in ws:
        pass


@app.websocket("/refuse")
async def refuse(ws: trio_ws.WebSocket) -> None:
    """Reject the client with 403."""
    await ws.reject(403, body=b"members only\n")


@app.websocket("/headers")
async def headers(ws: trio_ws.WebSocket) -> None:
    """Send the headers of the opening request."""
    await ws.accept(
        subprotocol="chat.v1" if "chat.v1" in (ws.header("Sec-WebSocket-Protocol") or "") else None
    )
    await ws.send(f"{ws.header('X-Name')} {ws.subprotocol}")
    await ws.recv()


@app.websocket("/bye")
async def bye(ws: trio_ws.WebSocket) -> None:
    """Send control characters, and close after one message."""
    await ws.send("\x1b[31mred")
    await ws.send(b"\x00\xff")
    await ws.recv()
    await ws.close(4000, "enough")


class Calls(trio_ws.WebSocketHandler):
    """Methods of every kind."""

    list_methods = True
    client_globs = True

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith("news")

    async def on_receive(self, connection: trio_ws.ClientConnection, packet: trio_ws.Packet) -> None:
        await connection.send(packet.data)

    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int = 1) -> int:
        """Add two numbers.

        The second is 1 by default.
        """
        return a + b

    @trio_ws.rpc_method()
    def same(self, connection: trio_ws.ClientConnection, *values: Any, **named: Any) -> Any:
        return [list(values), named]

    @trio_ws.rpc_method()
    def text(self, connection: trio_ws.ClientConnection) -> str:
        return "two\nlines \x1b[2J"

    @trio_ws.rpc_method()
    async def count_to(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(1, n + 1):
            yield number
        if n == 3:
            raise trio_ws.RPCError("three is enough", code=7)

    @trio_ws.rpc_method()
    async def wait(self, connection: trio_ws.ClientConnection) -> None:
        await connection.send("it waits")
        await trio.sleep_forever()

    @trio_ws.rpc_method()
    async def tell(self, connection: trio_ws.ClientConnection, channel: str, data: Any) -> int:
        return self.publish(channel, data)

    @trio_ws.rpc_method()
    async def dismiss(self, connection: trio_ws.ClientConnection, channel: str) -> None:
        for client in self.clients:
            if channel in client.subscribed_channel:
                await client.close(1000)

    @trio_ws.rpc_method()
    async def hang_up(self, connection: trio_ws.ClientConnection, code: int) -> None:
        await connection.close(code, "hung up")

    @trio_ws.rpc_method(requires=trio_ws.Has("admin"))
    async def secret(self, connection: trio_ws.ClientConnection) -> None: ...


class Silent(trio_ws.WebSocketHandler):
    """Methods that are not listed."""

    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count_to(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(1, n + 1):
            yield number


app.mount("/rpc", Calls)
app.mount("/silent", Silent)


async def broken(ws: trio_ws.WebSocket) -> None:
    """Raise an exception that the command must not confuse with an error of its own."""
    await ws.recv()
    raise FileNotFoundError("the list of users")


NUMBER = 7

#: Not a target: it has one.
server = trio_ws.WebSocketServer(echo, 0)
