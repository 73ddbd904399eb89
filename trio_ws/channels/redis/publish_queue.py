"""Messages waiting to be published: a bounded queue that survives the loss of a connection.

Invariants: a message is in exactly one place. It is waiting, or sent and unanswered, or counted as published,
or counted as dropped. The bound covers the first two together. Messages that were unanswered when a
connection broke return to their old place in the queue; receivers recognise duplicates by the sequence
number.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Outgoing", "PublishQueue"]


class Outgoing(NamedTuple):
    """One message; ``sequence`` counts up from 1 for each broker."""

    sequence: int
    channel: bytes
    payload: bytes

    @property
    def size(self) -> int:
        """The bytes charged for it."""
        return len(self.channel) + len(self.payload)


class PublishQueue:
    """A queue of `Outgoing` messages. See the module docstring.

    Attributes:
        published: messages that Redis accepted.
        dropped: messages that were given up.
    """

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self.published = 0
        self.dropped = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: deque[Outgoing] = deque()
        self._sent: deque[Outgoing] = deque()
        self._bytes = 0
        self._sent_bytes = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def half_full(self) -> bool:
        """Whether half of a bound is reached."""
        return 2 * len(self) >= self._max_items or 2 * self._bytes >= self._max_bytes

    def put(self, channel: bytes, payload: bytes) -> None:
        """Append a message. If the queue is full, the oldest unsent messages are dropped."""
        self._sequence += 1
        message = Outgoing(self._sequence, channel, payload)
        if message.size > self._max_bytes:
            self.dropped += 1
            return
        self._waiting.append(message)
        self._bytes += message.size
        while len(self) > self._max_items or self._bytes > self._max_bytes:
            self._bytes -= self._waiting.popleft().size
            self.dropped += 1

    def take(self, max_items: int, max_bytes: int) -> list[Outgoing]:
        """Return messages to send, so that at most this much is unanswered. A single one may be larger."""
        taken = []
        while self._waiting and len(self._sent) < max_items:
            size = self._waiting[0].size
            if self._sent and self._sent_bytes + size > max_bytes:
                break
            message = self._waiting.popleft()
            self._sent.append(message)
            self._sent_bytes += size
            taken.append(message)
        return taken

    def answered(self, *, taken: bool) -> None:
        """Record the answer of Redis to the oldest sent message: accepted or refused."""
        size = self._sent.popleft().size
        self._bytes -= size
        self._sent_bytes -= size
        if taken:
            self.published += 1
        else:
            self.dropped += 1

    def connection_lost(self) -> None:
        """Queue all unanswered messages again."""
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_bytes = 0

    def drop_all(self) -> int:
        """Drop all messages, and return their number."""
        count = len(self)
        self.dropped += count
        self._waiting.clear()
        self._sent.clear()
        self._bytes = self._sent_bytes = 0
        return count
