"""LocalDelivery: giving messages to the subscribers in this process.

It writes nothing to connections. A message is put into the queues of subscribed tasks, and appended to the
channel's log for the fan-out task (see fanout.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import in_trio_run

from trio_ws.channels.channel import ENTRY_OVERHEAD, PublishedMessage
from trio_ws.channels.recovery import catch_up_task, tell_gap
from trio_ws.predicates import check

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_ws._types import Value
    from trio_ws.channels.channel import (
        Channel,
        ConnectionSubscriber,
        PositionNotice,
        Subscriber,
        TaskSubscriber,
    )
    from trio_ws.channels.fanout import FanoutWriter
    from trio_ws.channels.history import ChannelHistories
    from trio_ws.codecs.base import Packet
    from trio_ws.predicates import PredicateLike

__all__ = ["LocalDelivery", "check_room", "count_receivers", "excluded_from"]


class LocalDelivery:
    """Gives messages to the subscribers of a hub's channels.

    Args:
        fanout: writes to connections.
        histories: stores the delivered messages.

    Attributes:
        count: messages so far.
        histories_are_shared: whether a broker keeps the histories.
    """

    def __init__(self, fanout: FanoutWriter, histories: ChannelHistories | None) -> None:
        self._fanout = fanout
        self._histories = histories
        self._order = 0
        self.count = 0
        self.histories_are_shared = False

    def append(
        self,
        channel: Channel,
        data: Value,
        encoded: bytes,
        exclude: Iterable[object],
        predicate: PredicateLike | None,
        given: Packet | None = None,
        uids: frozenset[str] = frozenset(),
        age: float = 0.0,
        keep: bool = True,
    ) -> int:
        """Give a message to the subscribers of a channel in this process. Return their number."""
        if (channel.cursors or channel.task_subscribers) and not in_trio_run():
            raise RuntimeError(
                "publish() was called outside of trio; in another thread, use"
                " trio.from_thread.run_sync(handler.publish, name, data)"
            )
        history = channel.history if keep else None
        excluded = excluded_from(exclude)
        skip = _connections_to_skip(channel, excluded, predicate, uids)
        self._order += 1
        entry = PublishedMessage(channel, data, encoded, self._order, skip, given)
        if history is not None:
            entry.position = history.next_position
        for codec, deflate in channel.encodings():
            entry.frame(codec, deflate)
        entry.finalize()
        self.count += 1
        if history is not None and self._histories is not None:
            if excluded:
                uids = uids_of(excluded)
            self._histories.keep(history, entry, predicate, uids, age)
        count = len(channel.cursors) + len(channel.task_subscribers) - (len(skip) if skip is not None else 0)
        if channel.task_subscribers:
            packet = entry.packet()
            size = len(encoded) + ENTRY_OVERHEAD
            for member in list(channel.task_subscribers):
                self._put_in_subscription(channel, member, packet, size)
        self._fanout.append(channel, entry)
        return count

    def _put_in_subscription(
        self, channel: Channel, member: TaskSubscriber, packet: Packet, size: int
    ) -> None:
        subscription = member.subscription
        if channel.history is not None and packet.position is not None:
            if member.is_catching_up(channel):
                return
            if subscription.full and (
                channel.history.config.latest
                or member.is_told_of_gaps(channel)
                or (subscription.policy == "block" and self.histories_are_shared)
            ):
                catch_up_task(member, channel, packet.position.offset)
                return
        before = subscription.dropped
        if (
            subscription.policy == "block" and subscription.full
        ):  # published by another process, which cannot wait
            channel.dropped += 1
            tell_gap(channel, member, packet.position, 1)
            return
        channel.delivered += subscription.put(packet, size)
        channel.dropped += subscription.dropped - before

    def notify(
        self, channel: Channel, notice: PositionNotice, only: Collection[Subscriber] | None = None
    ) -> None:
        """Send a notice to the subscribers of a channel that get gaps."""
        notice.skip = frozenset(
            one
            for one in channel.cursors
            if not one.is_told_of_gaps(channel) or (only is not None and one not in only)
        )
        if len(notice.skip) < len(channel.cursors):
            self._order += 1
            notice.order = self._order
            self._fanout.append(channel, notice)
        for member in channel.task_subscribers:
            if notice.missing and not member.is_catching_up(channel) and (only is None or member in only):
                tell_gap(channel, member, notice.position, notice.missing)


def excluded_from(exclude: Iterable[object]) -> frozenset[object]:
    """Return the connections that ``exclude`` contains.

    Raises:
        TypeError: it is a connection itself, or something else that cannot be iterated over.
    """
    try:
        return frozenset(exclude)
    except TypeError:
        raise TypeError(
            f"exclude is a list of connections, not {type(exclude).__name__}; write exclude=[connection]"
        ) from None


def uids_of(connections: Iterable[object]) -> frozenset[str]:
    """Return the uids of connections. A `WebSocket` has none."""
    return frozenset(uid for one in connections if (uid := getattr(one, "uid", None)) is not None)


def check_room(channel: Channel) -> None:
    """Raise `trio.WouldBlock` if a subscription with the policy ``"block"`` is full."""
    if any(
        member.subscription.policy == "block" and member.subscription.full
        for member in channel.task_subscribers
    ):
        raise trio.WouldBlock


def count_receivers(channel: Channel, predicate: PredicateLike | None, uids: frozenset[str]) -> int:
    """Return the number of subscribers that a message is meant for."""
    skip = _connections_to_skip(channel, (), predicate, uids)
    return len(channel.cursors) + len(channel.task_subscribers) - (len(skip) if skip is not None else 0)


def _connections_to_skip(
    channel: Channel,
    excluded: Collection[object],
    predicate: PredicateLike | None,
    uids: frozenset[str],
) -> frozenset[ConnectionSubscriber] | None:
    """The connections of a channel that do not receive a message."""
    if not excluded and predicate is None and not uids:
        return None
    cursors = channel.cursors
    if predicate is None:
        return frozenset(
            member
            for member in cursors
            if member.connection in excluded or (uids and member.connection.uid in uids)
        )
    # A predicate may itself subscribe connections, which are asked about too, and unsubscribe some.
    asked: dict[ConnectionSubscriber, bool] = {}
    while new := [one for one in cursors if one not in asked]:
        for member in new:
            connection = member.connection
            asked[member] = (
                connection not in excluded
                and (not uids or connection.uid not in uids)
                and check(predicate, connection)
            )
    return frozenset(member for member, wanted in asked.items() if not wanted and member in cursors)
