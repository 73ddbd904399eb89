"""A peer that reads slowly is alive. A peer that does not read is not, even if its kernel accepts data."""

from __future__ import annotations

import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import read_to_end
from trio_ws import App, ConnectionClosedError, Options, Request, WebSocket, WebSocketServer
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not tell")

OPTIONS = Options(ping_interval=20, ping_timeout=15)
KINDS = ["tcp", "tls", "unix"]
#: More than the receive buffer of the peer's kernel, so reading this much proves that more has arrived. Less
#: than the free space that the server's kernel requires before it accepts more.
SOME = 200_000


async def flood(ws: WebSocket) -> None:
    """Send all the time, so that the write buffer is never empty."""
    with pytest.raises(ConnectionClosedError):
        while True:
            await ws.send(bytes(100_000))


async def burst(ws: WebSocket) -> None:
    """Send data that the kernel accepts almost completely, and then nothing more."""
    await ws.send(bytes(2_000_000))
    async for _ in ws:
        pass


@asynccontextmanager
async def serving(
    kind: str, folder: Path, handler: Callable[[WebSocket], Awaitable[None]] | App
) -> AsyncIterator[tuple[WebSocketServer, trio.abc.Stream]]:
    """Run a server, and yield a stream to it, with an opening handshake if there is a handler."""
    path = str(folder / "socket") if kind == "unix" else None
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority = trustme.CA()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    async with WebSocketServer(
        handler,
        host=None if path else "127.0.0.1",
        unix_path=path,
        ssl_context=server_side if kind == "tls" else None,
        options=OPTIONS,
    ) as server:
        try:
            if path is not None:
                bottom = await trio.open_unix_socket(path)
            else:
                sock = trio.socket.socket()
                # The option must be set before connecting.
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65_536)
                await sock.connect(("127.0.0.1", server.port))
                bottom = trio.SocketStream(sock)
            async with bottom:
                stream: trio.abc.Stream = bottom
                if kind == "tls":
                    stream = trio.SSLStream(
                        bottom, client_side, server_hostname="localhost", https_compatible=True
                    )
                if not isinstance(handler, App):
                    await RawPeer.connect(stream)
                yield server, stream
        finally:
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            clock.autojump_threshold = 0  # let time pass for the closing


async def read(stream: trio.abc.Stream, size: int) -> None:
    while size > 0:
        data = await stream.receive_some(min(size, 10_000))
        assert data
        size -= len(data)


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked(0.01)


def under_a_mock_clock(trial: Callable[[trio.testing.MockClock], Awaitable[None]]) -> None:
    clock = trio.testing.MockClock()
    trio.run(trial, clock, clock=clock)


@pytest.mark.parametrize("handler", [flood, burst])
@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_takes_some_in_each_timeout_is_alive(
    kind: str, handler: Callable[[WebSocket], Awaitable[None]], tmp_path: Path
) -> None:
    """It does not answer pings, because they come after a lot of unread data."""

    async def trial(clock: trio.testing.MockClock) -> None:
        async with serving(kind, tmp_path, handler) as (server, stream):
            await trio.testing.wait_all_tasks_blocked(0.05)
            for _ in range(3):
                await pass_time(clock, 20)
                await read(stream, SOME)
                await pass_time(clock, 15)
                assert len(server.connections) == 1
            await stream.aclose()

    under_a_mock_clock(trial)


@pytest.mark.parametrize("handler", [flood, burst])
@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_stops_taking_is_given_up_in_time(
    kind: str, handler: Callable[[WebSocket], Awaitable[None]], tmp_path: Path
) -> None:
    async def trial(clock: trio.testing.MockClock) -> None:
        async with serving(kind, tmp_path, handler) as (server, stream):
            await trio.testing.wait_all_tasks_blocked(0.05)
            await pass_time(clock, 20)
            await read(stream, SOME)
            await pass_time(clock, 15)
            assert len(server.connections) == 1
            # The kernels use timers, and may transfer the last data a little later.
            await trio.testing.wait_all_tasks_blocked(0.5)
            await pass_time(clock, 20)
            await pass_time(clock, 15)
            for seconds in (20, 20, 15):
                await pass_time(clock, seconds)
            assert len(server.connections) == 0
            await read_to_end(stream)

    under_a_mock_clock(trial)


@pytest.mark.parametrize("kind", KINDS)
def test_data_accepted_by_the_kernel_does_not_keep_a_hanging_peer_alive(kind: str, tmp_path: Path) -> None:
    """The kernel accepts all data, including our ping, but the peer does not read it."""

    async def trial(clock: trio.testing.MockClock) -> None:
        sent = 0

        async def ticker(ws: WebSocket) -> None:
            nonlocal sent
            with pytest.raises(ConnectionClosedError):
                await ws.accept()
                await trio.sleep(0.5)  # not at the same time as the keepalive checks
                while True:
                    await ws.send(b"tick")
                    sent += 1
                    await trio.sleep(1)

        async with serving(kind, tmp_path, ticker) as (server, stream):
            for _ in range(2 * (20 + 20 + 15)):
                await pass_time(clock, 0.5)
            assert sent > 30
            assert len(server.connections) == 0
            await read_to_end(stream)

    if kind != "unix":  # a Unix socket has one buffer for both sides, so accepted data was read
        under_a_mock_clock(trial)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_http_response_is_sent_for_as_long_as_the_client_takes_some(
    kind: str, reads: bool, tmp_path: Path
) -> None:
    app = App()

    @app.http("/")
    async def large(request: Request) -> bytes:
        return bytes(20_000_000)

    async def trial(clock: trio.testing.MockClock) -> None:
        async with serving(kind, tmp_path, app) as (server, stream):
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await read(stream, SOME)
            for _ in range(20):  # five times close_timeout
                await pass_time(clock, OPTIONS.close_timeout / 4)
                if reads:
                    await read(stream, SOME)
            if not reads:
                await read_to_end(stream)  # the server has closed the connection
            else:
                assert server._count_connections() == 1
                await stream.aclose()

    under_a_mock_clock(trial)
