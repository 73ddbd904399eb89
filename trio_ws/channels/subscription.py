"""Subscription: the bounded queue of a task that is subscribed to channels.

Invariants: at most ``max_items`` packets wait, and at most ``max_bytes`` and one packet. Packets dropped by
the policy are counted, and no others are lost: a cancelled ``receive`` has taken nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, get_args

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.codecs.base import Gap, Packet
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["MAX_BYTES", "Policy", "Subscription", "SubscriptionStatistics", "check_policy", "gap_for"]

#: Default limit on the bytes of waiting packets, the same as `Options.channel_max_bytes`.
MAX_BYTES = 1024 * 1024
#: What to do with a slow subscriber: ``"drop_oldest"``, ``"drop_newest"``, ``"disconnect"`` or ``"block"``.
Policy = Literal["drop_oldest", "drop_newest", "disconnect", "block"]


#: Channels whose gaps are reported one by one, before and after the waiting packets.
_MAX_GAPS = 1024
_GAP_SIZE = 128


class SubscriptionStatistics(NamedTuple):
    """Counters of a subscription.

    Attributes:
        waiting: packets that wait now.
        max_items: packets that may wait.
        delivered: packets that were put into the queue.
        dropped: packets dropped by the policy.
    """

    waiting: int
    max_items: int
    delivered: int
    dropped: int


def check_policy(policy: str, allowed: tuple[str, ...] = get_args(Policy)) -> None:
    """Validate a policy.

    Raises:
        ValueError: ``policy`` is not one of ``allowed``.
    """
    if policy not in allowed:
        raise ValueError(f"policy must be one of {', '.join(map(repr, allowed))}, not {policy!r}")


def gap_for(packet: Packet) -> Gap:
    """Return the gap that replaces a packet that is not received."""
    if isinstance(packet, Gap):
        return packet
    return Gap(packet.source, channel=packet.channel, position=packet.position, gap=1)


def _merge_gaps(first: Gap, second: Gap) -> Gap:
    """Merge two consecutive gaps into one."""
    missing = -1
    if first.missing is not None and second.missing is not None and _same_epoch(first, second):
        missing = first.missing + second.missing
    return Gap(second.source, channel=second.channel, position=second.position, gap=missing)


def _same_epoch(first: Gap, second: Gap) -> bool:
    return first.epoch == second.epoch


class Subscription(trio.abc.ReceiveChannel[Packet]):
    """The packets of a subscribed task: ``async for packet in subscription``.

    Made by ``channels.subscribe`` of a handler and ``subscribe`` of a client, and closed at the end of their
    block. Any number of tasks may receive from it; each packet goes to one of them.
    """

    def __init__(
        self,
        policy: Policy,
        max_items: int,
        on_end: Callable[[Subscription], None],
        *,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        check_policy(policy)
        for name, value in (("max_items", max_items), ("max_bytes", max_bytes)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self.policy = policy
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.has_room = Notification()  # notified when a packet is taken, and at the end
        self._on_end = on_end
        self._queue: deque[tuple[Packet, int]] = deque()
        self._size = 0  # bytes of the waiting packets
        self._packet_arrived = Notification()
        self._closed = False  # by its owner
        self._ended = False  # no more packets will arrive
        self._error: Callable[[], BaseException] | None = None
        self._delivered = 0
        self._dropped = 0
        #: Whether the task receives a `Gap` where packets are missing.
        self.tells_gaps = False
        #: Queues more packets, if a history has more.
        self.refill: Callable[[], None] | None = None
        # Gaps by channel: before all that waits, and after it.
        self._gaps_before: dict[str | None, Gap] = {}
        self._gaps_after: dict[str | None, Gap] = {}

    @property
    def full(self) -> bool:
        """Whether the policy decides about the next packet."""
        return len(self._queue) >= self.max_items or self._size >= self.max_bytes

    @property
    def dropped(self) -> int:
        """The number of packets dropped by the policy."""
        return self._dropped

    def statistics(self) -> SubscriptionStatistics:
        """The current counters."""
        return SubscriptionStatistics(len(self._queue), self.max_items, self._delivered, self._dropped)

    # -- the producing side -------------------------------------------------------------------------

    def put(self, packet: Packet, size: int) -> bool:
        """Queue a packet of ``size`` bytes, or apply the policy. Return whether the packet was queued.

        With the policy ``"block"`` the caller has made sure that there is room.
        """
        if self._ended:
            return False
        if self.full:
            if self.policy == "drop_oldest":
                while self.full:
                    oldest = self._take()
                    self._dropped += not isinstance(oldest, Gap)
                    if self.tells_gaps:
                        self._add_gap(self._gaps_before, gap_for(oldest))
                return self._add(packet, size)
            self._dropped += 1
            if self.tells_gaps and self.policy != "disconnect":
                self._add_gap(self._gaps_after, gap_for(packet))
            if self.policy == "disconnect":
                past = f"max_items ({self.max_items}) packets"
                if len(self._queue) < self.max_items:
                    past = f"max_bytes ({self.max_bytes}) of packets"
                self.end(
                    lambda: trio.BrokenResourceError(f"the subscription was closed: more than {past} waited")
                )
                return False
            return False
        return self._add(packet, size)

    def put_gap(self, gap: Gap) -> None:
        """Report that packets are missing after those that wait now. The gap takes no room in the queue."""
        if not self._ended:
            self._add_gap(self._gaps_after, gap)
            self._packet_arrived.notify_all()

    def refill_with(self, refill: Callable[[], None]) -> None:
        """Call a function that queues more packets from a history whenever the queue is empty."""
        self.refill = refill
        self._packet_arrived.notify_all()

    def _add_gap(self, gaps: dict[str | None, Gap], gap: Gap) -> None:
        channel = gap.channel
        if channel not in gaps and len(gaps) >= _MAX_GAPS:
            gap = Gap(gap.source, gap=-1)  # of channels without number: one for all of them
            channel = None
        known = gaps.get(channel)
        gaps[channel] = gap if known is None else _merge_gaps(known, gap)

    def _take_gap(self, gaps: dict[str | None, Gap]) -> Gap:
        return gaps.pop(next(iter(gaps)))

    def _add(self, packet: Packet, size: int) -> bool:
        while self._gaps_after:
            self._queue.append((self._take_gap(self._gaps_after), _GAP_SIZE))
            self._size += _GAP_SIZE
        self._queue.append((packet, size))
        self._size += size
        self._delivered += 1
        self._packet_arrived.notify_all()
        return True

    def _take(self) -> Packet:
        packet, size = self._queue.popleft()
        self._size -= size
        return packet

    def end(self, error: Callable[[], BaseException] | None = None) -> None:
        """Accept no more. Once the queue is empty, ``receive`` raises ``error()``, or EndOfChannel."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._on_end(self)
            self._packet_arrived.notify_all()
            self.has_room.notify_all()

    # -- the consuming side -------------------------------------------------------------------------

    async def receive(self) -> Packet:
        """Wait for the next packet. A cancellation loses none.

        Raises:
            trio.EndOfChannel: the source has ended, and all packets were received.
            trio.BrokenResourceError: likewise, if the policy closed the subscription, or if its connection
                broke (a `ConnectionClosedError`).
            trio.ClosedResourceError: the subscription was closed locally.
        """
        if self.refill is not None and not self._queue and not self._closed:
            self.refill()
        if self._has_waiting and not self._closed:
            await checkpoint_if_cancelled()
        while not self._has_waiting or self._closed:
            if self._closed or self._ended:
                await checkpoint()
                return self.receive_nowait()  # raises the appropriate exception
            await self._packet_arrived.wait()
            if self.refill is not None and not self._queue and not self._closed:
                self.refill()
        return self.receive_nowait()

    @property
    def _has_waiting(self) -> bool:
        """Whether a packet or a gap is waiting."""
        return bool(self._queue or self._gaps_before or self._gaps_after)

    def receive_nowait(self) -> Packet:
        """Return the next packet without waiting. Raises as `receive` does.

        Raises:
            trio.WouldBlock: no packet is waiting.
        """
        if self._closed:
            raise trio.ClosedResourceError("the subscription is closed; its block has ended")
        if self._gaps_before:
            return self._take_gap(self._gaps_before)
        if not self._queue and self.refill is not None:
            self.refill()
        if self._queue:
            packet = self._take()
            self.has_room.notify_all()
            return packet
        if self._gaps_after:
            return self._take_gap(self._gaps_after)
        if not self._ended:
            raise trio.WouldBlock
        if self._error is not None:
            raise self._error()
        raise trio.EndOfChannel

    def close(self) -> None:
        """Leave the channels and drop waiting packets."""
        if not self._closed:
            self._closed = True
            self.end()
            self._queue.clear()
            self._size = 0
            self._gaps_before.clear()
            self._gaps_after.clear()
            self.refill = None
            self._packet_arrived.notify_all()

    async def aclose(self) -> None:
        """Like `close`, with a checkpoint. It closes even if cancelled."""
        self.close()
        await checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# -- for the other parts of the package --------------------------------------------------------------------


def has_ended(subscription: Subscription) -> bool:
    """Whether no more packets will arrive."""
    return subscription._ended


def error_of(subscription: Subscription) -> BaseException | None:
    """Return the error with which a subscription has ended, if any."""
    return subscription._error() if subscription._error is not None else None
