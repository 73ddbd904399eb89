"""The socket below a stream: how TCP ends there.

What always holds: a connection that is closed here ends for its peer as well, although a child that this
process has forked holds a copy of the descriptor. ``close()`` alone would say nothing to the peer before the
last copy is closed. What was written before still arrives, with the end behind it.

Listening sockets are closed and never shut down: other processes may accept on them.
"""

from __future__ import annotations

import contextlib
import socket

import trio

__all__ = ["close_forcefully", "shut_down", "socket_of"]


def socket_of(stream: object) -> trio.socket.SocketType | None:
    """The socket that carries a trio stream, through any layers of TLS; None where none is known."""
    while isinstance(stream, trio.SSLStream | trio.StapledStream):
        stream = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream.send_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def shut_down(sock: socket.socket | trio.socket.SocketType) -> None:
    """End a connection in both directions, whoever else has the descriptor."""
    with contextlib.suppress(OSError):  # the peer has reset it, or it never was connected
        sock.shutdown(socket.SHUT_RDWR)


async def close_forcefully(stream: trio.abc.AsyncResource) -> None:
    """Close a stream at once, as `trio.aclose_forcefully` does, and end the connection below it."""
    sock = socket_of(stream)
    if sock is not None:
        shut_down(sock)
    await trio.aclose_forcefully(stream)
