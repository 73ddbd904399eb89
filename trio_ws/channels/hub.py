"""Hub: subscriptions to channels, and publishing.

Publishing is synchronous and writes nothing to connections. It puts the message into the queues of subscribed
tasks, and appends it to the channel's log for the fan-out task (see fanout.py).

Invariants:

- A message reaches a subscriber once, however many of its names match.
- The cost of removing a subscriber depends only on what it subscribed to.
- A channel exists while it has a subscriber. Channels that exist only through globs are bounded in number.
"""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from trio.lowlevel import checkpoint

from trio_ws._blocks import block
from trio_ws.channels.channel import (
    ENTRY_OVERHEAD,
    Channel,
    ConnectionSubscriber,
    PositionNotice,
    PublishedMessage,
    TaskSubscriber,
    encode,
)
from trio_ws.channels.fanout import FanoutWriter
from trio_ws.channels.history import Record, Start
from trio_ws.channels.names import Globs, check_name, check_names, is_glob
from trio_ws.channels.presence import PRESENCE, Presence, PresenceRegistry
from trio_ws.channels.recovery import catch_up_task, check_starts, recovery_of, tell_gap
from trio_ws.channels.shared_histories import SharedHistories
from trio_ws.channels.shared_messages import pack_message, unpack_message
from trio_ws.channels.subscription import MAX_BYTES, Subscription
from trio_ws.channels.users import USERS, Users
from trio_ws.codecs.base import Packet, PacketSource, Position
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.logs import logger_for, shown
from trio_ws.predicates import check, check_predicate
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping

    from trio_ws.channels.broker import Broker, KeptMessage
    from trio_ws.channels.channel import ConnectionSession, Subscriber
    from trio_ws.channels.history import ChannelHistories, History
    from trio_ws.channels.names import Glob
    from trio_ws.channels.presence import Members
    from trio_ws.channels.recovery import After
    from trio_ws.channels.shared_messages import SharedMessage
    from trio_ws.channels.subscription import Policy
    from trio_ws.predicates import PredicateLike

__all__ = ["ChannelStatistics", "Hub", "HubStatistics", "share"]

logger = logger_for("trio_ws.channels")

#: Channels without a direct subscriber that are kept, because a glob matched their name.
_DERIVED_CHANNELS = 1024
#: Published names to remember as matched by no glob.
_UNWANTED_NAMES = 1024


class ChannelStatistics(NamedTuple):
    """Counters of a channel since its first subscriber joined.

    Attributes:
        subscribers: connections and task subscriptions in it now.
        delivered: messages written to connections or put into subscriptions, counted once per receiver.
        dropped: messages dropped by policies, counted likewise.
        log_length: messages that wait in its log for the next fan-out round.
    """

    subscribers: int
    delivered: int
    dropped: int
    log_length: int


class HubStatistics(NamedTuple):
    """Counters of a hub.

    Attributes:
        channels: counters by name of the channels that have subscribers now.
        published: calls of ``publish`` and ``broadcast``, and messages from other processes.
        delivered: total over all channels, past ones included, and broadcasts.
        dropped: total of messages dropped by policies.
        backlog: messages that wait for stalled connections now.
        stalled: stalled connections now.
    """

    channels: dict[str, ChannelStatistics]
    published: int
    delivered: int
    dropped: int
    backlog: int
    stalled: int


def _without_packet(data: Any, source: PacketSource, name: str | None) -> tuple[Any, Packet | None]:
    """The data of what is published, and the `Packet` that it was, if it was one."""
    if not isinstance(data, Packet):
        return data, None
    if data.source is not source or data.rpc is not None:
        what = "publish() takes" if source is PacketSource.CHANNEL else "broadcast() takes"
        raise PacketError(f"{what} packets of source {source.name}, not {data.source.name}")
    if data.channel not in (None, name):
        raise PacketError(f"the packet names the channel {data.channel!r}, not {name!r}")
    return data.data, data


class Hub:
    """The channels of a handler, available as ``handler.channels``. See the module docstring."""

    def __init__(self, histories: ChannelHistories | None = None, presence_lease: float = 10.0) -> None:
        self._histories = histories
        self._channels: dict[str, Channel] = {}
        self._derived: dict[str, Channel] = {}  # channels that match globs only
        self._globs = Globs()
        self._by_glob: dict[str, dict[Subscriber, None]] = {}
        self._unwanted: dict[str, None] = {}  # published names that match no glob
        self._everyone = Channel(None)
        self._order = 0
        self.fanout = FanoutWriter(self.leave)
        self._presence = PresenceRegistry(presence_lease)
        self._presence_used = False
        self._demand: list[tuple[str, bool]] = []
        #: Called with a name or a glob, and whether it got its first subscriber here or lost its last.
        self.on_demand: Callable[[str, bool], None] = _nothing
        self._users = Users(self.fanout, self.append)
        self._broker: Broker | None = None
        self._shared: SharedHistories | None = None  # if the broker keeps histories
        self._namespace = ""
        self._attached = Notification()
        self._rejected = 0
        self._published = 0
        self._delivered = 0  # in channels that no longer exist
        self._dropped = 0

    # -- publishing ---------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        data: Any,
        *,
        exclude: Iterable[Any] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Publish ``data`` to all subscribers of ``name`` and of globs that match it. It never waits.

        Args:
            name: the name of the channel. Glob characters have no meaning here.
            data: any value that msgpack can encode. Task subscriptions receive it decoded, as clients do. A
                `Packet` of source CHANNEL is published with its ``timestamp`` and ``correlation_id``.
            exclude: connections to skip.
            predicate: only connections that satisfy it receive the message. An exception counts as false and
                is logged. With a broker it must be built from `Has`, `Is`, `IsEqual`, `Any` and `All`, which
                can be sent to other processes.

        Returns:
            The number of subscribers in this process. Their policies may still drop the message.

        Raises:
            PacketError: ``data`` cannot be encoded, or is a packet of another source or channel; nobody
                receives it.
            ValueError, TypeError: the name or the predicate is invalid.
            trio.WouldBlock: a subscription with the policy ``"block"`` is full; nobody receives it. See
                `publish_wait`.
        """
        check_name(name)
        data, given = _without_packet(data, PacketSource.CHANNEL, name)
        encoded = encode(data)
        if self._shared is not None and self._histories is not None:
            config = self._histories.config(name)
            if config is not None:
                return self._publish_shared(self._shared, name, config, encoded, exclude, predicate, given)
        packed = self._pack(encoded, predicate, given)
        channel = self._find(name)
        if self._histories is not None:
            channel = self._histories.prepare(name, channel)
        count = 0
        if channel is not None:
            if any(member.inbox.policy == "block" and member.inbox.full for member in channel.inboxes):
                raise trio.WouldBlock
            count = self.append(channel, data, encoded, exclude, predicate, given)
        if packed is not None and self._broker is not None:
            self._broker.publish(f"{self._namespace}:{name}", packed)
        return count

    def _publish_shared(
        self,
        shared: SharedHistories,
        name: str,
        config: History,
        encoded: bytes,
        exclude: Iterable[Any],
        predicate: PredicateLike | None,
        given: Packet | None,
    ) -> int:
        """Publish to a channel whose history the broker keeps. It comes back from there with its position."""
        excluded = [one.uid for one in exclude if hasattr(one, "uid")]
        packed = self._pack(encoded, predicate, given, excluded)
        assert packed is not None
        channel = self._find(name)
        count = 0
        if channel is not None:
            if any(member.inbox.policy == "block" and member.inbox.full for member in channel.inboxes):
                raise trio.WouldBlock
            uids = frozenset(excluded)
            skip = self._skip(channel, (), predicate, uids)
            count = len(channel.cursors) + len(channel.inboxes) - (len(skip) if skip is not None else 0)
        shared.append(name, packed, config)
        return count

    async def publish_wait(
        self,
        name: str,
        data: Any,
        *,
        exclude: Iterable[Any] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Like `publish`, but wait for room in subscriptions with the policy ``"block"``.

        If cancelled, it has published nothing.
        """
        exclude = list(exclude)
        await checkpoint()
        while True:
            try:
                return self.publish(name, data, exclude=exclude, predicate=predicate)
            except trio.WouldBlock:
                channel = self._channels[name]
                full = next(m for m in channel.inboxes if m.inbox.policy == "block" and m.inbox.full)
                await full.inbox.has_room.wait()

    def broadcast(
        self, data: Any, *, exclude: Iterable[Any] = (), predicate: PredicateLike | None = None
    ) -> int:
        """Publish ``data`` to all connections, subscribed or not. Otherwise like `publish`.

        The handler's ``channel_policy`` applies to slow connections. A `Packet` must be of source BROADCAST.
        """
        data, given = _without_packet(data, PacketSource.BROADCAST, None)
        encoded = encode(data)
        packed = self._pack(encoded, predicate, given)
        count = self.append(self._everyone, data, encoded, exclude, predicate, given)
        if packed is not None and self._broker is not None:
            self._broker.publish(f"{self._namespace}:", packed)
        return count

    def _pack(
        self,
        encoded: bytes,
        predicate: PredicateLike | None,
        given: Packet | None,
        exclude: Collection[str] = (),
    ) -> bytes | None:
        """Return a message for other processes, if there are any. Raises as `publish` does."""
        if predicate is not None:
            check_predicate(predicate)
        if self._broker is None:
            return None
        return pack_message(encoded, predicate, given, exclude)

    def append(
        self,
        channel: Channel,
        data: Any,
        encoded: bytes,
        exclude: Iterable[Any],
        predicate: PredicateLike | None,
        given: Packet | None = None,
        uids: frozenset[str] = frozenset(),
        age: float = 0.0,
        keep: bool = True,
    ) -> int:
        """Give a message to the subscribers of a channel in this process. Return their number."""
        history = channel.history if keep else None
        excluded = frozenset(exclude)
        skip = self._skip(channel, excluded, predicate, uids)
        self._order += 1
        entry = PublishedMessage(channel, data, encoded, self._order, skip, given)
        if history is not None:
            entry.position = history.next_position
        for codec, deflate in channel.encodings():
            entry.frame(codec, deflate)
        entry.finalize()
        self._published += 1
        if history is not None and self._histories is not None:
            if excluded:
                uids = frozenset(one.uid for one in excluded if hasattr(one, "uid"))
            self._histories.keep(history, entry, predicate, uids, age)
        count = len(channel.cursors) + len(channel.inboxes) - (len(skip) if skip is not None else 0)
        if channel.inboxes:
            packet = entry.packet()
            size = len(encoded) + ENTRY_OVERHEAD
            for member in list(channel.inboxes):
                self._put(channel, member, packet, size)
        self.fanout.append(channel, entry)
        return count

    def _skip(
        self,
        channel: Channel,
        excluded: Collection[Any],
        predicate: PredicateLike | None,
        uids: frozenset[str] = frozenset(),
    ) -> frozenset[ConnectionSubscriber] | None:
        """The connections of a channel that do not receive a message."""
        if not excluded and predicate is None and not uids:
            return None
        return frozenset(
            member
            for member in channel.cursors
            if member.connection in excluded
            or (uids and member.connection.uid in uids)
            or (predicate is not None and not check(predicate, member.connection))
        )

    def _put(self, channel: Channel, member: TaskSubscriber, packet: Packet, size: int) -> None:
        inbox = member.inbox
        if channel.history is not None and packet.position is not None:
            if member.is_catching_up(channel):
                return
            if inbox.full and (
                channel.history.config.latest
                or member.is_told_of_gaps(channel)
                or (inbox.policy == "block" and self._shared is not None)
            ):
                catch_up_task(member, channel, packet.position.offset)
                return
        before = inbox.dropped
        if inbox.policy == "block" and inbox.full:  # published by another process, which cannot wait
            channel.dropped += 1
            tell_gap(channel, member, packet.position, 1)
            return
        channel.delivered += inbox.put(packet, size)
        channel.dropped += inbox.dropped - before

    # -- from other processes -----------------------------------------------------------------------

    def attach(self, broker: Broker | None, namespace: str = "") -> None:
        """Exchange messages with hubs that use the same namespace on the broker, or on none."""
        self._broker = broker
        self._namespace = namespace
        self._shared = None
        if broker is not None and broker.keeps_histories and self._histories is not None:
            for channel in self._channels.values():
                self._catch_up_no_more(channel)
            self._shared = SharedHistories(self._histories, broker, namespace, _Receiver(self))
            self._attached.notify_all()
        self._users.attach(broker, namespace)
        if broker is None:
            self._presence.attach(None)
        else:
            if self._presence_used:
                self._share_presence(broker)
            broker.subscribe(f"{namespace}:")
            for name in (
                *self._globs,
                *(name for name, channel in self._channels.items() if channel.direct_subscribers),
            ):
                broker.subscribe(f"{namespace}:{name}")

    @property
    def topics(self) -> dict[str, Callable[[str, bytes], None]]:
        """What takes messages of other processes, by what stands behind the namespace in their names."""
        return {
            "": self.receive,
            PRESENCE: lambda _, payload: self._presence.receive(payload),
            USERS: self._users.receive,
        }

    def receive(self, name: str, payload: bytes) -> None:
        """Deliver a message that another process has published. The empty name is a broadcast."""
        try:
            shared = unpack_message(payload)
        except UNDECODABLE as exc:
            self._reject(name, describe(exc))
            return
        channel = self._find(name) if name else self._everyone
        if name and self._histories is not None and self._shared is None:
            channel = self._histories.prepare(name, channel)
        if channel is None:
            return
        # One that was not appended to a history that the broker keeps has no position in it.
        keep = not self._is_shared(name)
        try:
            self.append(channel, shared.data, shared.encoded, (), shared.predicate, shared.given, keep=keep)
        except PacketError as exc:
            self._reject(name, str(exc))

    def receive_kept(self, name: str, epoch: str, message: KeptMessage) -> None:
        """Receive a message of a channel whose history the broker keeps."""
        if self._shared is not None:
            self._shared.receive(name, epoch, message)

    def _deliver_kept(self, channel: Channel, message: KeptMessage, *, repeated: bool) -> None:
        """Give the next message of a shared history to the subscribers of its channel."""
        shared = self._unpack_kept(channel, message) if not repeated else None
        if shared is not None:
            data, encoded, predicate, given, exclude = shared
            try:
                self.append(channel, data, encoded, (), predicate, given, exclude, message.age)
                return
            except PacketError as exc:
                self._reject(channel.name or "", str(exc))
        history = channel.history
        assert history is not None
        assert self._histories is not None
        position = history.next_position
        if repeated:
            record = self._record_kept(channel, history.epoch, message)
        else:
            record = Record(PositionNotice(channel, position, message.missing), 0.0, 0, None, frozenset())
        self._histories.keep(history, record.message, record.predicate, record.excluded, message.age)
        self._notify(channel, PositionNotice(channel, position, 0 if repeated else message.missing))

    def _record_kept(self, channel: Channel, epoch: str, message: KeptMessage) -> Record:
        """Make what a history keeps of a message, without giving it to anybody."""
        position = Position(epoch, message.offset)
        published_at = trio.current_time() - message.age
        shared = self._unpack_kept(channel, message)
        if shared is None:
            notice = PositionNotice(channel, position, message.missing)
            return Record(notice, published_at, notice.size, None, frozenset())
        entry = PublishedMessage(channel, shared.data, shared.encoded, 0, None, shared.given)
        entry.position = position
        entry.finalize()
        return Record(entry, published_at, entry.size, shared.predicate, shared.exclude)

    def _unpack_kept(self, channel: Channel, message: KeptMessage) -> SharedMessage | None:
        if not message.payload:
            return None
        try:
            return unpack_message(message.payload)
        except UNDECODABLE as exc:
            self._reject(channel.name or "", describe(exc))
            return None

    def _reject(self, name: str, why: str) -> None:
        """Count a rejected message, and log the first, the tenth, the hundredth, and so on."""
        self._rejected += 1
        if str(self._rejected).strip("0") == "1":
            logger.warning(
                "ignoring an invalid message from the broker for '%s': %s (%d so far)",
                shown(name),
                why,
                self._rejected,
            )

    def missed(self) -> None:
        """Tell subscribers that messages of other processes may have been missed, at this place."""
        self._presence.missed()
        if self._shared is not None:
            self._shared.missed()
        elif self._histories is not None:
            self._histories.rename()
        for channel in list(self._channels.values()):
            if not self._is_shared(channel.name):
                self._break(channel)

    def _is_shared(self, name: str | None) -> bool:
        """Whether the broker keeps the history of a channel."""
        return (
            self._shared is not None
            and self._histories is not None
            and name is not None
            and self._histories.config(name) is not None
        )

    def resubscribed(self) -> None:
        """Prevent recovery from earlier positions, as more may have been missed since `missed`."""
        self._presence.missed()
        if self._histories is not None and self._shared is None:
            self._histories.rename()

    def _break(self, channel: Channel) -> None:
        """End the continuity of a channel."""
        position = None
        if self._histories is not None and channel.name is not None:
            config = self._histories.config(channel.name)
            if config is not None and config.latest:
                return
            if channel.history is not None:
                self._catch_up_no_more(channel)
                channel.history.clear()
            position = self._histories.start(channel.name, None, 0).position
        self._notify(channel, PositionNotice(channel, position, -1))

    def _catch_up_no_more(self, channel: Channel) -> list[Subscriber]:
        """Have all get a channel's messages as they are published; those that have read its history."""
        slow: list[Subscriber] = []
        if channel.history is not None:
            for member in (*channel.cursors, *channel.inboxes):
                if member.is_catching_up(channel):
                    member.caught_up(channel)
                    slow.append(member)
        return slow

    def _tell_missing(
        self, channel: Channel, position: Position, missing: int, *, slow_only: bool = False
    ) -> None:
        """Tell subscribers that messages of a shared history are missing, see ``Receiver``."""
        members = (*channel.cursors, *channel.inboxes)
        if channel.history is not None and channel.history.config.latest:
            for member in members:
                if member.is_catching_up(channel) and missing < 0:
                    recovery_of(member).cursors[channel] = position.offset + 1
            return
        slow = self._catch_up_no_more(channel) if missing < 0 else ()
        self._notify(channel, PositionNotice(channel, position, missing), slow if slow_only else members)

    def _tell_position(self, channel: Channel, position: Position) -> None:
        """Tell connections that recover where a channel is, in another epoch."""
        self._notify(channel, PositionNotice(channel, position, 0))

    def _begin_latest(self, channel: Channel) -> None:
        """Give the newest message of a channel that keeps it to all of its subscribers."""
        for member in (*channel.cursors, *channel.inboxes):
            self._begin_with_latest(member, channel)

    def _notify(
        self, channel: Channel, notice: PositionNotice, only: Collection[Subscriber] | None = None
    ) -> None:
        """Give a notice to the subscribers of a channel that are told of gaps."""
        notice.skip = frozenset(
            one
            for one in channel.cursors
            if not one.is_told_of_gaps(channel) or (only is not None and one not in only)
        )
        if len(notice.skip) < len(channel.cursors):
            self._order += 1
            notice.order = self._order
            self.fanout.append(channel, notice)
        for member in channel.inboxes:
            if notice.missing and not member.is_catching_up(channel) and (only is None or member in only):
                tell_gap(channel, member, notice.position, notice.missing)

    # -- subscribers --------------------------------------------------------------------------------

    def open(self, member: ConnectionSubscriber, peer: ConnectionSession) -> None:
        """Start to deliver to a connection: broadcasts, and messages queued before it was open."""
        member.peer = peer
        if member.close_with is not None:
            peer.close_soon(*member.close_with)
            return
        member.join(self._everyone)
        for channel in member.channels:
            channel.changed()
        member.fanout = self.fanout
        peer.ws._write_buffer.on_drained = member.drained
        self.fanout.drained(member)

    def add(self, subscriber: Subscriber, name: str, policy: Policy) -> None:
        """Subscribe to a name or a glob that was validated before."""
        known = name in subscriber.held
        subscriber.held[name] = policy
        if isinstance(subscriber, ConnectionSubscriber):
            subscriber.policies_changed()
        if known:
            return
        if is_glob(name):
            if name not in self._by_glob:
                self._by_glob[name] = {}
                self._unwanted.clear()
                self._tell_broker(name)
            self._by_glob[name][subscriber] = None
            glob = self._globs.add(name)
            if subscriber.globs is None:
                subscriber.globs = {}
            subscriber.globs[name] = glob
            made = self._make_latest(subscriber, glob)
            for known_name, channel in self._channels.items():
                if known_name not in made and glob.matches(known_name):
                    subscriber.join(channel)
                    self._begin_with_latest(subscriber, channel)
            self._tell_demand()
            return
        channel = self._channels.get(name) or self._make(name)
        if not channel.direct_subscribers:
            self._derived.pop(name, None)
            self._tell_broker(name)
        channel.direct_subscribers += 1
        subscriber.join(channel)
        self._begin_with_latest(subscriber, channel)
        self._tell_demand()

    def _make_latest(self, subscriber: Subscriber, glob: Glob) -> set[str]:
        """Make the channels without subscribers whose newest message a new glob is to get; their names."""
        made: set[str] = set()
        if self._histories is not None:
            for name in self._histories.latest(glob.matches):
                if name not in self._channels and len(made) < _DERIVED_CHANNELS:
                    made.add(name)
                    self._begin_with_latest(subscriber, self._make(name))
        return made

    def _begin_with_latest(self, subscriber: Subscriber, channel: Channel) -> None:
        """Give a new subscriber the newest message, if the channel keeps it for that."""
        history = channel.history
        if history is not None and history.config.latest and self._histories is not None:
            assert channel.name is not None
            self._begin_at(subscriber, channel, self._histories.start(channel.name, None, 0))
        elif self._shared is not None and self._histories is not None and channel.name in subscriber.held:
            config = self._histories.config(channel.name)
            if config is not None and config.latest:
                self._shared.want(channel.name)  # all get it when it is here

    def _begin_at(self, subscriber: Subscriber, channel: Channel, start: Start) -> None:
        """Have a subscriber go on from a start that was found out in the same step."""
        history = channel.history
        if history is None or start.position is None or start.position.offset >= history.offset:
            return
        offset = start.position.offset + 1
        if isinstance(subscriber, ConnectionSubscriber):
            self.fanout.catch_up(subscriber, channel, offset)
        elif isinstance(subscriber, TaskSubscriber):
            catch_up_task(subscriber, channel, offset)

    def recover(self, subscriber: Subscriber, name: str, after: Position | None, last: int) -> Start:
        """Have a subscriber go on from a position in a channel, and be told of gaps there.

        Args:
            subscriber: it has subscribed to ``name``, if it is a connection in the same step.
            name: a channel, not a glob.
            after: the position that it has seen last; None for none.
            last: without ``after``, how many of the newest messages it gets.
        """
        channel = self._channels[name]
        recovery_of(subscriber).channels.add(channel)
        if self._histories is None or (self._is_shared(name) and not self._is_known(name)):
            return Start(None)
        history = channel.history
        if history is not None and history.earlier and isinstance(subscriber, ConnectionSubscriber):
            # What it is given of the history has another epoch than what other subscriptions may have seen.
            self.fanout.tell(subscriber, PositionNotice(channel, history.position, 0))
        start = self._histories.start(name, after, last)
        self._begin_at(subscriber, channel, start)
        return start

    def _is_known(self, name: str) -> bool:
        return self._shared is not None and self._shared.is_known(name)

    @asynccontextmanager
    async def loaded(self, starts: Mapping[str, Position | None]) -> AsyncIterator[None]:
        """Have the histories of channels here, from which subscribers recover in the block.

        Args:
            starts: channels, and the positions after which subscribers will continue.
        """
        starts = {name: after for name, after in starts.items() if self._is_shared(name)}
        if not starts or self._shared is None:
            yield
            return
        holder = TaskSubscriber()
        holder.inbox = Subscription("drop_newest", 1, _ended)
        try:
            for name in starts:
                self.add(holder, name, "drop_newest")
            await self._shared.load(starts)
            yield
        finally:
            self.leave(holder)

    @property
    def names_in_a_row(self) -> int:
        """How many names to `add` in one step.

        Each new name is compared with all globs; each new glob is compiled and compared with all channels.
        """
        return max(1, min(4, 16_384 // (1 + len(self._globs) + len(self._channels))))

    def remove(self, subscriber: Subscriber, name: str) -> None:
        """Unsubscribe. Messages published before are still delivered."""
        if isinstance(subscriber, ConnectionSubscriber):
            self.fanout.send_now(subscriber)  # which may disconnect it
        if name not in subscriber.held:
            return
        if is_glob(name):
            matches = self._globs[name].matches
            left = [one for one in subscriber.channels if one.name is not None and matches(one.name)]
        else:
            left = [self._channels[name]]
        self._let_go(subscriber, name)
        for channel in left:
            subscriber.release(channel)
            self._drop_if_unused(channel)
        self._tell_demand()

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from all channels at once."""
        left = list(subscriber.channels)
        for channel in left:
            subscriber.leave(channel)
        for name in list(subscriber.held):
            self._let_go(subscriber, name)
        for channel in left:
            self._drop_if_unused(channel)
        if isinstance(subscriber, ConnectionSubscriber):
            self.fanout.unsubscribed(subscriber)
            self._users.left(subscriber)
            for name in subscriber.present:
                self._presence.leave(name, subscriber.connection.uid)
            subscriber.present = ()
        self._tell_demand()

    def _let_go(self, subscriber: Subscriber, name: str) -> None:
        del subscriber.held[name]
        if isinstance(subscriber, ConnectionSubscriber):
            subscriber.policies_changed()
        if not is_glob(name):
            channel = self._channels[name]
            channel.direct_subscribers -= 1
            if not channel.direct_subscribers:
                self._tell_broker(name, wanted=False)
                if not channel.empty:
                    self._derive(channel)
            return
        if subscriber.globs is not None:
            del subscriber.globs[name]
        del self._by_glob[name][subscriber]
        if not self._by_glob[name]:
            del self._by_glob[name]
            self._globs.discard(name)
            self._tell_broker(name, wanted=False)

    def _tell_demand(self) -> None:
        """Call ``on_demand`` for the recorded names, now that the state of the hub is consistent."""
        while self._demand:
            self.on_demand(*self._demand.pop(0))

    def _tell_broker(self, name: str, *, wanted: bool = True) -> None:
        if self.on_demand is not _nothing:
            self._demand.append((name, wanted))
        if self._broker is not None:
            change = self._broker.subscribe if wanted else self._broker.unsubscribe
            change(f"{self._namespace}:{name}")

    def _find(self, name: str) -> Channel | None:
        """Return the channel of a name, or None if nobody subscribes to it."""
        channel = self._channels.get(name)
        if channel is None and self._by_glob and name not in self._unwanted:
            channel = self._make(name)
            if channel.empty:
                self._drop_if_unused(channel)
                if len(self._unwanted) >= _UNWANTED_NAMES:
                    del self._unwanted[next(iter(self._unwanted))]
                self._unwanted[name] = None
                return None
        return channel

    def _make(self, name: str) -> Channel:
        history = self._histories.find(name) if self._histories is not None else None
        channel = self._channels[name] = history.channel if history is not None else Channel(name)
        for glob in self._globs.matching(name):
            for subscriber in self._by_glob[glob.text]:
                subscriber.join(channel)
        if not channel.empty:
            self._derive(channel)
        return channel

    def _derive(self, channel: Channel) -> None:
        """Mark a channel without direct subscribers as one that may be dropped when there are too many."""
        assert channel.name is not None
        self._derived[channel.name] = channel
        if len(self._derived) > _DERIVED_CHANNELS:
            oldest = next(iter(self._derived.values()))
            self.fanout.flush_now(oldest)
            for subscriber in (*oldest.cursors, *oldest.inboxes):
                if isinstance(subscriber, TaskSubscriber) and subscriber.is_catching_up(oldest):
                    tell_gap(oldest, subscriber, None, -1)
                subscriber.leave(oldest)
            self._drop_if_unused(oldest)

    def _drop_if_unused(self, channel: Channel) -> None:
        if channel.empty and channel.name is not None and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._derived.pop(channel.name, None)
            self.fanout.forget(channel)
            self._delivered += channel.delivered
            self._dropped += channel.dropped
            channel.delivered = channel.dropped = 0
            if self._histories is not None and self._broker is not None:
                if self._shared is not None:
                    self._shared.forget(channel.name)
                self._histories.forget(channel.name)  # what others publish now is not heard here

    # -- task subscriptions and statistics ----------------------------------------------------------

    @block("async with channels.subscribe(...) as inbox: async for packet in inbox: ...")
    async def subscribe(
        self,
        names: str | Iterable[str],
        *,
        policy: Policy = "drop_oldest",
        max_items: int = 64,
        max_bytes: int = MAX_BYTES,
        recover: bool = False,
        after: After = None,
        last: int = 0,
    ) -> AsyncIterator[Subscription]:
        """Receive published messages in a task of the server, for the duration of a block.

        Args:
            names: names and globs.
            policy: what to do when ``max_items`` or ``max_bytes`` are waiting: ``"drop_oldest"``,
                ``"drop_newest"``, ``"disconnect"`` (the subscription ends with `trio.BrokenResourceError`),
                or ``"block"``: `publish` raises `trio.WouldBlock` and `publish_wait` waits, so that nothing
                is lost. A message from another process, whose publisher cannot wait, is dropped and counted.
            max_items: messages that may wait.
            max_bytes: bytes of waiting messages, as msgpack, plus 128 for each. One message may exceed it.
                Default 1 MiB.
            recover: put a `Gap` where messages are missing. What there is no room for is read from the
                channel's history later, and only what was trimmed by then is missing; the policy decides in
                channels without one.
            after: begin after this position of a channel with a history, as `Packet.position` or stored
                earlier, and with a `Gap` if that is not possible. With several names, a mapping of names to
                positions. Implies ``recover``.
            last: begin with up to so many of the newest messages of each channel.

        Raises:
            ValueError, TypeError: an argument is invalid; ``after`` or ``last`` is given for a glob.
        """
        names = check_names(names)
        starts = check_starts(names, after, last)
        member = TaskSubscriber()
        inbox = member.inbox = Subscription(
            policy, max_items, lambda _: self.leave(member), max_bytes=max_bytes
        )
        await checkpoint()
        if recover or after is not None:
            inbox.tells_gaps = recovery_of(member).all = True
        async with self.loaded({name: starts.get(name) for name in names if recover or name in starts}):
            for name in names:
                self.add(member, name, policy)
                if name in starts:
                    self._start_task(member, name, starts[name], last)
        try:
            yield inbox
        finally:
            inbox.close()

    def _start_task(self, member: TaskSubscriber, name: str, after: Position | None, last: int) -> None:
        start = self.recover(member, name, after, last)
        if after is not None and start.gap:
            tell_gap(self._channels[name], member, start.position, start.gap)
        elif after is not None and start.position is None:
            tell_gap(self._channels[name], member, None, -1)

    # -- presence and users -------------------------------------------------------------------------

    def _share_presence(self, broker: Broker) -> None:
        topic = f"{self._namespace}{PRESENCE}:"
        broker.subscribe(topic)
        self._presence.attach(functools.partial(broker.publish, topic))

    def _use_presence(self) -> PresenceRegistry:
        """Take part in presence from now on; nothing is said of it at the broker before."""
        if not self._presence_used:
            self._presence_used = True
            if self._broker is not None:
                self._share_presence(self._broker)
        return self._presence

    def presence(self, name: str) -> Presence:
        """Return the members of a channel in all processes, and follow its changes. See `Presence`.

        A process takes part in presence from the first use on. With a broker, the members of other processes
        are there a moment after that.
        """
        return Presence(self._use_presence(), check_name(name))

    def members(self, name: str) -> Members:
        """Return the members of a channel, to follow their changes. ValueError if the name is invalid."""
        return self._use_presence().watched(check_name(name))

    def enter_presence(self, member: ConnectionSubscriber, name: str, info: Any) -> None:
        """Add a connection to the presence of a channel. See `ClientConnection.present`."""
        self._use_presence().enter(name, member.connection.uid, info)
        if name not in member.present:
            member.present = (*member.present, name)

    def leave_presence(self, member: ConnectionSubscriber, name: str) -> None:
        """Remove a connection from the presence of a channel."""
        self._presence.leave(name, member.connection.uid)
        member.present = tuple(one for one in member.present if one != name)

    def identify(self, member: ConnectionSubscriber, user: str | None) -> None:
        """Set the user of a connection. See `ClientConnection.identify`."""
        self._users.identify(member, user)

    def send_to_user(self, user: str, data: Any) -> int:
        """Send data to all connections of a user, in all processes, without waiting.

        A connection receives the data as from `ClientConnection.send`, in order with published messages. The
        handler's ``channel_policy`` applies to slow connections.

        Returns:
            The number of the user's connections in this process.

        Raises:
            PacketError: ``data`` cannot be encoded; nobody receives it.
            ValueError, TypeError: the user is invalid.
        """
        return self._users.send(user, data)

    def disconnect_user(self, user: str, code: int = 1008, reason: str = "disconnected") -> int:
        """Close all connections of a user, in all processes, without waiting; how many are in this one.

        Raises:
            ValueError, TypeError: the user, the code or the reason is invalid.
        """
        return self._users.disconnect(user, code, reason)

    async def run(self) -> None:
        """Keep up with the presence of other processes, until cancelled."""
        await self._presence.run()

    async def follow_histories(self) -> None:
        """Keep up with the histories that a broker keeps, until cancelled."""
        while self._histories is not None:
            while self._shared is None:
                await self._attached.wait()
            await self._shared.run()

    def statistics(self) -> HubStatistics:
        """The current counters."""
        channels = {
            name: ChannelStatistics(
                len(channel.cursors) + len(channel.inboxes),
                channel.delivered,
                channel.dropped,
                len(channel.log),
            )
            for name, channel in self._channels.items()
        }
        waiting = [len(member.backlog or ()) for member in self._everyone.stalled]
        return HubStatistics(
            channels,
            self._published,
            self._delivered + self._everyone.delivered + sum(one.delivered for one in channels.values()),
            self._dropped + self._everyone.dropped + sum(one.dropped for one in channels.values()),
            sum(waiting),
            len(waiting),
        )

    @property
    def rejected(self) -> int:
        """Messages from the broker that could not be decoded or delivered."""
        return self._rejected


class _Receiver:
    """The operations of a hub that shared histories use."""

    def __init__(self, hub: Hub) -> None:
        self.find = hub._find
        self.deliver = hub._deliver_kept
        self.record = hub._record_kept
        self.tell_missing = hub._tell_missing
        self.tell_position = hub._tell_position
        self.begin_latest = hub._begin_latest


def _ended(subscription: Subscription) -> None:
    """For subscriptions that nobody receives from."""


def _nothing(name: str, wanted: bool) -> None:
    """For hubs without hooks."""


@asynccontextmanager
async def share(broker: Broker, hubs: Mapping[str, Hub], timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109
    """Connect hubs, by namespace, to a broker for the duration of a block. See `Broker.run`."""

    topics = {namespace + kind: take for namespace, hub in hubs.items() for kind, take in hub.topics.items()}

    def receive(name: str, payload: bytes) -> None:
        topic, _, channel = name.partition(":")
        take = topics.get(topic)
        if take is not None:
            take(channel, payload)

    def receive_kept(name: str, epoch: str, message: KeptMessage) -> None:
        namespace, _, channel = name.partition(":")
        hub = hubs.get(namespace)
        if hub is not None:
            hub.receive_kept(channel, epoch, message)

    def missed() -> None:
        for hub in hubs.values():
            hub.missed()

    def resubscribed() -> None:
        for hub in hubs.values():
            hub.resubscribed()

    broker.on_missed, broker.on_resubscribed = missed, resubscribed
    broker.receive_kept = receive_kept
    async with broker.run(receive, timeout):
        for namespace, hub in hubs.items():
            hub.attach(broker, namespace)
        try:
            yield
        finally:
            broker.on_missed = broker.on_resubscribed = broker.receive_kept = None
            for hub in hubs.values():
                hub.attach(None)
