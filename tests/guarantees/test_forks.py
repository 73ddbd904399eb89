"""Connections end even if a forked child process has copies of all descriptors.

Random numbers of a child are independent of its parent's.
"""

from __future__ import annotations

import copy
import os
import pickle
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from tests.support.forking import forked_child, said_in_a_child
from tests.support.serving import echo, guard, read_to_end, request, serving
from trio_ws import Backoff, Options, WebSocket, WebSocketServer, connect
from trio_ws.protocol.framing import frame_pair, masked_frame
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KINDS = ["tcp", "unix", "tls", "streams"]
AUTHORITY = trustme.CA()


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


class Streams(trio.abc.Listener[trio.abc.Stream]):
    """A listener that is not a `trio.SocketListener`, and returns streams."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener

    async def accept(self) -> trio.abc.Stream:
        stream = await self._listener.accept()
        return trio.StapledStream(stream, stream)

    async def aclose(self) -> None:
        await self._listener.aclose()


@asynccontextmanager
async def listening(kind: str, folder: Path, target: Any = echo, **kwargs: Any) -> AsyncIterator[Any]:
    """Run a server, and yield it with a function that opens a stream to it."""
    path = str(folder / "socket")
    if kind == "tls":
        kwargs["ssl_context"] = server_context()
    if kind == "unix":
        kwargs["unix_path"] = path
    else:
        kwargs["host"] = "127.0.0.1"
    if kind == "streams":
        listener = (await trio.open_tcp_listeners(0, host=kwargs.pop("host")))[0]
        kwargs["listeners"] = [Streams(listener)]
        port = listener.socket.getsockname()[1]

    async def open_stream() -> trio.abc.Stream:
        if kind == "unix":
            stream: trio.abc.Stream = await trio.open_unix_socket(path)
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        opened.append(stream)
        if kind == "tls":
            return trio.SSLStream(
                stream, client_context(), server_hostname="localhost", https_compatible=True
            )
        return stream

    opened: list[trio.abc.Stream] = []
    with trio.fail_after(guard()):
        async with WebSocketServer(target, **kwargs) as server:
            if kind in ("tcp", "tls"):
                port = server.port
            yield open_stream
            for stream in opened:
                await stream.aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_peer_sees_the_end_of_what_a_server_closes(kind: str, tmp_path: Path) -> None:
    async with listening(kind, tmp_path) as open_stream:
        peer = await RawPeer.connect(await open_stream())
        await peer.send_frame(2, b"here")
        assert (await peer.receive_frame()).payload == b"here"  # type: ignore[union-attr]
        with forked_child():
            await peer.send_frame(8, b"\x03\xe8")
            assert (await peer.receive_until_close())[0] == 1000  # type: ignore[index]
            with trio.fail_after(guard()):
                assert await read_to_end(peer.stream) == b""


@pytest.mark.parametrize("kind", KINDS)
async def test_messages_sent_before_the_end_arrive(kind: str, tmp_path: Path) -> None:
    """All data that the kernel has accepted arrives, followed by the Close frame."""
    closed = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.send(b"x" * 100_000)
        await ws.close(4000, "enough")
        closed.set()

    options = Options(close_timeout=0.2)
    async with listening(kind, tmp_path, handler, options=options) as open_stream:
        peer = await RawPeer.connect(await open_stream())
        with forked_child(), trio.fail_after(guard()):
            await closed.wait()
            frame = await peer.receive_frame()
            assert frame is not None
            assert len(frame.payload) == 100_000
            assert await peer.receive_until_close() == (4000, "enough")
            assert await read_to_end(peer.stream) == b""


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_the_peer_sees_the_end_of_what_a_client_closes(kind: str) -> None:
    """The client closes; the server does not answer the Close frame."""
    ended = trio.Event()

    async def serve(stream: trio.abc.Stream) -> None:
        if kind == "tls":
            stream = trio.SSLStream(stream, server_context(), server_side=True, https_compatible=True)
        peer = await RawPeer.accept(stream)
        frame = await peer.receive_frame()
        assert frame is not None
        assert frame.opcode == 8
        assert await read_to_end(peer.stream) == b""
        ended.set()
        await stream.aclose()

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            listener = (await nursery.start(trio.serve_tcp, serve, 0))[0]
            port = listener.socket.getsockname()[1]
            url, context = ("ws", None) if kind == "tcp" else ("wss", client_context())
            options = Options(close_timeout=0.1)
            async with connect(
                f"{url}://localhost:{port}/", ssl_context=context, options=options, proxy=None
            ):
                child = forked_child()
                child.__enter__()
            try:
                with trio.fail_after(guard()):
                    await ended.wait()
            finally:
                child.__exit__(None, None, None)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(request(leave_out=("sec-websocket-key",)), id="a request that is refused"),
        pytest.param(b"nonsense\r\n\r\n", id="garbage"),
    ],
)
async def test_the_peer_sees_the_end_of_an_http_answer(asked: bytes) -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(
            b"G" if asked.startswith(b"G") else b"n"
        )  # the server has accepted the connection
        await trio.testing.wait_all_tasks_blocked(0.01)
        with forked_child():
            await stream.send_all(asked[1:])
            with trio.fail_after(guard()):
                assert (await read_to_end(stream)).startswith(b"HTTP/1.1 400")
                await stream.aclose()


async def test_a_stopping_server_does_not_shut_down_a_shared_listening_socket() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    inner = listener.socket
    # A second descriptor of the same socket, as a forked child has.
    copied = socket.socket(inner.family, inner.type, inner.proto, fileno=os.dup(inner.fileno()))
    shared = trio.SocketListener(trio.socket.from_stdlib_socket(copied))
    with trio.fail_after(guard()):
        async with WebSocketServer(echo, listeners=[listener]):
            pass
        async with WebSocketServer(echo, listeners=[shared]) as server:
            async with connect(server.url, proxy=None) as ws:
                await ws.send("still here")
                assert await ws.receive_text() == "still here"


def waits() -> str:
    return repr([Backoff().delay(wait) for wait in range(1, 5)])


def key() -> str:
    return masked_frame(0x82, b"")[2:6].hex()


def key_of_a_pair() -> str:
    return frame_pair(0x82, b"", masked=True)[0][-4:].hex()


@pytest.mark.parametrize("draw", [waits, key, key_of_a_pair])
def test_children_of_a_fork_draw_for_themselves(draw: Any) -> None:
    draw()  # this process has unused keys, which the child must not use
    drawn = [said_in_a_child(draw) for _ in range(3)]
    assert len({*drawn, draw()}) == 4


def test_a_backoff_with_the_systems_source_can_be_pickled_and_copied() -> None:
    backoff = Backoff(initial=1)
    for same in (pickle.loads(pickle.dumps(backoff)), copy.deepcopy(backoff)):
        assert same == backoff
        assert 0 <= same.delay(1) <= 1
