"""A connection that is only what `send_at_once` uses in a burst, in any state, and the same in Python."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_ws.protocol._accel import python_whole_frame
from trio_ws.websocket._checkpoint import passed_checkpoint
from trio_ws.websocket.connection import _SENDS_IN_A_ROW
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.write_buffer import _FLUSH_AT, LARGE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    SendAtOnce = Callable[[Any, Any], bool]

__all__ = [
    "Connection",
    "ReceiveBuffer",
    "WriteBuffer",
    "idle_buffer",
    "python_buffer_item",
    "python_send_at_once",
    "random_connection",
    "random_message",
    "send_and_look",
]


class ReceiveBuffer:
    __slots__ = (
        "_closed_by_peer",
        "_longest_bypass",
        "bypass_limit",
        "discarding",
        "frames",
        "messages",
        "parts_open",
        "pending_input",
        "received",
        "single",
    )

    messages: Any
    parts_open: Any

    def release(self) -> None:
        """What `ReceiveBuffer.release` does is not seen by what waits for messages."""


class WriteBuffer:
    __slots__ = ("_parts", "fast_send_limit", "flush_scheduled", "size")

    _parts: Any
    fast_send_limit: Any
    flush_scheduled: Any
    size: Any

    def buffer(self, frame: bytes) -> None:
        """What `WriteBuffer.buffer` does; a flush takes everything."""
        self._parts = [*self._parts, frame]
        self.size += len(frame)
        if self.flush_scheduled and self.size > _FLUSH_AT:
            self._parts, self.size = [], 0
        self.flush_scheduled = self.size > 0


class Connection:
    __slots__ = (
        "__weakref__",
        "_closing",
        "_reader",
        "_receive_buffer",
        "_sends_since_yield",
        "_write_buffer",
    )

    _closing: Any
    _reader: Any
    _receive_buffer: Any
    _sends_since_yield: Any
    _write_buffer: Any


def python_send_at_once(connection: Connection, value: Any) -> bool:
    """The fast path of `WebSocket.send`, where it has nothing else to do."""
    write_buffer = connection._write_buffer
    if type(value) is WebSocketMessage:
        if value.msg_type != ("text" if isinstance(value.payload, str) else "binary"):
            return False
        value = value.payload
    if type(value) not in (bytes, str) or len(value) >= LARGE or (type(value) is str and not value.isascii()):
        return False
    if not (
        connection._receive_buffer.messages
        and write_buffer.flush_scheduled
        and write_buffer._parts
        and write_buffer.size < write_buffer.fast_send_limit
        and write_buffer.size + 14 + len(value) <= _FLUSH_AT
        and connection._sends_since_yield < _SENDS_IN_A_ROW
        and passed_checkpoint()
    ):
        return False
    first: int = 0x81 if type(value) is str else 0x82
    frame = python_whole_frame(first, value.encode() if isinstance(value, str) else value, b"")
    write_buffer._parts.append(frame)
    write_buffer.size += len(frame)
    connection._sends_since_yield += 1
    return True


def python_buffer_item(
    encode: Callable[[Any], bytes],
    first: int,
    before: bytes,
    between: bytes,
    after: bytes,
    general: Callable[[Any], Any] | None,
    write_buffer: WriteBuffer,
    call_id: str,
    value: Any,
) -> Any:
    """The same as `buffer_item`, in Python."""
    try:
        encoded = encode(value)
    except Exception:  # noqa: BLE001 - as in C
        encoded = None
    if encoded is None or not write_buffer.fast_send_limit:
        return None if general is None else general(value)
    payload = before + msgspec.msgpack.encode(call_id) + between + encoded + after
    write_buffer.buffer(python_whole_frame(first, payload, b""))
    return len(payload)


def idle_buffer() -> ReceiveBuffer:
    """A receive buffer of which nothing is used."""
    buffer = ReceiveBuffer()
    for name in ReceiveBuffer.__slots__:
        setattr(buffer, name, None)
    return buffer


def random_connection(chance: random.Random) -> Connection:
    """A connection in a state that can occur; mostly one in which a message is sent in a burst."""

    def seldom(other: Any, usual: Any) -> Any:
        return other if chance.random() < 0.1 else usual

    connection = Connection()
    connection._sends_since_yield = seldom(_SENDS_IN_A_ROW, chance.randrange(_SENDS_IN_A_ROW))
    connection._receive_buffer = idle_buffer()
    connection._receive_buffer.messages = deque([b"1"] * seldom(0, chance.randrange(1, 3)))
    connection._receive_buffer.parts_open = False
    connection._reader = connection._closing = None
    connection._write_buffer = write_buffer = WriteBuffer()
    write_buffer._parts = [b"x"] * seldom(0, chance.randrange(1, 3))
    write_buffer.size = chance.choice((1, 1000, _FLUSH_AT - 300, _FLUSH_AT))
    write_buffer.fast_send_limit = seldom(0, 1 << 20)
    write_buffer.flush_scheduled = seldom(False, True)
    return connection


def random_message(chance: random.Random) -> Any:
    """Anything that could be given to `WebSocket.send`."""
    text = chance.choice(("", "abc", "a" * 125, "b" * 126, "é", "\N{EURO SIGN}" * 3, "\ud800", "c" * 270))
    data = bytes(chance.choice((0, 5, 125, 126, 280, 290, 300, LARGE - 1, LARGE)))
    kind: Any = chance.choice(("text", "binary", "ping", b"text".decode()))
    return chance.choice(
        (
            *(text, text, data, data, WebSocketMessage(kind, text), WebSocketMessage(kind, data)),
            *(bytearray(data), memoryview(data), None, 5, WebSocketMessage("binary", bytearray(b"5"))),  # type: ignore[arg-type]
        )
    )


async def send_and_look(function: SendAtOnce, connection: Any, message: Any, *, cancelled: bool) -> list[Any]:
    """Call ``function`` in a task; return all that can be seen of it."""
    task = trio.lowlevel.current_task()
    points = task._cancel_points
    seen: list[Any] = []
    with trio.CancelScope() as scope:  # noqa: ASYNC100 - it is about what happens without waiting
        if cancelled:
            scope.cancel()
        seen.append(function(connection, message))
    write_buffer = connection._write_buffer
    seen += (task._cancel_points - points, connection._sends_since_yield, write_buffer.size)
    seen += (list(write_buffer._parts), write_buffer.flush_scheduled)
    return [*seen, len(connection._receive_buffer.messages)]
