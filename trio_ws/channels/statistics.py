"""Counters of channels and hubs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ChannelStatistics", "HubStatistics"]


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
