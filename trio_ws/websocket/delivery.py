"""Delivery: how much of the data that was written to a socket the peer's system has accepted.

Linux reports this for TCP and Unix sockets. On other systems it is None, and only the state of the write
buffer is known.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if sys.platform == "linux":
    import fcntl
    import termios

from trio_ws.systems import AF_UNIX

if TYPE_CHECKING:
    import trio

    from trio_ws.websocket.tls import SocketBelow

__all__ = ["Delivery", "delivery_of"]

#: ``tcpi_bytes_acked`` of Linux' ``struct tcp_info`` (from 4.1 on), in bytes from its start.
_BYTES_ACKED = 120


class Delivery(NamedTuple):
    """The delivery of the data that was written to a socket.

    Attributes:
        taken: the number of bytes that the peer's system has accepted, counted from an arbitrary start.
        end: the value of ``taken`` when it will have accepted all bytes in the local kernel.
    """

    taken: int
    end: int


def delivery_of(sock: socket.socket | trio.socket.SocketType | SocketBelow) -> Delivery | None:
    """Return the delivery of a socket's data; None if this system does not report it."""
    if sys.platform == "linux":  # mypy only understands this comparison
        with contextlib.suppress(OSError, struct.error):  # closed, or a kernel that keeps no count
            waiting: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
            if sock.family == AF_UNIX:
                return Delivery(-waiting, 0)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
            taken: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
            return Delivery(taken, taken + waiting)
    return None
