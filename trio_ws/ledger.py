"""MemoryLedger: the bytes that this process holds because of one peer, as Python objects.

Each connection has one, its receive buffer. It is charged for everything that waits because of the peer:
messages that the application has not received, requests and packets that wait for their turn, arguments of
running calls, items of streams, and responses of an incomplete batch. Data that waits to be written is
counted by the connection's write buffer, which notifies tasks for both (see `OutgoingCalls.progress`).

Invariants:

- `received` and `held` are never less than what is held, and 0 if nothing is.
- The task that reads for the connection stops while `received` or `held` exceeds its bound, and continues
  below it. No other counter stops the reading.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_ws._types import Value

__all__ = ["MOST_GROWTH", "OVERHEAD", "MemoryLedger", "size_of"]

#: Bytes charged for each message or packet in addition to its own, for the objects around it.
OVERHEAD = 128
#: Maximum number of bytes of Python objects per encoded byte: those of a dict with one item.
MOST_GROWTH = 110

_getsizeof = sys.getsizeof


class MemoryLedger:
    """Counts the bytes held for a peer. See the module docstring.

    Args:
        max_received: bytes of messages waiting for the application at which reading stops.
        max_held: bytes of everything else at which no more work is started for the peer.

    Attributes:
        received: bytes of messages that were read but not received by the application.
        held: bytes of everything else.
    """

    __slots__ = ("held", "max_held", "max_received", "received")

    def __init__(self, max_received: int, max_held: int) -> None:
        self.max_received = max_received
        self.max_held = max_held
        self.received = 0
        self.held = 0

    @property
    def exhausted(self) -> bool:
        """Whether no more work may be started for the peer."""
        return self.held >= self.max_held


def size_of(value: Value) -> int:
    """Return the size of a decoded value with everything inside it, in bytes.

    Args:
        value: plain data: None, bool, numbers, text, bytes, and lists, tuples and dicts of these.
    """
    kind = type(value)
    if kind is not list and kind is not dict and kind is not tuple:
        return _getsizeof(value)
    total = 0
    stack = [value]
    pop, extend = stack.pop, stack.extend
    while stack:
        value = pop()
        total += _getsizeof(value)
        kind = type(value)
        if kind is list or kind is tuple:
            extend(value)
        elif kind is dict:
            extend(value)
            extend(value.values())
    return total
