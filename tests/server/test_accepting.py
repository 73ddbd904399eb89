"""`trio_ws.server.accepting`: listeners, and the steps from an accepted client to a checked request."""

# ruff: noqa: ASYNC240 - what tests do to local files takes no time

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import (
    all_tasks,
    body_of,
    echo,
    exchange,
    read_to_end,
    request,
    serving,
    serving_in_memory,
    status_of,
)
from trio_ws import ConnectionFailedError, Options, WebSocketServer, connect
from trio_ws.testing import MemoryListener, RawPeer

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from trio.testing import MockClock

    from trio_ws import WebSocket


async def says_hello(ws: WebSocket) -> None:
    await ws.send("hello")
    assert await ws.receive_text() == "hello"


# -- where to listen --------------------------------------------------------------------------------


async def test_a_port_in_use_is_an_os_error_and_leaves_nothing() -> None:
    async with serving() as server:
        before = all_tasks()
        with pytest.raises(OSError, match="already in use") as info:
            async with WebSocketServer(echo, server.port, host="127.0.0.1"):
                pytest.fail("two servers on one port")
        assert info.value.errno == errno.EADDRINUSE
        assert all_tasks() == before
        async with connect(server.url) as ws:
            await says_hello(ws)


async def test_a_port_is_free_again_after_the_server() -> None:
    async with serving() as first:
        port = first.port
        async with connect(first.url) as ws:
            await says_hello(ws)
    async with serving(port=port) as second, connect(second.url) as ws:
        await says_hello(ws)


async def test_an_address_of_another_machine_is_an_os_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        async with WebSocketServer(echo, host="192.0.2.1"):
            pytest.fail("that is not ours")


@pytest.fixture
def unix_path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


async def test_a_unix_socket_is_gone_with_its_server(unix_path: Path) -> None:
    async with serving(host=None, unix_path=unix_path) as server:
        assert unix_path.is_socket()
        with pytest.raises(RuntimeError, match="no TCP listener"):
            server.port  # noqa: B018
    assert not unix_path.exists()


async def test_a_stale_unix_socket_is_replaced(unix_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(unix_path))
        left_behind.listen()
    assert unix_path.is_socket()
    async with (
        serving(host=None, unix_path=unix_path) as server,
        connect(server.url, unix_path=unix_path) as ws,
    ):
        await says_hello(ws)


async def test_a_unix_socket_in_use_is_not_replaced(
    unix_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(host=None, unix_path=unix_path) as server:
        with pytest.raises(OSError, match="in use"):
            async with WebSocketServer(echo, unix_path=unix_path):
                pytest.fail("two servers on one path")
        async with connect(server.url, unix_path=unix_path) as ws:
            await says_hello(ws)
    assert not caplog.records


async def test_a_file_that_is_not_a_socket_is_not_removed(unix_path: Path) -> None:
    unix_path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        async with WebSocketServer(echo, unix_path=unix_path):
            pytest.fail("the file was replaced")
    assert unix_path.read_text() == "precious"


async def test_given_listeners_of_all_kinds_are_closed() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    memory = MemoryListener()
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (tls,) = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    inner = tls.transport_listener
    assert isinstance(inner, trio.SocketListener)
    tls_port = inner.socket.getsockname()[1]
    async with serving(host=None, listeners=[memory, tcp, tls]) as server:
        assert list(server.listeners) == [memory, tcp, tls]
        assert server.port == tcp.socket.getsockname()[1]
        async with (
            connect("ws://test", stream=await memory.connect()) as one,
            connect(server.url) as two,
            connect(f"wss://localhost:{tls_port}", ssl_context=trusting) as three,
        ):
            for ws in (one, two, three):
                await says_hello(ws)
    for listener in (memory, tcp, tls):
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


# -- accepting --------------------------------------------------------------------------------------


@pytest.fixture
def few_files() -> Generator[list[int]]:
    """Use up all file descriptors, and return them, so that the caller can close them."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    yield held
    for number in held:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_running_out_of_files_is_survived(
    few_files: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:
        await trio.testing.wait_all_tasks_blocked()  # until it listens
        with socket.socket() as client:
            client.setblocking(False)
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 50, hard))
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    few_files.append(os.dup(0))
            assert client.connect_ex(("127.0.0.1", server.port)) in (0, errno.EINPROGRESS)
            while not caplog.records:  # until it has logged the failure
                await trio.lowlevel.checkpoint()
            while few_files:
                os.close(few_files.pop())
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(client.dup()))
            peer = await RawPeer.connect(stream)
            await peer.send_text("still here?")
            frame = await peer.receive_frame()
            assert frame is not None
            assert frame.payload == b"still here?"
            await peer.aclose()
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert "cannot accept new connections" in caplog.text


async def test_too_few_files_to_start_are_one_error(few_files: list[int]) -> None:
    """A server with two listeners needs two more descriptors to accept, and may have none or one."""
    async with WebSocketServer(echo, 0):
        pass  # everything is imported
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few_files.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (few_files[0] + 50, hard))
    with pytest.raises(OSError, match="Too many open files"):
        while True:
            few_files.append(os.dup(0))
    free = 0
    while True:
        try:
            async with WebSocketServer(echo, 0):
                break
        except OSError as exc:
            assert exc.errno == errno.EMFILE
            free += 1
        os.close(few_files.pop())
    assert free >= 3


async def test_many_clients_at_once() -> None:
    served = 0

    async def once(ws: WebSocket) -> None:
        nonlocal served
        await says_hello(ws)
        served += 1

    async def client(url: str) -> None:
        async with connect(url) as ws:
            await says_hello(ws)
            async for _ in ws:
                pass

    async with serving(once) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(150):
                nursery.start_soon(client, server.url)
        assert served == 150


# -- responses to invalid handshakes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "header"),
    [
        (request(leave_out=["upgrade", "connection"]), 426, "Upgrade: websocket"),
        (request(leave_out=["upgrade"]), 426, "Upgrade: websocket"),
        (
            request("Sec-WebSocket-Version: 8", leave_out=["sec-websocket-version"]),
            426,
            "Sec-WebSocket-Version: 13",
        ),
        (request(leave_out=["connection"]), 400, None),
        (request(leave_out=["host"]), 400, None),
        (request("Host: other"), 400, None),
        (request(leave_out=["sec-websocket-key"]), 400, None),
        (request("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, None),
        (request("Sec-WebSocket-Key: short", leave_out=["sec-websocket-key"]), 400, None),
        (request(version="1.0"), 400, None),
        (request(version="2.0"), 505, None),
        (request(method="POST"), 405, "Allow: GET"),
        (request(method="DELETE"), 405, "Allow: GET"),
        (request("Origin: https://evil.example"), 403, None),
        (request("Content-Length: 3", leave_out=["upgrade"]) + b"abc", 426, None),
        (request("Content-Length: 3") + b"abc", 400, None),
        (request("Content-Length: 999999"), 413, None),
        (request("Content-Length: 3", "Transfer-Encoding: chunked"), 400, None),
        (request("Transfer-Encoding: gzip"), 501, None),
        (request("X: " + "x" * 20_000), 431, None),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, 431, None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, None),
        (request(target="no-slash"), 400, None),
        (request("bad header"), 400, None),
        (request("X\0: 1"), 400, None),
    ],
)
async def test_an_invalid_handshake_gets_a_response_with_the_reason(
    data: bytes,
    status: int,
    header: str | None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    listener = MemoryListener()
    async with WebSocketServer(echo, listeners=[listener]):
        response = await exchange(await listener.connect(), data)
    assert status_of(response) == status
    assert body_of(response)
    assert b"\r\nConnection: close\r\n" in response
    if header is not None:
        assert f"\r\n{header}\r\n".encode() in response
    assert len(caplog.records) == 1
    assert "evil" not in response.decode()


async def test_an_answer_to_head_has_no_body(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    async with WebSocketServer(echo, listeners=[listener]):
        response = await exchange(await listener.connect(), request(method="HEAD"))
    assert status_of(response) == 405
    assert response.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0\r\n" not in response


async def test_a_client_that_has_sent_too_much_can_still_read_its_answer() -> None:
    async with serving() as server:
        for data in (
            request("X: " + "x" * 200_000),
            request("Content-Length: 200000", method="POST") + b"x" * 200_000,
            b"\0" * 200_000,
        ):
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(data)
                # A reset would lose what was sent before it.
                assert status_of(await read_to_end(stream)) in (400, 413, 431)


async def test_a_refused_client_that_never_stops_talking_is_cut_off() -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"\0" * 65536)


# -- origins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (None, None, True),
        (None, "http://localhost", True),
        (None, "https://localhost:8443", True),
        (None, "http://localhost.evil.example", False),
        (None, "null", False),
        (["https://a.example"], "https://a.example", True),
        (["https://a.example"], "http://a.example", False),
        (["https://a.example"], "http://localhost", False),
        (["https://a.example"], None, True),
        ([], "http://localhost", False),
        (["*"], "https://anybody.example", True),
        (["null"], "null", True),
    ],
)
async def test_the_origin_rule(
    origins: list[str] | None,
    origin: str | None,
    allowed: bool,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    listener = MemoryListener()
    more = [] if origin is None else [f"Origin: {origin}"]
    async with WebSocketServer(echo, listeners=[listener], options=Options(origins=origins)):
        stream = await listener.connect()
        await stream.send_all(request(*more))
        status = status_of(bytes(await stream.receive_some()))
        await stream.aclose()
    assert status == (101 if allowed else 403)
    if allowed:
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"Options(origins=[{origin!r}])" in record.getMessage()


async def test_an_origin_cannot_break_the_log_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    listener = MemoryListener()
    async with WebSocketServer(echo, listeners=[listener]):
        data = request("Origin: http://e\x85vil'\x9b31m")
        assert status_of(await exchange(await listener.connect(), data)) == 403
    (record,) = caplog.records
    assert record.getMessage().isprintable()


# -- stop_listening ---------------------------------------------------------------------------------


async def test_a_server_that_stops_listening_serves_those_that_it_has() -> None:
    async with serving() as server, connect(server.url) as ws:
        url = server.url
        await server.stop_listening()
        with pytest.raises(ConnectionFailedError):
            async with connect(url):
                pass
        await ws.send("still here")
        assert await ws.receive_text() == "still here"
        with pytest.raises(RuntimeError, match="no TCP listener"):
            _ = server.port
        await server.stop_listening()
    with pytest.raises(RuntimeError, match="only a running server can stop listening"):
        await server.stop_listening()


async def test_opening_handshakes_under_way_may_finish(autojump_clock: MockClock) -> None:
    stopped = trio.Event()

    async def stop(server: WebSocketServer) -> None:
        await server.stop_listening()
        stopped.set()

    async with serving_in_memory() as memory, trio.open_nursery() as nursery:
        stream = await memory.stream()
        await stream.send_all(request()[:40])
        await trio.sleep(1)
        nursery.start_soon(stop, memory.server)
        await trio.sleep(1)
        assert not stopped.is_set()
        await stream.send_all(request()[40:])
        await stopped.wait()
        assert trio.current_time() == pytest.approx(2)
        assert status_of(bytes(await stream.receive_some())) == 101
        assert len(memory.server.connections) == 1
        await stream.aclose()


@pytest.mark.parametrize("patience", [3.0, 60.0])
async def test_no_client_delays_that_for_longer_than_open_timeout(
    patience: float, autojump_clock: MockClock
) -> None:
    async with serving_in_memory(options=Options(open_timeout=5)) as memory:
        await memory.stream()
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(patience):
            await memory.server.stop_listening()
        assert trio.current_time() == pytest.approx(min(patience, 5))
        with pytest.raises(ConnectionRefusedError):
            await memory.stream()
