"""Connecting through proxies: real ones in processes, and scripted ones that misbehave."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.proxies import ConnectProxy, closed_port, run_proxy, scripted
from tests.support.serving import busy_tasks, guard, serving, serving_in_memory
from tests.support.watching import until
from trio_ws import (
    ConnectionFailedError,
    Options,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    connect,
    rpc_method,
)
from trio_ws.testing.exploring import cancelled_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from trio_ws import ClientConnection

#: The URL of a server that proxies reach by any name.
ANY_HOST = Options(hosts=["*"])
LOGIN = ("ann", "s3cret")
KINDS = [("tinyproxy", "http"), ("microsocks", "socks5h"), ("microsocks", "socks5")]


class Certificates:
    """A certificate for this machine, and the file of its authority."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.path = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.path))
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "127.0.0.1", "service.example").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


async def talks(uri: str, proxy_port: int | None = None, **kwargs: Any) -> None:
    """Connect through a proxy, and echo a small and a large message."""
    async with connect(uri, **kwargs) as ws:
        if proxy_port is not None:
            assert ws.remote_address[1] == proxy_port
        for message in ("hello", "x" * 300_000):
            await ws.send(message)
            assert await ws.receive_text() == message


async def greets(uri: str, proxy: str) -> None:
    """Connect through a proxy, and receive a greeting."""
    async with connect(uri, proxy=proxy) as ws:
        await ws.send("hello")
        assert await ws.receive_text() == "hello"


async def failing(uri: str = "ws://127.0.0.1:9/", **kwargs: Any) -> str:
    """Fail to connect, and return the text of the error, which must not contain the password."""
    with trio.fail_after(guard()), pytest.raises(ConnectionFailedError) as info:
        async with connect(uri, **kwargs):
            pytest.fail("it connected")
    assert LOGIN[1] not in repr(info.value)
    assert type(info.value) is ConnectionFailedError
    return str(info.value)


# -- real proxies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
@pytest.mark.parametrize(("name", "scheme"), KINDS)
async def test_a_real_proxy(
    name: str, scheme: str, login: tuple[str, str] | None, certificates: Certificates, tmp_path: Path
) -> None:
    async with (
        serving(options=ANY_HOST) as plain,
        serving(ssl_context=certificates.server, options=ANY_HOST) as secure,
        run_proxy(name, tmp_path, login) as port,
    ):
        user = f"{login[0]}:{login[1]}@" if login else ""
        proxy = f"{scheme}://{user}127.0.0.1:{port}"
        await talks(plain.url, port, proxy=proxy)
        await talks(secure.url, port, proxy=proxy, ssl_context=certificates.client)
        by_name = secure.url.replace("127.0.0.1", "localhost")
        await talks(by_name, port, proxy=proxy, ssl_context=certificates.client)


@pytest.mark.parametrize(("name", "scheme"), KINDS[:2])
async def test_a_real_proxy_that_wants_another_login(name: str, scheme: str, tmp_path: Path) -> None:
    async with serving(options=ANY_HOST) as server, run_proxy(name, tmp_path, LOGIN) as port:
        for user in ("", "ann:wrong@", "eve:wrong@"):
            text = await failing(server.url, proxy=f"{scheme}://{user}127.0.0.1:{port}")
            assert f"the proxy {scheme}://127.0.0.1:{port}, asked for 127.0.0.1:{server.port}, " in text
            if scheme == "http":
                assert "refuses with HTTP status 40" in text
            else:
                assert "did not connect: " in text
            assert "wrong" not in text
        assert server.connections == set()
        await talks(server.url, port, proxy=f"{scheme}://{LOGIN[0]}:{LOGIN[1]}@127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("name", "scheme", "reason"),
    [
        ("tinyproxy", "http", "refuses with HTTP status 5"),
        ("microsocks", "socks5h", "did not connect: Connection refused by destination host"),
    ],
)
async def test_a_server_that_a_real_proxy_does_not_reach(
    name: str, scheme: str, reason: str, tmp_path: Path
) -> None:
    with closed_port() as nobody:
        async with run_proxy(name, tmp_path) as port:
            text = await failing(f"ws://127.0.0.1:{nobody}/", proxy=f"{scheme}://127.0.0.1:{port}")
    assert f"{scheme}://127.0.0.1:{port}, asked for 127.0.0.1:{nobody}, {reason}" in text


class Calculator(WebSocketHandler):
    @rpc_method()
    async def add(self, connection: ClientConnection, a: int, b: int) -> int:
        return a + b


async def test_calls_through_a_real_proxy(tmp_path: Path) -> None:
    async with serving(Calculator) as server, run_proxy("microsocks", tmp_path) as port:
        async with WebSocketClient(server.url, proxy=f"socks5h://127.0.0.1:{port}") as client:
            assert await client.call("add", 20, 22) == 42


# -- the environment, and optional packages ---------------------------------------------------------


async def test_the_environments_proxy_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(options=ANY_HOST) as server:
        proxy = ConnectProxy(server.port)
        async with scripted(proxy) as port:
            monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
            await talks("ws://service.example:7000/")
            await talks(server.url, server.port, proxy=None)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            await talks(server.url, server.port)
            assert proxy.asked == ["service.example:7000"]


async def test_a_stream_and_a_unix_socket_need_no_proxy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("http_proxy", "gopher://nonsense")
    async with serving_in_memory() as memory, memory.connect() as ws:
        await ws.send("hello")
        assert await ws.receive_text() == "hello"
    path = tmp_path / "socket"
    async with serving(host=None, unix_path=path):
        await talks("ws://localhost/", unix_path=path)


async def test_without_python_socks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    text = await failing(proxy="socks5://ann:s3cret@p")
    assert "the proxy socks5://p:1080 requires the package python-socks" in text
    assert "pip install 'trio-ws[proxy]'" in text
    async with serving(options=ANY_HOST) as server, scripted(ConnectProxy(server.port)) as port:
        await talks("ws://service.example/", port, proxy=f"http://127.0.0.1:{port}")


# -- the request to an HTTP proxy -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 1),
        (b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n", 7),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 204 Fine\r\n\r\n", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 100),
    ],
)
async def test_answers_that_agree(answer: bytes, piece: int) -> None:
    async with serving(options=ANY_HOST) as server:
        proxy = ConnectProxy(server.port, answer, piece)
        async with scripted(proxy) as port:
            url = f"http://ann:s3cret@127.0.0.1:{port}"
            await talks("ws://service.example/room?x", port, proxy=url)
            await talks("ws://[2001:db8::1]:81/", port, proxy=url)
    assert proxy.asked == ["service.example:80", "[2001:db8::1]:81"]
    lines = proxy.heads[0].split(b"\r\n")
    assert lines[:2] == [b"CONNECT service.example:80 HTTP/1.1", b"Host: service.example:80"]
    assert b"Proxy-Authorization: Basic YW5uOnMzY3JldA==" in lines


async def test_the_server_receives_nothing_about_the_proxy() -> None:
    async with (
        WebSocketServer(host="127.0.0.1", options=ANY_HOST) as server,
        scripted(ConnectProxy(server.port)) as port,
    ):
        with trio.fail_after(guard()):
            proxy = f"http://ann:s3cret@127.0.0.1:{port}"
            async with connect("ws://service.example/", proxy=proxy, headers={"Authorization": "x"}):
                ws = await server.accept()
                assert "proxy" not in str(ws.headers).lower()
                assert ws.header("authorization") == "x"
                assert ws.header("host") == "service.example"


async def test_tls_to_the_proxy_and_within(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(options=ANY_HOST) as plain,
        serving(ssl_context=certificates.server, options=ANY_HOST) as secure,
    ):
        for server, uri in ((plain, "ws://service.example/"), (secure, "wss://service.example/")):
            proxy = ConnectProxy(server.port)
            async with scripted(proxy, certificates.server) as port:
                url = f"https://ann:s3cret@localhost:{port}"
                with monkeypatch.context() as patch:
                    patch.setenv("SSL_CERT_FILE", str(certificates.path))
                    await talks(uri, port, proxy=url)
                text = await failing(uri, proxy=url)
            assert len(proxy.heads) == 1
            assert f"could not reach the proxy https://localhost:{port}: " in text
            assert "CERTIFICATE_VERIFY_FAILED" in text


# -- proxies that misbehave -------------------------------------------------------------------------


def says(*answers: bytes) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """Return the script of a proxy that sends one response after each read, and closes."""

    async def script(stream: trio.abc.Stream) -> None:
        for answer in answers:
            await stream.receive_some()
            if answer:
                await stream.send_all(answer)

    return script


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
            "407 (Proxy Authentication Required); add",
        ),
        (b"HTTP/1.1 403 \x80\r\nContent-Length: 3\r\n\r\nno!", "refuses with HTTP status 403 (Forbidden)"),
        (b"HTTP/1.1 502 x\r\n\r\n", "refuses with HTTP status 502 (Bad Gateway)"),
        (b"HTTP/1.1 302 x\r\nLocation: ws://h/\r\n\r\n", "refuses with HTTP status 302 (Found)"),
        (b"HTTP/1.1 799 x\r\n\r\n", "refuses with HTTP status 799"),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "sent malformed HTTP"),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "sent malformed HTTP"),
        (b"HTTP/2 200\r\n\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "does not answer in HTTP"),
        (b"\x05\xff", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Evil\r\n\r\n", "sent data before"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "a head of more than max_header_bytes=16384"),
        (b"HTTP/1.1 100 Wait\r\n\r\n" * 1000, "a head of more than max_header_bytes=16384"),
        (b"", "closed the connection without a response"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection in the middle of its response"),
    ],
)
async def test_an_http_proxy_that_refuses_or_talks_nonsense(answer: bytes, reason: str) -> None:
    async with scripted(says(answer)) as port:
        text = await failing("ws://service.example/", proxy=f"http://ann:s3cret@127.0.0.1:{port}")
    assert f"the proxy http://127.0.0.1:{port}, asked for service.example:80, " in text
    assert reason in text


NO_LOGIN = b"\x05\x00"
GRANTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
REFUSALS = {
    1: "General SOCKS server failure",
    2: "Connection not allowed by ruleset",
    3: "Network unreachable",
    4: "Host unreachable",
    5: "Connection refused by destination host",
    6: "TTL expired",
    7: "Command not supported",
    8: "Address type not supported",
    9: "Invalid reply code",
}


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        *(([NO_LOGIN, bytes([5, code, 0, 1]) + bytes(6)], reason) for code, reason in REFUSALS.items()),
        ([b"\x05\xff"], "No acceptable authentication methods"),
        ([b"\x05\x01"], "Unexpected SOCKS authentication method"),
        ([b"\x05\x02", b"\x01\x01"], ""),
        ([b"\x04\x00"], "Unexpected SOCKS version"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "Unexpected SOCKS version"),
        ([NO_LOGIN, b"\x05\x00\x00\x09"], ""),
        ([NO_LOGIN, b"\x05\x00\x00\x03\x02\xff\xfe\x00\x50"], ""),
        ([b""], ""),
    ],
)
async def test_a_socks_proxy_that_refuses_or_talks_nonsense(answers: list[bytes], reason: str) -> None:
    async with scripted(says(*answers)) as port:
        text = await failing("ws://service.example/", proxy=f"socks5h://ann:s3cret@127.0.0.1:{port}")
    assert f"the proxy socks5h://127.0.0.1:{port}" in text
    assert "service.example:80" in text
    assert reason in text


@pytest.mark.parametrize("scheme", ["http", "https", "socks5", "socks5h"])
async def test_a_proxy_that_is_not_there(scheme: str) -> None:
    with closed_port() as port:
        text = await failing(proxy=f"{scheme}://ann:s3cret@127.0.0.1:{port}")
    assert text.startswith(f"could not reach the proxy {scheme}://127.0.0.1:{port}: ")


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_proxy_that_resets_the_connection(scheme: str) -> None:
    async def reset(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with scripted(reset) as port:
        text = await failing(proxy=f"{scheme}://ann:s3cret@127.0.0.1:{port}")
    assert f"the proxy {scheme}://127.0.0.1:{port}" in text
    assert "Connection reset by peer" in text


async def test_a_proxy_that_stops_at_any_byte() -> None:
    async with serving(options=ANY_HOST) as server:
        for scheme, first, rest in (
            ("http", b"", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"),
            ("socks5h", NO_LOGIN, GRANTED),
        ):
            for size in range(len(first + rest) + 1):
                answers = [first[:size], rest[: max(0, size - len(first))]] if first else [rest[:size]]
                async with scripted(says(*(answer for answer in answers if answer))) as port:
                    text = await failing(server.url, proxy=f"{scheme}://127.0.0.1:{port}")
                assert f"the proxy {scheme}://127.0.0.1:{port}" in text or size == len(first + rest)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_a_proxy_that_hangs(scheme: str) -> None:
    gone = trio.Event()

    async def hang(stream: trio.abc.Stream) -> None:
        try:
            while await stream.receive_some():
                pass
        finally:
            gone.set()

    async with scripted(hang) as port:
        text = await failing(
            proxy=f"{scheme}://ann:s3cret@127.0.0.1:{port}", options=Options(open_timeout=0.1)
        )
        assert text == (
            f"the connection to 127.0.0.1:9 through the proxy {scheme}://127.0.0.1:{port}"
            " did not open within open_timeout (0.1 seconds)"
        )
        await gone.wait()


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_cancelling_leaves_no_connection_to_the_proxy(scheme: str) -> None:
    reached, gone = trio.Event(), trio.Event()

    async def hang(stream: trio.abc.Stream) -> None:
        while await stream.receive_some():
            reached.set()
        gone.set()

    async with scripted(hang) as port, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: failing(proxy=f"{scheme}://127.0.0.1:{port}"))
        await reached.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await gone.wait()


@pytest.mark.parametrize("kind", ["http and wss", "https and wss", "socks5h and ws"])
async def test_cancelled_at_every_checkpoint(
    kind: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.path))
    scheme, _, inner = kind.split(" ")
    secure = certificates.server if inner == "wss" else None
    async with serving(ssl_context=secure, options=ANY_HOST) as server:
        proxy = (
            scripted(ConnectProxy(server.port), certificates.server if scheme == "https" else None)
            if scheme.startswith("http")
            else run_proxy("microsocks", tmp_path)
        )
        async with proxy as port:
            uri = f"{inner}://localhost:{server.port}/"
            # The first connection may bring the task that reads for all of the server's.
            await greets(uri, f"{scheme}://localhost:{port}")
            await trio.testing.wait_all_tasks_blocked(0.01)
            before = busy_tasks()
            count, more = 0, True
            while more:
                count += 1
                more = await cancelled_at(count, partial(greets, uri, f"{scheme}://localhost:{port}"))
                # The proxy's tasks and the server's go once they see the end.
                await until(lambda: busy_tasks() <= before)
            assert count > 10
