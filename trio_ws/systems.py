"""Systems: names that exist on some operating systems only.

Invariant: no other module reads such a name unguarded. A feature that this system does not support raises a
RuntimeError at once; tests/test_systems.py runs the package with each of the names removed.
"""

from __future__ import annotations

import os
import select
import signal
import socket

__all__ = [
    "AF_UNIX",
    "HANGUP_SIGNALS",
    "HAS_EPOLL",
    "check_inherits_descriptors",
    "unix_family",
]

#: The address family of Unix sockets, or None.
AF_UNIX: int | None = getattr(socket, "AF_UNIX", None)

#: Whether one task can read from many sockets; see epoll_reader.py.
HAS_EPOLL = hasattr(select, "epoll")

#: SIGHUP, if this system has it.
HANGUP_SIGNALS: tuple[signal.Signals, ...] = tuple(
    signal.Signals(number) for number in [getattr(signal, "SIGHUP", None)] if number is not None
)

# subprocess supports pass_fds on POSIX only.
_INHERITS_DESCRIPTORS = os.name == "posix"


def unix_family() -> int:
    """The address family of Unix sockets.

    Raises:
        RuntimeError: Python does not support them on this system.
    """
    if AF_UNIX is None:
        raise RuntimeError(
            "unix_path requires Unix sockets, which Python does not support on this system;"
            " use TCP on a loopback address"
        )
    return AF_UNIX


def check_inherits_descriptors(what: str, instead: str) -> None:
    """Check that child processes can inherit sockets and pipes.

    Args:
        what: the function or option that requires it, for the message.
        instead: what to use instead, for the message.

    Raises:
        RuntimeError: this system does not support it.
    """
    if not _INHERITS_DESCRIPTORS:
        raise RuntimeError(
            f"{what} passes open sockets to child processes, which Python does not support on this system;"
            f" {instead}"
        )
