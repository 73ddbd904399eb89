"""An idle connection takes no more memory than docs and README say, in Python objects."""

from __future__ import annotations

import contextvars
import gc
import socket
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import echo, request, serving
from tests.support.watching import until
from trio_ws import App, ClientConnection, WebSocketHandler, connect, rpc_method
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.websocket import epoll_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws import WebSocket

# Between these numbers, no set or dict of a server grows, which would be counted for few connections.
BEFORE, CONNECTIONS = 90, 75


class Calls(WebSocketHandler):
    @rpc_method()
    def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b


def listener() -> App:
    app = App()

    @app.listener("/")
    def answer(ws: WebSocket, data: bytes) -> bytes:
        return data

    return app


def route() -> App:
    app = App()
    app.websocket("/")(echo)
    return app


def frame(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([0x82, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    yield
    tracemalloc.stop()


async def use(sock: socket.socket, data: bytes, end: bytes) -> None:
    """Send data, and receive up to these last bytes."""
    sock.sendall(data)
    got = b""
    while not got.endswith(end):
        await trio.lowlevel.wait_readable(sock)
        got += sock.recv(4096)


@pytest.mark.repeats  # without coverage, whose frames would be counted
@pytest.mark.parametrize(
    ("target", "calls", "most"),
    [
        pytest.param(Calls, True, 3.0, id="calls"),
        pytest.param(listener, False, 2.2, id="a listener"),
        pytest.param(lambda: echo, False, 4.3, id="a function"),
        pytest.param(route, False, 4.3, id="a route"),
    ],
)
async def test_an_idle_connection_takes_what_is_stated(target: Any, calls: bool, most: float) -> None:
    """In KiB, after one message."""
    if calls:
        opening = request("Sec-WebSocket-Protocol: trio-ws.v1")
        message = frame(TrioWSCodec().request("1", "add", [1, 2]))
    else:
        opening, message = request(), frame(b"hello")
    socks = [socket.socket() for _ in range(BEFORE + CONNECTIONS)]

    async def open_some(some: list[socket.socket]) -> None:
        for sock in some:
            sock.connect(("127.0.0.1", server.port))
            sock.setblocking(False)
            await use(sock, opening, b"\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            sock.sendall(message)
            await trio.lowlevel.wait_readable(sock)
            assert sock.recv(4096)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()

    async with serving(target()) as server:
        try:
            await open_some(socks[:BEFORE])
            tracemalloc.start()
            await open_some(socks[BEFORE:])
            taken = tracemalloc.get_traced_memory()[0] / CONNECTIONS / 1024
        finally:
            for sock in socks:
                sock.close()
    assert taken < most


async def test_each_connection_ends_in_the_context_of_its_own_task() -> None:
    """Those that have set no context variable share one, and the others do not change it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    ended: dict[str, str] = {}

    class Handler(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            (name,) = connection.request.query_params["name"]
            connection["name"] = name
            if name != "none":
                variable.set(name)

        async def on_disconnect(self, connection: ClientConnection) -> None:
            name = connection["name"]
            ended[name] = variable.get()
            variable.set("changed")

    names = ["a", "none", "b"]
    async with serving(Handler()) as server:
        for name in [*names, "none"]:
            ended.clear()
            async with connect(f"{server.url}?name={name}"):
                await trio.testing.wait_all_tasks_blocked()
            await until(lambda: bool(ended))
            assert ended == {name: "unset" if name == "none" else name}
