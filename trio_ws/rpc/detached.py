"""Connections that live on without a task, while the shared reader reads for them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from trio.lowlevel import current_task

if TYPE_CHECKING:
    from contextvars import Context

    from trio_ws.websocket.connection import WebSocket

__all__ = ["DETACHED", "Detached", "FinishSoon"]

#: What serving a connection returns that lives on without the task.
DETACHED = object()

#: Starts a task in a context that awaits the rest of a connection's life, and closes the connection.
FinishSoon = Callable[["Context", "WebSocket", Callable[["WebSocket"], Awaitable[None]]], None]


class Finisher(Protocol):
    """What knows how the life of a connection ends."""

    def _finish(self, connection: Any, ws: WebSocket, /) -> Awaitable[None]:
        """Finish a connection that is over."""
        ...


class Detached:
    """Call it when a connection is over that has left its task: it starts a task that finishes it.

    Made in the connection's task. It is one object, because every idle connection keeps it.

    Args:
        finish_soon: the server's.
        ws: the connection.
        finisher: its ``_finish`` is awaited, in a task that has the context of this one.
        connection: the argument of that.
    """

    __slots__ = ("_connection", "_context", "_finish_soon", "_finisher", "_ws")

    def __init__(self, finish_soon: FinishSoon, ws: WebSocket, finisher: Finisher, connection: Any) -> None:
        self._finish_soon = finish_soon
        self._context = current_task().context
        self._ws = ws
        self._finisher = finisher
        self._connection = connection

    def __call__(self) -> None:
        rest = functools.partial(self._finisher._finish, self._connection)
        self._finish_soon(self._context, self._ws, rest)
