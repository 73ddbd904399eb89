"""Inbox: the bounded queue of a task that is subscribed to channels.

What always holds: at most ``max_items`` packets wait, and ``max_bytes`` of them and one packet. What the
policy drops is counted, and nothing else is lost: a cancelled ``receive`` has taken nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, get_args

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.codecs.base import Packet
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["MAX_BYTES", "Policy", "Subscription", "SubscriptionStatistics", "check_policy"]

#: Bytes of packets that may wait in an inbox, as `Options.channel_max_bytes` is by default.
MAX_BYTES = 1024 * 1024
#: What happens to a slow one: ``"drop_oldest"``, ``"drop_newest"``, ``"disconnect"`` or ``"block"``.
Policy = Literal["drop_oldest", "drop_newest", "disconnect", "block"]


class SubscriptionStatistics(NamedTuple):
    """What went through an inbox.

    Attributes:
        waiting: packets that wait in it now.
        max_items: how many may.
        delivered: packets that were put in.
        dropped: packets that its policy dropped.
    """

    waiting: int
    max_items: int
    delivered: int
    dropped: int


def check_policy(policy: str, allowed: tuple[str, ...] = get_args(Policy)) -> None:
    """Refuse what is no policy.

    Raises:
        ValueError: it is none of ``allowed``.
    """
    if policy not in allowed:
        raise ValueError(f"policy is one of {', '.join(map(repr, allowed))}, not {policy!r}")


class Subscription(trio.abc.ReceiveChannel[Packet]):
    """What a subscribed task receives: ``async for packet in inbox``.

    Made by ``channels.subscribe`` of a handler and ``subscribe`` of a client, and closed at the end of
    their block. Any number of tasks may receive; each packet goes to one of them.
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
                raise TypeError(f"{name} is an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self.policy = policy
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.has_room = Notification()  # rings when a packet was taken, and at the end
        self._on_end = on_end
        self._queue: deque[tuple[Packet, int]] = deque()
        self._size = 0  # bytes of what waits
        self._packet_arrived = Notification()
        self._closed = False  # by its owner
        self._ended = False  # nothing more will come
        self._error: Callable[[], BaseException] | None = None
        self._delivered = 0
        self._dropped = 0

    @property
    def full(self) -> bool:
        """Whether the next packet would go by the policy."""
        return len(self._queue) >= self.max_items or self._size >= self.max_bytes

    @property
    def dropped(self) -> int:
        """How many packets the policy has dropped."""
        return self._dropped

    def statistics(self) -> SubscriptionStatistics:
        """Counters, as they are now."""
        return SubscriptionStatistics(len(self._queue), self.max_items, self._delivered, self._dropped)

    # -- what feeds it ------------------------------------------------------------------------------

    def put(self, packet: Packet, size: int) -> bool:
        """Take a packet of ``size`` bytes, or do what the policy says; whether the packet is in.

        With the policy ``"block"`` the caller has seen to it that there is room.
        """
        if self._ended:
            return False
        if self.full:
            if self.policy == "drop_oldest":
                while self.full:
                    self._dropped += 1
                    self._take()
                return self._add(packet, size)
            self._dropped += 1
            if self.policy == "disconnect":
                past = f"max_items ({self.max_items}) packets"
                if len(self._queue) < self.max_items:
                    past = f"max_bytes ({self.max_bytes}) of packets"
                self.end(
                    lambda: trio.BrokenResourceError(f"the inbox was closed: more than {past} waited in it")
                )
                return False
            return False
        return self._add(packet, size)

    def _add(self, packet: Packet, size: int) -> bool:
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
        """Nothing more will come: after what waits ``receive`` raises ``error()``, else EndOfChannel."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._on_end(self)
            self._packet_arrived.notify_all()
            self.has_room.notify_all()

    # -- what a subscriber sees ---------------------------------------------------------------------

    async def receive(self) -> Packet:
        """Wait for the next packet. A cancellation loses none.

        Raises:
            trio.EndOfChannel: whoever feeds the inbox has ended, and all packets were taken.
            trio.BrokenResourceError: the same, where the inbox was disconnected by its policy, or where the
                connection that it hangs on broke (a `ConnectionClosedError`).
            trio.ClosedResourceError: the inbox was closed here.
        """
        if self._queue and not self._closed:
            await checkpoint_if_cancelled()
        while not self._queue or self._closed:
            if self._closed or self._ended:
                await checkpoint()
                return self.receive_nowait()  # raises what there is to raise
            await self._packet_arrived.wait()
        return self.receive_nowait()

    def receive_nowait(self) -> Packet:
        """The next packet, if there is one. Raises as `receive`.

        Raises:
            trio.WouldBlock: there is none.
        """
        if self._closed:
            raise trio.ClosedResourceError("the inbox is closed; its block has ended")
        if self._queue:
            packet = self._take()
            self.has_room.notify_all()
            return packet
        if not self._ended:
            raise trio.WouldBlock
        if self._error is not None:
            raise self._error()
        raise trio.EndOfChannel

    def close(self) -> None:
        """Leave the channels and forget what waits."""
        if not self._closed:
            self._closed = True
            self.end()
            self._queue.clear()
            self._size = 0
            self._packet_arrived.notify_all()

    async def aclose(self) -> None:
        """The same as `close`, with a checkpoint. Cancelled, it is closed all the same."""
        self.close()
        await checkpoint()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
