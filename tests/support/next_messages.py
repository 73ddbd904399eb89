"""A connection that is only what `next_method` uses, and scripts that await its messages in every way."""

from __future__ import annotations

import types
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error, Value

from tests.support.sends_at_once import Connection, ReceiveBuffer, WriteBuffer, idle_buffer
from trio_ws.websocket._checkpoint import passed_checkpoint
from trio_ws.websocket._notify import WAKE, Notification
from trio_ws.websocket.closing import CLOSING, OPEN
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.readers import EPOLL, FULL_EPOLL

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator, Iterable
    from types import ModuleType

    NextMethod = Callable[[Any], Any]

__all__ = [
    "CLASSES",
    "STEPS",
    "Closing",
    "Reader",
    "idle_connection",
    "next_by_python",
    "run_script",
    "spoil_connections",
    "watch_connection",
]

#: What a script does with the state of the connection,
_CHANGES = ("put", "text", "half", "by", "state", "deferred", "flush", "other", "cancel")
#: and with one of the awaitables that it has made, which has a number.
STEPS = (
    *_CHANGES,
    *("next", "await", "send", "send 5", "wake", "woken", "error", "abort", "step", "throw", "close", "trap"),
)


class Reader:
    __slots__ = ("_input_arrived", "by", "receive_buffer")

    _input_arrived: Notification | None
    by: Any
    receive_buffer: Any

    @property
    def input_arrived(self) -> Notification:
        self._input_arrived = self._input_arrived or Notification()
        return self._input_arrived


class Closing:
    __slots__ = ("deferred", "state")

    deferred: Any
    state: Any


CLASSES: tuple[type, ...] = (
    *(Connection, ReceiveBuffer, WriteBuffer, WebSocketMessage, Reader, Closing, Notification),
)


_NO_MESSAGES: deque[Any] = deque()


def watch_connection(
    module: ModuleType, classes: tuple[type, ...] = CLASSES, no_messages: deque[Any] = _NO_MESSAGES
) -> None:
    """Let the extension know these classes."""
    module.watch_connection(classes, no_messages, OPEN, EPOLL, trio.lowlevel.reschedule, WAKE)


def idle_connection(*messages: str | bytes) -> Connection:
    """A connection that is open and read by the shared reader."""
    connection = Connection()
    connection._sends_since_yield = 5
    connection._receive_buffer = idle_buffer()
    connection._receive_buffer.messages = deque(messages)
    connection._receive_buffer.parts_open = False
    connection._write_buffer = WriteBuffer()
    connection._write_buffer.flush_scheduled = False
    connection._reader = Reader()
    connection._reader.by = EPOLL
    connection._reader._input_arrived = None
    connection._reader.receive_buffer = None
    connection._closing = Closing()
    connection._closing.state = OPEN
    connection._closing.deferred = None
    return connection


@types.coroutine
def trap(value: object) -> Generator[object, object, object]:
    return (yield value)


def _has_message(connection: Connection) -> bool:
    buffer = connection._receive_buffer
    enough = 1 if connection._reader.by is EPOLL else 2
    return len(buffer.messages) >= enough and not buffer.parts_open


def _may_wait(connection: Connection) -> bool:
    buffer, closing = connection._receive_buffer, connection._closing
    return (
        connection._reader.by is EPOLL
        and closing.state == OPEN
        and not (buffer.messages or buffer.parts_open)
        and not (closing.deferred or connection._write_buffer.flush_scheduled)
        and connection._reader.input_arrived._waiting is None
    )


async def next_by_python(connection: Connection) -> WebSocketMessage:
    """The shape of `WebSocket.__anext__`: it takes a message, or waits for one, or ends."""
    buffer = connection._receive_buffer
    waited = False
    while not (_has_message(connection) and (waited or passed_checkpoint())):
        if _may_wait(connection):
            await connection._reader.input_arrived.wait()
            connection._sends_since_yield = 0
            waited = True
            continue
        if await trap("waiting") == 5:
            raise StopAsyncIteration
        if not buffer.messages:
            raise ValueError("no message")
        break
    item = buffer.messages.popleft()
    return WebSocketMessage("text" if type(item) is str else "binary", item)


async def run_script(method: NextMethod, script: Iterable[tuple[str, int]]) -> list[object]:
    """Run a script in a task of trio. Returns what each of its steps has returned or raised, and has left."""
    connection = idle_connection()
    buffer = connection._receive_buffer
    made: list[Any] = []
    traps: dict[int, Any] = {}
    seen: list[object] = []
    task = trio.lowlevel.current_task()
    for number, (what, which) in enumerate(script):
        scope = trio.CancelScope()
        points = task._cancel_points
        outcome: object = None
        with scope:
            if what == "cancel":
                scope.cancel()
            if what in _CHANGES:
                _change(connection, what, number)
            elif what == "next" or not made:
                made.append(method(connection))
            else:
                index = which % len(made)
                if what == "wake":
                    connection._reader.input_arrived._waiting = None
                elif what == "abort" and index in traps:
                    traps.pop(index).abort_func(None)
                outcome = _outcome(made[index], what)
                if hasattr(outcome, "abort_func"):
                    traps[index], outcome = outcome, "trio's trap"
        waits = connection._reader.input_arrived._waiting is not None
        state = (list(buffer.messages), connection._sends_since_yield, waits, task._cancel_points - points)
        seen.append((what, outcome, state))
    for awaitable in made:
        awaitable.close()
    return seen


def _change(connection: Connection, what: str, number: int) -> None:
    buffer, closing, reader = connection._receive_buffer, connection._closing, connection._reader
    if what == "put" or what == "text":
        buffer.messages.append(f"{number}" if what == "text" else b"%d" % number)
    elif what == "half":
        buffer.parts_open = not buffer.parts_open
    elif what == "by":
        reader.by = FULL_EPOLL if reader.by is EPOLL else EPOLL
    elif what == "state":
        closing.state = CLOSING if closing.state == OPEN else OPEN
    elif what == "deferred":
        closing.deferred = "a Close frame" if closing.deferred is None else None
    elif what == "flush":
        connection._write_buffer.flush_scheduled = not connection._write_buffer.flush_scheduled
    elif what == "other":  # another task waits
        notification = reader.input_arrived
        notification._waiting = None if notification._waiting else trio.lowlevel.current_task()


def _sent(what: str) -> object:
    if what == "error" or what == "abort":
        return Error(KeyError("woken"))
    return {"send 5": 5, "wake": WAKE, "woken": Value(7)}.get(what)


def _outcome(awaitable: Any, what: str) -> object:
    """Do one step with an awaitable, without waiting for what it waits for."""

    async def awaiting() -> object:
        return await awaitable

    try:
        if what == "await":
            outer = awaiting()
            try:
                outer.send(None)
                return "a trap"
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
        return awaitable.send(_sent(what))
    except StopIteration as exc:
        return ("returned", exc.value)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, StopAsyncIteration) as exc:
        return (type(exc), exc.args)


async def spoil_connections(method: NextMethod, chance: random.Random, count: int) -> None:
    """Receive from connections that are in no state that can occur, in a task of trio."""
    for _ in range(count):
        connection = idle_connection(*[b"1"] * chance.randrange(3))
        notification = connection._reader.input_arrived
        parts = (connection._receive_buffer, connection._write_buffer, connection._reader)
        owner: Any = chance.choice((connection, notification, connection._closing, *parts))
        name = chance.choice([name for name in type(owner).__slots__ if name != "__weakref__"])
        with suppress(AttributeError):
            delattr(owner, name)
        if chance.random() < 0.5:
            setattr(owner, name, chance.choice((None, 5, "five", [b"1"], object())))
        with suppress(AttributeError, TypeError, ValueError):
            awaitable = method(connection)
            _outcome(awaitable, chance.choice(("send", "await", "trap", "step")))
            _outcome(awaitable, chance.choice(("wake", "error", "throw")))
            awaitable.close()
