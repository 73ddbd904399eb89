"""Listeners: the sockets that a server opens, and the file of a Unix socket.

What always holds: nothing listens beyond this machine unless it was asked for by name; a file that somebody
else put in the place of our socket stays.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_ws.protocol.hosts import is_loopback_address

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALL_INTERFACES", "OpenListeners", "SocketFile", "is_loopback", "open_listeners"]

#: The ``host`` that stands for every address of the machine, v4 and v6.
ALL_INTERFACES = "*"

_TRIES_FOR_A_PORT = 20
# There is no such protocol or address on this machine.
_NO_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class SocketFile(NamedTuple):
    """The file of a Unix socket of ours.

    Attributes:
        path: where it is.
        device, inode: what tells it from a file that took its place.
    """

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, unless it has gone or another one has taken its place."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                os.unlink(self.path)  # noqa: PTH108 - local and instant


class OpenListeners(NamedTuple):
    """What `open_listeners` opened.

    Attributes:
        listeners: at least one.
        socket_file: that of a Unix socket, to be removed in the end; else None.
    """

    listeners: Sequence[trio.SocketListener]
    socket_file: SocketFile | None


async def open_listeners(
    port: int, host: str | None, unix_path: str | os.PathLike[str] | None, unix_mode: int
) -> OpenListeners:
    """Listen on TCP or on a Unix socket.

    Args:
        port: 0 for one that is free on every address of ``host``.
        host: a name or an address; None for the loopback addresses, v4 and v6; "*" for all interfaces.
        unix_path: listen on a Unix socket with this file instead. A socket's file that nobody listens on
            any more is replaced.
        unix_mode: the permissions of that file, which are set before anybody can connect.

    Raises:
        OSError: the address is in use, or cannot be had; the text names it.
    """
    try:
        if unix_path is not None:
            listener, file = await _open_unix(os.fspath(unix_path), unix_mode)
            return OpenListeners([listener], file)
        return OpenListeners(await _open_tcp(port, host), None)
    except OSError as exc:
        place = f"port {port} of {_place(host)}" if unix_path is None else os.fspath(unix_path)
        raise type(exc)(exc.errno, f"cannot listen on {place}: {exc.strerror or exc}") from exc


def is_loopback(listener: trio.abc.Listener[Any]) -> bool:
    """Whether a listener is bound to a loopback address, and does no TLS."""
    if not isinstance(listener, trio.SocketListener) or listener.socket.family == socket.AF_UNIX:
        return False
    return is_loopback_address(listener.socket.getsockname()[0])


# -- TCP --------------------------------------------------------------------------------------------


def _place(host: str | None) -> str:
    return {None: "this machine's loopback addresses", ALL_INTERFACES: "this machine"}.get(host, str(host))


async def _open_tcp(port: int, host: str | None) -> list[trio.SocketListener]:
    if port != 0:
        return await _open_on(port, host)
    # The same free port for each address: trio gives each its own, and one URL has one.
    for _ in range(_TRIES_FOR_A_PORT):
        listeners = await _open_on(0, host)
        if len(listeners) == 1:
            return listeners
        port = listeners[0].socket.getsockname()[1]
        for listener in listeners:
            await listener.aclose()
        with contextlib.suppress(OSError):  # taken on one of the other addresses
            return await _open_on(port, host)
    raise OSError(errno.EADDRINUSE, f"no port is free on every address of {_place(host)}")


async def _open_on(port: int, host: str | None) -> list[trio.SocketListener]:
    if host is not None:
        return await trio.open_tcp_listeners(port, host=None if host == ALL_INTERFACES else host)
    listeners: list[trio.SocketListener] = []
    missing: OSError | None = None
    try:
        for address in ("127.0.0.1", "::1"):
            try:
                listeners += await trio.open_tcp_listeners(port, host=address)
            except OSError as exc:
                if exc.errno not in _NO_ADDRESS:
                    raise
                missing = exc
    except BaseException:
        for listener in listeners:
            listener.socket.close()
        raise
    if not listeners and missing is not None:
        raise missing
    return listeners


# -- Unix sockets -----------------------------------------------------------------------------------


async def _open_unix(path: str, mode: int) -> tuple[trio.SocketListener, SocketFile]:
    await _make_way(path)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file: SocketFile | None = None
    try:
        await sock.bind(path)
        status = os.lstat(path)
        file = SocketFile(path, status.st_dev, status.st_ino)
        os.chmod(path, mode)  # noqa: PTH101 - before listen(): until then nobody can connect
        sock.listen(1024)
        return trio.SocketListener(sock), file
    except BaseException:
        sock.close()
        if file is not None:
            file.remove()
        raise


async def _make_way(path: str) -> None:
    """Remove the file of a socket that nobody listens on.

    Raises:
        OSError: something else is there.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(
            errno.EADDRINUSE, "it is in use: the file there is no socket; remove it, or choose another path"
        )
    try:
        await trio.aclose_forcefully(await trio.open_unix_socket(path))
    except (ConnectionRefusedError, FileNotFoundError):
        SocketFile(path, status.st_dev, status.st_ino).remove()
        return
    except BlockingIOError:  # somebody listens, and has more clients waiting than it accepts
        pass
    raise OSError(
        errno.EADDRINUSE, "it is in use: another server listens there; stop it, or choose another path"
    )
