"""Messages waiting to be published: a bounded queue that survives the loss of a connection.

Invariants: a message is in exactly one state: waiting, sent and unanswered, counted as published, or counted
as dropped. The bounds cover the first two states together. Messages that were refused for now, or unanswered
when a connection broke, return to their old place in the queue; receivers recognise duplicates by the
sequence number. If messages of a channel with a history are dropped, one message with their number takes
their place, unless the history keeps only the newest message.

Messages of a channel are not published out of order. With a history, the server sees to that. Without one, a
message that was refused for now is dropped if a later one of the channel may have been published.

A server may accept a message and then fail, before the server that takes over has received it. Messages with
a history are therefore remembered for a while after they were accepted, as far as the bounds leave room, and
sent again to the new server, as far as they would still be in the history. It takes only those that it lacks,
by their sequence numbers, and only if it has older ones of the channel.

With a cluster, the messages of a hash slot can be held while the slot moves to another server. They keep
their order, count towards the bounds, and are released here or moved to the queue of that server.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from trio_ws.channels.history import History

__all__ = ["Outgoing", "PublishQueue"]

#: Seconds for which accepted messages are remembered: more than it takes until a cluster has replaced a
#: primary that it cannot reach (15 seconds by default), and until that is noticed here.
_REMEMBERED = 30.0


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
        origin: of the sequence number.
        tried_elsewhere: whether it was taken by `PublishQueue.first_held`, and may be published already.
        accepted: whether it was accepted and counted before, and is sent again to another server.
    """

    sequence: int
    channel: bytes
    payload: bytes
    history: History | None = None
    lost: int = 0
    is_packed: bool = False
    origin: bytes = b""
    tried_elsewhere: bool = False
    accepted: bool = False

    @property
    def size(self) -> int:
        """The number of bytes that count towards the bound."""
        return len(self.channel) + len(self.payload)


class _Lost(NamedTuple):
    """Messages of one channel that were dropped.

    Attributes:
        number: the number of these messages.
        sequence: the sequence number of the last of them, if it was sent and may have arrived; else 0.
        history: the history of the channel.
        origin: of the sequence number.
    """

    number: int
    sequence: int
    history: History
    origin: bytes = b""


class _Held:
    """The messages of a slot that is held.

    Attributes:
        returned: those that were sent, and that the server has not taken.
        waiting: later ones.
    """

    __slots__ = ("returned", "waiting")

    def __init__(self) -> None:
        self.returned: list[Outgoing] = []
        self.waiting: list[Outgoing] = []

    def __iter__(self) -> Iterator[Outgoing]:
        yield from self.returned
        yield from self.waiting


class PublishQueue:
    """A queue of `Outgoing` messages. See the module docstring.

    Args:
        max_items: the bound on the number of messages.
        max_bytes: the bound on their bytes.
        slot_of: returns the hash slot of a channel. It is used only with a cluster.

    Attributes:
        origin: of the messages that get a sequence number now.
        published: messages that Redis accepted.
        dropped: messages that were given up.
        answers: the number of messages that were answered, or whose connection was lost.
    """

    def __init__(self, max_items: int, max_bytes: int, slot_of: Callable[[bytes], int] = len) -> None:
        self.origin = b""
        self.answers = 0
        self._slot_of = slot_of
        self._held: dict[int, _Held] = {}
        self._held_items = 0
        self.published = 0
        self.dropped = 0
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: deque[Outgoing] = deque()
        self._sent: deque[Outgoing] = deque()
        self._returned: list[Outgoing] = []  # refused for now, and kept until the connection is lost
        self._bytes = 0
        self._sent_bytes = 0
        self._sequence = 0
        self._accepted: deque[tuple[float, Outgoing]] = deque()  # and when; oldest first
        self._accepted_bytes = 0
        self._lost: dict[bytes, _Lost] = {}  # by channel
        self._losses_first: dict[
            bytes, None
        ] = {}  # channels whose losses are published before all waiting messages

    def __len__(self) -> int:
        return self._items + len(self._losses_first)

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
        if self._held and (held := self._held.get(self._slot_of(message.channel))) is not None:
            held.waiting.append(message)
            self._held_items += 1
        else:
            self._waiting.append(message)
        self._bytes += message.size
        if self._accepted:
            self.forget_accepted()
        if self._is_overfull:
            self._make_room()

    @property
    def _items(self) -> int:
        return len(self._waiting) + len(self._sent) + len(self._returned) + self._held_items

    @property
    def _is_overfull(self) -> bool:
        return self._items > self._max_items or self._bytes > self._max_bytes

    def _make_room(self) -> None:
        while self._is_overfull and (self._waiting or self._held_items):
            oldest = self._waiting.popleft() if self._waiting else self._pop_held()
            self._bytes -= oldest.size
            self._drop(oldest, oldest.sequence)
            if oldest.channel in self._lost:
                self._losses_first[oldest.channel] = None

    def _pop_held(self) -> Outgoing:
        held = next(one for one in self._held.values() if one.returned or one.waiting)
        self._held_items -= 1
        return held.returned.pop(0) if held.returned else held.waiting.pop(0)

    def _drop(self, message: Outgoing, sequence: int) -> None:
        """Count a message as dropped, and as lost if the channel has a history."""
        self.dropped += not (message.lost or message.accepted)
        if message.history is None or message.history.latest or message.is_packed or message.accepted:
            return
        known = self._lost.pop(message.channel, None)
        count = (message.lost or 1) + (known.number if known is not None else 0)
        self._lost[message.channel] = _Lost(count, sequence, message.history, message.origin)
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
                # The constructor takes half the time of _replace().
                _, channel, payload, history, lost, is_packed, _, _, _ = message
                message = Outgoing(self._sequence, channel, payload, history, lost, is_packed, self.origin)
            self._sent_bytes += message.size
            self._sent.append(message)
            taken.append(message)
        return taken

    def _next_loss(self) -> Outgoing | None:
        """Return the message that marks dropped messages of a channel, if it is the next to be sent."""
        first = self._waiting[0] if self._waiting else None
        losses: Iterable[bytes] = self._losses_first
        if self._held:
            losses = (one for one in losses if self._slot_of(one) not in self._held)
        channel = next(iter(losses), first.channel if first is not None else None)
        lost = self._lost.get(channel) if channel is not None else None
        if channel is None or lost is None or (first is not None and first.sequence and not lost.sequence):
            return None  # unanswered messages of the channel come first
        del self._lost[channel]
        self._losses_first.pop(channel, None)
        message = Outgoing(lost.sequence, channel, b"", lost.history, lost.number, False, lost.origin)
        self._bytes += message.size
        return message

    @property
    def has_unanswered(self) -> bool:
        """Whether messages are sent and unanswered."""
        return bool(self._sent)

    @property
    def first_sent(self) -> Outgoing:
        """The oldest message that is sent and unanswered."""
        return self._sent[0]

    def answered(self, *, taken: bool) -> None:
        """Record the answer of Redis to the oldest sent message: accepted or refused."""
        message = self._pop_sent()
        self._bytes -= message.size
        if taken:
            if message.history is None and (self._returned or self._held):
                self._drop_overtaken(message.channel)
            self._accept(message)
        else:
            self._drop(message, 0)

    def _pop_sent(self) -> Outgoing:
        message = self._sent.popleft()
        self.answers += 1
        self._sent_bytes -= message.size
        return message

    def refused_for_now(self) -> None:
        """Keep the oldest sent message for the next connection, or for the node that gets its slot."""
        message = self._pop_sent()
        self._returned.append(message)
        if self._held:
            self._hold_returned({self._slot_of(message.channel)})

    def _drop_overtaken(self, channel: bytes) -> None:
        """Drop what was refused of a channel without a history. A later message of it may be published."""
        self._returned = self._without(channel, self._returned)
        held = self._held.get(self._slot_of(channel)) if self._held else None
        if held is not None:
            before = len(held.returned)
            held.returned = self._without(channel, held.returned)
            self._held_items -= before - len(held.returned)

    def _without(self, channel: bytes, messages: list[Outgoing]) -> list[Outgoing]:
        kept = [one for one in messages if one.channel != channel or one.history is not None]
        self.dropped += len(messages) - len(kept)
        self._bytes -= sum(one.size for one in messages) - sum(one.size for one in kept)
        return kept

    def _accept(self, message: Outgoing) -> None:
        self.published += not (message.lost or message.accepted)
        if message.history is not None:
            self._accepted.append((time.monotonic(), message))
            self._accepted_bytes += message.size
            self.forget_accepted()

    def forget_accepted(self) -> None:
        """Forget accepted messages that are too old, or for which there is no room."""
        oldest = time.monotonic() - _REMEMBERED
        accepted = self._accepted
        while accepted and (
            accepted[0][0] <= oldest
            or self._items + len(accepted) > self._max_items
            or self._bytes + self._accepted_bytes > self._max_bytes
        ):
            self._accepted_bytes -= accepted.popleft()[1].size

    def _take_accepted(self, slots: Container[int] | None, room: PublishQueue) -> list[Outgoing]:
        """Take accepted messages to be sent again, of these or of all slots: the newest, if room is short."""
        self.forget_accepted()
        kept: deque[tuple[float, Outgoing]] = deque()
        taken: list[Outgoing] = []
        items, size = room._max_items - room._items, room._max_bytes - room._bytes
        now = time.monotonic()
        counts: dict[bytes, int] = {}
        for at, message in reversed(self._accepted):
            if slots is not None and self._slot_of(message.channel) not in slots:
                kept.appendleft((at, message))
                continue
            history = message.history
            assert history is not None
            count = counts[message.channel] = counts.get(message.channel, 0) + 1
            if count > (1 if history.latest else history.items) or now - at >= history.seconds:
                continue
            items -= 1
            size -= message.size
            if items >= 0 and size >= 0:
                taken.append(message._replace(accepted=True))
        self._accepted = kept
        self._accepted_bytes = sum(message.size for _, message in kept)
        return taken[::-1]

    def send_again(self) -> None:
        """Send accepted messages again, before all others, as another server has taken over."""
        self._put_first(self._take_accepted(None, self))

    def _put_first(self, messages: list[Outgoing]) -> None:
        """Put messages before all others, of held slots too."""
        for message in reversed(messages):
            held = self._held.get(self._slot_of(message.channel)) if self._held else None
            if held is None:
                self._waiting.appendleft(message)
            else:
                held.returned.insert(0, message)
                self._held_items += 1
            self._bytes += message.size

    def connection_lost(self) -> None:
        """Queue all messages again that are unanswered, or were refused for now."""
        self.answers += len(self._sent)
        if self._returned or self._held:
            for message in self._sent:
                if message.history is None:
                    self._drop_overtaken(message.channel)
        self._sent.extendleft(reversed(self._returned))
        self._returned.clear()
        if self._held:
            for message in reversed(self._sent):
                held = self._held.get(self._slot_of(message.channel))
                if held is None:
                    self._waiting.appendleft(message)
                else:
                    held.waiting.insert(0, message)
                self._held_items += held is not None
        else:
            self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()
        self._sent_bytes = 0

    def drop_all(self) -> int:
        """Drop all messages, and return their number."""
        held = [message for one in self._held.values() for message in one]
        every = (*self._waiting, *self._sent, *self._returned, *held)
        count = sum(not (message.lost or message.accepted) for message in every)
        self._held.clear()
        self._held_items = 0
        self.dropped += count
        self._waiting.clear()
        self._sent.clear()
        self._returned.clear()
        self._lost.clear()
        self._losses_first.clear()
        self._accepted.clear()
        self._bytes = self._sent_bytes = self._accepted_bytes = 0
        return count

    # -- slots that move ----------------------------------------------------------------------------

    @property
    def unanswered(self) -> int:
        """The value that `answers` has when all messages that are sent now are answered."""
        return self.answers + len(self._sent)

    @property
    def waiting_slots(self) -> set[int]:
        """The slots of the messages that wait."""
        return {self._slot_of(message.channel) for message in self._waiting}

    def hold(self, slots: Iterable[int]) -> None:
        """Send no messages of these slots until they are released."""
        added = {slot for slot in slots if slot not in self._held}
        if not added:
            return
        self._held.update((slot, _Held()) for slot in added)
        kept: deque[Outgoing] = deque()
        for message in self._waiting:
            slot = self._slot_of(message.channel)
            (self._held[slot].waiting if slot in added else kept).append(message)
        self._held_items += len(self._waiting) - len(kept)
        self._waiting = kept

    def _hold_returned(self, slots: Container[int]) -> None:
        """Hold what was refused for now, as far as its slot is held."""
        kept = []
        for message in self._returned:
            slot = self._slot_of(message.channel)
            held = self._held.get(slot) if slot in slots else None
            if held is None:
                kept.append(message)
            else:
                held.returned.append(message)
                self._held_items += 1
        self._returned = kept

    def give_back(self) -> int:
        """Hold the slot of the oldest sent message, which was not executed, and return the slot."""
        message = self._pop_sent()
        slot = self._slot_of(message.channel)
        self.hold([slot])
        self._hold_returned({slot})
        is_first_attempt = message.origin == self.origin and not (message.tried_elsewhere or message.accepted)
        if is_first_attempt and not message.is_packed:
            message = message._replace(sequence=0, origin=b"")
        self._held[slot].returned.append(message)
        self._held_items += 1
        return slot

    def release(self, slots: Iterable[int]) -> None:
        """Send the messages of these slots."""
        for slot in slots:
            held = self._held.pop(slot, None)
            if held is not None:
                messages = list(held)
                self._held_items -= len(messages)
                self._waiting.extendleft(reversed(messages))

    def first_held(self, slot: int) -> Outgoing | None:
        """Take the next message of a held slot, which is published elsewhere. It gets a sequence number."""
        held = self._held.get(slot)
        message = next(iter(held), None) if held is not None else None
        if held is None or message is None:
            return None
        if not message.sequence:
            self._sequence += 1
            message = message._replace(sequence=self._sequence, origin=self.origin)
        if not message.tried_elsewhere:
            message = message._replace(tried_elsewhere=True)
        if held.returned:
            held.returned[0] = message
        else:
            held.waiting.pop(0)
            held.returned.append(message)
        return message

    def held_answered(self, message: Outgoing, *, taken: bool) -> None:
        """Record that a message of `first_held` was published elsewhere, or refused."""
        held = self._held.get(self._slot_of(message.channel))
        if held is None or not held.returned or held.returned[0] is not message:
            return  # it was dropped
        held.returned.pop(0)
        self._held_items -= 1
        self._bytes -= message.size
        if taken:
            self._accept(message)
        else:
            self._drop(message, 0)

    def move(self, slots: Iterable[int], other: PublishQueue) -> None:
        """Move the messages of held slots to another queue, which holds these slots from now on.

        Those that were accepted are sent again there.
        """
        slots = set(slots)
        self._hold_returned(slots)
        for slot in slots:
            held = self._held.pop(slot, None)
            if held is None:
                continue
            messages = list(held)
            size = sum(message.size for message in messages)
            self._held_items -= len(messages)
            self._bytes -= size
            other.hold([slot])
            target = other._held[slot]
            target.returned[:0] = messages
            other._held_items += len(messages)
            other._bytes += size
        other._put_first(self._take_accepted(slots, other))
        for channel in [one for one in self._lost if self._slot_of(one) in slots]:
            other._lost[channel] = self._lost.pop(channel)
            if channel in self._losses_first:
                del self._losses_first[channel]
                other._losses_first[channel] = None
        other._make_room()
