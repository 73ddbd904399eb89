"""Shared histories: one process's copies of the histories that a broker keeps for all processes.

The broker assigns the offset of each message. A process with subscribers in a channel has a copy of the
channel's history. Each message that arrives is added to the copy, and slow and returning subscribers read
from it. Missing messages are detected by their offsets, or because the connection to the broker was lost, and
are read from the broker. Messages that were published before the process had a subscriber are read when a
subscriber asks for them.

Invariants:

- Subscribers receive the messages of a channel in the order of their offsets, and each once. Messages that
  arrive while earlier ones are being read are not delivered directly, but read as well.
- There is a gap only for messages that the broker does not have any more. It is reported in its place, before
  the next message.
- There is no gap if a new epoch follows directly on the last received message: the broker has lost its
  history, but no subscriber here has missed a message.
- A message that its publisher had to append again, because the broker has lost it, is not delivered twice,
  nor to those that have subscribed after it. The last `_MAX_IDS` messages are recognised.
- A new subscriber of a glob receives the newest message of each channel that keeps only that one, once and
  before later ones, up to the number of channels that globs may have.
- One task at a time reads a channel, and at most `_READERS` channels are read concurrently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from trio_ws.codecs.base import Position
from trio_ws.errors import BrokerError
from trio_ws.logs import is_milestone, logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_ws.channels.broker import Broker, HistoryPage, KeptMessage
    from trio_ws.channels.channel import Channel
    from trio_ws.channels.history import ChannelHistories, ChannelHistory, Record

__all__ = ["Receiver", "SharedHistories"]

logger = logger_for("trio_ws.channels")

#: Channels that are read at once.
_READERS = 16
#: Messages given to subscribers before yielding to other tasks.
_YIELD_EVERY = 64
#: Messages that are recognised if they are appended again.
_MAX_IDS = 32_768
#: Seconds for which a subscriber waits for the history of a channel. After that it begins without one.
_LOAD_TIMEOUT = 30.0
#: Seconds before a history that the broker has refused is read again.
_RETRY_DELAY = 1.0
#: Seconds between two lists of channels, so that clients which subscribe again and again cost little.
_LIST_INTERVAL = 0.1


class Receiver(Protocol):
    """The methods of a hub that handle the messages of shared histories."""

    def find(self, name: str) -> Channel | None:
        """The channel of a name, or None if it has no subscribers."""

    def may_follow(self, name: str) -> bool:
        """Whether a channel exists, or can be added for a glob that matches it without removing another."""
        ...

    def deliver(self, channel: Channel, message: KeptMessage, *, repeated: bool) -> None:
        """Keep the next message of a channel, and deliver it to subscribers that do not have it already."""

    def record(self, channel: Channel, epoch: str, message: KeptMessage) -> Record:
        """Return the record for a message that is not delivered to current subscribers."""
        ...

    def tell_missing(
        self, channel: Channel, position: Position, missing: int, *, slow_only: bool = False
    ) -> None:
        """Report to subscribers that messages up to a position are missing; -1 for an unknown number.

        With ``slow_only``, report it only to subscribers that read the channel from its history.
        """

    def tell_position(self, channel: Channel, position: Position) -> None:
        """Report the current position to subscribers, after a change of the epoch."""

    def begin_latest(self, channel: Channel) -> None:
        """Deliver the newest message to all subscribers."""


class _Followed:
    """A channel with a copy of its history.

    Attributes:
        known: whether the copy has a position that the broker assigned.
        complete: whether the copy has the messages from before the first subscriber.
        wanted: whether a subscriber asked for these.
        behind: whether messages after the position of the copy may be missing.
        last_arrived: the position of the last message that arrived while the copy was behind.
    """

    __slots__ = ("behind", "complete", "history", "known", "last_arrived", "name", "reading", "wanted")

    def __init__(self, name: str, history: ChannelHistory) -> None:
        self.name = name
        self.history = history
        self.known = False
        self.complete = False
        self.wanted = False
        self.behind = False
        self.reading = False
        self.last_arrived: Position | None = None

    @property
    def needs_reading(self) -> bool:
        return (self.known and self.behind) or (self.wanted and not self.complete)


class SharedHistories:
    """The shared histories of a hub. See the module docstring.

    Args:
        histories: the copies.
        broker: keeps the histories.
        namespace: precedes the names of channels at the broker.
        receiver: the hub.
    """

    def __init__(
        self, histories: ChannelHistories, broker: Broker, namespace: str, receiver: Receiver
    ) -> None:
        self._histories = histories
        self._broker = broker
        self._namespace = namespace
        self._receiver = receiver
        self._followed: dict[str, _Followed] = {}
        self._scheduled: dict[_Followed, None] = {}
        self._work_scheduled = Notification()
        self._changed = Notification()  # a channel was read or dropped
        self._generation = 0  # counts the times that messages may have been missed
        self._reading = 0
        self._failed_reads = 0
        self._list_wanted = False  # a glob was added
        self._glob_added = Notification()
        self._ids: dict[int, None] = {}  # hashes of the delivered messages, oldest first
        histories.forget_all()
        broker.declare_histories(namespace, histories.patterns)

    # -- called by the hub --------------------------------------------------------------------------

    def append(self, name: str, payload: bytes) -> None:
        """Publish a message to a channel with a history."""
        history = self._histories.config(name)
        assert history is not None
        self._broker.append(f"{self._namespace}:{name}", payload, history)

    def is_known(self, name: str) -> bool:
        """Whether the current position of a channel is known."""
        followed = self._followed.get(name)
        return followed is not None and followed.known

    def receive(self, name: str, epoch: str, message: KeptMessage) -> None:
        """Take a message as it is published."""
        channel = self._receiver.find(name)
        followed = self._follow(name, channel)
        if channel is None or followed is None:
            return
        history = followed.history
        if followed.behind:
            followed.last_arrived = Position(epoch, message.offset)
        elif not followed.known:
            history.jump(epoch, message.offset - 1)
            followed.known = True
            self._deliver(name, channel, message)
        elif epoch != history.epoch and message.offset == 1:
            self._begin_epoch(followed, channel, epoch)
            self._deliver(name, channel, message)
        elif epoch == history.epoch and message.offset == history.offset + 1:
            self._deliver(name, channel, message)
        elif epoch != history.epoch or message.offset > history.offset:
            followed.last_arrived = Position(epoch, message.offset)
            followed.behind = True
            self._schedule(followed)

    def _deliver(self, name: str, channel: Channel, message: KeptMessage) -> None:
        repeated = bool(message.id) and self._is_repeated(name, message)
        self._receiver.deliver(channel, message, repeated=repeated)

    def _is_repeated(self, name: str, message: KeptMessage) -> bool:
        """Whether a message was noted before. It is noted then."""
        known = hash((name, message.id))
        repeated = known in self._ids
        self._ids[known] = None
        if len(self._ids) > _MAX_IDS:
            del self._ids[next(iter(self._ids))]
        return repeated

    def missed(self, affected: Callable[[str], bool] | None = None) -> None:
        """Read the messages that channels may have missed, for all of them or those that are affected."""
        self._generation += 1
        for followed in self._followed.values():
            if followed.known and (affected is None or affected(followed.name)):
                followed.behind = True
                self._schedule(followed)

    def want(self, name: str) -> None:
        """Schedule reading the messages from before a channel had subscribers in this process."""
        followed = self._follow(name, self._receiver.find(name))
        if followed is not None:
            followed.wanted = True
            self._schedule(followed)

    def glob_added(self) -> None:
        """Read the newest messages of channels that keep only that one, and match a new glob, soon."""
        self._list_wanted = True
        self._glob_added.notify_all()

    async def load(self, starts: Mapping[str, Position | None]) -> None:
        """Wait until the histories of channels, which have subscribers, are here and up to date.

        Where the broker does not answer in half a minute, it returns without.

        Args:
            starts: channels, and where a subscriber will continue. Another process may have given it a
                position that is not known here yet, and is then looked for.
        """
        for name in starts:
            self.want(name)
        with trio.move_on_after(_LOAD_TIMEOUT):
            await self._until_read(starts)
            for name, after in starts.items():
                followed = self._followed.get(name)
                if after is not None and followed is not None and not followed.history.continues(after):
                    followed.behind = True
                    self._schedule(followed)
            await self._until_read(starts)

    async def _until_read(self, names: Iterable[str]) -> None:
        while any(
            (followed := self._followed.get(name)) is not None and followed.needs_reading for name in names
        ):
            await self._changed.wait()

    def forget(self, name: str) -> None:
        """Follow a channel no more, since it has no subscribers."""
        if self._followed.pop(name, None) is not None:
            self._changed.notify_all()

    # -- following ----------------------------------------------------------------------------------

    def _follow(self, name: str, channel: Channel | None) -> _Followed | None:
        """The state of a channel with subscribers and a history."""
        if channel is None:
            return None
        followed = self._followed.get(name)
        if followed is None and self._histories.config(name) is not None:
            self._histories.prepare(name, channel)
            assert channel.history is not None
            followed = self._followed[name] = _Followed(name, channel.history)
        return followed

    def _schedule(self, followed: _Followed) -> None:
        if followed.needs_reading and not followed.reading:
            self._scheduled[followed] = None
            self._work_scheduled.notify_all()

    def _is_followed(self, followed: _Followed) -> bool:
        return self._followed.get(followed.name) is followed

    @enable_ki_protection
    async def run(self) -> None:
        """Read the scheduled channels, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._histories.some_are_latest:
                nursery.start_soon(self._list_channels, name="trio_ws latest values")
            while True:
                while not self._scheduled or self._reading >= _READERS:
                    await self._work_scheduled.wait()
                followed = next(iter(self._scheduled))
                del self._scheduled[followed]
                if self._is_followed(followed):
                    self._reading += 1
                    followed.reading = True
                    nursery.start_soon(self._read, followed, name="trio_ws history")

    @enable_ki_protection
    async def _read(self, followed: _Followed) -> None:
        try:
            while followed.needs_reading and self._is_followed(followed):
                try:
                    if followed.known and followed.behind:
                        await self._read_missed(followed)
                    else:
                        await self._read_earlier(followed)
                except BrokerError as exc:
                    self._warn(exc)
                    await trio.sleep(_RETRY_DELAY)
        finally:
            self._reading -= 1
            followed.reading = False
            self._changed.notify_all()
            self._work_scheduled.notify_all()

    def _warn(self, exc: BrokerError) -> None:
        """Log the first refusal, the tenth, the hundredth, and so on."""
        self._failed_reads += 1
        if is_milestone(self._failed_reads):
            logger.warning(
                "could not read a channel's history, will retry: %s (%d so far)", exc, self._failed_reads
            )

    @enable_ki_protection
    async def _list_channels(self) -> None:
        """List channels, and have the newest messages of those that match globs read, until cancelled."""
        while True:
            while not self._list_wanted:
                await self._glob_added.wait()
            self._list_wanted = False
            try:
                names = await self._broker.latest(self._namespace)
            except BrokerError as exc:
                self._warn(exc)
                self._list_wanted = True
                await trio.sleep(_RETRY_DELAY)
                continue
            for number, full_name in enumerate(names, 1):
                if number % _YIELD_EVERY == 0:
                    await checkpoint()
                name = full_name.removeprefix(f"{self._namespace}:")
                if self._receiver.may_follow(name):
                    config = self._histories.config(name)
                    if config is not None and config.latest:
                        self.want(name)
            await trio.sleep(_LIST_INTERVAL)

    async def _read_pages(self, followed: _Followed, after: int) -> HistoryPage:
        """Read all pages after an offset."""
        name, config = f"{self._namespace}:{followed.name}", followed.history.config
        found = await self._broker.read(name, after, config)
        page = found
        while page.more and page.messages:
            page = await self._broker.read(name, page.messages[-1].offset, config)
            if page.epoch != found.epoch:
                page = found = await self._broker.read(name, after, config)
                continue
            found = page._replace(messages=found.messages + page.messages)
        return found

    async def _read_earlier(self, followed: _Followed) -> None:
        """Read the messages from before the first one that arrived in this process."""
        generation = self._generation
        page = await self._read_pages(followed, 0)
        history, channel = followed.history, followed.history.channel
        if not self._is_followed(followed) or generation != self._generation:
            return
        if not followed.known:
            self._replace_copy(followed, page)
            followed.known = followed.complete = True
            if history.config.latest and history.count:
                self._receiver.begin_latest(channel)
        elif followed.behind:
            pass  # first that
        elif page.epoch == history.epoch:
            self._prepend(history, page)
            history.earlier = page.earlier
            followed.complete = True
        elif not page.end:
            self._begin_epoch(followed, channel, page.epoch)
            followed.complete = True
        else:
            followed.behind = True

    def _replace_copy(self, followed: _Followed, page: HistoryPage, end: int | None = None) -> None:
        """Make the copy equal to the broker's history up to an offset, without delivering messages."""
        end = page.end if end is None else end
        history = followed.history
        history.jump(page.epoch, end)
        history.earlier = page.earlier
        self._prepend(history, page)

    def _prepend(self, history: ChannelHistory, page: HistoryPage) -> None:
        """Keep the messages of a page from before those that are kept."""
        expected = history.first - 1
        records: list[Record] = []
        for message in reversed(page.messages):
            if message.offset < expected:
                break  # others were trimmed while the pages were read
            if message.offset == expected:
                records.append(self._receiver.record(history.channel, page.epoch, message))
                expected -= 1
        self._histories.prepend(history, records[::-1])
        for message in page.messages:
            if message.id and message.offset <= history.offset:
                self._is_repeated(history.channel.name or "", message)

    def _begin_epoch(self, followed: _Followed, channel: Channel, epoch: str) -> None:
        """Continue in a new epoch, after everything of the previous one was received."""
        history = followed.history
        self._receiver.tell_missing(channel, Position(epoch, 0), -1, slow_only=True)
        history.jump(epoch, 0)
        history.earlier = ()

    async def _read_missed(self, followed: _Followed) -> None:
        """Deliver missed messages to subscribers, or a gap if they are lost."""
        generation = self._generation
        followed.last_arrived = None
        history, channel = followed.history, followed.history.channel
        before = history.position
        page = await self._read_pages(followed, before.offset)
        if page.epoch != before.epoch or page.end < before.offset:
            page = await self._read_pages(followed, 0)
            if not self._is_followed(followed):
                return
            common = next((one.offset for one in page.earlier if one.epoch == before.epoch), None)
            if common is not None and before.offset <= common:
                self._replace_copy(followed, page, before.offset)
                self._receiver.tell_position(channel, history.position)
            else:
                # What the broker has up to there was received before, and some that it has lost after that.
                first = page.messages[0].offset if page.messages else page.end + 1
                start = max(common or 0, first - 1)
                self._receiver.tell_missing(channel, Position(page.epoch, start), -1)
                self._replace_copy(followed, page, start)
            followed.complete = True
        await self._deliver_page(followed, page)
        if not self._is_followed(followed) or generation != self._generation:
            return
        last_arrived = followed.last_arrived
        if last_arrived is None or (
            last_arrived.epoch == history.epoch and last_arrived.offset <= history.offset
        ):
            followed.behind = False

    async def _deliver_page(self, followed: _Followed, page: HistoryPage) -> None:
        """Give the messages of a page to subscribers."""
        history, channel = followed.history, followed.history.channel
        messages = [message for message in page.messages if message.offset > history.offset]
        if history.config.latest:
            messages = messages[-1:]
        for number, message in enumerate(messages, 1):
            if number % _YIELD_EVERY == 0:
                await checkpoint()
                if not self._is_followed(followed):
                    return
            self._deliver_gap_before(followed, message.offset)
            self._deliver(followed.name, channel, message)
        self._deliver_gap_before(followed, page.end + 1)

    def _deliver_gap_before(self, followed: _Followed, offset: int) -> None:
        """Deliver a gap for the messages that are missing before this offset."""
        history, channel = followed.history, followed.history.channel
        missing = offset - 1 - history.offset
        if missing > 0:
            position = Position(history.epoch, offset - 1)
            self._receiver.tell_missing(channel, position, missing)
            history.jump(*position)
