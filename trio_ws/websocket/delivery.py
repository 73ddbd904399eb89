"""Delivery: how much of what was written to a socket the peer's system has taken, as the kernel reports it.

Linux reports it, over TCP and Unix sockets. Elsewhere the answer is None, and only the write buffer is
known.
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
    """How far what was written to a socket has come.

    Attributes:
        taken: bytes that the peer's system has taken, counted from a start of its own for each socket.
        end: the same once it has taken all that waits in the kernel here.
    """

    taken: int
    end: int


def delivery_of(sock: socket.socket | trio.socket.SocketType | SocketBelow) -> Delivery | None:
    """How far what was written has come; None where this system does not report it."""
    if sys.platform == "linux":  # mypy knows what is there by this comparison alone
        with contextlib.suppress(OSError, struct.error):  # closed, or a kernel that keeps no count
            waiting: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
            if sock.family == AF_UNIX:
                return Delivery(-waiting, 0)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
            taken: int = struct.unpack_from("=Q", info, _BYTES_ACKED)[0]
            return Delivery(taken, taken + waiting)
    return None
