"""Hub: subscriptions to channels, and publishing.

Publishing is synchronous and writes nothing to connections, see local_delivery.py and fanout.py.

Invariant: a message reaches a subscriber once, however many of its names match.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint

from trio_ws._blocks import block
from trio_ws._types import Value
from trio_ws.channels.channel import (
    Channel,
    ConnectionSubscriber,
    PositionNotice,
    TaskSubscriber,
    encode,
)
from trio_ws.channels.fanout import FanoutWriter
from trio_ws.channels.history import Start
from trio_ws.channels.hub_histories import HubHistories
from trio_ws.channels.hub_presence import HubPresence
from trio_ws.channels.local_delivery import (
    LocalDelivery,
    check_room,
    count_receivers,
    excluded_from,
    uids_of,
)
from trio_ws.channels.names import check_name, check_names, is_glob
from trio_ws.channels.presence import PRESENCE, Presence
from trio_ws.channels.recovery import check_starts, recovery_of, tell_gap
from trio_ws.channels.registry import ChannelRegistry
from trio_ws.channels.shared_messages import pack_message, unpack_message
from trio_ws.channels.statistics import HubStatistics
from trio_ws.channels.subscription import MAX_BYTES, Subscription
from trio_ws.channels.users import USERS, Users
from trio_ws.codecs.base import Packet, PacketSource, Position
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.logs import is_milestone, logger_for, shown
from trio_ws.predicates import check_predicate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping

    from trio_ws._types import Value
    from trio_ws.channels.broker import Broker, KeptMessage
    from trio_ws.channels.channel import ConnectionSession, Subscriber
    from trio_ws.channels.history import ChannelHistories
    from trio_ws.channels.presence import Members
    from trio_ws.channels.recovery import After
    from trio_ws.channels.shared_histories import SharedHistories
    from trio_ws.channels.subscription import Policy
    from trio_ws.predicates import PredicateLike

__all__ = ["Hub"]

logger = logger_for("trio_ws.channels")


def _without_packet(data: Value, source: PacketSource, name: str | None) -> tuple[Value, Packet | None]:
    """The data of a published value, and the value if it is a `Packet`."""
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
        self.fanout = FanoutWriter(self.leave)
        self._registry = ChannelRegistry(self.fanout, histories, self._demand_changed, self._channel_removed)
        self._delivery = LocalDelivery(self.fanout, histories)
        self._histories: HubHistories | None = None
        if histories is not None:
            self._histories = HubHistories(
                histories, self._registry, self._delivery, self.fanout, self._reject
            )
        self._everyone = Channel(None)
        self._only_everyone = MappingProxyType(
            {self._everyone: 1}
        )  # most connections are in no other channel
        self._presence = HubPresence(presence_lease)
        self._demand: list[tuple[str, bool]] = []
        #: Called with a name or a glob, and whether it got its first subscriber here or lost its last.
        self.on_demand: Callable[[str, bool], None] = _ignore_demand
        self._users = Users(self.fanout, self._delivery.append)
        self._broker: Broker | None = None
        self._namespace = ""
        self._rejected = 0

    # -- publishing ---------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        data: Value,
        *,
        exclude: Iterable[object] = (),
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
        exclude = excluded_from(exclude)
        data, given = _without_packet(data, PacketSource.CHANNEL, name)
        encoded = encode(data)
        if self._histories is not None:
            shared = self._histories.shared_for(name)
            if shared is not None:
                return self._publish_shared(shared, name, encoded, exclude, predicate, given)
        packed = self._pack(encoded, predicate, given)
        channel = self._registry.find(name)
        if self._histories is not None:
            channel = self._histories.prepare(name, channel)
        count = 0
        if channel is not None:
            check_room(channel)
            count = self._delivery.append(channel, data, encoded, exclude, predicate, given)
        if packed is not None and self._broker is not None:
            self._broker.publish(f"{self._namespace}:{name}", packed)
        return count

    def _publish_shared(
        self,
        shared: SharedHistories,
        name: str,
        encoded: bytes,
        exclude: Iterable[object],
        predicate: PredicateLike | None,
        given: Packet | None,
    ) -> int:
        """Publish to a channel whose history the broker keeps. It comes back from there with its position."""
        excluded = uids_of(exclude)
        packed = self._pack(encoded, predicate, given, excluded)
        assert packed is not None
        channel = self._registry.find(name)
        count = 0
        if channel is not None:
            check_room(channel)
            count = count_receivers(channel, predicate, excluded)
        shared.append(name, packed)
        return count

    async def publish_wait(
        self,
        name: str,
        data: Value,
        *,
        exclude: Iterable[object] = (),
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
                channel = self._registry.channels[name]
                full = next(
                    m
                    for m in channel.task_subscribers
                    if m.subscription.policy == "block" and m.subscription.full
                )
                await full.subscription.has_room.wait()

    def broadcast(
        self, data: Value, *, exclude: Iterable[object] = (), predicate: PredicateLike | None = None
    ) -> int:
        """Publish ``data`` to all connections, subscribed or not. Otherwise like `publish`.

        The handler's ``channel_policy`` applies to slow connections. A `Packet` must be of source BROADCAST.
        """
        data, given = _without_packet(data, PacketSource.BROADCAST, None)
        encoded = encode(data)
        packed = self._pack(encoded, predicate, given)
        count = self._delivery.append(self._everyone, data, encoded, exclude, predicate, given)
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

    # -- from other processes -----------------------------------------------------------------------

    def attach(self, broker: Broker | None, namespace: str = "") -> None:
        """Exchange messages with hubs that use the same namespace on the broker, or on none."""
        self._broker = broker
        self._namespace = namespace
        if self._histories is not None:
            self._histories.attach(broker, namespace)
        self._users.attach(broker, namespace)
        self._presence.attach(broker, namespace)
        if broker is not None:
            broker.subscribe(f"{namespace}:")
            for name in self._registry.subscribed:
                broker.subscribe(f"{namespace}:{name}")

    @property
    def topics(self) -> dict[str, Callable[[str, bytes], None]]:
        """The receivers of messages from other processes, by the part of the name after the namespace."""
        return {
            "": self.receive,
            PRESENCE: self._presence.receive,
            USERS: self._users.receive,
        }

    def receive(self, name: str, payload: bytes) -> None:
        """Deliver a message that another process has published. The empty name is a broadcast."""
        try:
            shared = unpack_message(payload)
        except UNDECODABLE as exc:
            self._reject(name, describe(exc))
            return
        channel = self._registry.find(name) if name else self._everyone
        keep = True
        if name and self._histories is not None:
            channel = self._histories.prepare(name, channel)
            # One that was not appended to a history that the broker keeps has no position in it.
            keep = self._histories.shared_for(name) is None
        if channel is None:
            return
        try:
            self._delivery.append(
                channel, shared.data, shared.encoded, (), shared.predicate, shared.given, keep=keep
            )
        except PacketError as exc:
            self._reject(name, str(exc))

    def receive_kept(self, name: str, epoch: str, message: KeptMessage) -> None:
        """Receive a message of a channel whose history the broker keeps."""
        if self._histories is not None:
            self._histories.receive(name, epoch, message)

    def _reject(self, name: str, why: str) -> None:
        """Count a message that cannot be delivered."""
        self._rejected += 1
        if is_milestone(self._rejected):
            logger.warning(
                "ignoring an invalid message from the broker for '%s': %s (%d so far)",
                shown(name),
                why,
                self._rejected,
            )

    def missed(self, affected: Callable[[str], bool] | None = None) -> None:
        """Tell subscribers that messages of other processes may have been missed, at this place.

        Args:
            affected: returns whether this applies to a name at the broker; None if it applies to all.
        """
        prefix = f"{self._namespace}:"
        if affected is None or affected(f"{self._namespace}{PRESENCE}:"):
            self._presence.missed()
        if self._histories is not None:
            self._histories.missed(None if affected is None else lambda name: affected(prefix + name))
        for channel in list(self._registry.channels.values()):
            if affected is not None and not affected(f"{prefix}{channel.name}"):
                continue
            if self._histories is not None:
                self._histories.interrupt(channel)
            else:
                self._delivery.notify(channel, PositionNotice(channel, None, -1))

    def resubscribed(self) -> None:
        """Prevent recovery from earlier positions, as more may have been missed since `missed`."""
        self._presence.missed()
        if self._histories is not None:
            self._histories.resubscribed()

    # -- subscribers --------------------------------------------------------------------------------

    def open(self, member: ConnectionSubscriber, session: ConnectionSession) -> None:
        """Start to deliver to a connection: broadcasts, and messages queued before it was open."""
        member.session = session
        if member.close_with is not None:
            session.close_soon(*member.close_with)
            return
        member.join(self._everyone, self._only_everyone)
        for channel in member.channels:
            channel.changed()
        member.fanout = self.fanout
        session.write_buffer.subscriber = member
        self.fanout.drained(member)

    def add(self, subscriber: Subscriber, name: str, policy: Policy) -> None:
        """Subscribe to a name or a glob that was validated before."""
        known = name in subscriber.held
        for channel in self._registry.add(subscriber, name, policy):
            if self._histories is not None:
                self._histories.begin_with_latest(subscriber, channel)
        if self._histories is not None and not known and is_glob(name):
            self._histories.glob_added()
        self._tell_demand()

    def recover(self, subscriber: Subscriber, name: str, after: Position | None, last: int) -> Start:
        """Continue a subscriber at a position in a channel, and send it gaps from there.

        Args:
            subscriber: it has subscribed to ``name``, if it is a connection in the same step.
            name: a channel, not a glob.
            after: the position that it has seen last; None for none.
            last: without ``after``, how many of the newest messages it gets.
        """
        channel = self._registry.channels[name]
        recovery_of(subscriber).channels.add(channel)
        start = None
        if self._histories is not None:
            start = self._histories.recover(subscriber, channel, name, after, last)
        return Start(None) if start is None else start

    @asynccontextmanager
    async def loaded(self, starts: Mapping[str, Position | None]) -> AsyncIterator[None]:
        """Have the histories of channels here, from which subscribers recover in the block.

        Args:
            starts: channels, and the positions after which subscribers will continue.
        """
        histories = self._histories
        if histories is not None:
            starts = {name: after for name, after in starts.items() if histories.shared_for(name) is not None}
        if not starts or histories is None:
            yield
            return
        holder = TaskSubscriber()
        holder.subscription = Subscription("drop_newest", 1, _ended)
        try:
            for name in starts:
                self.add(holder, name, "drop_newest")
            await histories.load(starts)
            yield
        finally:
            self.leave(holder)

    @property
    def names_in_a_row(self) -> int:
        """The number of names to `add` in one step.

        Each new name is compared with all globs; each new glob is compiled and compared with all channels.
        """
        return max(1, min(4, 16_384 // (1 + len(self._registry.globs) + len(self._registry.channels))))

    def remove(self, subscriber: Subscriber, name: str) -> None:
        """Unsubscribe. Messages published before are still delivered."""
        if isinstance(subscriber, ConnectionSubscriber):
            self.fanout.send_now(subscriber)  # which may disconnect it
        if name not in subscriber.held:
            return
        self._registry.remove(subscriber, name)
        self._tell_demand()

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from all channels at once."""
        self._registry.leave(subscriber)
        if isinstance(subscriber, ConnectionSubscriber):
            self.fanout.unsubscribed(subscriber)
            self._users.left(subscriber)
            self._presence.left(subscriber)
        self._tell_demand()

    def _tell_demand(self) -> None:
        """Call ``on_demand`` for the recorded names, now that the state of the hub is consistent."""
        while self._demand:
            self.on_demand(*self._demand.pop(0))

    def _demand_changed(self, name: str, wanted: bool) -> None:
        """Record that a name or a glob got its first subscriber, or lost its last, and tell the broker."""
        if self.on_demand is not _ignore_demand:
            self._demand.append((name, wanted))
        if self._broker is not None:
            change = self._broker.subscribe if wanted else self._broker.unsubscribe
            change(f"{self._namespace}:{name}")

    def _channel_removed(self, channel: Channel) -> None:
        """Forget the history of a channel if messages that others publish now are not heard here."""
        if self._histories is not None and self._broker is not None and channel.name is not None:
            self._histories.forget(channel.name)

    # -- task subscriptions and statistics ----------------------------------------------------------

    @block("async with channels.subscribe(...) as subscription: async for packet in subscription: ...")
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
            last: begin with up to this number of the newest messages of each channel.

        Raises:
            ValueError, TypeError: an argument is invalid; ``after`` or ``last`` is given for a glob.
        """
        names = check_names(names)
        starts = check_starts(names, after, last)
        member = TaskSubscriber()
        subscription = member.subscription = Subscription(
            policy, max_items, lambda _: self.leave(member), max_bytes=max_bytes
        )
        await checkpoint()
        if recover or after is not None:
            subscription.tells_gaps = recovery_of(member).all = True
        async with self.loaded({name: starts.get(name) for name in names if recover or name in starts}):
            for name in names:
                self.add(member, name, policy)
                if name in starts:
                    self._start_task(member, name, starts[name], last)
        try:
            yield subscription
        finally:
            subscription.close()

    def _start_task(self, member: TaskSubscriber, name: str, after: Position | None, last: int) -> None:
        start = self.recover(member, name, after, last)
        if after is not None and start.gap:
            tell_gap(self._registry.channels[name], member, start.position, start.gap)
        elif after is not None and start.position is None:
            tell_gap(self._registry.channels[name], member, None, -1)

    # -- presence and users -------------------------------------------------------------------------

    def presence(self, name: str) -> Presence:
        """Return the members of a channel in all processes, and follow its changes. See `Presence`.

        A process takes part in presence from the first use on. With a broker, the members of other processes
        are there a moment after that.
        """
        return Presence(self._presence.use(), check_name(name))

    def members(self, name: str) -> Members:
        """Return the members of a channel, to follow their changes. ValueError if the name is invalid."""
        return self._presence.use().watched(check_name(name))

    def enter_presence(self, member: ConnectionSubscriber, name: str, info: Value) -> None:
        """Add a connection to the presence of a channel. See `ClientConnection.present`."""
        self._presence.enter(member, name, info)

    def leave_presence(self, member: ConnectionSubscriber, name: str) -> None:
        """Remove a connection from the presence of a channel."""
        self._presence.leave(member, name)

    def identify(self, member: ConnectionSubscriber, user: str | None) -> None:
        """Set the user of a connection. See `ClientConnection.identify`."""
        self._users.identify(member, user)

    def send_to_user(self, user: str, data: Value) -> int:
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
        if self._histories is not None:
            await self._histories.run()

    def statistics(self) -> HubStatistics:
        """The current counters."""
        channels = self._registry.statistics()
        everyone = self._everyone
        waiting = [len(member.backlog or ()) for member in everyone.stalled]
        delivered = self._registry.past_delivered + sum(one.delivered for one in channels.values())
        dropped = self._registry.past_dropped + sum(one.dropped for one in channels.values())
        return HubStatistics(
            channels,
            self._delivery.count,
            delivered + everyone.delivered,
            dropped + everyone.dropped,
            sum(waiting),
            len(waiting),
        )

    @property
    def rejected(self) -> int:
        """Messages from the broker that could not be decoded or delivered."""
        return self._rejected


def _ended(subscription: Subscription) -> None:
    """For subscriptions without a receiver."""


def _ignore_demand(name: str, wanted: bool) -> None:
    """For hubs without hooks."""
