"""Handlers get information about TLS, above all the client's certificate (mutual TLS)."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trustme

from tests.support.serving import serving, serving_in_memory
from trio_ws import App, Request, TLSInfo, WebSocket, connect

STATION = "station-7@example.test"


class Certificates:
    def __init__(self, mode: ssl.VerifyMode = ssl.CERT_REQUIRED) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.server)
        authority.configure_trust(self.server)
        self.server.verify_mode = mode
        self.stranger = ssl.create_default_context()
        authority.configure_trust(self.stranger)
        self.station = ssl.create_default_context()
        authority.configure_trust(self.station)
        authority.issue_cert(STATION).configure_cert(self.station)


def names_in(info: TLSInfo | None) -> list[str]:
    assert info is not None
    assert info.peer_certificate is not None
    names: Any = info.peer_certificate["subjectAltName"]
    return [value for _, value in names]


async def test_both_sides_know_the_others_certificate() -> None:
    certificates, seen = Certificates(), []

    async def handler(ws: WebSocket) -> None:
        assert ws.tls is ws.request.tls
        seen.append(ws.tls)
        assert ws.request.scheme == "https"
        await ws.accept()

    async with serving(handler, ssl_context=certificates.server) as server:
        async with connect(f"wss://localhost:{server.port}", ssl_context=certificates.station) as ws:
            assert names_in(ws.tls) == ["localhost", "127.0.0.1"]
            assert ws.tls is not None
            assert ws.tls.server_name == "localhost"
    (info,) = seen
    assert names_in(info) == [STATION]
    assert info is not None
    assert info.version == ws.tls.version == "TLSv1.3"
    assert info.cipher == ws.tls.cipher
    assert info.cipher.startswith("TLS_")
    assert info.server_name == "localhost"


async def test_a_client_that_shows_no_certificate_is_known_as_such() -> None:
    certificates, seen = Certificates(ssl.CERT_OPTIONAL), []
    app = App()

    @app.http("/")
    async def index(request: Request) -> None:
        seen.append(request.tls)

    async with serving(app, ssl_context=certificates.server) as server:
        for context in (certificates.stranger, certificates.station):
            stream: Any = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=context)
            async with stream:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 204")
    stranger, station = seen
    assert stranger is not None
    assert stranger.peer_certificate is None
    assert stranger.server_name is None  # SNI does not contain addresses
    assert names_in(station) == [STATION]


async def test_a_context_may_have_a_callback_of_its_own() -> None:
    certificates, asked = Certificates(), []

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        asked.append(name)

    certificates.server.sni_callback = choose
    infos: list[TLSInfo | None] = []

    async def handler(ws: WebSocket) -> None:
        infos.append(ws.tls)
        await ws.accept()

    for _ in range(2):  # several servers may share a context
        async with serving(handler, ssl_context=certificates.server) as server:
            async with connect(f"wss://localhost:{server.port}", ssl_context=certificates.station):
                pass
    assert certificates.server.sni_callback is choose
    assert asked == ["localhost"] * 2
    assert [info.server_name for info in infos if info is not None] == [None, None]


async def test_a_listener_that_does_tls_itself() -> None:
    certificates, infos = Certificates(), []

    async def handler(ws: WebSocket) -> None:
        infos.append(ws.tls)
        await ws.accept()

    listeners = await trio.open_ssl_over_tcp_listeners(0, certificates.server, host="127.0.0.1")
    inner = listeners[0].transport_listener
    assert isinstance(inner, trio.SocketListener)
    port = inner.socket.getsockname()[1]
    async with serving(handler, host=None, listeners=listeners):
        async with connect(f"wss://localhost:{port}", ssl_context=certificates.station):
            pass
    assert names_in(infos[0]) == [STATION]


@pytest.mark.parametrize("over_sockets", [True, False])
async def test_without_tls_there_is_nothing_to_tell(over_sockets: bool) -> None:
    seen: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        seen.append(ws)
        await ws.accept()

    if over_sockets:
        async with serving(handler) as server, connect(server.url) as ws:
            assert await ws.recv() is None
    else:
        async with serving_in_memory(handler) as memory, memory.connect() as ws:
            assert await ws.recv() is None
    for one in (ws, *seen):
        assert one.tls is None
        assert one.request.tls is None
        assert one.request.scheme == "http"
    assert ws.client_address == ws.local_address
    assert seen[0].client_address == seen[0].remote_address
