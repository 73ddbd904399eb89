"""A trusted proxy reports the address of its client. Reports of other peers are ignored."""

from __future__ import annotations

import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import echo, read_to_end, request, serving, status_of
from trio_ws import App, ClientConnection, Options, Request, WebSocket, WebSocketHandler, connect

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from trio_ws import WebSocketServer

PROXY, OUTER, STRANGER = "127.0.0.1", "10.1.2.3", "127.0.0.2"
TRUSTING = Options(trusted_proxies=[PROXY, "10.0.0.0/8"], hosts=["*"])
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = (
    SIGNATURE
    + b"\x21\x11\0\x0c"
    + socket.inet_aton("192.0.2.7")
    + socket.inet_aton(PROXY)
    + b"\x12\x67\0\x50"
)
LOCAL = SIGNATURE + b"\x20\0\0\0"
V1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"


class Seen:
    """A handler that records its connections."""

    def __init__(self) -> None:
        self.clients: list[WebSocket] = []

    async def __call__(self, ws: WebSocket) -> None:
        self.clients.append(ws)
        await ws.accept()
        await ws.wait_closed()


async def dial(server: WebSocketServer, source: str = PROXY) -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", server.port))
    return trio.SocketStream(sock)


async def ask(server: WebSocketServer, data: bytes, source: str = PROXY) -> int:
    """Send data, close the connection, and return the status of the response."""
    async with await dial(server, source) as stream:
        await stream.send_all(data)
        answer = bytearray()
        while b"\r\n" not in answer:
            try:
                piece = await stream.receive_some()
            except trio.BrokenResourceError:
                return 0
            if not piece:
                return 0
            answer += piece
        return status_of(bytes(answer))


async def seen_of(lines: list[str], options: Options = TRUSTING, source: str = PROXY) -> WebSocket:
    seen = Seen()
    async with serving(seen, options=options) as server:
        assert await ask(server, request(*lines), source) == 101
    (ws,) = seen.clients
    return ws


# -- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        (["X-Forwarded-For: 192.0.2.7"], ("192.0.2.7", 0)),
        (["X-Forwarded-For: 192.0.2.7:4711"], ("192.0.2.7", 4711)),
        (["X-Forwarded-For: 2001:db8::7"], ("2001:db8::7", 0)),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.7"], ("192.0.2.7", 0)),
        (["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 192.0.2.7"], ("192.0.2.7", 0)),
        (["X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.2.3"], ("192.0.2.7", 0)),
        (["X-Forwarded-For: junk, 192.0.2.7, 10.1.2.3, 10.9.9.9"], ("192.0.2.7", 0)),
        (["X-Forwarded-For: 10.1.2.3"], ("10.1.2.3", 0)),
        (["X-Forwarded-For: 6.6.6.6, unknown, 10.1.2.3"], ("10.1.2.3", 0)),
        (["Forwarded: for=192.0.2.7"], ("192.0.2.7", 0)),
        (['Forwarded: for=6.6.6.6, for="[2001:db8::7]:80", for=10.1.2.3'], ("2001:db8::7", 80)),
        (['Forwarded: for="spoilt by the client', "Forwarded: for=192.0.2.7"], ("192.0.2.7", 0)),
        (["Forwarded: for=192.0.2.7:80", "X-Forwarded-For: 192.0.2.7"], ("192.0.2.7", 80)),
    ],
)
async def test_the_client_is_the_last_one_that_is_not_trusted(
    lines: list[str], address: tuple[str, int]
) -> None:
    ws = await seen_of(lines)
    assert ws.client_address == ws.request.client_address == address
    assert ws.remote_address[0] == PROXY
    assert repr(address) in repr(ws)


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"],
        ["Forwarded: for=6.6.6.6;proto=https;host=evil.example"],
        ['Forwarded: for="malformed'],
    ],
)
@pytest.mark.parametrize("options", [Options(), Options(trusted_proxies=["10.0.0.0/8"]), TRUSTING])
async def test_untrusted_peers_are_not_believed(lines: list[str], options: Options) -> None:
    ws = await seen_of(lines, options, STRANGER)
    assert ws.client_address == ws.request.client_address == ws.remote_address
    assert ws.remote_address[0] == STRANGER
    assert ws.request.scheme == "http"
    assert ws.request.host == "localhost"


async def test_a_proxy_that_says_nothing_is_the_client_itself() -> None:
    for lines in ([], ["X-Forwarded-For: "], ["X-Forwarded-For: unknown"], ["Forwarded: for=_hidden"]):
        ws = await seen_of(lines)
        assert ws.client_address == ws.remote_address


@pytest.mark.parametrize(
    ("lines", "scheme", "host"),
    [
        (["X-Forwarded-Proto: https", "X-Forwarded-Host: chat.example:8443"], "https", "chat.example:8443"),
        (["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: wss"], "https", "localhost"),
        (["Forwarded: for=192.0.2.7;proto=https;host=chat.example"], "https", "chat.example"),
        (["X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b"], "http", "localhost"),
        (
            ["X-Forwarded-For: 192.0.2.7, 10.1.2.3", "X-Forwarded-Proto: https, http"],
            "https",
            "localhost",
        ),
    ],
)
async def test_the_scheme_and_the_host_are_the_clients(lines: list[str], scheme: str, host: str) -> None:
    ws = await seen_of(lines)
    assert ws.request.scheme == scheme
    assert ws.request.host == host
    assert ws.request.header("host") == "localhost"


async def test_no_more_proxies_are_followed_than_there_can_be() -> None:
    options = Options(trusted_proxies=["0.0.0.0/0"])
    entries = ", ".join(f"10.0.{n >> 8}.{n & 255}" for n in range(1000))
    ws = await seen_of([f"X-Forwarded-For: {entries}"], options)
    assert ws.client_address == ("10.0.3.200", 0)  # the 32nd from the right


async def test_two_kinds_of_headers_that_differ_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A client may send the header that its proxy does not replace."""
    lines = ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=6.6.6.6"]
    caplog.set_level(logging.INFO)
    async with serving(echo, options=TRUSTING) as server:
        assert await ask(server, request(*lines)) == 400
        (record,) = caplog.records
        assert "set the one that your proxy writes: Options(forwarded_header=...)" in record.getMessage()
        caplog.clear()
        assert await ask(server, request('Forwarded: for="x')) == 400
        (record,) = caplog.records
        assert "a malformed Forwarded header" in record.getMessage()
    for header, address in (("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "6.6.6.6")):
        options = Options(trusted_proxies=[PROXY], forwarded_header=header)  # type: ignore[arg-type]
        assert (await seen_of(lines, options)).client_address == (address, 0)
    # Information in only one of the two is not used either.
    ws = await seen_of(
        ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.7;proto=https;host=evil.example"]
    )
    assert (ws.request.scheme, ws.request.host) == ("http", "localhost")


async def test_the_rules_of_hosts_and_origins_are_about_what_the_client_asked_for() -> None:
    options = Options(trusted_proxies=[PROXY], hosts=["chat.example"])
    async with serving(echo, options=options) as server:
        chat, page = "X-Forwarded-Host: chat.example", "Origin: https://chat.example"
        assert await ask(server, request(chat, page)) == 101
        assert await ask(server, request(chat, "Origin: https://evil.example")) == 403
        assert (
            await ask(server, request("X-Forwarded-Host: evil.example", "Origin: http://evil.example")) == 403
        )
        assert await ask(server, request(chat, page), STRANGER) == 403


async def test_shares_are_those_of_the_clients(caplog: pytest.LogCaptureFixture) -> None:
    options = Options(trusted_proxies=[PROXY], max_connections_per_address=2)
    async with serving(echo, options=options) as server, trio.open_nursery() as nursery:
        for number in range(5):  # neither the proxy nor a client whose address it hides has a share
            nursery.start_soon(ask, server, request(f"X-Forwarded-For: 192.0.2.{number}"))
            nursery.start_soon(ask, server, request())
    async with serving(echo, options=options) as server:
        streams = [await dial(server) for _ in range(3)]
        statuses = []
        for stream in streams:
            await stream.send_all(request("X-Forwarded-For: 192.0.2.7"))
            statuses.append(status_of(await stream.receive_some()))
        assert statuses == [101, 101, 503]
        (record,) = caplog.records
        assert "192.0.2.7 has max_connections_per_address (2) already" in record.getMessage()
        assert await ask(server, request("X-Forwarded-For: 192.0.2.8")) == 101
        for stream in streams:
            await trio.aclose_forcefully(stream)
        while server._clients:
            await server._client_done.wait()
        assert len(server._shares) == 0


async def test_functions_methods_and_the_log_see_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, seen = App(), []

    class Handler(WebSocketHandler[Any]):
        async def on_connect(self, connection: ClientConnection[Any]) -> None:
            seen.append(connection.client_address)
            raise ValueError("a bug")

    app.mount("/rpc", Handler)

    @app.http("/")
    async def index(request: Request) -> None:
        seen.append((request.client_address, request.scheme))

    @app.websocket("/blocking")
    def blocking(ws: Any) -> None:
        seen.append(ws.client_address)

    head = b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\r\n"
    async with serving(app, options=TRUSTING) as server:
        assert await ask(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + head) == 204
        assert await ask(server, request(target="/blocking")[:-2] + head) == 403
        assert await ask(server, request(target="/rpc")[:-2] + head) == 500
    assert seen == [(("192.0.2.7", 0), "https"), ("192.0.2.7", 0), ("192.0.2.7", 0)]
    (record,) = caplog.records
    assert "192.0.2.7" in record.getMessage()
    assert record.peer == ("192.0.2.7", 0)  # type: ignore[attr-defined]


async def test_a_unix_socket_may_be_a_proxys(tmp_path: Path) -> None:
    for trusted, address in ((["unix"], ("192.0.2.7", 0)), (["0.0.0.0/0"], "")):
        seen = Seen()
        options = Options(trusted_proxies=trusted)
        async with serving(seen, host=None, unix_path=tmp_path / "socket", options=options):
            async with await trio.open_unix_socket(tmp_path / "socket") as stream:
                await stream.send_all(request("X-Forwarded-For: 192.0.2.7"))
                assert status_of(await stream.receive_some()) == 101
        assert seen.clients[0].client_address == address


# -- the PROXY protocol -----------------------------------------------------------------------------

ANNOUNCED = Options(trusted_proxies=[PROXY, "10.0.0.0/8"], proxy_protocol=True)


@pytest.mark.parametrize(
    ("header", "lines", "address"),
    [
        (V1, [], ("192.0.2.7", 4711)),
        (V2, [], ("192.0.2.7", 4711)),
        (V1, ["X-Forwarded-For: 6.6.6.6"], ("192.0.2.7", 4711)),  # written by the client
        (V1.replace(b"192.0.2.7", b"10.1.2.3"), ["X-Forwarded-For: 192.0.2.8"], ("192.0.2.8", 0)),
        (LOCAL, [], None),
        (b"PROXY UNKNOWN\r\n", [], None),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_a_proxy_header_contains_the_address_of_the_client(
    header: bytes, lines: list[str], address: tuple[str, int] | None, whole: bool
) -> None:
    seen = Seen()
    async with serving(seen, options=ANNOUNCED) as server, await dial(server) as stream:
        data = header + request(*lines)
        for piece in [data] if whole else [data[i : i + 1] for i in range(len(data))]:
            await stream.send_all(piece)
        assert status_of(await stream.receive_some()) == 101
    (ws,) = seen.clients
    assert ws.client_address == (address or ws.remote_address)
    assert ws.remote_address[0] == PROXY


async def test_a_proxy_header_precedes_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    inner = listeners[0].transport_listener
    assert isinstance(inner, trio.SocketListener)
    given = inner.socket.getsockname()[1]
    for more in ({"ssl_context": context}, {"listeners": listeners, "host": None}):
        seen = Seen()
        async with serving(seen, options=ANNOUNCED, **more) as server:
            port = given if "listeners" in more else server.port
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(V2)
            async with connect("wss://localhost/", stream=stream, ssl_context=trusting) as ws:
                await ws.ping()
        (client,) = seen.clients
        assert client.client_address == ("192.0.2.7", 4711)
        assert client.request.scheme == "https"


async def test_an_untrusted_client_is_served_only_without_a_proxy_header() -> None:
    async with serving(echo, options=ANNOUNCED) as server:
        assert await ask(server, request(), STRANGER) == 101
        assert await ask(server, V1 + request(), STRANGER) == 400


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (request(), "it does not begin with a PROXY header"),
        (b"PROXY TCP4 junk\r\n" + request(), "its PROXY header is malformed"),
        (b"PROXY TCP4 " + b"x" * 200, "its PROXY header exceeds 107 bytes"),
        (SIGNATURE + b"\x21\x11\xff\xff", r"its PROXY header exceeds max_header_bytes (16384)"),
    ],
)
async def test_a_proxy_without_its_header_is_dropped(
    data: bytes, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(echo, options=ANNOUNCED) as server, await dial(server) as stream:
        await stream.send_all(data)
        assert await read_to_end(stream) == b""
        while server._clients:
            await server._client_done.wait()
    (record,) = caplog.records
    assert text in record.getMessage()
    assert "Options(proxy_protocol=True)" in record.getMessage()


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 192.0.2", V2[:20], SIGNATURE + b"\x21\x11\0\xff"])
async def test_a_proxy_header_has_open_timeout(
    said: bytes, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(echo, options=ANNOUNCED) as server, await dial(server) as stream:
        if said:
            await stream.send_all(said)
        while not server._handshakes:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await trio.testing.wait_all_tasks_blocked()  # until its task has started
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked()
        assert server._clients == 1
        mock_clock.jump(0.2)
        assert await read_to_end(stream) == b""
        while server._clients:
            await server._client_done.wait()
    (record,) = caplog.records
    assert "open_timeout (10.0 seconds)" in record.getMessage()


async def test_a_health_check_without_data_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo, options=ANNOUNCED) as server:
        for data in (b"", LOCAL, b"PROXY UNKNOWN\r\n"):
            async with await dial(server) as stream:
                if data:
                    await stream.send_all(data)
        while server._clients:
            await server._client_done.wait()
        assert len(server._shares) == 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_shares_apply_to_the_address_in_a_proxy_header() -> None:
    options = Options(trusted_proxies=[PROXY], proxy_protocol=True, max_handshakes_per_address=2)
    async with serving(echo, options=options) as server:
        silent = [await dial(server) for _ in range(2)]
        for stream in silent:
            await stream.send_all(V1)
        while len(server._shares) == 0 or len(server._shares._handshakes.get("192.0.2.7", ())) != 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert await ask(server, V1 + request()) == 0  # too early for an HTTP response
        assert await ask(server, V1.replace(b"192.0.2.7", b"192.0.2.8") + request()) == 101
        for stream in silent:
            await trio.aclose_forcefully(stream)
        while server._clients:
            await server._client_done.wait()
        assert len(server._shares) == 0
