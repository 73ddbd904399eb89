"""TLS: on a socket, where OpenSSL reads and writes by itself, or over any other stream.

`SocketTLS` costs half the time of trio's `SSLStream` and keeps no buffers while it is idle. `SSLStream`
reads as much as the stream below has, 64 KiB of most, into a buffer of OpenSSL's that never shrinks; so it
reads in pieces of a record here.

Invariants: `SocketTLS` behaves as `trio.SocketStream` does where it ends, breaks or is closed. It behaves
as `SSLStream` does where sending is cancelled: half a record may be out, so no more can be sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint,
    checkpoint_if_cancelled,
    notify_closing,
    wait_readable,
    wait_writable,
)

from trio_ws.protocol.tls import TLSInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws._types import Value

__all__ = [
    "TLS_STREAMS",
    "BoundedReads",
    "SocketBelow",
    "SocketTLS",
    "note_server_names",
    "tls_client",
    "tls_info",
    "tls_server",
]

T = TypeVar("T")

_server_name: ContextVar[str | None] = ContextVar("trio_ws_server_name", default=None)

#: Bytes of one read, below TLS or of it: about a record. A larger buffer that is cut leaves a hole in memory.
_READ_SIZE = 16384


class BoundedReads(trio.abc.Stream):
    """A stream, read in small pieces. It owns ``inner``."""

    __slots__ = ("inner",)

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(_READ_SIZE)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


class SocketBelow:
    """The socket below a `SocketTLS`, without the methods that would take its TLS apart."""

    __slots__ = ("_sock",)

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock

    def shutdown(self, how: int) -> None:
        socket.socket.shutdown(self._sock, how)

    def send_plain(self, data: bytes) -> int:
        """Send past TLS, to a peer that does not speak it."""
        return socket.socket.send(self._sock, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class OneTask:
    """A context that one task is in at a time, as in trio's own streams."""

    __slots__ = ("_text", "_within")

    def __init__(self, text: str) -> None:
        self._text = text
        self._within = False

    def __enter__(self) -> None:
        if self._within:
            raise trio.BusyResourceError(self._text)
        self._within = True

    def __exit__(self, *_: object) -> None:
        self._within = False


class SocketTLS(trio.abc.Stream):
    """TLS on a connected, non-blocking socket, which it owns. `do_handshake` comes first."""

    __slots__ = ("_broken", "_receiving", "_sending", "_sock", "_waits", "server_hostname")

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.server_hostname = server_hostname
        self._broken = False
        self._receiving = OneTask("another task is receiving")
        self._sending = OneTask("another task is sending")
        # Reading may want to write, and writing to read; trio lets one task wait for either.
        self._waits: dict[Callable[[Value], Awaitable[None]], trio.Event] = {}
        try:
            sock.getpeername()  # of one that was reset wrap_socket() would lose the descriptor
            self._sock = context.wrap_socket(
                sock,
                server_side=server_side,
                server_hostname=server_hostname,
                do_handshake_on_connect=False,
            )
        except BaseException:
            sock.close()
            raise

    @property
    def socket(self) -> SocketBelow:
        """The socket below, to ask it things and to shut it down."""
        return SocketBelow(self._sock)

    async def do_handshake(self) -> None:
        """Agree on keys, and check certificates.

        Raises:
            trio.BrokenResourceError: that failed; the error of `ssl` is the cause.
        """
        await checkpoint_if_cancelled()
        await self._call(self._sock.do_handshake)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is None or max_bytes > _READ_SIZE:
            max_bytes = _READ_SIZE
        elif max_bytes < 1:
            raise ValueError("max_bytes must be 1 or more")
        with self._receiving:
            await checkpoint_if_cancelled()
            try:
                return await self._call(self._sock.recv, max_bytes)
            except trio.BrokenResourceError as exc:
                if not isinstance(exc.__cause__, BrokenPipeError):
                    raise
                # To an end without a close_notify OpenSSL 3.6 answers with an alert that is never read.
                return b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending:
            await checkpoint_if_cancelled()
            if self._broken or not data:
                await cancel_shielded_checkpoint()
                self._check_open()
            if self._broken:
                raise trio.BrokenResourceError("sending has failed, or was cancelled, before")
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[await self._call(self._sock.send, rest) :]
            except BaseException:
                self._broken = True
                raise

    async def wait_send_all_might_not_block(self) -> None:
        with self._sending:
            await checkpoint()
            self._check_open()
            await self._wait(wait_writable)

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            notify_closing(self._sock)
            # The system resets a connection that is closed with bytes unread, and a client seldom reads the
            # session tickets that servers send after the handshake (RFC 8446 section 4.6.1).
            with contextlib.suppress(OSError):
                socket.socket.recv(self._sock, _READ_SIZE)
            self._sock.close()
        await checkpoint()

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this connection was closed here") from None

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Call a method of the socket until it does not want to wait any more."""
        waited = False
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                wait = wait_readable
            except ssl.SSLWantWriteError:
                wait = wait_writable
            except (OSError, ValueError) as exc:
                if not waited:
                    await cancel_shielded_checkpoint()
                self._check_open()
                raise trio.BrokenResourceError(str(exc)) from exc
            else:
                if not waited:
                    await cancel_shielded_checkpoint()
                return result
            await self._wait(wait)
            waited = True

    async def _wait(self, wait: Callable[[Value], Awaitable[None]]) -> None:
        other = self._waits.get(wait)
        if other is not None:
            await other.wait()
            return
        done = self._waits[wait] = trio.Event()
        try:
            await wait(self._sock)
        finally:
            del self._waits[wait]
            done.set()

    # Called by `tls_info`, which calls the same of trio's SSLStream.

    def version(self) -> str | None:
        return self._sock.version()

    def cipher(self) -> tuple[str, str, int] | None:
        return self._sock.cipher()

    def getpeercert(self) -> Any:
        return self._sock.getpeercert()


#: The types that `tls_client` and `tls_server` return.
TLS_STREAMS = (SocketTLS, trio.SSLStream)


def tls_client(
    stream: socket.socket | trio.abc.Stream, context: ssl.SSLContext, server_hostname: str
) -> SocketTLS | trio.SSLStream[BoundedReads]:
    """A client's TLS over a socket or a stream; the handshake is still to be done."""
    if isinstance(stream, socket.socket):
        return SocketTLS(stream, context, server_hostname=server_hostname)
    return trio.SSLStream(
        BoundedReads(stream), context, server_hostname=server_hostname, https_compatible=True
    )


def tls_server(
    stream: socket.socket | trio.abc.Stream, context: ssl.SSLContext
) -> SocketTLS | trio.SSLStream[BoundedReads]:
    """A server's TLS over a socket or a stream; the handshake is still to be done."""
    if isinstance(stream, socket.socket):
        return SocketTLS(stream, context, server_side=True)
    return trio.SSLStream(BoundedReads(stream), context, server_side=True, https_compatible=True)


def note_server_names(context: ssl.SSLContext) -> None:
    """Note the names that clients ask for, for `tls_info`, unless the application does so itself."""
    if context.sni_callback is None:
        context.sni_callback = _note


def _note(_: object, name: str | None, __: ssl.SSLContext) -> None:
    # In the task of the connection, whose context has one of its own.
    _server_name.set(name)


def tls_info(stream: SocketTLS | trio.SSLStream[Any]) -> TLSInfo:
    """Return the properties of a stream after its handshake, which this task has done."""
    details: Any = stream
    return TLSInfo(
        # One text for all connections, of which there are many.
        version=sys.intern(details.version()),
        cipher=sys.intern(details.cipher()[0]),
        peer_certificate=details.getpeercert() or None,
        server_name=details.server_hostname or _server_name.get(),
    )
