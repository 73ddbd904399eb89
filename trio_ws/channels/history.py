"""History: the newest messages of channels, from which subscribers recover what they missed.

A message of a channel with a history has a *position*: the epoch of the history and an offset, which counts
from 1. A subscriber continues from the last position that it has seen. It reads from the history, at its own
pace, until it has caught up, and gets messages as they are published from then on. Meanwhile no
messages are queued for it outside the history, so a slow subscriber costs no memory. Messages that were
trimmed before the subscriber read them are a gap. The subscriber gets its position.

Invariants:

- Offsets of one epoch have no holes, and no offset is used twice.
- A channel holds at most ``items`` messages and ``bytes``, none of them older than ``seconds`` when read. The
  channels of one pattern hold at most ``total_bytes``. Of those without subscribers at most ``channels`` are
  remembered, and the epoch of one that was forgotten is not used again.
- A history holds no connection.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from trio_ws.channels.channel import Channel
from trio_ws.channels.names import check_wanted, is_glob, matcher
from trio_ws.codecs.base import Position
from trio_ws.predicates import check

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from trio_ws.channels.channel import PublishedMessage
    from trio_ws.predicates import PredicateLike

__all__ = ["ChannelHistories", "ChannelHistory", "History", "Record", "Start", "check_histories"]

#: Names without a history that are remembered as such.
_KNOWN_NAMES = 1024
#: Bytes charged for each connection that a message is not meant for.
_EXCLUDED = 128


@dataclass(frozen=True, kw_only=True)
class History:
    """The limits of the messages that are kept of a channel, for subscribers that join later or reconnect.

    ``channels_history = {"room.*": History(items=100)}`` in a `WebSocketHandler`.

    Attributes:
        items: the maximum number of messages in one channel. Default 1,000.
        bytes: the maximum size of these messages as msgpack and as frames, plus 512 bytes for each message,
            256 for each frame, and 128 for each excluded connection: the memory that they take. There are no
            frames in Redis. A larger message is delivered, but not kept. Default 1 MiB.
        seconds: the age at which a message is dropped. Default 300.
        latest: whether to keep only the newest message. Each new subscriber receives it at once; with a
            broker, the newest that its process has received. A slow one receives the newest message instead
            of those that it missed. There are no gaps. Default False.
        channels: the maximum number of channels of this pattern with a history. Beyond it, the history of the
            channel without subscribers that was published to longest ago is dropped, and returning
            subscribers get a gap. Each takes up to 1 KiB more than its messages. Default 10,000.
        total_bytes: the maximum size of all channels of this pattern. Beyond it, the channel that was
            published to longest ago loses its oldest messages. Default 64 MiB.

    Raises:
        ValueError: a number is less than 1, or ``seconds`` is not positive.
        TypeError: a number is not an int, or ``seconds`` is not a number.
    """

    items: int = 1000
    bytes: int = 1024 * 1024
    seconds: float = 300.0
    latest: bool = False
    channels: int = 10_000
    total_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in ("items", "bytes", "channels", "total_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"History.{name} must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"History.{name} must be 1 or more, not {value}")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float):
            raise TypeError(f"History.seconds must be a number, not {type(self.seconds).__name__}")
        if not self.seconds > 0:
            raise ValueError(f"History.seconds must be positive, not {self.seconds}")


class Start(NamedTuple):
    """The start of a subscription.

    Attributes:
        position: the position after which the subscription continues; None if the channel has no history.
        gap: the number of messages that are missing between the requested position and this one; -1 if it is
            unknown.
        latest: whether the channel only keeps its newest message, and therefore has no gaps.
    """

    position: Position | None
    gap: int = 0
    latest: bool = False


class Record(NamedTuple):
    """One message in a history."""

    message: PublishedMessage
    published_at: float
    size: int
    predicate: PredicateLike | None
    excluded: frozenset[str]

    @classmethod
    def of(
        cls,
        message: PublishedMessage,
        published_at: float,
        predicate: PredicateLike | None = None,
        excluded: frozenset[str] = frozenset(),
    ) -> Record:
        """Return a record with its size."""
        size = message.kept_size() + _EXCLUDED * len(excluded)
        return cls(message, published_at, size, predicate, excluded)

    def reaches(self, connection: Any) -> bool:
        """Whether a connection is meant to receive it."""
        if self.excluded and connection.uid in self.excluded:
            return False
        return self.predicate is None or check(self.predicate, connection)


class ChannelHistory:
    """The history of one channel.

    Attributes:
        channel: the channel, also while it has no subscribers.
        config: its bounds.
        offset: of the newest message, kept or not.
        earlier: former epochs, each with the last offset up to which it is the same history.
        size: bytes of the stored messages.
    """

    __slots__ = (
        "_begin",
        "_pattern",
        "_records",
        "_renumbered",
        "channel",
        "config",
        "earlier",
        "epoch",
        "offset",
        "size",
    )

    def __init__(self, channel: Channel, pattern: _Pattern, epoch: str) -> None:
        self.channel = channel
        self.config = pattern.config
        self._pattern = pattern
        self.epoch = epoch
        self.earlier: tuple[Position, ...] = ()
        self.offset = 0
        self.size = 0
        self._records: list[Record | None] = []
        self._begin = 0  # of these; those before are dropped
        self._renumbered = False  # whether it has jumped to another epoch

    @property
    def count(self) -> int:
        """The number of stored messages."""
        return len(self._records) - self._begin

    @property
    def position(self) -> Position:
        """The position of the newest message."""
        return Position(self.epoch, self.offset)

    @property
    def first(self) -> int:
        """The offset of the oldest message that is kept, or of the next one."""
        return self.offset + 1 - self.count

    @property
    def newest(self) -> Record | None:
        """The newest message that is kept."""
        return self._records[-1] if self.count else None

    @property
    def next_position(self) -> Position:
        """The position of the next message."""
        return Position(self.epoch, self.offset + 1)

    def clear(self) -> None:
        """Drop all messages."""
        self._resize(-self.size)
        self._records.clear()
        self._begin = 0

    def jump(self, epoch: str, offset: int) -> None:
        """Drop all messages, and go on after another position."""
        self.clear()
        self._renumbered |= epoch != self.epoch
        self.epoch = epoch
        self.offset = offset

    def prepend(self, records: list[Record]) -> None:
        """Keep messages from before the oldest one that is kept, oldest first, as far as there is room."""
        config = self.config
        items = (1 if config.latest else config.items) - self.count
        room = config.bytes - self.size
        start = len(records)
        while start and items and records[start - 1].size <= room:
            start -= 1
            items -= 1
            room -= records[start].size
        self._records[: self._begin] = records[start:]
        self._begin = 0
        self._resize(sum(record.size for record in records[start:]))

    def continues(self, position: Position) -> bool:
        """Whether this is the history in which a position was given, up to there."""
        if position.epoch == self.epoch:
            return position.offset <= self.offset
        return any(one.epoch == position.epoch and position.offset <= one.offset for one in self.earlier)

    def still_counts(self, position: Position) -> bool:
        """Whether a message that was delivered from here still has this offset, in whatever epoch."""
        return not self._renumbered or self.continues(position)

    def append(self, record: Record) -> None:
        """Keep a message, at the next offset, and drop others for it."""
        self.offset += 1
        self._records.append(record)
        self._resize(record.size)
        config = self.config
        items = 1 if config.latest else config.items
        while self.count > items or self.size > config.bytes:
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Drop the oldest message."""
        record = self._records[self._begin]
        assert record is not None
        self._resize(-record.size)
        self._records[self._begin] = None
        self._begin += 1
        if 2 * self._begin >= len(self._records):
            del self._records[: self._begin]
            self._begin = 0

    def _resize(self, more: int) -> None:
        self.size += more
        self._pattern.size += more

    def expire(self, now: float) -> None:
        """Drop messages that are too old."""
        oldest = now - self.config.seconds
        while self.count:
            record = self._records[self._begin]
            assert record is not None
            if record.published_at > oldest:
                return
            self.drop_oldest()

    def read(self, offset: int, limit: int) -> tuple[int, list[Record]]:
        """Read from ``offset`` on.

        Returns:
            How many messages are missing there, and up to ``limit`` messages that follow. Nothing counts as
            missing where only the newest is kept.
        """
        self.expire(trio.current_time())
        first = self.first
        missing = max(0, first - offset)
        start = self._begin + max(offset, first) - first
        records = [record for record in self._records[start : start + limit] if record is not None]
        return (0 if self.config.latest else missing), records

    def recharge(self, record: Record) -> None:
        """Count frames that were made of a message after it was kept."""
        size = record.message.kept_size() + _EXCLUDED * len(record.excluded)
        if size != record.size and record.message.position is not None:
            index = self._begin + record.message.position.offset - self.first
            if self._begin <= index < len(self._records) and self._records[index] is record:
                self._records[index] = record._replace(size=size)
                self._resize(size - record.size)
                while self.count and self.size > self.config.bytes:
                    self.drop_oldest()


class _Pattern:
    """One pattern of names, and the histories of channels that match it."""

    def __init__(self, text: str, config: History) -> None:
        self.config = config
        self.matches: Callable[[str], object] = matcher(text) if is_glob(text) else text.__eq__
        self.histories: dict[str, ChannelHistory] = {}  # by the time of their last message
        self.filled: dict[ChannelHistory, None] = {}  # those that are not empty, likewise
        self.size = 0


class ChannelHistories:
    """The histories of a hub, by patterns of names. The first pattern that matches a name counts.

    Attributes:
        patterns: as they were given.
        some_are_latest: whether some channels keep only their newest message.
    """

    def __init__(self, patterns: Mapping[str, History]) -> None:
        self.patterns = dict(patterns)
        self._patterns = [_Pattern(text, config) for text, config in patterns.items()]
        self.some_are_latest = any(config.latest for config in patterns.values())
        self._found: dict[str, _Pattern | None] = {}
        self._secret = secrets.token_bytes(16)
        self._generation = 0  # of epochs

    def _pattern(self, name: str) -> _Pattern | None:
        try:
            return self._found[name]
        except KeyError:
            found = next((one for one in self._patterns if one.matches(name)), None)
        if len(self._found) >= _KNOWN_NAMES:
            del self._found[next(iter(self._found))]
        self._found[name] = found
        return found

    def config(self, name: str) -> History | None:
        """The bounds of a channel's history, or None if it has none."""
        pattern = self._pattern(name)
        return pattern.config if pattern is not None else None

    def find(self, name: str) -> ChannelHistory | None:
        """The history of a channel to which something was published."""
        pattern = self._pattern(name)
        return pattern.histories.get(name) if pattern is not None else None

    def latest(self, matches: Callable[[str], object]) -> list[str]:
        """The matching names of channels that keep their newest message only; the newest messages first."""
        return [
            name
            for pattern in self._patterns
            if pattern.config.latest
            for name, history in reversed(pattern.histories.items())
            if history.count and matches(name)
        ]

    def rename(self) -> None:
        """Begin new epochs of all histories, which present subscribers do not notice."""
        self._generation += 1
        for pattern in self._patterns:
            for name, history in pattern.histories.items():
                history.epoch = self._epoch(name)

    def forget(self, name: str) -> None:
        """Forget a channel, whose messages are not received any more."""
        pattern = self._pattern(name)
        if pattern is None:
            return
        self._generation += 1
        history = pattern.histories.pop(name, None)
        if history is not None:
            pattern.size -= history.size
            pattern.filled.pop(history, None)
            history.channel.history = None

    def forget_all(self) -> None:
        """Forget all channels."""
        for pattern in self._patterns:
            for name in list(pattern.histories):
                self.forget(name)

    def _epoch(self, name: str) -> str:
        text = f"{self._generation}:{name}".encode(errors="surrogatepass")
        digest = hashlib.blake2s(text, key=self._secret, digest_size=9).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def prepare(self, name: str, channel: Channel | None) -> Channel | None:
        """Return the channel of a name that is published to, with its history if it has one."""
        if channel is not None and channel.history is not None:
            return channel
        pattern = self._pattern(name)
        if pattern is None:
            return channel
        known = pattern.histories.get(name)
        if known is not None:
            return known.channel
        self._make_room(pattern)
        if channel is None:
            channel = Channel(name)
        channel.history = pattern.histories[name] = ChannelHistory(channel, pattern, self._epoch(name))
        return channel

    def _make_room(self, pattern: _Pattern) -> None:
        histories = pattern.histories
        if len(histories) < pattern.config.channels:
            return
        for name in list(histories)[:64]:
            history = histories.pop(name)
            if history.channel.empty:
                histories[name] = history
                self.forget(name)
                return
            histories[name] = history  # it has subscribers, and goes to the end

    def keep(
        self,
        history: ChannelHistory,
        message: PublishedMessage,
        predicate: PredicateLike | None,
        exclude: Collection[str],
        age: float = 0.0,
    ) -> None:
        """Keep a message that is published now, or was ``age`` seconds ago.

        Args:
            history: of its channel.
            message: the next message.
            predicate: which connections it is meant for.
            exclude: the ``uid`` of those that it is not meant for.
            age: seconds since it was published.
        """
        now = trio.current_time()
        history.append(Record.of(message.for_history(), now - age, predicate, frozenset(exclude)))
        self._note_change(history, now)

    def prepend(self, history: ChannelHistory, records: list[Record]) -> None:
        """Keep messages from before those that are kept; see `ChannelHistory.prepend`."""
        history.prepend(records)
        self._note_change(history, trio.current_time())

    def _note_change(self, history: ChannelHistory, now: float) -> None:
        """Something was added to a history: it is the last one to be trimmed."""
        name = history.channel.name
        assert name is not None
        pattern = self._pattern(name)
        assert pattern is not None
        pattern.histories[name] = pattern.histories.pop(name)
        pattern.filled.pop(history, None)
        if history.count:
            pattern.filled[history] = None
        self._trim(pattern, now)

    def _trim(self, pattern: _Pattern, now: float) -> None:
        """Drop messages that are too old, or too many for all channels of a pattern together."""
        while pattern.filled:
            oldest = next(iter(pattern.filled))
            newest = oldest.newest
            if newest is None or newest.published_at <= now - pattern.config.seconds:
                oldest.expire(now)
            elif pattern.size > pattern.config.total_bytes:
                oldest.drop_oldest()
            else:
                return
            if not oldest.count:
                del pattern.filled[oldest]

    def start(self, name: str, after: Position | None, last: int) -> Start:
        """Where a subscription to a channel continues, if it begins now.

        Args:
            name: the channel.
            after: the position that the subscriber has seen last; None for none.
            last: without ``after``, how many of the newest messages it gets.
        """
        pattern = self._pattern(name)
        if pattern is None:
            return Start(None)
        history = pattern.histories.get(name)
        epoch = history.epoch if history is not None else self._epoch(name)
        offset = history.offset if history is not None else 0
        if history is not None:
            history.expire(trio.current_time())
        first = history.first if history is not None else 1
        if pattern.config.latest:
            # The position may be one that another process has given, and that this one has not heard of yet.
            known = after is not None and after.epoch == epoch and after.offset >= offset
            return Start(Position(epoch, offset if known else first - 1), 0, latest=True)
        if after is None:
            return Start(Position(epoch, max(offset - last, first - 1)))
        if not (history.continues(after) if history is not None else after == (epoch, 0)):
            return Start(Position(epoch, offset), -1)
        begin = max(after.offset, first - 1)
        # In the epoch that it knows, if that is a former one: nothing is missing between the two.
        return Start(Position(after.epoch, begin), begin - after.offset)


def check_histories(patterns: Mapping[str, History]) -> ChannelHistories | None:
    """Validate ``channels_history`` of a handler; None if there are none.

    Raises:
        TypeError: it is not a mapping of patterns to `History` objects.
        ValueError: a pattern is invalid.
    """
    for pattern, config in patterns.items():
        check_wanted(pattern)
        if not isinstance(config, History):
            raise TypeError(f"channels_history[{pattern!r}] must be a History, not {type(config).__name__}")
    return ChannelHistories(patterns) if patterns else None
