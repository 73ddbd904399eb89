"""HAProxy in front of a server: both versions of its PROXY protocol, and its X-Forwarded-For."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

import trio_ws
from tests.support.reverse_proxies import haproxy
from tests.support.serving import read_to_end, request, serving, status_of

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = "127.0.0.9"


async def dial(port: int) -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((CLIENT, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


class Seen:
    def __init__(self) -> None:
        self.addresses: list[Any] = []
        self.schemes: list[str] = []

    async def __call__(self, ws: trio_ws.WebSocket) -> None:
        self.addresses.append(ws.client_address)
        self.schemes.append(ws.request.scheme)
        async for message in ws:
            await ws.send(message)


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options unique-id"])
async def test_the_proxy_protocol(send: str, tmp_path: Path) -> None:
    seen = Seen()
    options = trio_ws.Options(trusted_proxies=["127.0.0.1"], proxy_protocol=True)
    async with (
        serving(seen, options=options) as server,
        haproxy(tmp_path, f"127.0.0.1:{server.port} {send}") as port,
    ):
        stream = await dial(port)
        own = stream.socket.getsockname()
        async with trio_ws.connect(f"ws://localhost:{port}/", stream=stream) as ws:
            await ws.send(b"x" * 100_000)
            assert len(await ws.receive_bytes()) == 100_000
        assert seen.addresses == [own]


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
async def test_health_checks_are_not_clients(
    send: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = trio_ws.Options(trusted_proxies=["127.0.0.1"], proxy_protocol=True)
    async with serving(Seen(), options=options) as server:
        line = f"127.0.0.1:{server.port} {send} check inter 20ms fall 1000"
        async with haproxy(tmp_path, line) as port:
            for _ in range(3):
                stream = await dial(port)
                async with trio_ws.connect(f"ws://localhost:{port}/", stream=stream) as ws:
                    await ws.ping()
    assert not [record for record in caplog.records if record.levelno >= 30]


async def test_the_proxy_protocol_and_then_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    seen = Seen()
    options = trio_ws.Options(trusted_proxies=["127.0.0.1"], proxy_protocol=True)
    async with (
        serving(seen, options=options, ssl_context=context) as server,
        haproxy(tmp_path, f"127.0.0.1:{server.port} send-proxy-v2") as port,
    ):
        stream = await dial(port)
        async with trio_ws.connect("wss://localhost/", stream=stream, ssl_context=trusting) as ws:
            await ws.ping()
    assert seen.addresses[0][0] == CLIENT
    assert seen.schemes == ["https"]


async def test_x_forwarded_for(tmp_path: Path) -> None:
    seen = Seen()
    options = trio_ws.Options(trusted_proxies=["127.0.0.1"], max_connections_per_address=1)
    async with (
        serving(seen, options=options) as server,
        haproxy(tmp_path, f"127.0.0.1:{server.port}", mode="http") as port,
    ):
        async with trio_ws.connect(
            "ws://localhost/", stream=await dial(port), headers={"X-Forwarded-For": "6.6.6.6"}
        ) as ws:
            await ws.ping()
            second = await dial(port)
            await second.send_all(request())
            assert status_of(await second.receive_some()) == 503
            await second.aclose()
            third = await trio.open_tcp_stream("127.0.0.1", port)
            await third.send_all(request())
            assert status_of(await third.receive_some()) == 101
            await third.aclose()
    # The third client has the proxy's address, which is trusted, so its header is used.
    assert seen.addresses[0] == (CLIENT, 0)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    seen, path = Seen(), tmp_path / "server.sock"
    options = trio_ws.Options(trusted_proxies=["unix"], proxy_protocol=True, max_connections_per_address=1)
    async with (
        serving(seen, host=None, unix_path=path, options=options),
        haproxy(tmp_path, f"unix@{path} send-proxy-v2") as port,
    ):
        async with trio_ws.connect(f"ws://localhost:{port}/", stream=await dial(port)) as ws:
            await ws.ping()
            second = await dial(port)
            await second.send_all(request())
            assert await read_to_end(second) == b""  # this client has its share
            await second.aclose()
    assert [address[0] for address in seen.addresses] == [CLIENT]
