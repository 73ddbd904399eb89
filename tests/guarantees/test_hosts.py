"""A server that only this machine can reach accepts loopback names only (DNS rebinding)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from tests.support.serving import echo, exchange, request, serving, status_of
from trio_ws import App, Options, Request, WebSocket, WebSocketServer, connect
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from pathlib import Path

REBOUND = "evil.example"


def page_of(host: str) -> bytes:
    """Return the handshake of a page whose origin matches the requested host."""
    return request(f"Host: {host}", f"Origin: http://{host}", leave_out=["host"])


def plain(host: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def first_status(stream: trio.abc.Stream, data: bytes) -> int:
    await stream.send_all(data)
    answer = bytearray()
    while b"\r\n" not in answer:
        answer += await stream.receive_some()
    await trio.aclose_forcefully(stream)
    return status_of(bytes(answer))


async def status(server: WebSocketServer, data: bytes, host: str = "127.0.0.1") -> int:
    return await first_status(await trio.open_tcp_stream(host, server.port), data)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
async def test_a_page_with_a_name_of_its_own_does_not_reach_a_loopback_server(host: str | None) -> None:
    async with serving(host=host) as server:
        address = "::1" if host == "::1" else "127.0.0.1"
        assert await status(server, page_of(f"{REBOUND}:{server.port}"), address) == 403
        assert await status(server, page_of(f"localhost.{REBOUND}"), address) == 403
        for name in ("localhost", "127.0.0.1", "[::1]", "APP.localhost"):
            assert await status(server, page_of(f"{name}:{server.port}"), address) == 101


async def test_plain_requests_are_held_to_the_same_rule_before_any_route_is_looked_for() -> None:
    app = App()
    asked: list[str] = []

    @app.http("/")
    async def index(request: Request) -> str:
        asked.append(request.host)
        return "secret"

    async with serving(app) as server:
        assert await status(server, plain(REBOUND)) == 403
        assert await status(server, b"GET /nothing HTTP/1.1\r\nHost: evil.example\r\n\r\n") == 403
        assert await status(server, b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n") == 403
        assert asked == []
        assert await status(server, plain("localhost")) == 200
        assert await status(server, b"GET / HTTP/1.0\r\n\r\n") == 200  # without a Host header
        assert asked == ["localhost", ""]


async def test_programs_may_ask_for_a_name_of_the_local_network_and_pages_may_not() -> None:
    app = App()

    @app.http("/", methods=["GET", "POST"])
    async def index(request: Request) -> str:
        return "hello"

    @app.websocket("/")
    async def ws(ws: WebSocket) -> None:
        await ws.accept()

    def asking(method: str, host: str, *more: str) -> bytes:
        return "\r\n".join([f"{method} / HTTP/1.1", f"Host: {host}", *more, "", ""]).encode()

    agent, origin = "User-Agent: Browser/1.0", "Origin: http://box"
    async with serving(app) as server:
        assert await status(server, request("Host: box:8000", leave_out=["host"])) == 101
        assert await status(server, page_of("box")) == 403
        assert await status(server, asking("GET", "box")) == 200
        assert await status(server, asking("GET", "box", agent)) == 403
        assert await status(server, asking("GET", "box", origin)) == 403
        assert await status(server, asking("POST", "box", agent)) == 200
        assert await status(server, asking("POST", "box", agent, origin)) == 403
        assert await status(server, asking("POST", REBOUND)) == 403
    async with serving(app, options=Options(hosts=["chat.example"])) as server:
        assert await status(server, asking("GET", "box")) == 403


async def test_named_hosts_are_let_in() -> None:
    async with serving(options=Options(hosts=[REBOUND, "*.chat.example"])) as server:
        assert await status(server, page_of(REBOUND)) == 101
        assert await status(server, page_of("a.chat.example:1")) == 101
        assert await status(server, page_of("other.example")) == 403
        assert await status(server, page_of("localhost")) == 101
    async with serving(options=Options(hosts=["*"])) as server:
        assert await status(server, page_of("other.example")) == 101


async def test_a_public_server_goes_by_every_name_unless_it_has_some() -> None:
    async with serving(host="0.0.0.0") as server:
        assert await status(server, page_of(REBOUND)) == 101
    async with serving(host="0.0.0.0", options=Options(hosts=["chat.example"])) as server:
        assert await status(server, page_of("chat.example")) == 101
        assert await status(server, page_of(REBOUND)) == 403
        assert await status(server, page_of("localhost")) == 403


async def test_memory_and_unix_listeners_accept_every_host(tmp_path: Path) -> None:
    memory, path = MemoryListener(), tmp_path / "socket"
    async with serving(host=None, listeners=[memory]):
        assert await first_status(await memory.connect(), page_of(REBOUND)) == 101
    async with serving(host=None, unix_path=path):
        assert await first_status(await trio.open_unix_socket(path), page_of(REBOUND)) == 101


async def test_hosts_are_checked_per_listener() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    (public,) = await trio.open_tcp_listeners(0, host="0.0.0.0")
    (private,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (secret,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    listeners: list[Any] = [public, private, secret]

    async def reach(listener: trio.SocketListener, *, secure: bool = False) -> int:
        port = listener.socket.getsockname()[1]
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
        if secure:
            stream = trio.SSLStream(stream, trusting, server_hostname="localhost")
        return await first_status(stream, page_of(REBOUND))

    async with serving(echo, host=None, listeners=listeners):
        assert await reach(public) == 101
        assert await reach(private) == 403
        inner = secret.transport_listener
        assert isinstance(inner, trio.SocketListener)
        # With TLS, a browser would have refused the certificate.
        assert await reach(inner, secure=True) == 101


async def test_a_refused_page_gets_a_whole_answer() -> None:
    async with serving() as server, await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        answer = await exchange(stream, page_of(REBOUND))
        assert status_of(answer) == 403
        assert answer.endswith(b"this host is not served here\n")
        async with connect(server.url) as ws:
            await ws.send("still here?")
            assert await ws.receive_text() == "still here?"
