"""The control channel between parent and worker, a socket pair.

The parent first sends a `WorkerConfig`. The worker answers with one line: that it is ready, or why it cannot
start. After that the parent sends single-byte commands, `RETIRE` or `STOP`. End of file means that the other
process is gone, however it died, because the kernel closes its socket.
"""

from __future__ import annotations

import pickle
import struct
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_ws.options import Options

if TYPE_CHECKING:
    import socket

__all__ = [
    "BOOTSTRAP",
    "PAGES",
    "READY",
    "RETIRE",
    "STOP",
    "WorkerConfig",
    "in_worker",
    "pack",
    "read_config",
]

#: The program of a worker. Its arguments are the descriptor of the channel and the entries of sys.path.
BOOTSTRAP = (
    "import sys; fd = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; del sys.argv[1:]; "
    "from trio_ws.server.processes.worker import main; main(fd)"
)

READY = b"ready\n"
#: Another worker has taken over: stop accepting clients, drain and exit.
RETIRE = b"r"
#: The whole group stops: refuse new clients, drain and exit.
STOP = b"s"

#: `WorkerConfig.pages` of the workers that are started in this context, which is for the command line only.
PAGES: ContextVar[str | None] = ContextVar("trio_ws pages", default=None)

#: Whether this process is a worker. A worker never starts workers.
in_worker = False

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """The configuration of a worker."""

    target: str
    listeners: tuple[int, ...]  # descriptors of listening sockets
    subprotocols: tuple[str, ...]
    options: Options
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_context: str | None  # an import string
    broker: str | None
    debug: bool
    log_level: int
    access_log: bool
    client_counts: int  # a descriptor, see client_counts.py
    slot: int
    pages: str | None  # an import string of a function for `add_pages`


def pack(config: WorkerConfig) -> bytes:
    """Encode the first message to a worker."""
    data = pickle.dumps(config)
    return _LENGTH.pack(len(data)) + data


def read_config(line: socket.socket) -> WorkerConfig | None:
    """Wait for the configuration, blocking. Return None if the parent is gone."""
    head = _read(line, _LENGTH.size)
    data = _read(line, _LENGTH.unpack(head)[0]) if head is not None else None
    if data is None:
        return None
    config: WorkerConfig = pickle.loads(data)  # noqa: S301 - from the parent, who started this process
    return config


def _read(line: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = line.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
