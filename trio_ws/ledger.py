"""MemoryLedger: what one peer makes this process hold, in bytes as Python holds them.

Each connection has one. Everything that waits here because of the peer is charged to it and released from it:
messages that the application has not taken, requests and packets that wait for their turn, the arguments of
calls that run, items of streams, and the answers of a batch that is not complete. What waits to be written is
counted by the connection's write buffer, whose bell rings for both (see `Caller.progress`).

Invariants:

- `received` and `held` are never less than what is held, and 0 when nothing is.
- Whoever reads for the connection stops while `received` or `held` is past its bound, and goes on once it is
  below. No other counter stops the reading.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["MOST_GROWTH", "OVERHEAD", "MemoryLedger", "size_of"]

#: Charged for each message or packet beside its own bytes: what the objects around it weigh.
OVERHEAD = 128
#: Bytes of Python objects that an encoded byte can become at the most: those of a dict with one item.
MOST_GROWTH = 110

_getsizeof = sys.getsizeof


class MemoryLedger:
    """See the module's text.

    Args:
        max_received: bytes of messages that wait for the application, at which reading stops.
        max_held: bytes of everything else that is held for the peer, at which no more is begun for it.

    Attributes:
        received: bytes of messages that were read and not taken.
        held: bytes of everything else.
    """

    __slots__ = ("held", "max_held", "max_received", "received")

    def __init__(self, max_received: int, max_held: int) -> None:
        self.max_received = max_received
        self.max_held = max_held
        self.received = 0
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether so much is held that nothing more may be begun for the peer."""
        return self.held >= self.max_held


def size_of(value: Any) -> int:
    """Bytes that a value which came out of a decoder takes, with everything inside it.

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
