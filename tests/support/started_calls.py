"""A session that is only what `start_call` uses, in any state."""

from __future__ import annotations

import contextvars
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.odd_values import odd_values
from trio_ws.codecs.base import PlainCalls
from trio_ws.protocol._accel import python_whole_frame
from trio_ws.websocket.closing import OPEN, ClosingHandshake
from trio_ws.websocket.readers import EPOLL, Reader
from trio_ws.websocket.receive_buffer import ReceiveBuffer
from trio_ws.websocket.transport import SocketTransport
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    import random
    from types import ModuleType

__all__ = ["StartedCall", "watch_calls"]


def kind(name: str, *places: str) -> Any:
    """Return a class with these attributes."""
    return type(name, (), {"__slots__": places})


Session = kind("Session", "reader_driven", "undecided", "transport", "incoming", "outgoing")
Transport = kind(
    "Transport",
    *("over", "measured", "measured_from", "high_water", "batch", "write_buffer", "receive_buffer", "reader"),
    *("closing", "plain_calls"),
)
Incoming = kind(
    "Incoming",
    *(
        "waiting",
        "active_calls",
        "max_calls",
        "_methods",
        "_default_limit",
        "closing",
        "running",
        "connection",
    ),
    "_pool",
)
Outgoing = kind("Outgoing", "burst_size")
Task = kind("Task", "child_nurseries")
Worker = kind("Worker", "task")
Pool = kind("Pool", "context")


class Method:
    __slots__ = ("_types", "function", "is_plain", "kind")

    def __init__(self, kind: int, function: object, types: object) -> None:
        self.is_plain: Any = True
        self.kind: Any = kind
        self.function: Any = function
        self._types: Any = types

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """What `Method.bind` does, and more that it never does."""
        if args[:1] == ["bad"]:
            raise ValueError
        return (tuple(args) * 9, kwargs) if args[:1] == ["many"] else (args, kwargs)


def make(kind: Any, **places: Any) -> Any:
    made = object.__new__(kind)
    for name, value in places.items():
        setattr(made, name, value)
    return made


def plain(connection: object, *args: Any) -> Any:
    return args[0] if args else None


async def waits(connection: object, *args: Any) -> Any:
    if args and args[0] is None:
        raise LookupError
    return plain(connection, *args)


def result_frame(call_id: str, payload: bytes) -> bytes:
    return python_whole_frame(0x82, call_id.encode() + payload, b"")


def encode(value: Any) -> bytes:
    return bytes(60_000) if value == "long" else msgspec.msgpack.encode(value)


class Runtime:
    """Starts no task."""

    nursery: Any = None


def watch_calls(module: ModuleType) -> None:
    """Tell the extension about these classes."""
    module.watch_calls(Session, Transport, Incoming, Outgoing, Method, ReceiveBuffer)


class StartedCall:
    """A session in its ordinary state, with a socket, until it is spoilt."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.peer.setblocking(False)
        self.written = WriteBuffer(SocketTransport(ours, "peer"), Runtime())  # type: ignore[arg-type]
        self.written.fast_send_limit = 1 << 20
        methods = {
            "plain": Method(0, plain, (int, int)),
            "waits": Method(1, waits, None),
            "odd": Method(1, plain, None),
        }
        none = lambda *_: None  # noqa: E731
        self.session = make(
            Session,
            reader_driven=True,
            undecided=False,
            outgoing=make(Outgoing, burst_size=0),
            transport=make(
                Transport,
                over=False,
                measured=0,
                measured_from=4096,
                high_water=1 << 20,
                batch=(),
                write_buffer=self.written,
                receive_buffer=make(ReceiveBuffer, held=0, max_held=1 << 20, received=0, bypass_limit=4000),
                reader=make(Reader, by=EPOLL),
                closing=make(ClosingHandshake, state=OPEN, deferred=None),
                plain_calls=PlainCalls(none, encode, result_frame, none, none, none),  # type: ignore[arg-type]
            ),
            incoming=make(
                Incoming,
                waiting={},
                active_calls=0,
                max_calls=9,
                _methods=methods,
                _default_limit=None,
                closing=None,
                running={},
                connection=self,
                _pool=make(Pool, context=contextvars.copy_context()),
            ),
        )
        self.worker = make(Worker, task=make(Task, child_nurseries=[]))

    def spoil(self, chance: random.Random) -> None:
        """Put anything into any attribute."""
        session = self.session
        transport, incoming = session.transport, session.incoming
        one: Any = chance.choice(
            [
                *(session, transport, incoming, session.outgoing, transport.reader, transport.receive_buffer),
                *(transport.closing, transport.write_buffer, self.worker, self.worker.task, incoming._pool),
                chance.choice([*incoming._methods.values()]),
            ]
        )
        names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
        if one is self.written:
            names.remove("transport")  # whose socket is to be closed
        setattr(
            one, chance.choice([name for name in names if hasattr(one, name)]), chance.choice(odd_values())
        )

    def close(self) -> None:
        """Close both ends."""
        transport: Any = self.written.transport
        transport._sock.close()
        self.peer.close()
