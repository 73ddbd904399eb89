"""Notifications: the JSON-RPC notifications that a server pushes, or the events of another dialect.

Invariants:

- A stream holds at most ``max_items`` notifications, and at most ``max_bytes`` plus one notification. Its
  policy is applied to further ones, and it counts those that are dropped.
- A stream continues over all connections of its client, and ends with the last one.
- While there is a stream, unread packets never stop the reading (see `OutgoingCalls.read_demand`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

import trio

from trio_ws.channels.subscription import Subscription, SubscriptionStatistics
from trio_ws.codecs.base import Packet, PacketSource
from trio_ws.rpc.streams import convert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from trio_ws._types import Value
    from trio_ws.channels.subscription import Policy
    from trio_ws.codecs.base import Request
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.transport import ReadDemand

__all__ = ["NotificationStream", "Notifications", "RPCNotification"]

T = TypeVar("T")


class RPCNotification(NamedTuple):
    """A notification of any method.

    Attributes:
        method: the name of the method.
        params: the parameters: a dict if they are named, otherwise a list.
    """

    method: str
    params: Value


class NotificationStream(trio.abc.ReceiveChannel[T], Generic[T]):
    """The notifications that a client receives: ``async for params in stream``.

    Made by `WebSocketClient.notifications`, and closed at the end of its block. Any number of tasks may
    receive from it; each notification goes to one of them.
    """

    def __init__(
        self, queue: Subscription, names: tuple[str, ...] | None, items: object, *, pairs: bool
    ) -> None:
        self._queue = queue
        self.names = names
        self._items = items
        self._pairs = pairs

    async def receive(self) -> T:
        """Wait for the next notification. A cancellation loses none.

        Raises:
            PacketValidationError: the parameters are not of type ``items``. The stream goes on.
            trio.BrokenResourceError: the policy closed the stream, or the connection broke and no other
                follows (a `ConnectionClosedError`, or a `ConnectionFailedError`).
            trio.EndOfChannel: the last connection was closed cleanly.
            trio.ClosedResourceError: the stream was closed here.
        """
        return self._item(await self._queue.receive())

    def receive_nowait(self) -> T:
        """Return the next notification without waiting. Raises as `receive`, and `trio.WouldBlock`."""
        return self._item(self._queue.receive_nowait())

    def _item(self, packet: Packet) -> T:
        params = convert(packet.data, self._items, f"the parameters of {packet.channel}")
        item: Value = RPCNotification(str(packet.channel), params) if self._pairs else params
        return item  # type: ignore[no-any-return]

    @property
    def dropped(self) -> int:
        """The number of notifications dropped by the policy."""
        return self._queue.dropped

    def statistics(self) -> SubscriptionStatistics:
        """The current counters."""
        return self._queue.statistics()

    def close(self) -> None:
        """End the stream, and drop notifications that wait."""
        self._queue.close()

    async def aclose(self) -> None:
        """Like `close`, with a checkpoint. It closes even if cancelled."""
        await self._queue.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Notifications:
    """All notification streams of a client, over all of its connections."""

    def __init__(self) -> None:
        self._read_demand: ReadDemand | None = None  # of the last connection
        self._queues: dict[str | None, list[Subscription]] = {}
        self._names: dict[Subscription, tuple[str | None, ...]] = {}

    def open(
        self, names: str | Iterable[str] | None, items: object, policy: Policy, max_items: int, max_bytes: int
    ) -> NotificationStream[Value]:
        """Return a new stream."""
        wanted = (
            (names,) if isinstance(names, str) else None if names is None else tuple(dict.fromkeys(names))
        )
        for name in wanted or ():
            if not isinstance(name, str):
                raise TypeError(f"the name of a notification must be a str, not {type(name).__name__}")
        queue = Subscription(policy, max_items, self._remove, max_bytes=max_bytes)
        stream: NotificationStream[Value] = NotificationStream(
            queue, wanted, items, pairs=not isinstance(names, str)
        )
        if not self._names and self._read_demand is not None:
            self._read_demand.__enter__()
        self._names[queue] = keys = (None,) if wanted is None else wanted
        for key in keys:
            self._queues.setdefault(key, []).append(queue)
        return stream

    def attach(self, session: RPCSession) -> None:
        """Receive from a new connection, before anything was read from it."""
        session.on_notification = self._deliver
        self._read_demand = session.transport.read_demand
        if self._names:
            self._read_demand.__enter__()

    def end(self, error: Callable[[], BaseException] | None) -> None:
        """End all streams, because no other connection will follow."""
        for queue in list(self._names):
            queue.end(error)

    def _remove(self, queue: Subscription) -> None:
        """Remove a stream that has ended."""
        for key in self._names.pop(queue):
            left = self._queues[key]
            left.remove(queue)
            if not left:
                del self._queues[key]
        if not self._names and self._read_demand is not None:
            self._read_demand.__exit__(None, None, None)

    def _deliver(self, request: Request, size: int) -> bool:
        """Put a notification into the streams that want it. Return whether there are any."""
        queues = self._queues
        if not queues:
            return False
        method = request.method
        found = [*queues.get(method, ()), *queues.get(None, ())]
        if found:
            packet = Packet(PacketSource.CUSTOM, request.args or request.kwargs, method)
            for queue in found:
                queue.put(packet, size)
        return bool(found)
