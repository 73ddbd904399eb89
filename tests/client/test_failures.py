"""Failed connections: the message has the cause, and advice for the common ones."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

import trio_ws
from tests.support.serving import guard, serving
from trio_ws import ClientConnection, ConnectionFailedError, HandshakeRejectedError, WebSocketHandler
from trio_ws.client.failures import explain
from trio_ws.testing import Link

if TYPE_CHECKING:
    from collections.abc import Callable

CA = trustme.CA()


def server_context(*names: str, ca: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*(names or ("localhost", "127.0.0.1"))).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def failure(url: str, ssl_context: ssl.SSLContext | None = None, **more: object) -> str:
    """Return the text of the error that connecting raises."""
    with trio.fail_after(guard()), pytest.raises(ConnectionFailedError) as caught:
        async with trio_ws.connect(url, ssl_context=ssl_context, **more) as ws:  # type: ignore[arg-type]
            await ws.recv()
    return str(caught.value)


# -- rejections -------------------------------------------------------------------------------------


async def test_the_body_of_a_rejection_is_in_the_message() -> None:
    class Rejecting(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            await connection.reject(403, "you are\nnot invited\n")

    async with serving(Rejecting) as server:
        text = await failure(server.url)
    assert text.endswith("with HTTP status 403: you are not invited")


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ([], b"", ""),
        ([], b"no\n", "no"),
        ([("content-type", "application/json")], b'{"error": "no"}', '{"error": "no"}'),
        ([("Content-Type", "text/html")], b"<html><head><title>502 Bad\nGateway</title>", "502 Bad Gateway"),
        ([], b"<!doctype html><p>no title", ""),
        ([("Content-Type", "image/png")], b"\x89PNG", ""),
        ([], b"\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ([], b"x" * 5000, "x" * 200 + "..."),
    ],
)
def test_part_of_the_body_in_the_error(headers: list[tuple[str, str]], body: bytes, said: str) -> None:
    error = HandshakeRejectedError(403, trio_ws.Headers(headers), body)
    assert str(error).partition("with HTTP status 403")[2] == (f": {said}" if said else "")
    assert error.body == body


# -- the system -------------------------------------------------------------------------------------


async def test_an_operating_systems_text_is_in_the_message() -> None:
    assert "Connection refused" in await failure("ws://127.0.0.1:1/")


def test_each_reason_of_several_addresses_is_given_once() -> None:
    error = OSError("all attempts failed")
    inner = ExceptionGroup("v4", [OSError(113, "No route to host"), OSError(111, "Connection refused")])
    error.__cause__ = ExceptionGroup("", [OSError(111, "Connection refused"), inner])
    assert explain(error) == (
        "all attempts failed: [Errno 111] Connection refused; [Errno 113] No route to host"
    )


# -- TLS --------------------------------------------------------------------------------------------


async def test_tls_to_a_plain_port() -> None:
    async with serving() as server:
        where = f"localhost:{server.port}"
        text = await failure(f"wss://{where}/")
    assert f"({where} does not speak TLS; use ws:// or another port)" in text


async def test_plain_to_a_port_of_ours_with_tls() -> None:
    async with serving(ssl_context=server_context()) as server:
        text = await failure(f"ws://localhost:{server.port}/")
    assert "status 400: this port expects TLS; use wss:// or https://" in text


async def plain_answer(answer: bytes) -> str:
    """Return the error of a client whose server sends this response and closes."""
    link = Link()
    await link.server.send_all(answer)
    await link.server.send_eof()
    return await failure("ws://test/", stream=link.client)


async def test_plain_to_other_ports_with_tls() -> None:
    # An alert of TLS, as OpenSSL sends it.
    assert (
        await plain_answer(b"\x15\x03\x01\x00\x02\x02\x46")
        == "the server does not speak HTTP/1.1 but TLS; use wss://"
    )
    assert (await plain_answer(b"")).endswith("without a handshake response; if it expects TLS, use wss://")
    assert await plain_answer(b"SSH-2.0-OpenSSH_9\r\n") == "the server does not speak HTTP/1.1"


async def test_an_untrusted_certificate() -> None:
    async with serving(ssl_context=server_context(ca=trustme.CA())) as server:
        text = await failure(f"wss://localhost:{server.port}/", client_context())
    assert "certificate verify failed" in text
    assert "ssl.create_default_context(cafile=...)" in text


async def test_a_certificate_for_another_name() -> None:
    async with serving(ssl_context=server_context("example.org")) as server:
        text = await failure(f"wss://localhost:{server.port}/", client_context())
    assert "connect by a name that its certificate is for" in text


async def test_a_server_that_wants_a_certificate() -> None:
    context = server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)
    client = client_context()
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # where the handshake shows it
    async with serving(ssl_context=context) as server:
        text = await failure(f"wss://localhost:{server.port}/", client)
    assert re.search("certificate", text.partition("(")[2])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: trio_ws.WebSocketServer(WebSocketHandler, 0, ssl_context=client_context()),
            r"one for clients; make it by ssl\.create_default_context\(ssl\.Purpose\.CLIENT_AUTH\)",
        ),
        (
            lambda: trio_ws.WebSocketClient("wss://localhost/", ssl_context=server_context()),
            r"one for servers; make it by ssl\.create_default_context\(\)",
        ),
    ],
)
def test_a_context_for_the_other_side(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
