"""Write buffers in any state, on sockets that take all, some or nothing; for `buffer_each`, `flush_row`."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

from trio_ws.websocket.deferred_frame import DeferredFrame
from trio_ws.websocket.transport import SocketTransport
from trio_ws.websocket.write_buffer import _FLUSH_AT, FLUSH_COST, WriteBuffer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["FAILURES", "State", "Step", "WrittenBuffers", "random_states", "random_steps", "spoil"]

#: What the Python methods of a spoilt write buffer may raise.
FAILURES = (AttributeError, TypeError, ValueError, OverflowError, OSError)

#: What is set before; the room of the socket: "large", "small" or "no", or "gone" if its peer is; and what is
#: of another class: "transport", "buffer" or nothing.
State = tuple[dict[str, Any], str, str]
Step = tuple[str, int, int]

_FILL = 1 << 16


class Later(DeferredFrame):
    """A frame that is made later."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 1000


class OtherTransport:
    """A transport that can send nothing without waiting, as one with TLS."""

    def send_now(self, data: bytes | memoryview) -> int:
        raise BlockingIOError


class OtherBuffer(WriteBuffer):
    """A write buffer of another class."""

    __slots__ = ()


class _Closing:
    def __init__(self) -> None:
        self.failed: list[Any] = []

    def write_failed(self, cause: BaseException) -> None:
        assert isinstance(cause, OSError)
        self.failed.append((type(cause), cause.errno))


class WrittenBuffers:
    """The write buffers, which are also their own runtime and nursery."""

    def __init__(self, states: list[State]) -> None:
        self.calls: list[Any] = []
        self.buffers: list[Any] = []
        self._sockets: list[tuple[socket.socket, socket.socket]] = []
        self._filled: list[int] = []
        for values, room, kind in states:
            self._add(values, room, kind)

    @property
    def nursery(self) -> Any:
        return self

    def start_soon(self, drain: Any) -> None:
        self.calls.append(("drain", self.buffers.index(drain.__self__)))

    def flush_soon(self, write_buffer: WriteBuffer) -> None:
        self.calls.append(("due", self.buffers.index(write_buffer)))

    def _add(self, values: dict[str, Any], room: str, kind: str) -> None:
        ours, theirs = socket.socketpair()
        self._sockets.append((ours, theirs))
        ours.setblocking(False)
        theirs.setblocking(False)
        filled = 0
        if room == "gone":
            theirs.close()
        elif room != "large":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that there is
            with contextlib.suppress(BlockingIOError):
                while room == "no":
                    filled += ours.send(bytes(_FILL))
        self._filled.append(filled)
        transport: Any = OtherTransport() if kind == "transport" else SocketTransport(ours, ("a peer", 1))
        runtime: Any = self
        buffer = (OtherBuffer if kind == "buffer" else WriteBuffer)(transport, runtime)
        buffer.closing = _Closing()
        for name, value in values.items():
            setattr(buffer, name, list(value) if isinstance(value, list) else value)
        if values.get("_parts"):
            buffer.size = sum(map(len, buffer._parts))
        self.buffers.append(buffer)

    def run(
        self,
        steps: list[Step],
        buffer_each: Callable[[list[Any], bytes], list[Any]],
        flush_row: Callable[[list[Any], int, int], int],
    ) -> None:
        for step, first, second in steps:
            if step == "buffer":
                frame = bytes([first]) * second
                before = len(self.calls)
                for due in buffer_each(self.buffers[first % len(self.buffers) :], frame):
                    self.flush_soon(due)
                self.calls[before:] = sorted(
                    self.calls[before:]
                )  # those of another class are scheduled at once
            else:
                self.calls.append(flush_row(self.buffers, first % len(self.buffers), second))

    def look(self) -> list[Any]:
        """All that can be seen of them; and close the sockets."""
        seen: list[Any] = [self.calls]
        for buffer, filled, (ours, theirs) in zip(self.buffers, self._filled, self._sockets, strict=True):
            ours.close()
            received = bytearray()
            if theirs.fileno() >= 0:
                while piece := theirs.recv(_FILL):
                    received += piece
                theirs.close()
            parts: list[Any] = buffer._parts
            waiting: list[Any] = [part if isinstance(part, Later) else bytes(part) for part in parts]
            if not any(isinstance(part, Later) for part in parts):
                waiting = [b"".join(waiting)]
            seen += (bytes(received[filled:]), waiting, buffer.size, buffer.bytes_sent)
            seen += (buffer.flush_scheduled, buffer._draining, buffer.broken, buffer._has_deferred)
            seen.append(buffer.closing and buffer.closing.failed)
        return seen

    def close(self) -> None:
        for pair in self._sockets:
            for one in pair:
                one.close()


def spoil(owner: Any, name: str, value: Any) -> None:
    """Give an attribute a value that it cannot have; None to delete it."""
    if value is None:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


_LATER = Later()


def random_states(chance: random.Random) -> list[State]:
    """States of some write buffers that can occur; in most, frames wait for a flush."""
    states: list[State] = []
    for _ in range(chance.randrange(1, 6)):
        values: dict[str, Any] = {"bytes_sent": chance.choice((0, 1 << 40))}
        if chance.random() < 0.8:
            sizes = chance.choice(((5,), (3, 200), (4000, 90, 7), (_FLUSH_AT - 10,), (3 * _FLUSH_AT, 1)))
            values |= {"_parts": [chance.randbytes(1) * size for size in sizes], "flush_scheduled": True}
            kind = chance.randrange(10)
            if kind == 0:
                values |= {"flush_scheduled": False, "_draining": True}
            elif kind == 1:
                values["_has_deferred"] = True
                values["_parts"].append(_LATER)
            elif kind == 2:
                values["_parts"].append(memoryview(b"a part"))
        elif chance.random() < 0.3:
            values["broken"] = True
        room = chance.choice(("large", "large", "small", "no", "gone"))
        states.append((values, room, chance.choice(("", "", "", "transport", "buffer"))))
    return states


def random_steps(chance: random.Random) -> list[Step]:
    """Some calls of both functions."""
    return [
        ("buffer", chance.randrange(5), chance.choice((1, 40, 5000, _FLUSH_AT)))
        if chance.random() < 0.6
        else ("flush", chance.randrange(5), chance.choice((0, 2 * FLUSH_COST, 1 << 20)))
        for _ in range(chance.randrange(1, 6))
    ]
