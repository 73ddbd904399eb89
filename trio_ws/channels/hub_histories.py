"""HubHistories: the histories of a hub's channels, and the subscribers that continue from them.

Without a broker that keeps histories, they contain the messages that this process has published. With one
they are copies, see shared_histories.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ws.channels.channel import (
    ConnectionSubscriber,
    PositionNotice,
    PublishedMessage,
    TaskSubscriber,
)
from trio_ws.channels.history import Record
from trio_ws.channels.recovery import catch_up_task, recovery_of
from trio_ws.channels.shared_histories import SharedHistories
from trio_ws.channels.shared_messages import unpack_message
from trio_ws.codecs.base import Position
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_ws.channels.broker import Broker, KeptMessage
    from trio_ws.channels.channel import Channel, Subscriber
    from trio_ws.channels.fanout import FanoutWriter
    from trio_ws.channels.history import ChannelHistories, Start
    from trio_ws.channels.local_delivery import LocalDelivery
    from trio_ws.channels.registry import ChannelRegistry
    from trio_ws.channels.shared_messages import SharedMessage

__all__ = ["HubHistories"]


class HubHistories:
    """See the module docstring. It is the ``Receiver`` of shared histories.

    Args:
        kept: the histories in this process.
        registry: the channels that have subscribers.
        delivery: gives messages to them.
        fanout: writes to connections.
        reject: counts a message of the broker for a channel that is invalid, and says why.
    """

    def __init__(
        self,
        kept: ChannelHistories,
        registry: ChannelRegistry,
        delivery: LocalDelivery,
        fanout: FanoutWriter,
        reject: Callable[[str, str], None],
    ) -> None:
        self.kept = kept
        self._registry = registry
        self._delivery = delivery
        self._fanout = fanout
        self._reject = reject
        self._shared: SharedHistories | None = None  # if the broker keeps histories
        self._attached = Notification()

    def attach(self, broker: Broker | None, namespace: str) -> None:
        """Use the histories that a broker keeps, if it does."""
        self._shared = None
        if broker is not None and broker.keeps_histories:
            for channel in self._registry.channels.values():
                self._stop_catching_up(channel)
            self._shared = SharedHistories(self.kept, broker, namespace, self)
            self.glob_added()
            self._attached.notify_all()
        self._delivery.histories_are_shared = self._shared is not None

    async def run(self) -> None:
        """Keep up with the histories that a broker keeps, until cancelled."""
        while True:
            while self._shared is None:
                await self._attached.wait()
            await self._shared.run()

    def shared_for(self, name: str | None) -> SharedHistories | None:
        """Return the shared histories if the broker keeps the history of a channel, else None."""
        if self._shared is None or name is None or self.kept.config(name) is None:
            return None
        return self._shared

    def prepare(self, name: str, channel: Channel | None) -> Channel | None:
        """Return the channel of a name that is published to here, with its history if it has one."""
        return channel if self._shared is not None else self.kept.prepare(name, channel)

    def forget(self, name: str) -> None:
        """Forget a channel without subscribers, of which other processes' messages are not heard any more."""
        if self._shared is not None:
            self._shared.forget(name)
        self.kept.forget(name)

    # -- subscribers --------------------------------------------------------------------------------

    def begin_with_latest(self, subscriber: Subscriber, channel: Channel) -> None:
        """Give a new subscriber the newest message, if the channel keeps it for that."""
        history = channel.history
        if history is not None and history.config.latest:
            assert channel.name is not None
            self._begin_at(subscriber, channel, self.kept.start(channel.name, None, 0))
        elif self._shared is not None and channel.name in subscriber.held:
            config = self.kept.config(channel.name)
            if config is not None and config.latest:
                self._shared.want(channel.name)  # all get it when it is here

    def glob_added(self) -> None:
        """Give a new subscriber of a glob the newest messages of channels that keep only that one, soon."""
        if self._shared is not None and len(self._registry.globs):
            self._shared.glob_added()

    def _begin_at(self, subscriber: Subscriber, channel: Channel, start: Start) -> None:
        """Have a subscriber go on from a start that was found out in the same step."""
        history = channel.history
        if history is None or start.position is None or start.position.offset >= history.offset:
            return
        offset = start.position.offset + 1
        if isinstance(subscriber, ConnectionSubscriber):
            self._fanout.catch_up(subscriber, channel, offset)
        elif isinstance(subscriber, TaskSubscriber):
            catch_up_task(subscriber, channel, offset)

    def recover(
        self, subscriber: Subscriber, channel: Channel, name: str, after: Position | None, last: int
    ) -> Start | None:
        """Have a subscriber go on from a position in a channel; None if it is not known where that is now."""
        shared = self.shared_for(name)
        if shared is not None and not shared.is_known(name):
            return None
        history = channel.history
        if history is not None and history.earlier and isinstance(subscriber, ConnectionSubscriber):
            # Its messages from the history have another epoch than those that other subscriptions may have
            # received.
            self._fanout.tell(subscriber, PositionNotice(channel, history.position, 0))
        start = self.kept.start(name, after, last)
        if isinstance(subscriber, TaskSubscriber):
            subscriber.caught_up(channel)  # it may have the newest message, with which `add` began
        self._begin_at(subscriber, channel, start)
        return start

    async def load(self, starts: Mapping[str, Position | None]) -> None:
        """Wait until the histories of channels that the broker keeps are here; see `SharedHistories.load`."""
        if self._shared is not None:
            await self._shared.load(starts)

    # -- messages that were missed ------------------------------------------------------------------

    def missed(self, affected: Callable[[str], bool] | None = None) -> None:
        """Read missed messages, or prevent recovery from earlier positions. See `Hub.missed`."""
        if self._shared is not None:
            self._shared.missed(affected)
            self.glob_added()  # as there may be new channels
        else:
            self.kept.rename()

    def resubscribed(self) -> None:
        """Prevent recovery from earlier positions, as more may have been missed since `missed`."""
        if self._shared is None:
            self.kept.rename()

    def interrupt(self, channel: Channel) -> None:
        """End the continuity of a channel, unless its broker keeps the history."""
        if channel.name is None or self.shared_for(channel.name) is not None:
            return
        config = self.kept.config(channel.name)
        if config is not None and config.latest:
            return
        if channel.history is not None:
            self._stop_catching_up(channel)
            channel.history.clear()
        position = self.kept.start(channel.name, None, 0).position
        self._delivery.notify(channel, PositionNotice(channel, position, -1))

    def _stop_catching_up(self, channel: Channel) -> list[Subscriber]:
        """Have all get a channel's messages as they are published; those that have read its history."""
        slow: list[Subscriber] = []
        if channel.history is not None:
            for member in (*channel.cursors, *channel.task_subscribers):
                if member.is_catching_up(channel):
                    member.caught_up(channel)
                    slow.append(member)
        return slow

    # -- the Receiver of shared histories -----------------------------------------------------------

    def receive(self, name: str, epoch: str, message: KeptMessage) -> None:
        """Receive a message of a channel whose history the broker keeps."""
        if self._shared is not None:
            self._shared.receive(name, epoch, message)

    def find(self, name: str) -> Channel | None:
        """The channel of a name, or None if it has no subscribers."""
        return self._registry.find(name)

    def may_follow(self, name: str) -> bool:
        """Whether a channel exists, or can be added for a glob that matches it without removing another."""
        return self._registry.may_follow(name)

    def deliver(self, channel: Channel, message: KeptMessage, *, repeated: bool) -> None:
        """Give the next message of a shared history to the subscribers of its channel."""
        shared = self._unpack(channel, message) if not repeated else None
        if shared is not None:
            data, encoded, predicate, given, exclude = shared
            try:
                self._delivery.append(channel, data, encoded, (), predicate, given, exclude, message.age)
                return
            except PacketError as exc:
                self._reject(channel.name or "", str(exc))
        history = channel.history
        assert history is not None
        position = history.next_position
        if repeated:
            record = self.record(channel, history.epoch, message)
        else:
            record = Record.of(PositionNotice(channel, position, message.missing), 0.0)
        self.kept.keep(history, record.message, record.predicate, record.excluded, message.age)
        missing = 0 if repeated else message.missing
        self._delivery.notify(channel, PositionNotice(channel, position, missing))

    def record(self, channel: Channel, epoch: str, message: KeptMessage) -> Record:
        """Make the history's entry of a message, without delivering it."""
        position = Position(epoch, message.offset)
        published_at = trio.current_time() - message.age
        shared = self._unpack(channel, message)
        if shared is None:
            notice = PositionNotice(channel, position, message.missing)
            return Record.of(notice, published_at)
        entry = PublishedMessage(channel, shared.data, shared.encoded, 0, None, shared.given)
        entry.position = position
        entry.finalize()
        return Record.of(entry, published_at, shared.predicate, shared.exclude)

    def _unpack(self, channel: Channel, message: KeptMessage) -> SharedMessage | None:
        if not message.payload:
            return None
        try:
            return unpack_message(message.payload)
        except UNDECODABLE as exc:
            self._reject(channel.name or "", describe(exc))
            return None

    def tell_missing(
        self, channel: Channel, position: Position, missing: int, *, slow_only: bool = False
    ) -> None:
        """Tell subscribers that messages of a shared history are missing, see ``Receiver``."""
        members = (*channel.cursors, *channel.task_subscribers)
        if channel.history is not None and channel.history.config.latest:
            for member in members:
                if member.is_catching_up(channel) and missing < 0:
                    recovery_of(member).cursors[channel] = position.offset + 1
            return
        slow = self._stop_catching_up(channel) if missing < 0 else ()
        notice = PositionNotice(channel, position, missing)
        self._delivery.notify(channel, notice, slow if slow_only else members)

    def tell_position(self, channel: Channel, position: Position) -> None:
        """Tell connections that recover where a channel is, in another epoch."""
        self._delivery.notify(channel, PositionNotice(channel, position, 0))

    def begin_latest(self, channel: Channel) -> None:
        """Give the newest message of a channel that keeps it to all of its subscribers."""
        for member in (*channel.cursors, *channel.task_subscribers):
            self.begin_with_latest(member, channel)
