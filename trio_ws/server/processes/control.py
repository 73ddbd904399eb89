"""What parent and worker say to each other on the line between them, a socket pair.

The parent first sends `Orders`. The worker says one line: that it is ready, or why it never will be. From
then on the parent's words are single bytes, `RETIRE` or `STOP`, and the end of the line means the end of
whoever held the other end: the kernel closes it, however a process dies.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_ws.options import Options

if TYPE_CHECKING:
    import socket

__all__ = ["BOOTSTRAP", "READY", "RETIRE", "STOP", "WorkerConfig", "in_worker", "pack", "read_config"]

#: A worker's program. Its arguments: the descriptor of the line, and the parent's sys.path, entry by entry.
BOOTSTRAP = (
    "import sys; fd = int(sys.argv[1]); sys.path[:] = sys.argv[2:]; del sys.argv[1:]; "
    "from trio_ws.server.processes.worker import main; main(fd)"
)

READY = b"ready\n"
#: Another worker has taken over: leave new clients to it, drain and end.
RETIRE = b"r"
#: All end: refuse new clients, drain and end.
STOP = b"s"

#: Whether this process is a worker; such a one starts no workers.
in_worker = False

_LENGTH = struct.Struct("!I")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """All that a worker has to know."""

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


def pack(config: WorkerConfig) -> bytes:
    """The bytes to send first."""
    data = pickle.dumps(config)
    return _LENGTH.pack(len(data)) + data


def read_config(line: socket.socket) -> WorkerConfig | None:
    """Wait for the orders, blocking; None where the parent has gone before."""
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
