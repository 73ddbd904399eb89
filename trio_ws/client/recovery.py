"""Progress: how far a client's subscription has come in one channel, over all of its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.codecs.base import Gap, PacketSource
from trio_ws.codecs.recovery import RecoverFrom

if TYPE_CHECKING:
    from trio_ws.channels.subscription import Subscription
    from trio_ws.codecs.base import Packet, Position
    from trio_ws.codecs.recovery import Recovered

__all__ = ["Progress"]


class Progress:
    """The position of one subscription in one channel.

    Attributes:
        subscription: the subscription.
        channel: the name of the channel.
        recovers: whether it recovers messages after a lost connection.
        position: the position of the last packet, or the one to start after; None if that is unknown.
        last: how many of the newest messages to start with.
        waiting: whether it waits for the server's response to `start`. Packets that arrive before that are
            ignored, because the server sends them again.
    """

    __slots__ = (
        "_after",
        "_begun",
        "_lost",
        "channel",
        "last",
        "position",
        "recovers",
        "subscription",
        "waiting",
    )

    def __init__(
        self, subscription: Subscription, channel: str, *, recovers: bool, after: Position | None, last: int
    ) -> None:
        self.subscription = subscription
        self.channel = channel
        self.recovers = recovers
        self.position = after
        self.last = last
        self.waiting = recovers or after is not None or last > 0
        self._after = after is not None
        self._begun = False
        self._lost = False

    @property
    def start(self) -> RecoverFrom:
        """The position to ask the server for."""
        return RecoverFrom(self.position, self.last if self.position is None else 0)

    def connection_lost(self) -> None:
        """Record that messages may be missed from now on."""
        self._lost = self._begun
        self.waiting = self.recovers or self.last > 0

    def begin(self, answer: Recovered) -> None:
        """Continue from the position in the server's response, and report messages that are missing."""
        self.waiting = False
        before, position = self.position, answer.position
        if position is None:
            if self._lost or self._after:
                self._report_gap(None, -1)
            self.position = None
        elif before is None:
            if self._lost and not answer.latest:
                self._report_gap(position, -1)
            self.position = position
        elif before != position and not (answer.latest and self._has(position)):
            if not answer.latest:
                trimmed = before.epoch == position.epoch and position.offset > before.offset
                self._report_gap(position, position.offset - before.offset if trimmed else -1)
            self.position = position
        self._begun, self._lost, self._after, self.last = True, False, False, 0

    def takes(self, packet: Packet) -> bool:
        """Return whether a packet is new, and record its position."""
        if self.waiting:
            return False
        position = packet.position
        if position is not None:
            if self._has(position):
                return False
            self.position = position
        return True

    def gap(self, packet: Packet) -> None:
        """Handle a gap from the server: missing messages, or with 0 one that is not for this client."""
        before, position, missing = self.position, packet.position, packet.gap
        if self.waiting or missing is None or (position is not None and self._has(position)):
            return
        if missing:
            if before is not None and position is not None and before.epoch == position.epoch:
                missing = min(missing, position.offset - before.offset)
            self._report_gap(position, missing)
        self.position = position

    def _has(self, position: Position) -> bool:
        before = self.position
        return before is not None and before.epoch == position.epoch and position.offset <= before.offset

    def _report_gap(self, position: Position | None, missing: int) -> None:
        if self.subscription.tells_gaps:
            gap = Gap(PacketSource.CHANNEL, channel=self.channel, position=position, gap=missing)
            self.subscription.put_gap(gap)
