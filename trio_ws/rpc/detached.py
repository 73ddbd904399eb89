"""Connections that have no task of their own, because the shared reader reads for them."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from trio.lowlevel import current_task

if TYPE_CHECKING:
    from trio_ws.websocket.connection import WebSocket

__all__ = ["DETACHED", "Detached", "FinishSoon", "WhenOver"]

#: Returned by the code that serves a connection if the connection continues without the task.
DETACHED = object()

#: Called when a connection without a task is over, with the connection twice: as the WebSocket, and as its
#: finisher knows it.
WhenOver = Callable[["WebSocket", object], None]
Finish = Callable[["WebSocket"], Awaitable[None]]


class Finisher(Protocol):
    """An object that finishes connections."""

    def _finish(self, connection: Any, ws: WebSocket, /) -> Awaitable[None]:
        """Finish a connection that is over."""
        ...


class FinishSoon:
    """Starts tasks that finish connections. One per server, made in the context of its clients' tasks.

    Args:
        start: starts a task, in a copy of the current context, that awaits a function with the connection and
            then closes it.
        forget: finishes a connection that is closed, without a task.
    """

    def __init__(
        self, start: Callable[[WebSocket, Finish], None], forget: Callable[[WebSocket], None]
    ) -> None:
        self._start = start
        self.forget = forget
        self._context = contextvars.copy_context()
        self._shared: dict[int, Detached] = {}  # by the id of their finishers, which they keep alive

    def __call__(self, context: contextvars.Context, ws: WebSocket, rest: Finish) -> None:
        context.run(self._start, ws, rest)

    def _share(self, context: contextvars.Context) -> contextvars.Context:
        """Return one context for all tasks that have set no variable, or else ``context`` itself."""
        mine = self._context
        same = len(context) == len(mine) and all(
            context.get(variable, mine) is value for variable, value in mine.items()
        )
        return mine if same else context

    def detached(self, finisher: Finisher) -> Detached:
        """Return the callback for the end of a connection. It must be called in the connection's own task."""
        context = self._share(current_task().context)
        if context is not self._context:
            return Detached(self, context, finisher)
        found = self._shared.get(id(finisher))
        if found is None:
            found = self._shared[id(finisher)] = Detached(self, context, finisher)
        return found


class Detached:
    """A callback for the end of a connection without a task. It starts a task that finishes the connection.

    Connections whose tasks have set no context variable share one.

    Args:
        finish_soon: starts the task.
        context: the context of that task.
        finisher: its ``_finish`` is awaited in the task.

    Attributes:
        context: the same. Nothing may run in it but plain functions that are short.
    """

    __slots__ = ("_finish_soon", "_finisher", "context")

    def __init__(self, finish_soon: FinishSoon, context: contextvars.Context, finisher: Finisher) -> None:
        self._finish_soon = finish_soon
        self.context = context
        self._finisher = finisher

    def __call__(self, ws: WebSocket, connection: object) -> None:
        rest = functools.partial(self._finisher._finish, connection)
        self._finish_soon(self.context, ws, rest)

    def finish(self, ws: WebSocket) -> None:
        """Finish a connection without a task. It is closed, and no code of the application has to run."""
        self._finish_soon.forget(ws)
