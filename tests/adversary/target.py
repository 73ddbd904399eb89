"""The servers that attackers meet, each in a process of its own: ``python target.py KIND [--traced]``.

It prints its port, answers questions on stdin with a line of JSON each, and ends when stdin does. It imports
nothing of the tests, so that it may run with another version of the product: see ``--product`` of memory.py.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import ssl
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read
from typing import Any

import trio

import trio_ws
from trio_ws import App, ClientConnection, Options, WebSocket, WebSocketHandler, WebSocketServer, rpc_method

PAGE = "x" * 20_000


class Methods(WebSocketHandler):
    """Methods of every kind; clients may subscribe to everything, and publish."""

    client_globs = True
    list_methods = True

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: Any = None) -> Any:
        """Answer at once."""
        return value

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: Any = None) -> None:
        """Never answer."""
        await trio.sleep_forever()

    @rpc_method()
    def page(self, connection: ClientConnection) -> str:
        """A small call with a large answer."""
        return PAGE

    @rpc_method()
    async def later(self, connection: ClientConnection) -> str:
        """The same, from a method that waits."""
        await trio.lowlevel.checkpoint()
        return PAGE

    @rpc_method()
    async def pages(self, connection: ClientConnection) -> AsyncIterator[str]:
        """The same, without end."""
        while True:
            yield PAGE

    @rpc_method()
    async def keep(self, connection: ClientConnection, items: AsyncIterator[Any]) -> None:
        """An upload of which nobody takes more than the first item."""
        await anext(items)
        await trio.sleep_forever()

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[Any]) -> int:
        """An upload whose items are taken at once."""
        return len([item async for item in items])

    @rpc_method()
    async def ask(self, connection: ClientConnection) -> Any:
        """Call the client, which may never answer."""
        return await connection.call("anything")

    @rpc_method()
    def tell(self, connection: ClientConnection, channel: str, data: Any = None) -> int:
        """Publish."""
        return self.publish(channel, data)

    @rpc_method()
    def add(self, connection: ClientConnection, *numbers: int) -> int:
        """As many numbers as there are."""
        return len(numbers)

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        """Whatever it is."""
        return True


class Counted(Methods):
    """The same, with counts of what begins and what ends."""

    connected = disconnected = running = 0

    async def on_connect(self, connection: ClientConnection) -> None:
        """Count."""
        await trio.lowlevel.checkpoint()
        self.connected += 1

    async def on_disconnect(self, connection: ClientConnection) -> None:
        """Count."""
        await trio.lowlevel.checkpoint()
        self.disconnected += 1

    @rpc_method()
    async def rest(self, connection: ClientConnection, seconds: float) -> float:
        """Take some time."""
        self.running += 1
        try:
            await trio.sleep(min(seconds, 10))
        finally:
            self.running -= 1
        return seconds

    @rpc_method()
    async def count(self, connection: ClientConnection, most: int) -> AsyncIterator[int]:
        """A stream with an end."""
        self.running += 1
        try:
            for number in range(most):
                yield number
        finally:
            self.running -= 1


class Deaf(Methods):
    """The same, where the first packet that is no call is never done with."""

    async def on_receive(self, connection: ClientConnection, packet: Any) -> None:
        """Never return."""
        await trio.sleep_forever()


class Strict(Methods):
    """The same, where nobody may subscribe."""

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        """No."""
        return False


async def echo(ws: WebSocket) -> None:
    """Send everything back."""
    async for message in ws:
        await ws.send(message)


async def ignore(ws: WebSocket) -> None:
    """Accept, and take nothing."""
    await ws.accept()
    await trio.sleep_forever()


def site(methods: Methods) -> App:
    """An App with a route of each kind."""
    app = App()
    app.websocket("/echo")(echo)
    app.mount("/rpc", methods)

    @app.http("/")
    async def index(request: Any) -> str:
        """A page that is larger than a socket's buffers."""
        return PAGE * 20

    @app.http("/post", methods=["POST"])
    async def post(request: Any) -> int:
        """Take a body."""
        return len(request.body)

    return app


COUNTED = Counted()


def server(kind: str) -> WebSocketServer:
    """A server of this kind, on a free port."""
    options = Options()
    if kind in ("deflate", "deflate_ignored"):
        options = Options(compression=True)
    context = None
    if kind == "tls":
        import trustme  # noqa: PLC0415 - only here

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        trustme.CA().issue_cert("localhost").configure_cert(context)
    targets: dict[str, Any] = {
        "echo": echo,
        "deflate": echo,
        "tls": echo,
        "ignore": ignore,
        "deflate_ignored": ignore,
        "calls": Methods,
        "deaf": Deaf,
        "strict": Strict,
        "site": site(Methods()),
        "chaos": site(COUNTED),
    }
    return WebSocketServer(targets[kind], 0, host="127.0.0.1", ssl_context=context, options=options)


def state(running: WebSocketServer) -> dict[str, int]:
    """Everything that is counted."""
    statistics = COUNTED.channels.statistics()
    return {
        "clients": running._clients,
        "handshakes": running._handshakes,
        "connections": len(running.connections),
        "connected": COUNTED.connected,
        "disconnected": COUNTED.disconnected,
        "running": COUNTED.running,
        "channels": len(statistics.channels),
        "stalled": statistics.stalled,
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
    }


def take_questions(running: WebSocketServer, token: trio.lowlevel.TrioToken) -> None:
    """Answer from a thread, since the loop may be what is under attack."""
    for line in sys.stdin:
        answer: Any = None
        match line.strip():
            case "traced":
                answer = tracemalloc.get_traced_memory()[0]
            case "state":
                answer = trio.from_thread.run_sync(state, running, trio_token=token)
            case "collect":
                answer = trio.from_thread.run_sync(gc.collect, trio_token=token)
            case _:
                pass
        print(json.dumps(answer), flush=True)
    os._exit(0)


async def main(kind: str) -> None:
    """Serve until the test is over."""
    token = trio.lowlevel.current_trio_token()
    async with server(kind) as running:
        threading.Thread(target=take_questions, args=(running, token), daemon=True).start()
        print(running.port, trio_ws.__file__, flush=True)
        await running.serve_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    if "--traced" in sys.argv:
        tracemalloc.start()
    trio.run(main, sys.argv[1])
