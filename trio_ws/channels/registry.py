"""ChannelRegistry: the subscribers of channels, and the channels of subscribers.

Invariants:

- The cost of removing a subscriber depends only on what it subscribed to.
- A channel exists while it has a subscriber. Channels that exist only through globs are bounded in number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.channels.channel import Channel, TaskSubscriber
from trio_ws.channels.names import Globs, is_glob
from trio_ws.channels.recovery import tell_gap
from trio_ws.channels.statistics import ChannelStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.channels.channel import Subscriber
    from trio_ws.channels.fanout import FanoutWriter
    from trio_ws.channels.history import ChannelHistories
    from trio_ws.channels.names import Glob
    from trio_ws.channels.subscription import Policy

__all__ = ["ChannelRegistry"]

#: Channels without a direct subscriber that are kept, because a glob matched their name.
_DERIVED_CHANNELS = 1024
#: Published names to remember as matched by no glob.
_UNWANTED_NAMES = 1024


class ChannelRegistry:
    """The channels of a hub that have subscribers. See the module docstring.

    Args:
        fanout: writes to their connections.
        histories: those of the hub.
        demand_changed: called when a name or a glob got its first subscriber, or lost its last.
        removed: called when a channel has no subscribers any more.

    Attributes:
        channels: by name.
        derived: those that have subscribers through globs only, by name, oldest first.
        globs: the subscribed globs.
        past_delivered: messages that channels had delivered before they were removed.
        past_dropped: messages that policies had dropped in such channels.
    """

    def __init__(
        self,
        fanout: FanoutWriter,
        histories: ChannelHistories | None,
        demand_changed: Callable[[str, bool], None],
        removed: Callable[[Channel], None],
    ) -> None:
        self._fanout = fanout
        self._histories = histories
        self._demand_changed = demand_changed
        self._removed = removed
        self.channels: dict[str, Channel] = {}
        self.derived: dict[str, Channel] = {}
        self.globs = Globs()
        self._by_glob: dict[str, dict[Subscriber, None]] = {}
        self._unwanted: dict[str, None] = {}  # published names that match no glob
        self.past_delivered = 0
        self.past_dropped = 0

    def find(self, name: str) -> Channel | None:
        """Return the channel of a name, or None if it has no subscribers."""
        channel = self.channels.get(name)
        if channel is None and self._by_glob and name not in self._unwanted:
            channel = self._make(name)
            if channel.empty:
                self._remove_if_unused(channel)
                if len(self._unwanted) >= _UNWANTED_NAMES:
                    del self._unwanted[next(iter(self._unwanted))]
                self._unwanted[name] = None
                return None
        return channel

    def may_follow(self, name: str) -> bool:
        """Whether a channel exists, or can be added for a glob that matches it without removing another."""
        return name in self.channels or (
            len(self.derived) < _DERIVED_CHANNELS and any(True for _ in self.globs.matching(name))
        )

    @property
    def subscribed(self) -> list[str]:
        """The subscribed globs and names."""
        return [*self.globs, *(name for name, channel in self.channels.items() if channel.direct_subscribers)]

    # -- subscribing --------------------------------------------------------------------------------

    def add(self, subscriber: Subscriber, name: str, policy: Policy) -> list[Channel]:
        """Subscribe to a name or a glob that was validated before. Return the channels that match it."""
        known = name in subscriber.held
        subscriber.hold(name, policy)
        subscriber.policies_changed()
        if known:
            return []
        if is_glob(name):
            return self._add_glob(subscriber, name)
        channel = self.channels.get(name) or self._make(name)
        if not channel.direct_subscribers:
            self.derived.pop(name, None)
            self._demand_changed(name, True)
        channel.direct_subscribers += 1
        subscriber.join(channel)
        return [channel]

    def _add_glob(self, subscriber: Subscriber, name: str) -> list[Channel]:
        if name not in self._by_glob:
            self._by_glob[name] = {}
            self._unwanted.clear()
            self._demand_changed(name, True)
        self._by_glob[name][subscriber] = None
        glob = self.globs.add(name)
        if subscriber.globs is None:
            subscriber.globs = {}
        subscriber.globs[name] = glob
        made = self._make_latest(glob)
        joined = list(made.values())
        for known_name, channel in self.channels.items():
            if known_name not in made and glob.matches(known_name):
                subscriber.join(channel)
                joined.append(channel)
        return joined

    def _make_latest(self, glob: Glob) -> dict[str, Channel]:
        """Make the channels without subscribers whose newest message a new glob is to get."""
        made: dict[str, Channel] = {}
        if self._histories is not None:
            for name in self._histories.latest(glob.matches):
                if name not in self.channels and len(made) < _DERIVED_CHANNELS:
                    made[name] = self._make(name)
        return made

    def _make(self, name: str) -> Channel:
        history = self._histories.find(name) if self._histories is not None else None
        channel = self.channels[name] = history.channel if history is not None else Channel(name)
        for glob in self.globs.matching(name):
            for subscriber in self._by_glob[glob.text]:
                subscriber.join(channel)
        if not channel.empty:
            self._note_derived(channel)
        return channel

    # -- unsubscribing ------------------------------------------------------------------------------

    def remove(self, subscriber: Subscriber, name: str) -> None:
        """Unsubscribe from a name or a glob that is held."""
        if is_glob(name):
            matches = self.globs[name].matches
            left = [one for one in subscriber.channels if one.name is not None and matches(one.name)]
        else:
            left = [self.channels[name]]
        self._release(subscriber, name)
        for channel in left:
            subscriber.release(channel)
            self._remove_if_unused(channel)

    def leave(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from all channels at once."""
        left = list(subscriber.channels)
        for channel in left:
            subscriber.leave(channel)
        for name in list(subscriber.held):
            self._release(subscriber, name)
        for channel in left:
            self._remove_if_unused(channel)

    def _release(self, subscriber: Subscriber, name: str) -> None:
        subscriber.drop(name)
        subscriber.policies_changed()
        if not is_glob(name):
            channel = self.channels[name]
            channel.direct_subscribers -= 1
            if not channel.direct_subscribers:
                self._demand_changed(name, False)
                if not channel.empty:
                    self._note_derived(channel)
            return
        if subscriber.globs is not None:
            del subscriber.globs[name]
        del self._by_glob[name][subscriber]
        if not self._by_glob[name]:
            del self._by_glob[name]
            self.globs.discard(name)
            self._demand_changed(name, False)

    def _note_derived(self, channel: Channel) -> None:
        """Mark a channel without direct subscribers as one that may be dropped when there are too many."""
        assert channel.name is not None
        self.derived[channel.name] = channel
        if len(self.derived) > _DERIVED_CHANNELS:
            oldest = next(iter(self.derived.values()))
            self._fanout.flush_now(oldest)
            for subscriber in (*oldest.cursors, *oldest.task_subscribers):
                if isinstance(subscriber, TaskSubscriber) and subscriber.is_catching_up(oldest):
                    tell_gap(oldest, subscriber, None, -1)
                subscriber.leave(oldest)
            self._remove_if_unused(oldest)

    def _remove_if_unused(self, channel: Channel) -> None:
        if channel.empty and channel.name is not None and self.channels.get(channel.name) is channel:
            del self.channels[channel.name]
            self.derived.pop(channel.name, None)
            self._fanout.forget(channel)
            self.past_delivered += channel.delivered
            self.past_dropped += channel.dropped
            channel.delivered = channel.dropped = 0
            self._removed(channel)

    def statistics(self) -> dict[str, ChannelStatistics]:
        """The counters of each channel, by name."""
        return {
            name: ChannelStatistics(
                len(channel.cursors) + len(channel.task_subscribers),
                channel.delivered,
                channel.dropped,
                len(channel.log),
            )
            for name, channel in self.channels.items()
        }
