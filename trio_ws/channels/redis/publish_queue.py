"""Messages waiting to be published: a bounded queue that survives the loss of a connection.

Invariants: a message is in exactly one state: waiting, sent and unanswered, counted as published, or counted
as dropped. The bounds cover the first two states together. Messages that were unanswered when a connection
broke return to their old place in the queue; receivers recognise duplicates by the sequence number. If
messages of a channel with a history are dropped, one message with their number takes their place, unless the
history keeps only the newest message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trio_ws.channels.history import History

__all__ = ["Outgoing", "PublishQueue"]


class Outgoing(NamedTuple):
    """One message.

    Attributes:
        sequence: the number of the message, from 1 for each broker, in the order of sending; 0 until it is
            sent.
        channel: its name at Redis.
        payload: the payload to publish; empty if this marks lost messages.
        history: the history of the channel, if it has one.
        lost: the number of lost messages that this marks, or 0.
        is_packed: whether the payload is a whole message of another program, with its own sequence number.
    """

    sequence: int
    channel: bytes
    payload: bytes
    history: History | None = None
    lost: int = 0
    is_packed: bool = False

    @property
    def size(self) -> int:
        """The number of bytes that count towards the bound."""
        return len(self.channel) + len(self.payload)


class _Lost(NamedTuple):
    """Messages of one channel that were dropped.

    Attributes:
        number: the number of these messages.
        sequence: the sequence number of the last of them, if it was sent and may have arrived; else 0.
    """

    number: int
    sequence: int
    history: History


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
        self._lost: dict[bytes, _Lost] = {}  # by channel
        self._losses_first: dict[
            bytes, None
        ] = {}  # channels whose losses are published before all waiting messages

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent) + len(self._losses_first)

    @property
    def half_full(self) -> bool:
        """Whether half of a bound is reached."""
        return 2 * len(self) >= self._max_items or 2 * self._bytes >= self._max_bytes

    def put(
        self, channel: bytes, payload: bytes, history: History | None = None, *, is_packed: bool = False
    ) -> None:
        """Append a message. If the queue is full, the oldest unsent messages are dropped."""
        message = Outgoing(0, channel, payload, history, 0, is_packed)
        if message.size > self._max_bytes:
            self.refuse(channel, history)
            return
        self._append(message)

    def refuse(self, channel: bytes, history: History | None = None) -> None:
        """Drop a message that must not be sent, and mark its place."""
        self.dropped += 1
        if history is not None and not history.latest:
            self._append(Outgoing(0, channel, b"", history, 1))

    def _append(self, message: Outgoing) -> None:
        self._waiting.append(message)
        self._bytes += message.size
        while len(self._waiting) + len(self._sent) > self._max_items or self._bytes > self._max_bytes:
            oldest = self._waiting.popleft()
            self._bytes -= oldest.size
            self._drop(oldest, oldest.sequence)
            if oldest.channel in self._lost:
                self._losses_first[oldest.channel] = None

    def _drop(self, message: Outgoing, sequence: int) -> None:
        """Count a message as dropped, and as lost if the channel has a history."""
        self.dropped += not message.lost
        if message.history is None or message.history.latest or message.is_packed:
            return
        known = self._lost.pop(message.channel, None)
        count = (message.lost or 1) + (known.number if known is not None else 0)
        self._lost[message.channel] = _Lost(count, sequence, message.history)
        if len(self._lost) > self._max_items:
            oldest = next(iter(self._lost))
            del self._lost[oldest]
            self._losses_first.pop(oldest, None)

    def take(self, max_items: int, max_bytes: int) -> list[Outgoing]:
        """Return messages to send, so that at most this much is unanswered. A single one may be larger."""
        taken: list[Outgoing] = []
        while len(self._sent) < max_items:
            message = self._next_loss()
            if message is None:
                if not self._waiting:
                    break
                size = self._waiting[0].size
                if self._sent and self._sent_bytes + size > max_bytes:
                    break
                message = self._waiting.popleft()
            if not message.sequence:
                self._sequence += 1
                message = message._replace(sequence=self._sequence)
            self._sent_bytes += message.size
            self._sent.append(message)
            taken.append(message)
        return taken

    def _next_loss(self) -> Outgoing | None:
        """Return the message that marks dropped messages of a channel, if it is the next to be sent."""
        first = self._waiting[0] if self._waiting else None
        channel = next(iter(self._losses_first), first.channel if first is not None else None)
        lost = self._lost.get(channel) if channel is not None else None
        if channel is None or lost is None or (first is not None and first.sequence and not lost.sequence):
            return None  # unanswered messages of the channel come first
        del self._lost[channel]
        self._losses_first.pop(channel, None)
        message = Outgoing(lost.sequence, channel, b"", lost.history, lost.number)
        self._bytes += message.size
        return message

    def answered(self, *, taken: bool) -> None:
        """Record the answer of Redis to the oldest sent message: accepted or refused."""
        message = self._sent.popleft()
        self._bytes -= message.size
        self._sent_bytes -= message.size
        if not taken:
            self._drop(message, 0)
        elif not message.lost:
            self.published += 1

    def connection_lost(self) -> None:
        """Queue all unanswered messages again."""
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_bytes = 0

    def drop_all(self) -> int:
        """Drop all messages, and return their number."""
        count = sum(not message.lost for message in (*self._waiting, *self._sent))
        self.dropped += count
        self._waiting.clear()
        self._sent.clear()
        self._lost.clear()
        self._losses_first.clear()
        self._bytes = self._sent_bytes = 0
        return count
