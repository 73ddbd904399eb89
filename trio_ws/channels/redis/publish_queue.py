"""What a broker has to publish: a bounded queue that survives the loss of a connection.

What always holds: a message is in exactly one place: it waits, or it was sent and not yet answered, or it is
counted as published, or as dropped. The bound is on the first two together. What was sent when a connection
broke waits again, in its old place; its sequence number tells the receivers whether they had it already.
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
        """The bytes that it counts for."""
        return len(self.channel) + len(self.payload)


class PublishQueue:
    """See the module's text.

    Attributes:
        published: messages that Redis took.
        dropped: messages that it never will.
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
        """Append a message; the oldest that were not yet sent are dropped for it if need be."""
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
        """Messages to send now, so that no more than this was sent and is not answered; one may be larger."""
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
        """Redis answered for the oldest that was sent: it took or refused it."""
        size = self._sent.popleft().size
        self._bytes -= size
        self._sent_bytes -= size
        if taken:
            self.published += 1
        else:
            self.dropped += 1

    def connection_lost(self) -> None:
        """What was sent and not answered must be sent again."""
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_bytes = 0

    def drop_all(self) -> int:
        """Give up what is here; say how many that were."""
        count = len(self)
        self.dropped += count
        self._waiting.clear()
        self._sent.clear()
        self._bytes = self._sent_bytes = 0
        return count
