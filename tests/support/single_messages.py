"""Connections of the shared reader in any state, on sockets; for `handle_single_messages`."""

from __future__ import annotations

import contextlib
import contextvars
import socket
import types
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.wire import frame
from trio_ws import Options, WebSocketMessage
from trio_ws.app.listener import ListenerSession, MessageListener
from trio_ws.protocol.frames import BINARY, PING, TEXT
from trio_ws.server.routing import Pattern
from trio_ws.websocket.closing import CLOSING, OPEN
from trio_ws.websocket.readers import Reader
from trio_ws.websocket.receive_buffer import ReceiveBuffer
from trio_ws.websocket.transport import SocketTransport
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

__all__ = ["FAILURES", "Round", "State", "random_states", "spoil_something"]

#: What the Python methods of a spoilt object may raise.
FAILURES = (AttributeError, TypeError, ValueError, OverflowError, OSError, AssertionError)

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")
_FILL = 1 << 16


class State(NamedTuple):
    """One connection, and what its peer has sent.

    Attributes:
        observer: "listener"; "other", one that is no listener; "idle", one that does not handle messages at
            present; or "none".
        does: what the function does, see `_acts`.
        is_async: whether it is async.
        takes: the annotation of its data.
        arguments: whether it has path parameters.
        sent: the bytes that have come; None at the end of the stream.
        room: of the socket: "large", "small", "no", or "gone" if the peer is.
        waiting: bytes in the write buffer.
        open: whether a frame may be sent at once.
        parsed: whether the next data must be parsed.
    """

    observer: str
    does: str
    is_async: bool
    takes: str
    arguments: bool
    sent: bytes | None
    room: str
    waiting: int
    open: bool
    parsed: bool


DEEDS = (
    *(
        "echo",
        "echo",
        "echo",
        "nothing",
        "number",
        "bytearray",
        "object",
        "message",
        "large",
        "no text",
        "text",
        "fail",
        "leave",
    ),
    *("wait", "buffer", "close", "nursery"),
)


class _Closing:
    def __init__(self) -> None:
        self.state = OPEN
        self.calls: list[Any] = []
        self.write_buffer: Any = None

    def leave_open(self) -> None:
        self.state = CLOSING
        self.write_buffer.fast_send_limit = 0

    def abort(self, cause: Any) -> None:
        self.calls.append(("abort", type(cause), getattr(cause, "errno", None)))

    def write_failed(self, cause: Any) -> None:
        self.calls.append(("write_failed", type(cause), cause.errno))
        self.leave_open()


class _Other:
    """An observer that is no listener."""

    def __init__(self, reader_driven: bool, calls: list[Any]) -> None:
        self.reader_driven = reader_driven
        self.calls = calls

    def message_received(self, message: Any, lent: Any) -> Any:
        self.calls.append(("message", message))
        return "going on" if len(message) == 2 else None


class Round:
    """The connections that are ready in one round, which are also their own runtime, pool and task.

    Attributes:
        ready: their descriptors.
        connections: their readers.
        nurseries: those that are open in the task.
    """

    def __init__(self, states: list[State]) -> None:
        self.calls: list[Any] = []
        self.nurseries: list[Any] = []
        self.ready: deque[int] = deque()
        self.connections: dict[int, Any] = {}
        self.task = self
        self._rows: list[Any] = []
        self._sockets: list[tuple[socket.socket, socket.socket, int]] = []
        for state in states:
            self._add(state)

    @property
    def child_nurseries(self) -> list[Any]:
        return list(self.nurseries)

    @property
    def nursery(self) -> Any:
        return self

    def start_soon(self, function: Any) -> None:
        self.calls.append(("drain", function.__name__))

    def flush_soon(self, write_buffer: Any) -> None:
        self.calls.append("flush")

    def start(self, job: Any) -> None:
        self.calls.append(("start", job.__name__))

    def _add(self, state: State) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        filled = 0
        if state.sent is None:
            theirs.shutdown(socket.SHUT_WR)
        else:
            theirs.sendall(state.sent)
        if state.room == "gone":
            theirs.close()
        elif state.room != "large":
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that there is
            with contextlib.suppress(BlockingIOError):
                while state.room == "no":
                    filled += ours.send(bytes(_FILL))
        self._sockets.append((ours, theirs, filled))
        owner: Any = self
        closing: Any = _Closing()
        transport = SocketTransport(ours, ("a peer", 1))
        receive_buffer = ReceiveBuffer(Options(), client=False)
        receive_buffer.open(None, direct=True)
        if not state.parsed:
            receive_buffer.release()
        write_buffer = WriteBuffer(transport, owner)
        write_buffer.closing, closing.write_buffer = closing, write_buffer
        write_buffer.fast_send_limit = 1 << 16 if state.open else 0
        if state.waiting:
            write_buffer.buffer(bytes(state.waiting))
        reader = Reader(owner, transport, receive_buffer, closing, owner)
        ws: Any = types.SimpleNamespace(
            _closing=closing, _reader=reader, _receive_buffer=receive_buffer, _write_buffer=write_buffer
        )
        ws._options, ws._liveness, ws._fragmenting = Options(), None, None
        ws._log_extra = dict
        ws._post = lambda *args, **more: self.calls.append(("post", args, more))
        arguments = {"name": "ann"} if state.arguments else {}
        pattern = Pattern("/{name}" if state.arguments else "/")
        listener = MessageListener(self._function(state), pattern, None, None, None)
        session = ListenerSession(listener, ws, owner, arguments, contextvars.copy_context())
        session.reader_driven = True
        observers: dict[str, Any] = {
            "listener": session,
            "other": _Other(True, self.calls),
            "idle": _Other(False, self.calls),
            "none": None,
        }
        reader.observer = observers[state.observer]
        self.connections[transport.fd] = reader
        self.ready.append(transport.fd)
        self._rows.append((reader, session, listener, write_buffer, receive_buffer, closing))

    def _function(self, state: State) -> Callable[..., Any]:
        def act(ws: Any, data: Any, name: str = "") -> Any:
            self.calls.append((state.does, data, name, VARIABLE.get()))
            VARIABLE.set("bytearray")
            results: dict[str, Any] = {
                "text": "tëxt",
                "number": [1],
                "bytearray": bytearray(b"bytes"),
                "object": object(),  # which is no JSON
                "message": WebSocketMessage("text", "a message"),
                "large": bytes(70_000),
                "no text": "\ud800",
                "nothing": None,
            }
            if state.does == "fail":
                raise ValueError(data)
            if state.does == "leave":
                raise KeyboardInterrupt
            if state.does == "buffer":
                ws._write_buffer.buffer(b"before")
            elif state.does == "close":
                ws._closing.leave_open()
            elif state.does == "nursery":
                self.nurseries.append(1)
            return results.get(state.does, data)

        async def act_async(ws: Any, data: Any, name: str = "") -> Any:
            result = act(ws, data, name)
            if state.does == "wait":
                await _trap()
            return result

        kinds: dict[str, Any] = {"either": str | bytes, "text": str, "json": list[int]}
        function = act_async if state.is_async else act
        function.__annotations__ = {"data": kinds[state.takes]}
        return function

    def run(self, handle: Callable[..., Any], left: int) -> None:
        """Do what the shared reader does with these connections, as far as `handle` is concerned."""
        contextvars.copy_context().run(self._run, handle, left)

    def _run(self, handle: Callable[..., Any], left: int) -> None:
        while self.ready and left > 0:
            left, connection, received, going_on = handle(self.ready, self.connections, left, self)
            number = None if connection is None else self._number(connection)
            self.calls.append((left, number, received, self._named(going_on), len(self.ready)))
            if connection is None and self.ready and left > 0:
                self.ready.popleft()
        self.calls.append(VARIABLE.get())

    def _number(self, connection: Any) -> int:
        return [row[0] for row in self._rows].index(connection)

    def _named(self, going_on: Any) -> object:
        if going_on is None or isinstance(going_on, str):
            return going_on
        suspended = going_on.cr_frame.f_locals.get("suspended")
        going_on.close()
        if suspended is None:
            return str(going_on.__qualname__)
        coroutine, trap, context = suspended
        coroutine.close()
        return str(going_on.__qualname__), trap, context[VARIABLE]

    def look(self) -> list[Any]:
        """All that can be seen of them; and close the sockets."""
        seen: list[Any] = [self.calls, len(self.nurseries)]
        for row, (ours, theirs, filled) in zip(self._rows, self._sockets, strict=True):
            _, session, _, write_buffer, receive_buffer, closing = row
            ours.close()
            received = bytearray()
            with contextlib.suppress(ConnectionResetError):  # something was not read
                while theirs.fileno() >= 0 and (piece := theirs.recv(_FILL)):
                    received += piece
            theirs.close()
            failure = session._failure
            seen.append((bytes(received[filled:]), b"".join(write_buffer._parts), write_buffer.size))
            seen.append((write_buffer.flush_scheduled, write_buffer._draining, write_buffer.broken))
            seen.append((write_buffer.bytes_sent, receive_buffer.bypass_limit, list(receive_buffer.messages)))
            seen.append((receive_buffer.received_since_check, receive_buffer.received, closing.calls))
            seen.append((session.reader_driven, session._over, type(failure), str(failure)))
        return seen

    def close(self) -> None:
        for ours, theirs, _ in self._sockets:
            ours.close()
            theirs.close()


@types.coroutine
def _trap() -> Generator[str, None, None]:
    yield "a trap"


def random_states(chance: random.Random) -> list[State]:
    """Some connections; most have a listener and one message."""

    def mostly(usual: Any, *others: Any) -> Any:
        return usual if chance.random() < 0.7 else chance.choice(others)

    def sent() -> bytes | None:
        text = frame(TEXT, mostly(b"12", b"", b"x" * 5000, "éü".encode(), b"\xff", b"[1,2]"))
        data: bytes | None = mostly(
            mostly(text, frame(BINARY, chance.randbytes(chance.choice((1, 200))))),
            *(b"", None, text * 2, text[:-1], frame(PING, b""), text + b"\x81"),
        )
        return data

    return [
        State(
            mostly("listener", "other", "idle", "none"),
            chance.choice(DEEDS),
            chance.random() < 0.5,
            mostly("either", "text", "json"),
            chance.random() < 0.3,
            sent(),
            mostly("large", "small", "no", "gone"),
            mostly(0, 20, 1 << 17),
            mostly(True, False),
            mostly(False, True),
        )
        for _ in range(chance.randrange(1, 6))
    ]


def spoil_something(spoilt: Round, chance: random.Random) -> None:
    """Give an attribute of some object a value that it cannot have, or delete it."""
    owner = chance.choice(chance.choice(spoilt._rows)[:5])
    values: Any = (None, 1 << 20, -1, 1 << 70, "five", [], [b"1"], (b"1",), {"a": 1}, {1: 2})
    names = [name for kind in type(owner).__mro__ for name in getattr(kind, "__slots__", ())]
    name, value = chance.choice(names), chance.choice(values)
    if name in ("is_async", "_context"):
        value = None  # otherwise a coroutine is made that nobody awaits
    if value is None:
        with contextlib.suppress(AttributeError):
            delattr(owner, name)
    else:
        setattr(owner, name, value)
