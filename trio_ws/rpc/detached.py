"""Connections that have no task of their own, because the shared reader reads for them."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from trio.lowlevel import current_task

if TYPE_CHECKING:
    from contextvars import Context

    from trio_ws.websocket.connection import WebSocket

__all__ = ["DETACHED", "Detached", "FinishSoon"]

#: Returned by the code that serves a connection if the connection continues without the task.
DETACHED = object()

#: Starts a task in this context, which awaits the function and then closes the connection.
FinishSoon = Callable[["Context", "WebSocket", Callable[["WebSocket"], Awaitable[None]]], None]


class Finisher(Protocol):
    """An object that finishes connections."""

    def _finish(self, connection: Any, ws: WebSocket, /) -> Awaitable[None]:
        """Finish a connection that is over."""
        ...


class Detached:
    """A callback for the end of a connection without a task. It starts a task that finishes the connection.

    It must be created in the connection's original task. Every idle connection keeps one, so it is a single
    small object.

    Args:
        finish_soon: the server's function that starts tasks.
        ws: the connection.
        finisher: its ``_finish`` is awaited in a task with the context of the current one.
        connection: the argument of ``_finish``.
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
