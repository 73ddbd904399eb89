"""Listeners: open the sockets of a server, and manage the file of a Unix socket.

Invariants: a server is reachable from other machines only if that was requested explicitly. A file that
replaced our socket is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_ws.protocol.hosts import is_loopback_address
from trio_ws.systems import AF_UNIX, unix_family

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALL_INTERFACES", "OpenListeners", "SocketFile", "is_loopback", "open_listeners"]

#: The ``host`` that means all IPv4 and IPv6 addresses of the machine.
ALL_INTERFACES = "*"

_TRIES_FOR_A_PORT = 20
# Errors for a protocol or address that this machine does not have.
_NO_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})


class SocketFile(NamedTuple):
    """The file of a Unix socket that we created.

    Attributes:
        path: its path.
        device, inode: identify the file, in case another one took its place.
    """

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file, unless it is gone or was replaced."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(self.path)
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                os.unlink(self.path)  # noqa: PTH108 - local and instant


class OpenListeners(NamedTuple):
    """The result of `open_listeners`.

    Attributes:
        listeners: at least one listener.
        socket_file: the file of a Unix socket, to be removed at the end; otherwise None.
    """

    listeners: Sequence[trio.SocketListener]
    socket_file: SocketFile | None


async def open_listeners(
    port: int, host: str | None, unix_path: str | os.PathLike[str] | None, unix_mode: int
) -> OpenListeners:
    """Listen on TCP or on a Unix socket.

    Args:
        port: 0 for one that is free on all addresses of ``host``.
        host: a name or an address; None for the loopback addresses, IPv4 and IPv6; "*" for all interfaces.
        unix_path: listen on a Unix socket at this path instead. The file of a socket that is no longer in use
            is replaced.
        unix_mode: permissions of that file, set before clients can connect.

    Raises:
        OSError: the address is in use or not available; the message names it.
    """
    try:
        if unix_path is not None:
            listener, file = await _open_unix(os.fspath(unix_path), unix_mode)
            return OpenListeners([listener], file)
        return OpenListeners(await _open_tcp(port, host), None)
    except OSError as exc:
        place = f"port {port} of {_place(host)}" if unix_path is None else os.fspath(unix_path)
        raise type(exc)(exc.errno, f"cannot listen on {place}: {exc.strerror or exc}") from exc


def is_loopback(listener: trio.abc.Listener[trio.abc.Stream]) -> bool:
    """Whether a listener is bound to a loopback address, without TLS."""
    if not isinstance(listener, trio.SocketListener) or listener.socket.family == AF_UNIX:
        return False
    return is_loopback_address(listener.socket.getsockname()[0])


# -- TCP --------------------------------------------------------------------------------------------


def _place(host: str | None) -> str:
    return {None: "this machine's loopback addresses", ALL_INTERFACES: "this machine"}.get(host, str(host))


async def _open_tcp(port: int, host: str | None) -> list[trio.SocketListener]:
    if port != 0:
        return await _open_on(port, host)
    # One URL needs one port on all addresses, while trio would choose a different port for each.
    for _ in range(_TRIES_FOR_A_PORT):
        listeners = await _open_on(0, host)
        if len(listeners) == 1:
            return listeners
        port = listeners[0].socket.getsockname()[1]
        for listener in listeners:
            await listener.aclose()
        with contextlib.suppress(OSError):  # in use on one of the other addresses
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
    family = unix_family()
    await _remove_unused_socket(path)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
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


async def _remove_unused_socket(path: str) -> None:
    """Remove the file of a socket that is no longer in use.

    Raises:
        OSError: another kind of file is there, or another server listens.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(
            errno.EADDRINUSE, "it is in use: the file is not a socket; remove it or choose another path"
        )
    try:
        await trio.aclose_forcefully(await trio.open_unix_socket(path))
    except (ConnectionRefusedError, FileNotFoundError):
        SocketFile(path, status.st_dev, status.st_ino).remove()
        return
    except BlockingIOError:  # a server listens, and its queue of clients is full
        pass
    raise OSError(
        errno.EADDRINUSE, "it is in use: another server listens there; stop it or choose another path"
    )
