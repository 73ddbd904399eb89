"""A server that is attacked, in its own process: ``python target.py KIND [--traced]``.

It prints its port, answers each question on stdin with a line of JSON, and exits at the end of stdin. It
imports nothing from the tests, so that it can run with another version of trio_ws: see ``--product`` of
memory.py.
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
from typing import Any, ClassVar

import trio

import trio_ws
from trio_ws import (
    App,
    ClientConnection,
    History,
    Options,
    RPCInvalidParamsError,
    WebSocket,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)

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
        """Return a large response to a small call."""
        return PAGE

    @rpc_method()
    async def later(self, connection: ClientConnection) -> str:
        """Return a large response after a pause."""
        await trio.lowlevel.checkpoint()
        return PAGE

    @rpc_method()
    async def pages(self, connection: ClientConnection) -> AsyncIterator[str]:
        """Stream large items forever."""
        while True:
            yield PAGE

    @rpc_method()
    async def keep(self, connection: ClientConnection, items: AsyncIterator[Any]) -> None:
        """Consume only the first item of an upload."""
        await anext(items)
        await trio.sleep_forever()

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[Any]) -> int:
        """Consume all items of an upload."""
        return len([item async for item in items])

    @rpc_method()
    async def ask(self, connection: ClientConnection) -> Any:
        """Call the client, which may never answer."""
        return await connection.call("anything")

    @rpc_method()
    def tell(self, connection: ClientConnection, channel: str, data: Any = None) -> int:
        """Publish."""
        try:
            return self.publish(channel, data)
        except ValueError as exc:  # the name, which random clients invent
            raise RPCInvalidParamsError(str(exc)) from exc

    @rpc_method()
    def add(self, connection: ClientConnection, *numbers: int) -> int:
        """Add any number of numbers."""
        return len(numbers)

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        """Allow every channel."""
        return True


class Counted(Methods):
    """Methods that also count what has started and what has ended."""

    connected = disconnected = running = 0

    async def on_connect(self, connection: ClientConnection) -> None:
        """Count a connection."""
        await trio.lowlevel.checkpoint()
        self.connected += 1

    async def on_disconnect(self, connection: ClientConnection) -> None:
        """Count the end of a connection."""
        await trio.lowlevel.checkpoint()
        self.disconnected += 1

    @rpc_method()
    async def rest(self, connection: ClientConnection, seconds: float) -> float:
        """Return after some time."""
        self.running += 1
        try:
            await trio.sleep(min(seconds, 10))
        finally:
            self.running -= 1
        return seconds

    @rpc_method()
    async def count(self, connection: ClientConnection, most: int) -> AsyncIterator[int]:
        """Stream numbers up to ``most``."""
        self.running += 1
        try:
            for number in range(most):
                yield number
        finally:
            self.running -= 1


class StuckOnReceive(Methods):
    """Methods of a handler whose ``on_receive`` never returns."""

    async def on_receive(self, connection: ClientConnection, packet: Any) -> None:
        """Never return."""
        await trio.sleep_forever()


class Strict(Methods):
    """Methods of a handler without any subscriptions."""

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        """Deny every channel."""
        return False


class WithHistories(Methods):
    """The same with histories and presence, and clients may publish."""

    channels_history: ClassVar = {"kept.*": History(), "latest.*": History(latest=True)}

    def may_publish(self, connection: ClientConnection, name: str, data: Any) -> bool:
        """Whatever it is."""
        return True

    def may_see_presence(self, connection: ClientConnection, name: str) -> bool:
        """Whoever asks."""
        return True

    @rpc_method()
    def enter(self, connection: ClientConnection, name: str, info: Any = None) -> None:
        """Be present in a channel."""
        connection.set_present(name, info)

    @rpc_method()
    def leave(self, connection: ClientConnection, name: str) -> None:
        """Be present no longer."""
        connection.set_absent(name)


async def echo(ws: WebSocket) -> None:
    """Echo all messages."""
    async for message in ws:
        await ws.send(message)


async def ignore(ws: WebSocket) -> None:
    """Accept, and receive nothing."""
    await ws.accept()
    await trio.sleep_forever()


def site(methods: Methods) -> App:
    """Return an App with a route of each kind."""
    app = App()
    app.websocket("/echo")(echo)
    app.mount("/rpc", methods)

    @app.http("/")
    async def index(request: Any) -> str:
        """Return a page that is larger than the buffers of a socket."""
        return PAGE * 20

    @app.http("/post", methods=["POST"])
    async def post(request: Any) -> int:
        """Read a body."""
        return len(request.body)

    return app


def listening() -> App:
    """An App with a message listener that returns what it is given."""
    app = App()

    @app.listener("/echo")
    def answer(ws: WebSocket, message: str | bytes) -> str | bytes:
        """Return it."""
        return message

    return app


COUNTED = Counted()


def server(kind: str) -> WebSocketServer:
    """Return a server of this kind, on a free port."""
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
        "deaf": StuckOnReceive,
        "strict": Strict,
        "kept": WithHistories,
        "listener": listening(),
        "site": site(Methods()),
        "chaos": site(COUNTED),
    }
    return WebSocketServer(targets[kind], 0, host="127.0.0.1", ssl_context=context, options=options)


def state(running: WebSocketServer) -> dict[str, int]:
    """Return all counters."""
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
    """Answer questions from a thread, because trio's loop may be blocked by an attack."""
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
    """Serve until stdin ends."""
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
