"""A connection that is only what `next_method` uses, and scripts that await its messages in every way."""

from __future__ import annotations

import types
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.websocket._checkpoint import passed_checkpoint
from trio_ws.websocket.message import WebSocketMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    NextMethod = Callable[[Any], Any]

__all__ = ["STEPS", "Buffer", "Connection", "next_by_python", "run_script"]

#: What a script does, with the numbers of awaitables that it has made.
STEPS = ("put", "text", "half", "cancel", "next", "await", "send", "send 5", "step", "throw", "close", "trap")


class Buffer:
    __slots__ = ("messages", "parts_open")

    def __init__(self) -> None:
        self.messages: deque[str | bytes] = deque()
        self.parts_open = False


class Connection:
    __slots__ = ("__weakref__", "_receive_buffer")

    def __init__(self) -> None:
        self._receive_buffer = Buffer()


@types.coroutine
def trap(value: object) -> Generator[object, object, object]:
    return (yield value)


async def next_by_python(connection: Connection) -> WebSocketMessage:
    """The shape of `WebSocket.__anext__`: it takes a message, or waits for one, or ends."""
    buffer = connection._receive_buffer
    if not (len(buffer.messages) > 1 and not buffer.parts_open and passed_checkpoint()):
        if await trap("waiting") == 5:
            raise StopAsyncIteration
        if not buffer.messages:
            raise ValueError("no message")
    item = buffer.messages.popleft()
    return WebSocketMessage("text" if type(item) is str else "binary", item)


async def run_script(method: NextMethod, script: Iterable[tuple[str, int]]) -> list[object]:
    """Run a script in a task of trio. Returns what each of its steps has returned or raised, and has left."""
    connection = Connection()
    buffer = connection._receive_buffer
    made: list[Any] = []
    seen: list[object] = []
    task = trio.lowlevel.current_task()
    for number, (what, which) in enumerate(script):
        scope = trio.CancelScope()
        points = task._cancel_points
        outcome: object = None
        with scope:
            if what == "cancel":
                scope.cancel()
            if what == "put" or what == "text":
                buffer.messages.append(f"{number}" if what == "text" else b"%d" % number)
            elif what == "half":
                buffer.parts_open = not buffer.parts_open
            elif what == "next" or not made:
                made.append(method(connection))
            else:
                outcome = _outcome(made[which % len(made)], what)
        seen.append((what, outcome, list(buffer.messages), task._cancel_points - points))
    for awaitable in made:
        awaitable.close()
    return seen


def _outcome(awaitable: Any, what: str) -> object:
    """Do one step with an awaitable, without waiting for what it waits for."""

    async def awaiting() -> object:
        return await awaitable

    try:
        if what == "await":
            outer = awaiting()
            try:
                return ("trap", outer.send(None))
            finally:
                outer.close()
        if what == "trap":
            outer = awaiting()
            outer.send(None)
            return outer.throw(KeyError("thrown"))
        if what == "step":
            return next(awaitable if hasattr(awaitable, "__next__") else awaitable.__await__())
        if what == "throw":
            return awaitable.throw(KeyError("thrown"))
        if what == "close":
            return awaitable.close()
        return awaitable.send(5 if what == "send 5" else None)
    except StopIteration as exc:
        return ("returned", exc.value)
    except (RuntimeError, TypeError, ValueError, KeyError, StopAsyncIteration) as exc:
        return (type(exc), exc.args)
