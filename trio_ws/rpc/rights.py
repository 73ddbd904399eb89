"""Subscriptions that expire: after a time, the handler is asked whether a client may stay subscribed.

Invariants:

- A client that is refused then is unsubscribed and notified, and so is one for which asking has failed.
- There is a task only while a subscription may expire.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.codecs.base import UNSUBSCRIBED
from trio_ws.logs import logger_for
from trio_ws.wall import judged, log_failure
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.rpc.client_connection import ClientConnection
    from trio_ws.rpc.task_pool import PooledTask, TaskPool

__all__ = ["SubscriptionRights"]

logger = logger_for("trio_ws.handler")


#: Entries of the heap up to which it is not compacted.
_SHORTEST = 64


class SubscriptionRights:
    """The expiring subscriptions of a handler's clients.

    Args:
        ask: asks the handler whether a client may stay subscribed. Returns False, True, or the number of
            seconds until the next time.
    """

    def __init__(self, ask: Callable[[ClientConnection[Any], str], Awaitable[bool | float]]) -> None:
        self._ask = ask
        self._ends: dict[tuple[str, str], float] = {}  # by uid and name
        self._heap: list[tuple[float, int, ClientConnection[Any], str]] = []
        self._compact_at = _SHORTEST
        self._count = 0
        self._changed = Notification()
        self._running = False

    def add(
        self, connection: ClientConnection[Any], name: str, allowed: bool | float, pool: TaskPool
    ) -> None:
        """Allow a subscription for this many seconds from now, or with True for as long as it lasts."""
        key = connection.uid, name
        if isinstance(allowed, bool):
            self._ends.pop(key, None)
            return
        end = self._ends[key] = trio.current_time() + allowed
        self._count += 1
        heapq.heappush(self._heap, (end, self._count, connection, name))
        if len(self._heap) > self._compact_at:
            self._compact()
        self._changed.notify_all()
        if not self._running:
            self._running = True
            pool.start(self._run)

    def _compact(self) -> None:
        """Drop rights that were replaced, and those of closed connections.

        Their times may be far away, so a client that subscribes again and again would fill the heap.
        """
        current = [
            entry
            for entry in self._heap
            if entry[2]._member is not None and self._ends.get((entry[2].uid, entry[3])) == entry[0]
        ]
        heapq.heapify(current)
        self._heap[:] = current
        self._ends = {(connection.uid, name): end for end, _, connection, name in current}
        self._compact_at = max(_SHORTEST, 2 * len(current))

    async def _run(self, worker: PooledTask) -> None:
        try:
            while self._heap:
                self._forget_closed()
                if self._heap and self._heap[0][0] > trio.current_time():
                    with trio.move_on_at(self._heap[0][0]):
                        await self._changed.wait()
                    continue
                if self._heap:
                    end, _, connection, name = heapq.heappop(self._heap)
                    if self._ends.get((connection.uid, name)) == end:
                        del self._ends[connection.uid, name]
                        await self._ask_again(connection, name)
        finally:
            self._running = False

    def _forget_closed(self) -> None:
        while self._heap and self._heap[0][2]._member is None:
            _, _, connection, name = heapq.heappop(self._heap)
            self._ends.pop((connection.uid, name), None)

    async def _ask_again(self, connection: ClientConnection[Any], name: str) -> None:
        member, session = connection._member, connection._session
        if member is None or session is None or name not in member.held:
            return
        allowed: bool | float = False
        try:
            with trio.move_on_after(connection._ws._options.close_timeout):
                allowed = await self._ask(connection, name)
        except BaseException as exc:  # noqa: BLE001 - judged there
            log_failure(
                logger,
                "may_subscribe failed, which counts as no",
                exc=judged(exc),
                extra=log_extra(connection._ws),
            )
        member = connection._member  # the client may have left meanwhile
        if member is None or name not in member.held:
            return
        if allowed:
            self.add(connection, name, allowed, session.pool)
            return
        connection.unsubscribe(name)
        transport = session.transport
        if transport.supports_extensions and not transport.over:
            transport.post(transport.codec.request("", UNSUBSCRIBED, [name]), cork=True)
