"""No client address can use up all resources of a server, whatever the state of its connections."""

from __future__ import annotations

import logging
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import echo, read_to_end, request, serving, status_of
from trio_ws import App, Options, WebSocketServer, connect
from trio_ws.server.address_shares import AddressShares, share_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ATTACKER, HONEST = "127.0.0.3", "127.0.0.2"


REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\n"
    b"Content-Length: 21\r\nConnection: close\r\n\r\ntoo many connections\n"
)


async def dial(server: WebSocketServer, source: str = ATTACKER) -> trio.SocketStream:
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", server.port))
    return trio.SocketStream(sock)


async def ask(server: WebSocketServer, source: str = ATTACKER) -> tuple[trio.SocketStream, int]:
    """Send an opening request from an address, and return the stream and the status."""
    stream = await dial(server, source)
    answer = bytearray()
    try:
        await stream.send_all(request())
        while b"\r\n" not in answer:
            answer += await stream.receive_some() or b"HTTP/1.1 000\r\n"
    except trio.BrokenResourceError:  # the server answered before it received the request
        answer += b"HTTP/1.1 503\r\n"
    return stream, status_of(bytes(answer))


@asynccontextmanager
async def held_by_the_attacker(server: WebSocketServer, count: int) -> AsyncIterator[list[int]]:
    """Perform ``count`` handshakes from one address, and yield their statuses; the connections stay open."""
    streams, statuses = [], []
    try:
        for _ in range(count):
            stream, status = await ask(server)
            streams.append(stream)
            statuses.append(status)
        yield statuses
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def freed(server: WebSocketServer) -> None:
    """Wait until the server has noticed that all clients have disconnected."""
    while server._clients:
        await server._client_done.wait()
    assert len(server._shares) == 0


async def test_one_address_cannot_take_all_connections() -> None:
    async with serving(max_connections=8) as server:
        async with held_by_the_attacker(server, 8) as statuses:
            assert statuses == [101] * 6 + [503] * 2
            stream, status = await ask(server, HONEST)
            assert status == 101
            await stream.aclose()
        await freed(server)


async def test_one_address_cannot_take_all_handshakes(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(options=Options(max_handshakes=8, open_timeout=30)) as server:
        silent = [await dial(server) for _ in range(12)]
        stream, status = await ask(server, HONEST)
        assert status == 101
        text = (
            "refused a client: 127.0.0.3 has max_handshakes_per_address (6) already;"
            " if it is your proxy, add it to Options(trusted_proxies=[...])"
        )
        assert {record.getMessage() for record in caplog.records} == {text}
        assert {record.peer[0] for record in caplog.records} == {ATTACKER}  # type: ignore[attr-defined]
        for one in [*silent, stream]:
            await one.aclose()
        await freed(server)


@pytest.mark.parametrize("tls", [False, True])
async def test_many_addresses_cannot_take_all_handshakes_either(
    tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest handshake of the address with the most is dropped for an address with fewer."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    options = Options(max_handshakes=8, open_timeout=30)
    async with serving(echo, options=options, ssl_context=context if tls else None) as server:
        attackers = [f"127.0.0.{number}" for number in range(3, 7)]
        silent = [await dial(server, attacker) for _ in range(3) for attacker in attackers]
        await settled(server, 8)
        assert len(caplog.records) == 4  # all addresses have the same number, and none is dropped
        caplog.clear()
        for _ in range(3):
            stream: trio.abc.Stream = await dial(server, HONEST)
            if tls:
                stream = trio.SSLStream(stream, trusting, server_hostname="localhost")
            async with connect("ws://localhost/", stream=stream) as ws:
                await ws.ping()
        assert [record.getMessage() for record in caplog.records] == [
            "dropped a client in its handshake: max_handshakes (8) are under way, most of them of 127.0.0.3"
        ]
        assert await read_to_end(silent[0]) == (b"" if tls else REFUSED)
        # The handshake of an honest, slow client is not dropped.
        slow = await dial(server, HONEST)
        await settled(server, 8)
        more = [await dial(server, attacker) for attacker in attackers]
        for one in more:
            await read_to_end(one)
        if not tls:
            await slow.send_all(request())
            assert status_of(await slow.receive_some()) == 101
        for one in [*silent, *more, slow]:
            await trio.aclose_forcefully(one)
        await freed(server)


async def settled(server: WebSocketServer, handshakes: int) -> None:
    """Wait until ``handshakes`` clients are in their opening handshake, and all others are gone or open."""
    while server._handshakes != handshakes:
        await trio.testing.wait_all_tasks_blocked(0.001)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server._handshakes == handshakes


async def test_a_share_that_is_given_holds_for_loopback_addresses_too() -> None:
    options = Options(max_connections_per_address=2)
    async with serving(options=options) as server:
        async with held_by_the_attacker(server, 3) as statuses:
            assert statuses == [101, 101, 503]
        await freed(server)
        async with held_by_the_attacker(server, 2) as statuses:
            assert statuses == [101, 101]


async def test_refused_and_answered_connections_count() -> None:
    app = App()

    @app.http("/big")
    async def big(request: object) -> bytes:
        return b"x" * 32 * 1024 * 1024

    async with serving(app, options=Options(max_connections_per_address=2)) as server:
        refused, reading = await dial(server), await dial(server)
        await refused.send_all(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(await refused.receive_some()) == 404  # the client may continue to send
        await reading.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(await reading.receive_some(100)) == 200  # the client reads no more of the response
        third, status = await ask(server)
        assert status == 503
        for one in (refused, reading, third):
            await trio.aclose_forcefully(one)
        await freed(server)


async def test_all_that_is_there_has_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    """The number of refused clients that still get a response is limited by max_handshakes."""
    options = Options(max_connections=2, max_handshakes=2, max_connections_per_address=100)
    async with serving(options=options) as server:
        kept = [await ask(server) for _ in range(2)]
        assert [status for _, status in kept] == [101, 101]
        lingering = []
        for _ in range(4):
            stream = await dial(server)
            lingering.append(stream)
            await stream.send_all(b"GARBAGE\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert server._clients <= 4
        texts = [record.getMessage() for record in caplog.records]
        assert "refused a client: max_connections (2) and max_handshakes are reached" in texts
        for stream in [*lingering, *(stream for stream, _ in kept)]:
            await trio.aclose_forcefully(stream)
        await freed(server)


async def test_refused_clients_hold_no_place() -> None:
    """A refused client holds no place, so the next client is served as soon as another one has left."""
    async with serving(max_connections=1) as server:
        first, _ = await ask(server, HONEST)
        late = [await ask(server) for _ in range(5)]
        assert {status for _, status in late} == {503}
        await trio.aclose_forcefully(first)
        while server._clients:  # although the refused clients have not closed
            await server._client_done.wait()
        stream, status = await ask(server, HONEST)
        assert status == 101
        for one in [stream, *(stream for stream, _ in late)]:
            await trio.aclose_forcefully(one)


async def test_unix_sockets_have_no_address(tmp_path: Path) -> None:
    options = Options(max_connections_per_address=1)
    async with serving(host=None, unix_path=tmp_path / "socket", options=options) as server:
        for _ in range(3):
            stream = await trio.open_unix_socket(tmp_path / "socket")
            await stream.send_all(request())
            assert status_of(await stream.receive_some()) == 101
            assert len(server._shares) == 0
            await stream.aclose()


async def test_every_way_out_gives_the_share_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    async def target(ws: Any) -> None:
        if ws.path == "/raise":
            raise ValueError("a bug")
        await echo(ws)

    said = [
        b"",
        b"GARBAGE",
        b"GET / HTTP/1.1\r\nHost: loc",
        request()[:40],
        request(target="/raise"),
        request(),
        request("Content-Length: 5"),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhel",
    ]
    async with serving(target, options=Options(open_timeout=0.2, close_timeout=0.2)) as server:
        for data in said:
            for leave in ("close", "reset", "wait"):
                stream = await dial(server)
                if data:
                    await stream.send_all(data)
                if leave == "wait" and data != request():
                    await read_to_end(stream)
                elif leave == "reset":
                    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await trio.aclose_forcefully(stream)
        await freed(server)


# -- grouping of addresses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "key"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 80, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 80, 0, 2), "fe80::/64"),
        (("::1", 80, 0, 0), "::1"),
        (("made up", 0), "made up"),
        ("", None),
        (b"\0name", None),
        (None, None),
    ],
)
def test_keys(address: Any, key: str | None) -> None:
    assert share_key(address) == key


@pytest.mark.parametrize(
    ("options", "key", "connections", "handshakes"),
    [
        (Options(), "192.0.2.1", 128, 64),
        (Options(), "2001:db8::/64", 128, 64),
        (Options(), "127.0.0.1", 15_000, 768),
        (Options(), "::1", 15_000, 768),
        (Options(max_connections=100, max_handshakes=10), "192.0.2.1", 75, 8),
        (Options(max_connections=None), "192.0.2.1", 128, 64),
        (Options(max_connections=None), "127.0.0.1", None, 768),
        # Limits below four are not divided.
        (Options(max_connections=1, max_handshakes=3), "127.0.0.1", None, None),
        (Options(max_connections_per_address=7, max_handshakes_per_address=3), "127.0.0.1", 7, 3),
        (Options(max_connections_per_address=700, max_handshakes_per_address=300), "192.0.2.1", 700, 300),
    ],
)
def test_shares(options: Options, key: str, connections: int | None, handshakes: int | None) -> None:
    shares = AddressShares(options)
    assert shares.max_connections(key) == connections
    assert shares.max_handshakes(key) == handshakes


def test_records_are_freed() -> None:
    shares = AddressShares(Options())
    clients = [(f"192.0.2.{i % 100}", object()) for i in range(300)]
    for key, client in clients:
        shares.begin(key, client)
    for key, client in clients:
        shares.opened(key, client)
    assert len(shares) == 100
    assert shares._handshakes == {}
    for key, _ in clients:
        shares.end(key)
    assert len(shares) == 0


def test_connections_without_an_address_have_no_share() -> None:
    shares = AddressShares(Options(max_connections_per_address=1, max_handshakes_per_address=1))
    for number in range(3):
        shares.begin(None, number)
        assert shares.refusal(None) is None
    assert len(shares) == 0
    assert shares.crowding("192.0.2.1") == 0
    assert shares.crowding(None) is None


def test_which_handshake_is_dropped() -> None:
    shares = AddressShares(Options())
    assert shares.crowding("a") is None
    for number, key in enumerate("abbbcc"):
        shares.begin(key, number)
    assert shares.crowding("d") == 1
    assert shares.crowding("a") == 1
    assert shares.crowding("c") is None
    assert shares.crowding("b") is None
    shares.opened("b", 1)
    assert shares.crowding("a") is None
    assert shares.crowding("d") == 2
