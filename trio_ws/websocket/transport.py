"""Transports: the two ways in which a WebSocket reads and writes bytes.

`SocketTransport` holds a plain non-blocking socket, for TCP and Unix sockets without TLS: a task that wants
data waits for the socket itself, and most writes go out at once without a task. `StreamTransport` holds any
`trio.abc.Stream` (TLS, memory links): a task reads it all the time, and writes go through a drainer.

Invariants: `close` is immediate, may be called from synchronous code any number of times, and wakes tasks
that wait here with `trio.ClosedResourceError`. One task at a time receives and one sends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import enable_ki_protection, notify_closing, wait_readable, wait_writable

from trio_ws._types import SocketAddress
from trio_ws.protocol.masking import extension
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.delivery import delivery_of
from trio_ws.websocket.sockets import (
    LINK_ERRORS,
    close_forcefully,
    has_hung_up,
    link_error,
    shut_down,
    socket_of,
)
from trio_ws.websocket.tls import TLS_STREAMS, tls_info

if TYPE_CHECKING:
    from trio_ws._types import SocketAddress
    from trio_ws.protocol.tls import TLSInfo
    from trio_ws.websocket.delivery import Delivery

__all__ = [
    "BIG_READ_SIZE",
    "POLLS_BEFORE_WAIT",
    "POLLS_TO_SKIP",
    "READ_SIZE",
    "SEND_SIZE",
    "WRITE_SIZE",
    "SharedReader",
    "SocketTransport",
    "StreamTransport",
    "Transport",
    "peer_of",
]

#: Bytes asked of one read.
READ_SIZE = 65536
#: The same while big messages arrive, with room for the heads of messages whose sizes are powers of two.
BIG_READ_SIZE = 257 * 1024
#: Bytes handed to the kernel at once, a common limit of messages and their heads: it may take several MiB, a
#: millisecond or two for each.
SEND_SIZE = 1025 * 1024
#: Turns in which a socket, or an epoll, is polled before the task waits for it. A peer on the same machine
#: mostly answers within these.
POLLS_BEFORE_WAIT = 3
#: Waits for a socket without a look into it first, once these looks have found nothing.
POLLS_TO_SKIP = 32
#: Bytes handed to one write of a stream: a record of TLS, and small enough for progress to be seen.
WRITE_SIZE = 16384

#: Seconds for the last bytes of a connection that is closed at once.
_LAST_SECONDS = 0.1

_MORE = getattr(socket, "MSG_MORE", 0)
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")


class SharedReader(Protocol):
    """The reader of many plain sockets (see epoll_reader.py), as they see it."""

    @property
    def spawner(self) -> object:
        """Starts the task that reads."""
        ...

    def register(self, connection: Any, fd: int) -> bool:
        """Read for this connection, a `Reader`, from now on; False if it is to read for itself."""
        ...

    def unregister(self, fd: int) -> None:
        """This descriptor is about to be closed."""

    def resume(self, connection: Any) -> None:
        """Read again from a connection that was full."""


class _Space(threading.local):
    """Where a thread reads to. It stays mapped, but large objects would be mapped for each read."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BIG_READ_SIZE))


_space = _Space()


class SocketTransport:
    """A connected, non-blocking stream socket, which it owns."""

    __slots__ = (
        "_local",
        "_reader",
        "_sock",
        "fd",
        "peer_address",
        "remote_address",
        "waited_for",
    )

    self_reading = True
    direct = os.name == "posix"
    tells_hang_up = True
    tls = None

    def __init__(self, sock: socket.socket, remote_address: SocketAddress = None) -> None:
        self._sock = sock
        self.fd = sock.fileno()  # -1 once it is closed
        self._local: SocketAddress = None
        self._reader: SharedReader | None = None
        self.waited_for = False  # a task may wait for the descriptor now; set before each wait
        if remote_address is None:
            try:
                remote_address = sock.getpeername()
            except OSError:
                sock.close()  # the peer has reset it
                raise
        self.remote_address = self.peer_address = remote_address

    @property
    def local_address(self) -> SocketAddress:
        if self._local is None and self.fd >= 0:
            self._local = self._sock.getsockname()
        return self._local

    async def receive(self) -> bytes:
        while True:
            if self.fd < 0:
                raise trio.ClosedResourceError("the connection was closed")
            self.waited_for = True
            await wait_readable(self.fd)
            try:
                return self._sock.recv(READ_SIZE)
            except BlockingIOError:
                continue

    def share(self, reader: SharedReader, connection: object) -> bool:
        """Let the shared reader read this; False if the connection is to read for itself."""
        self._reader = reader
        return reader.register(connection, self.fd)

    def resume(self, connection: object) -> None:
        """Resume the shared reader, because there is room again."""
        if self._reader is not None:
            self._reader.resume(connection)

    def has_unread(self) -> bool:
        try:
            return self.fd >= 0 and bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def has_hung_up(self) -> bool:
        return self.fd >= 0 and has_hung_up(self._sock)

    def delivery(self) -> Delivery | None:
        return delivery_of(self._sock)

    def recv_now(self, size: int) -> bytes:
        return self._sock.recv(size)

    def read_now(self, size: int) -> bytes | memoryview:
        if extension is None:
            return self._sock.recv(size)  # parsing bytes in Python is quicker
        space = _space.view
        return space[: self._sock.recv_into(space, size)]

    def send_now(self, data: bytes | memoryview) -> int:
        return self._sock.send(data)

    def send_last_now(self, data: bytes) -> int:
        # Linux then puts the data and the end of the stream, which follows at once, into one packet.
        return self._sock.send(data, _MORE)

    def send_pair_now(self, head: bytes, payload: bytes | memoryview) -> int:
        payload = memoryview(payload)[:SEND_SIZE]
        if _HAS_SENDMSG:
            return self._sock.sendmsg((head, payload))
        return self._sock.send(b"".join((head, payload)))

    async def send_some(self, data: memoryview) -> int:
        while True:
            if self.fd < 0:
                raise trio.ClosedResourceError("the connection was closed")
            self.waited_for = True
            await wait_writable(self.fd)
            try:
                return self._sock.send(data[: SEND_SIZE // 2])  # several may be writable in one round
            except BlockingIOError:
                continue

    def end_writing(self) -> None:
        with contextlib.suppress(OSError):  # the peer may be gone already, which says the same
            self._sock.shutdown(socket.SHUT_WR)

    def close(self, last: bytes | None = None) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            if self._reader is not None:
                self._reader.unregister(fd)
            # For a descriptor that trio does not know, it would raise an error and catch it.
            if self.waited_for:
                notify_closing(fd)
            shut_down(self._sock)
            self._sock.close()

    async def wait_closed(self) -> None:
        await trio.lowlevel.checkpoint()


class StreamTransport:
    """Any trio stream, which it owns. Closing it takes a task, which ``nursery`` lends."""

    __slots__ = (
        "_closed",
        "_closing",
        "_nursery",
        "_sending",
        "_sent",
        "_stream",
        "local_address",
        "peer_address",
        "remote_address",
    )

    self_reading = False
    direct = False
    fd = -1

    def __init__(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        self._stream = stream
        self._nursery = nursery
        self._closing = False
        self._closed = trio.Event()
        self._sending = False
        self._sent = Notification()
        self.local_address, self.remote_address = _addresses(stream)
        self.peer_address = self.remote_address

    @property
    def tls(self) -> TLSInfo | None:
        """Of the stream's TLS, whose handshake is done; None without."""
        return tls_info(self._stream) if isinstance(self._stream, TLS_STREAMS) else None

    async def receive(self) -> bytes:
        try:
            data = await self._stream.receive_some(READ_SIZE)
            return data if type(data) is bytes else bytes(memoryview(data))
        except LINK_ERRORS:
            raise
        except BaseException as exc:
            raise link_error(exc) from exc

    def has_unread(self) -> bool:
        return False

    @property
    def tells_hang_up(self) -> bool:
        return socket_of(self._stream) is not None

    def has_hung_up(self) -> bool:
        sock = socket_of(self._stream)
        return sock is not None and sock.fileno() >= 0 and has_hung_up(sock)

    def delivery(self) -> Delivery | None:
        sock = socket_of(self._stream)
        return None if sock is None else delivery_of(sock)

    def share(self, reader: SharedReader, connection: object) -> bool:
        return False

    def resume(self, connection: object) -> None:
        """Only where `share` is true."""

    def send_now(self, data: bytes | memoryview) -> int:
        raise BlockingIOError

    def send_last_now(self, data: bytes) -> int:
        raise BlockingIOError

    def send_pair_now(self, head: bytes, payload: bytes) -> int:
        raise BlockingIOError

    async def send_some(self, data: memoryview) -> int:
        chunk = data[:WRITE_SIZE]
        self._sending = True
        try:
            await self._stream.send_all(chunk)
        except LINK_ERRORS:
            raise
        except BaseException as exc:
            raise link_error(exc) from exc
        finally:
            self._sending = False
            self._sent.notify_all()
        return len(chunk)

    def end_writing(self) -> None:
        """A trio stream cannot say this without waiting, and TLS cannot say it at all."""

    def close(self, last: bytes | None = None) -> None:
        if not self._closing:
            self._closing = True
            self._nursery.start_soon(self._close, last)

    @enable_ki_protection
    async def _close(self, last: bytes | None) -> None:
        try:
            if last is not None:
                # Nothing can be sent on a stream without waiting, so a Close frame that a cancellation
                # overtook is sent here. A peer that does not take it at once does without.
                with trio.move_on_after(_LAST_SECONDS, shield=True):
                    while self._sending:
                        await self._sent.wait()
                    if last:
                        await self._stream.send_all(last)
        except LINK_ERRORS:
            pass  # it was closed before us
        except BaseException as exc:  # noqa: BLE001 - judged there
            link_error(exc)
        finally:
            await close_forcefully(self._stream)
            self._closed.set()

    async def wait_closed(self) -> None:
        await self._closed.wait()


#: The transport of a WebSocket. Both classes have the same methods:
#:
#: - ``recv_now`` of a socket reads without waiting. It raises BlockingIOError if nothing is there.
#: - ``read_now`` does the same, and the next ``read_now`` in this thread overwrites what it returned.
#: - ``send_now`` and ``send_pair_now`` send as much as possible without waiting, the second at most
#:   ``SEND_SIZE`` of a payload. They raise BlockingIOError if that is nothing.
#: - ``direct``: whether others may read from, and write to, its descriptor ``fd`` as well, see _accel.py.
#: - ``send_last_now`` does the same with the last bytes before `close`, which must follow in the same step.
#: - ``send_some`` waits until at least one byte was sent.
#: - ``receive`` returns b"" at the end of the stream. A cancellation loses no bytes.
#: - ``close`` tries to finish the data that is being sent, and then to send ``last`` unless that is None.
#: - ``has_unread`` returns whether bytes are known to wait for ``receive``.
#: - ``delivery`` returns how much data the peer has acknowledged, or None if the system does not report it.
#: - ``peer_address`` is ``remote_address``, or the client's address behind a proxy.
Transport = SocketTransport | StreamTransport


def peer_of(stream: socket.socket | trio.abc.Stream) -> SocketAddress:
    """Return the peer's socket address, also below TLS; None if the stream has none or the peer has left."""
    sock = stream if isinstance(stream, socket.socket) else socket_of(stream)
    if sock is None:
        return None
    try:
        return sock.getpeername()
    except OSError:
        return None


def _addresses(stream: trio.abc.Stream) -> tuple[SocketAddress, SocketAddress]:
    sock = socket_of(stream)
    if sock is None:
        return None, None
    with contextlib.suppress(OSError):  # the peer may have reset it already
        return sock.getsockname(), sock.getpeername()
    return None, None
