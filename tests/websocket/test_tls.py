"""`SocketTLS`: the contract of trio's streams, and TLS as in Python's `ssl`."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
import trustme

from tests.support.serving import guard
from trio_ws.websocket.sockets import close_forcefully, shut_down, socket_of
from trio_ws.websocket.tls import SocketTLS, tls_client, tls_info, tls_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Contexts:
    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("server.example").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def contexts() -> Contexts:
    return Contexts()


def sockets(size: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends, with so much room in the kernel."""
    pair = socket.socketpair()
    for sock in pair:
        sock.setblocking(False)
        if size is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    return pair


async def pair(contexts: Contexts, size: int | None = None) -> tuple[SocketTLS, SocketTLS]:
    ours, theirs = sockets(size)
    client = SocketTLS(ours, contexts.client, server_hostname="server.example")
    server = SocketTLS(theirs, contexts.server, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    return client, server


@asynccontextmanager
async def open_pair(
    contexts: Contexts, size: int | None = None
) -> AsyncIterator[tuple[SocketTLS, SocketTLS]]:
    with trio.fail_after(guard()):
        client, server = await pair(contexts, size)
        async with client, server:
            yield client, server


async def test_implements_trios_stream(contexts: Contexts) -> None:
    with trio.fail_after(guard()):
        await trio.testing.check_two_way_stream(lambda: pair(contexts), None)


async def test_closing_with_session_tickets_unread_resets_nothing(contexts: Contexts) -> None:
    async with open_pair(contexts) as (client, server):
        await client.send_all(b"last")
        await client.aclose()
        assert await server.receive_some() == b"last"
        # Below TLS, because not every OpenSSL distinguishes a reset from an end.
        assert socket.socket.recv(server._sock, 1) == b""


async def test_megabytes_both_ways_at_once(contexts: Contexts) -> None:
    data = bytes(range(256)) * 16_000

    async def send(stream: SocketTLS) -> None:
        await stream.send_all(data)

    async def receive(stream: SocketTLS) -> None:
        got = bytearray()
        while len(got) < len(data):
            got += await stream.receive_some()
        assert got == data

    async with open_pair(contexts, 4096) as ends, trio.open_nursery() as nursery:
        for end in ends:
            nursery.start_soon(send, end)
            nursery.start_soon(receive, end)


async def test_a_send_that_is_cancelled_is_the_last(contexts: Contexts) -> None:
    async with open_pair(contexts, 4096) as (client, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, bytes(1_000_000))
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"more")


async def test_a_send_that_was_cancelled_before_has_sent_nothing(contexts: Contexts) -> None:
    async with open_pair(contexts) as (client, server):
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send_all(b"first")
        await client.send_all(b"second")
        assert await server.receive_some() == b"second"


async def test_a_receive_that_is_cancelled_loses_nothing(contexts: Contexts) -> None:
    async with open_pair(contexts) as (client, server):
        with trio.move_on_after(0.01):
            await client.receive_some()
        await server.send_all(b"x")
        assert await client.receive_some() == b"x"


async def test_both_wait_while_the_peer_changes_its_keys(contexts: Contexts) -> None:
    """Two tasks that wait for the same end of the socket."""
    async with open_pair(contexts) as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._wait, trio.lowlevel.wait_readable)
            nursery.start_soon(client._wait, trio.lowlevel.wait_readable)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert client._waits == {}


async def test_the_end(contexts: Contexts) -> None:
    """An end of the stream without close_notify counts as an end, as in HTTPS clients."""
    async with open_pair(contexts) as (client, server):
        await server.send_all(b"last words")
        await server.aclose()
        assert await client.receive_some() == b"last words"
        assert await client.receive_some() == b""


async def test_forcefully(contexts: Contexts) -> None:
    async with open_pair(contexts) as (client, server):
        below = socket_of(server)
        assert below is not None
        assert below.fileno() >= 0
        shut_down(below)
        assert await client.receive_some() == b""
        await close_forcefully(server)
        assert below.fileno() < 0
        await close_forcefully(server)


async def test_a_local_close_wakes_waiting_tasks(contexts: Contexts) -> None:
    async with open_pair(contexts) as (client, _):

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
        for call in (client.receive_some, lambda: client.send_all(b"x"), client.do_handshake):
            with pytest.raises(trio.ClosedResourceError):
                await call()


async def test_a_name_that_is_not_certified(contexts: Contexts) -> None:
    ours, theirs = sockets()
    client = SocketTLS(ours, contexts.client, server_hostname="other.example")
    server = SocketTLS(theirs, contexts.server, server_side=True)

    async def fail(stream: SocketTLS) -> None:
        with pytest.raises(trio.BrokenResourceError) as info:
            await stream.do_handshake()
        assert isinstance(info.value.__cause__, ssl.SSLError)

    with trio.fail_after(guard()):
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(fail, server)
            with pytest.raises(trio.BrokenResourceError) as info:
                await client.do_handshake()
            assert isinstance(info.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""])
async def test_a_peer_that_speaks_no_tls(contexts: Contexts, said: bytes) -> None:
    ours, theirs = sockets()
    server = SocketTLS(theirs, contexts.server, server_side=True)
    with trio.fail_after(guard()), ours:
        async with server:
            ours.send(said)
            ours.shutdown(socket.SHUT_WR)
            with pytest.raises(trio.BrokenResourceError):
                await server.do_handshake()


async def test_a_client_that_is_gone_costs_no_descriptor(contexts: Contexts) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.close()  # with a reset
        accepted.setblocking(False)
        try:
            stream = SocketTLS(accepted, contexts.server, server_side=True)
        except OSError:
            assert accepted.fileno() < 0
        else:
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await stream.aclose()
            assert stream.socket.fileno() < 0


async def test_which_tls_it_is(contexts: Contexts) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    assert isinstance(tls_client(ours, contexts.client, "server.example"), trio.SSLStream)
    assert isinstance(tls_server(theirs, contexts.server), trio.SSLStream)
    async with open_pair(contexts) as (client, server):
        assert tls_info(client).version == tls_info(server).version == "TLSv1.3"
        assert tls_info(client).peer_certificate is not None
        assert tls_info(client).server_name == "server.example"
