"""Recovery: start subscribers at a position, and let tasks read from a history.

Subscribing and finding out where to begin are one synchronous step, so that no message is missed or received
twice between the two. Connections are written to by the fan-out task (see fanout.py); tasks read when they
receive.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trio_ws.channels.channel import ENTRY_OVERHEAD, PositionNotice, Recovery
from trio_ws.channels.names import is_glob
from trio_ws.channels.subscription import has_ended
from trio_ws.codecs.base import Gap, PacketSource, Position

if TYPE_CHECKING:
    from trio_ws.channels.channel import Channel, Subscriber, TaskSubscriber

__all__ = ["After", "catch_up_task", "check_starts", "recovery_of", "refill", "tell_gap"]

#: Where a subscription begins: a position, or one for each name.
After = Position | tuple[str, int] | Mapping[str, "Position | tuple[str, int]"] | None

#: Messages of a history that are put into a subscription at once.
_RECORDS = 64


def check_starts(names: list[str], after: After, last: int) -> dict[str, Position | None]:
    """Validate where a subscription is to begin, and give it by name; empty if it begins now.

    Raises:
        TypeError: ``after`` is not a position, or ``last`` not an int.
        ValueError: there are several names and one position, a position is of another name, a name is a glob,
            or ``last`` is negative.
    """
    if isinstance(last, bool) or not isinstance(last, int):
        raise TypeError(f"last must be an int, not {type(last).__name__}")
    if last < 0:
        raise ValueError(f"last must be 0 or more, not {last}")
    if after is None and not last:
        return {}
    globs = [name for name in names if is_glob(name)]
    if globs:
        raise ValueError(f"after and last are for names, not for globs such as {globs[0]!r}")
    starts: dict[str, Position | None] = dict.fromkeys(names)
    if isinstance(after, Mapping):
        unknown = [name for name in after if name not in starts]
        if unknown:
            raise ValueError(f"after has a position of {unknown[0]!r}, which is not subscribed to")
        starts.update((name, _position(one)) for name, one in after.items())
    elif after is not None:
        if len(names) != 1:
            raise ValueError("after must be a mapping of names to positions if there are several names")
        starts[names[0]] = _position(after)
    return starts


def _position(value: object) -> Position:
    if isinstance(value, tuple | list) and len(value) == 2:
        epoch, offset = value
        if isinstance(epoch, str) and type(offset) is int and offset >= 0:
            return Position(epoch, offset)
    raise TypeError(f"a position is an epoch and an offset, as packet.position has, not {value!r}")


def catch_up_task(member: TaskSubscriber, channel: Channel, offset: int) -> None:
    """Have a task read a channel from its history, from ``offset`` on, until it has caught up."""
    member.catch_up(channel, offset)
    member.subscription.refill_with(functools.partial(refill, member))


def recovery_of(subscriber: Subscriber) -> Recovery:
    """Return the `Recovery` of a subscriber. It is made at the first use."""
    if subscriber.recovery is None:
        subscriber.recovery = Recovery()
    return subscriber.recovery


def refill(member: TaskSubscriber) -> None:
    """Fill a task's subscription with messages of the channels that it is catching up with."""
    subscription, recovery = member.subscription, member.recovery
    while recovery is not None and recovery.cursors and not subscription.full:
        channel, offset = next(iter(recovery.cursors.items()))
        history = channel.history
        if history is None or has_ended(subscription):
            member.caught_up(channel)
            continue
        missing, records = history.read(offset, _RECORDS)
        offset += missing
        if missing and subscription.tells_gaps:
            position = Position(history.epoch, offset - 1)
            subscription.put_gap(
                Gap(PacketSource.CHANNEL, channel=channel.name, position=position, gap=missing)
            )
        for record in records:
            if subscription.full:
                break
            message = record.message
            assert message.position is not None
            if isinstance(message, PositionNotice):
                if message.missing:
                    tell_gap(channel, member, message.position, message.missing)
                offset = message.position.offset + 1
                continue
            channel.delivered += subscription.put(message.packet(), len(message.encoded) + ENTRY_OVERHEAD)
            offset = message.position.offset + 1
        if not records or offset > history.offset:
            member.caught_up(channel)
        else:
            del recovery.cursors[channel]
            recovery.cursors[channel] = offset  # after other channels


def tell_gap(channel: Channel, member: TaskSubscriber, position: Position | None, missing: int) -> None:
    """Tell a task that messages are missing after those in its queue."""
    if member.subscription.tells_gaps:
        member.subscription.put_gap(
            Gap(PacketSource.CHANNEL, channel=channel.name, position=position, gap=missing)
        )
