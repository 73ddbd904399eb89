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

# What belongs to the program, the server or the network, and not to one connection.
_SHARED = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType),
    *(WebSocketServer, Options, Link, LinkStream, logging.Logger),
    *(Hub, Keepalive, Limiter, Method, EpollReader, ConnectionRuntime, TaskPool, contextvars.Context),
    *(trio.Nursery, trio.lowlevel.Task, trio.abc.Clock, trio.abc.Instrument),
)
# Of trio's own, which has no public name for them.
_SHARED_NAMES = frozenset({"Runner", "CancelStatus"})


def _is_shared(value: object) -> bool:
    return isinstance(value, _SHARED) or type(value).__name__ in _SHARED_NAMES


def weight(roots: Iterable[object], shared: Iterable[object] = ()) -> int:
    """Bytes of Python's memory that these hold, besides what is shared with others."""
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
        if isinstance(one, msgspec.Struct):  # one without garbage collection tells nothing to gc
            todo += [getattr(one, name) for name in one.__struct_fields__]
    return total


def live_websockets() -> int:
    """WebSockets that are not freed, once all garbage is."""
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
    """All that is logged as an error, or with a traceback; what a peer does is neither."""
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
    """Where the walk over one connection begins."""
    return [ws, observer_of(ws)]
