"""The calls of a client that are only what `begin_call` uses, in any state."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.odd_values import odd_values
from tests.support.started_calls import kind, make
from trio_ws.codecs.base import PlainCalls
from trio_ws.rpc.pending import PendingCall
from trio_ws.websocket.closing import OPEN, ClosingHandshake
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    import random
    from types import ModuleType

__all__ = ["BegunCall", "watch_requests"]

Transport = kind("Transport", "plain_requests", "closing", "write_buffer", "high_water")


class Outgoing:
    __slots__ = ("_next_id", "burst_size", "firsts", "pending_calls", "transport")

    _next_id: Any
    burst_size: Any
    pending_calls: Any
    transport: Any

    def first_call(self) -> None:
        """What `OutgoingCalls.first_call` does."""
        self.pending_calls = {}

    def cancel(self, call_id: str) -> None:
        """Forget a call."""


class Sink:
    """Takes all that is sent."""

    direct = False

    def __init__(self) -> None:
        self.sent = b""

    def send_now(self, data: bytes) -> int:
        self.sent += data
        return len(data)


class Runtime:
    """Flushes nothing."""

    def flush_soon(self, write_buffer: WriteBuffer) -> None:
        """Do nothing."""


def watch_requests(module: ModuleType) -> None:
    """Tell the extension about these classes."""
    module.watch_requests(Outgoing, Transport, WriteBuffer, PendingCall, object)


class BegunCall:
    """Calls in their ordinary state, until they are spoilt."""

    def __init__(self, module: ModuleType, burst: int) -> None:
        self.sink = Sink()
        self.written = WriteBuffer(self.sink, Runtime(), client=True)  # type: ignore[arg-type]
        frame: Any = functools.partial(module.request_frame, 0x82, b"start", b"args", b"id", b"end")
        none: Any = len
        self.outgoing = make(
            Outgoing,
            _next_id=16,
            burst_size=burst,
            pending_calls={},
            transport=make(
                Transport,
                plain_requests=PlainCalls(none, msgspec.msgpack.encode, none, frame, none, none),
                closing=make(ClosingHandshake, state=OPEN),
                write_buffer=self.written,
                high_water=1 << 20,
            ),
        )

    @property
    def bytes_written(self) -> int:
        """What was sent or buffered."""
        return len(self.sink.sent) + self.written.size

    def spoil(self, chance: random.Random) -> None:
        """Put anything into any attribute."""
        outgoing = self.outgoing
        one: Any = chance.choice([outgoing, outgoing.transport, outgoing.transport.closing, self.written])
        names = [name for name in type(one).__slots__ if hasattr(one, name)]
        setattr(one, chance.choice(names), chance.choice(odd_values()))
