"""Streams and the sockets below them: how they fail, and how TCP ends there.

Invariants:

- A connection that is closed here ends for its peer as well, although a child that this process has forked
  holds a copy of the descriptor. ``close()`` alone would tell the peer nothing before the last copy is
  closed. Bytes that were written before still arrive, with the end behind them.
- Listening sockets are closed and never shut down: other processes may accept on them.
- A stream may be an application's own, and its methods may raise anything. That costs its connection only.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from typing import Any

import trio

from trio_ws.logs import logger_for
from trio_ws.wall import judged, leaves, log_failure, text_of
from trio_ws.websocket.tls import BoundedReads, SocketBelow, SocketTLS

__all__ = [
    "LINK_ERRORS",
    "close_forcefully",
    "do_handshake",
    "has_hung_up",
    "link_error",
    "shut_down",
    "socket_of",
    "text_of_cause",
]

logger = logger_for("trio_ws.websocket")

# POLLHUP, POLLERR and POLLNVAL are reported in any case.
_HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)

#: Exceptions that say that a connection broke, or was closed by other code that has its stream.
LINK_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


def socket_of(stream: object) -> trio.socket.SocketType | SocketBelow | None:
    """The socket that carries a trio stream, through any layers of TLS; None where none is known."""
    while True:
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        elif isinstance(stream, trio.StapledStream):
            stream = stream.send_stream
        elif isinstance(stream, BoundedReads):
            stream = stream.inner
        else:
            break
    return stream.socket if isinstance(stream, trio.SocketStream | SocketTLS) else None


def shut_down(sock: socket.socket | trio.socket.SocketType | SocketBelow) -> None:
    """End a connection in both directions, although other processes may have its descriptor."""
    try:  # suppress() would make an object for each connection
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer has reset it, or it never was connected


def has_hung_up(sock: socket.socket | trio.socket.SocketType | SocketBelow) -> bool:
    """Whether the peer has ended its side, or the connection broke, though what it sent is not yet read.

    False where the system does not say so without reading (it does on Linux).
    """
    if _HUNG_UP is None:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), _HUNG_UP)
    return bool(poll.poll(0))


async def open_tcp(host: str, port: int) -> trio.SocketStream:
    """Open a TCP connection as trio does, but raise one error that says why, without a group of exceptions.

    Raises:
        OSError: no address can be reached. Its number is that of the first address that was tried.
    """
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as exc:
        group = exc.__cause__
        if not isinstance(group, BaseExceptionGroup):
            raise
        numbers = [one.errno for one in leaves(group) if isinstance(one, OSError) and one.errno is not None]
        if not numbers:
            raise
        failure = OSError(numbers[0], "; ".join(dict.fromkeys(map(os.strerror, numbers))))
    raise failure


def text_of_cause(exc: BaseException) -> str:
    """Return the text of the error below, as the system said it, since trio only says that a stream broke."""
    cause = exc.__cause__
    return str(cause if isinstance(cause, OSError) else exc) or type(exc).__name__


def link_error(exc: BaseException) -> trio.BrokenResourceError:
    """The error to raise where a method of a stream raised something other than `LINK_ERRORS`.

    That comes from a stream of the application's own, and is logged.

    Raises:
        BaseException: ``exc``, where it passes the wall (see wall.py).
    """
    failure = judged(exc)
    log_failure(logger, "the stream of a connection failed", exc=failure)
    return trio.BrokenResourceError(f"the stream failed: {text_of(failure)}")


async def do_handshake(stream: SocketTLS | trio.SSLStream[Any], refusal: bytes = b"") -> None:
    """Do the handshake of TLS.

    Args:
        stream: a client's or a server's end.
        refusal: the response to HTTP without TLS, as far as it can be sent immediately.

    Raises:
        OSError, trio.BrokenResourceError, trio.ClosedResourceError: it failed; the stream is closed.
    """
    try:
        await stream.do_handshake()
    except LINK_ERRORS as exc:
        cause = exc.__cause__
        if refusal and isinstance(cause, ssl.SSLError) and cause.reason == "HTTP_REQUEST":
            _send_below(stream, refusal)
        await close_forcefully(stream)
        raise
    except BaseException as exc:
        await close_forcefully(stream)
        raise link_error(exc) from exc


def _send_below(stream: object, data: bytes) -> None:
    """Send a few bytes below TLS, where there is a socket."""
    sock = socket_of(stream)
    if isinstance(sock, SocketBelow):
        try:
            sock.send_plain(data)
        except OSError:
            pass  # the client has left


async def close_forcefully(stream: trio.abc.AsyncResource) -> None:
    """Close a stream at once, as `trio.aclose_forcefully` does, and end the connection below it.

    It raises only what passes the wall (see wall.py).
    """
    sock = socket_of(stream)
    if sock is not None:
        shut_down(sock)
    try:
        await trio.aclose_forcefully(stream)
    except LINK_ERRORS:
        pass  # it is closed as far as it can be
    except BaseException as exc:  # noqa: BLE001 - judged there
        link_error(exc)
