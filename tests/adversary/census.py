"""The memory of a connection, and the objects that remain of one, measured independently of trio_ws.

`weight` visits all objects that can be reached only from one connection, and adds up their sizes. So it
checks the sizes that the product charges.
"""

from __future__ import annotations

import contextvars
import gc
import logging
import sys
import types
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from tests.support.inspect import observer_of
from trio_ws import Options, WebSocket, WebSocketServer
from trio_ws.channels.hub import Hub
from trio_ws.rpc.methods import Method
from trio_ws.rpc.rate_limit import Limiter
from trio_ws.rpc.task_pool import TaskPool
from trio_ws.testing import Link, LinkStream
from trio_ws.websocket.epoll_reader import EpollReader
from trio_ws.websocket.keepalive import Keepalive
from trio_ws.websocket.runtime import ConnectionRuntime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["faults", "live_websockets", "weight"]

# Types of objects that belong to the program, the server or the network, and not to one connection.
_SHARED = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType),
    *(WebSocketServer, Options, Link, LinkStream, logging.Logger),
    *(Hub, Keepalive, Limiter, Method, EpollReader, ConnectionRuntime, TaskPool, contextvars.Context),
    *(trio.Nursery, trio.lowlevel.Task, trio.abc.Clock, trio.abc.Instrument),
)
# Types of trio that have no public names.
_SHARED_NAMES = frozenset({"Runner", "CancelStatus"})


def _is_shared(value: object) -> bool:
    return isinstance(value, _SHARED) or type(value).__name__ in _SHARED_NAMES


def weight(roots: Iterable[object], shared: Iterable[object] = ()) -> int:
    """Return the bytes of Python's memory that these objects hold, without those of shared objects."""
    seen = {id(one) for one in shared}
    todo = list(roots)
    total = 0
    while todo:
        one = todo.pop()
        if id(one) in seen or _is_shared(one):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        todo += gc.get_referents(one)
        if isinstance(one, msgspec.Struct):  # gc does not know the references of a Struct with gc=False
            todo += [getattr(one, name) for name in one.__struct_fields__]
    return total


def live_websockets() -> int:
    """Return the number of WebSockets that exist after a garbage collection."""
    gc.collect()
    return sum(isinstance(one, WebSocket) for one in gc.get_objects())


class _Faults(logging.Handler):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found
        self.size = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self.size += len(text)
        if record.levelno >= logging.ERROR or record.exc_info:
            self.found.append(text)


@contextmanager
def faults() -> Iterator[list[str]]:
    """Collect the records that are errors or have a traceback. A peer must not be able to cause any."""
    found: list[str] = []
    handler, logger = _Faults(found), logging.getLogger("trio_ws")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def roots_of(ws: Any) -> list[object]:
    """Return the objects from which `weight` visits those of a connection."""
    return [ws, observer_of(ws)]
