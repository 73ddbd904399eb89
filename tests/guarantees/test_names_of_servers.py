"""Absolute names, zones and non-ASCII names: the address, the Host header, and the certificate."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.support.serving import echo, serving
from trio_ws import WebSocketClient, connect
from trio_ws.client.redirect import resolve_redirect
from trio_ws.client.uri import parse_uri


class Secure:
    """The contexts of a server and a client, and the requested server names (RFC 6066 section 3)."""

    def __init__(self, name: str) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)
        self.asked: list[str | None] = []
        self.server.set_servername_callback(lambda _sock, name, _context: self.asked.append(name))


@pytest.mark.parametrize(
    ("host", "host_header", "name"),
    [
        ("server.example", "server.example", "server.example"),
        ("server.example.", "server.example.", "server.example"),
        ("SERVER.example.", "server.example.", "server.example"),
        ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher。example。", "xn--bcher-kva.example.", "xn--bcher-kva.example"),
    ],
)
async def test_the_certificate_is_that_of_the_name(host: str, host_header: str, name: str) -> None:
    secure = Secure(name)
    async with serving(ssl_context=secure.server) as server:

        async def stream() -> trio.SocketStream:
            return await trio.open_tcp_stream("127.0.0.1", server.port)

        async with connect(f"wss://{host}:{server.port}", stream=stream, ssl_context=secure.client) as ws:
            assert ws.header("host") == f"{host_header}:{server.port}"
            await ws.send("x")
            assert await ws.receive_text() == "x"
    assert secure.asked == [name]


async def test_an_absolute_name_is_looked_up_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[tuple[Any, ...]] = []
    real = trio.open_tcp_stream

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        looked_up.append((host, port))
        return await real("127.0.0.1", port)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    async with serving() as server:
        for host in ("localhost.", "[fe80::1%25eth9]"):
            try:
                async with WebSocketClient(f"ws://{host}:{server.port}", dialect="json"):
                    pass
            except Exception as exc:  # noqa: BLE001 - the server may not go by that host
                assert "403" in str(exc)
        assert looked_up == [("localhost.", server.port), ("fe80::1%eth9", server.port)]


def link_local() -> tuple[str, str] | None:
    """Return a link-local address of this machine, and its zone."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        digits, *_, zone = line.split()
        if digits.startswith("fe80"):
            return ":".join(digits[at : at + 4] for at in range(0, 32, 4)), zone
    return None


async def test_a_zone_is_for_this_machine_alone() -> None:
    found = link_local()
    if found is None:
        pytest.skip("this machine has no link-local address")
    address, zone = found
    secure = Secure(address)
    async with serving(echo, host=f"{address}%{zone}", ssl_context=secure.server) as server:
        uri = f"wss://[{address}%25{zone}]:{server.port}"
        async with connect(uri, ssl_context=secure.client) as ws:
            assert ws.header("host") == f"[{address}]:{server.port}"
            await ws.send("x")
            assert await ws.receive_text() == "x"
            assert ws.remote_address[3] != 0


def test_a_redirect_on_the_same_host_keeps_its_zone() -> None:
    here = parse_uri("ws://[fe80::1%25eth0]:9/a")
    assert resolve_redirect(here, "/b") == parse_uri("ws://[fe80::1%25eth0]:9/b")
    assert resolve_redirect(here, "ws://[fe80::2]:9/b").zone == ""
