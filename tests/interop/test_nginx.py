"""nginx as a reverse proxy, with the configuration of examples/deploy: forwarding, buffering and timeouts."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

import trio_ws
from tests.support.reverse_proxies import nginx
from tests.support.serving import echo, guard, serving

if TYPE_CHECKING:
    from pathlib import Path

HOST = "ws://chat.example/"
OPTIONS = trio_ws.Options(hosts=["chat.example"])
MIB = 1024 * 1024
#: Lines for the `location`, which replace its first line.
BUFFERING = {
    "default": None,
    "off": "proxy_buffering off; proxy_request_buffering off;",
    "small": "proxy_buffering on; proxy_buffer_size 4k; proxy_buffers 4 4k; proxy_busy_buffers_size 8k;",
}


def more(lines: str | None) -> dict[str, str]:
    return {} if lines is None else {"proxy_pass http://chat;": f"proxy_pass http://chat; {lines}"}


def upstream(server: trio_ws.WebSocketServer) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("buffering", BUFFERING)
async def test_messages_of_any_size(tmp_path: Path, buffering: str) -> None:
    async with (
        serving(echo, options=OPTIONS) as server,
        nginx(tmp_path, upstream(server), more(BUFFERING[buffering])) as path,
        trio_ws.connect(HOST, unix_path=path) as ws,
        trio.open_nursery() as nursery,
    ):
        sizes = [0, 1, 125, 126, 4095, 4096, 65535, 65536, MIB]

        async def send_all() -> None:
            for size in sizes:
                await ws.send(b"x" * size)

        nursery.start_soon(send_all)
        for size in sizes:
            assert len(await ws.receive_bytes()) == size
        assert await ws.ping() >= 0
        await ws.close(4000, "enough")
        assert ws.close_received is not None
        assert ws.close_received.code == 4000


@pytest.mark.parametrize("buffering", BUFFERING)
async def test_a_client_that_does_not_read_stops_the_server(tmp_path: Path, buffering: str) -> None:
    """nginx buffers only a few KiB for it, so the server has sent far less than it could."""
    sent = 0
    stands = trio.Event()

    async def flood(ws: trio_ws.WebSocket) -> None:
        nonlocal sent
        with pytest.raises(trio_ws.ConnectionClosedError):
            while True:
                with trio.move_on_after(0.5) as scope:
                    await ws.send(b"x" * 65536)
                if scope.cancelled_caught:
                    stands.set()
                    await ws.send(b"the end")
                sent += 65536
                assert sent < 256 * MIB

    options = trio_ws.Options(max_queue_bytes=65536)
    async with (
        serving(flood, options=OPTIONS) as server,
        nginx(tmp_path, upstream(server), more(BUFFERING[buffering])) as path,
        trio_ws.connect(HOST, unix_path=path, options=options) as ws,
    ):
        await stands.wait()
        first = sent
        assert first < 64 * MIB  # the buffers of the kernel, of nginx and of the server
        received = 0
        while received < first:  # it continues to read, and nothing is lost
            received += len(await ws.receive_bytes())


async def test_headers_behind_nginx(tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    async def look(ws: trio_ws.WebSocket) -> None:
        seen.update({name.lower(): value for name, value in ws.headers})
        seen["path"], seen["query"] = ws.path, ws.query_params
        await ws.send("seen")

    headers = {"X-Forwarded-For": "192.0.2.1"}
    async with serving(look, options=OPTIONS) as server, nginx(tmp_path, upstream(server)) as path:
        async with trio_ws.connect(f"{HOST}a%20b?x=1", unix_path=path, headers=headers) as ws:
            await ws.receive_text()
    assert seen["host"] == "chat.example"
    assert seen["path"] == "/a b"
    assert seen["query"] == {"x": ["1"]}
    assert str(seen["x-forwarded-for"]).startswith("192.0.2.1, ")
    assert seen["x-forwarded-proto"] == "http"


@pytest.mark.parametrize(
    ("origin", "without", "status"),
    [
        ("http://chat.example", None, 101),
        ("http://chat.example:8443", None, 101),
        ("http://elsewhere.example", None, 403),
        ("http://chat.example", "proxy_set_header Host $http_host;", 403),
    ],
)
async def test_the_origin_of_a_page(tmp_path: Path, origin: str, without: str | None, status: int) -> None:
    changes = {} if without is None else {without: ""}
    async with serving(echo, options=OPTIONS) as server, nginx(tmp_path, upstream(server), changes) as path:
        try:
            async with trio_ws.connect(HOST, unix_path=path, headers={"Origin": origin}):
                got = 101
        except trio_ws.HandshakeRejectedError as exc:
            got = exc.status
    assert got == status


async def test_without_the_upgrade_headers_there_is_no_websocket(tmp_path: Path) -> None:
    changes = {"proxy_set_header Upgrade $http_upgrade;": ""}
    async with serving(echo, options=OPTIONS) as server, nginx(tmp_path, upstream(server), changes) as path:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with trio_ws.connect(HOST, unix_path=path):
                pass
    assert caught.value.status == 426


async def test_refusals_and_plain_http_pass(tmp_path: Path) -> None:
    app = trio_ws.App()

    @app.websocket("/private")
    async def private(ws: trio_ws.WebSocket) -> None:
        await ws.reject(401, body=b"who are you?")

    @app.http("/healthz")
    async def healthz(request: trio_ws.Request) -> dict[str, bool]:
        return {"ok": True}

    async with serving(app, options=OPTIONS) as server, nginx(tmp_path, upstream(server)) as path:
        for name, status, body in (("private", 401, b"who are you?"), ("nothing", 404, None)):
            with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
                async with trio_ws.connect(HOST + name, unix_path=path):
                    pass
            assert caught.value.status == status
            assert body in (None, caught.value.body)
        stream = await trio.open_unix_socket(path)
        async with stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'{"ok":true}')


async def test_no_server_is_a_502(tmp_path: Path) -> None:
    async with nginx(tmp_path, f"unix:{tmp_path}/nobody") as path:
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with trio_ws.connect(HOST, unix_path=path):
                pass
    assert caught.value.status == 502


async def test_pings_keep_a_quiet_connection_open(tmp_path: Path) -> None:
    """Two servers behind the same timeout: only connections of the one that sends pings stay open."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    impatient = {"proxy_read_timeout 75s;": "proxy_read_timeout 1s;"}
    quiet = trio_ws.Options(hosts=["chat.example"], ping_interval=None)
    pinging = trio_ws.Options(hosts=["chat.example"], ping_interval=0.2)
    async with (
        serving(echo, options=quiet) as one,
        serving(echo, options=pinging) as other,
        nginx(tmp_path / "a", upstream(one), impatient) as path_of_one,
        nginx(tmp_path / "b", upstream(other), impatient) as path_of_other,
        trio_ws.connect(HOST, unix_path=path_of_other, options=quiet) as lives,
        trio_ws.connect(HOST, unix_path=path_of_one, options=quiet) as ends,
    ):
        with pytest.raises(trio_ws.ConnectionClosedError) as caught:
            await ends.recv()
        assert caught.value.code == 1006
        await lives.send("still here")
        assert await lives.receive_text() == "still here"


async def test_a_drain_reaches_everyone(tmp_path: Path) -> None:
    async with serving(echo, options=OPTIONS) as server, nginx(tmp_path, upstream(server)) as path:
        async with trio_ws.connect(HOST, unix_path=path) as ws:
            await ws.send("hello")
            await ws.receive_text()
            report = await server.drain()
            assert await ws.recv() is None
            assert ws.close_code == 1001
            assert report.finished == 1
        with pytest.raises(trio_ws.HandshakeRejectedError) as caught:
            async with trio_ws.connect(HOST, unix_path=path):
                pass
        assert caught.value.status in (502, 503)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    behind = tmp_path / "chat.sock"
    with trio.fail_after(guard()):
        async with (
            trio_ws.WebSocketServer(echo, unix_path=behind),
            nginx(tmp_path, f"unix:{behind}") as path,
            trio_ws.connect(HOST, unix_path=path) as ws,
        ):
            await ws.send("hello")
            assert await ws.receive_text() == "hello"


async def test_compression_passes(tmp_path: Path) -> None:
    options = trio_ws.Options(hosts=["chat.example"], compression=True)
    offered = []

    async def told(ws: trio_ws.WebSocket) -> None:
        offered.append(ws.header("Sec-WebSocket-Extensions"))
        await echo(ws)

    async with (
        serving(told, options=options) as server,
        nginx(tmp_path, upstream(server)) as path,
        trio_ws.connect(HOST, unix_path=path, options=options) as ws,
    ):
        await ws.send("x" * 100_000)
        assert await ws.receive_text() == "x" * 100_000
    assert "permessage-deflate" in str(offered)


async def test_the_server_knows_the_address_of_the_client(tmp_path: Path) -> None:
    seen: list[tuple[object, ...]] = []

    async def look(ws: trio_ws.WebSocket) -> None:
        seen.append((ws.client_address, ws.request.scheme, ws.request.host))
        await ws.accept()

    options = trio_ws.Options(hosts=["chat.example"], trusted_proxies=["127.0.0.1"])
    forged = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=6.6.6.6;proto=https;host=evil.example",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serving(look, options=options) as server, nginx(tmp_path, upstream(server), port=port):
        for headers in ({}, forged):
            sock = trio.socket.socket()
            await sock.bind(("127.0.0.9", 0))
            await sock.connect(("127.0.0.1", port))
            async with trio_ws.connect(HOST, stream=trio.SocketStream(sock), headers=headers) as ws:
                assert await ws.recv() is None
    assert seen == [(("127.0.0.9", 0), "http", "chat.example")] * 2
