"""Connections that expire: one task closes them in time, whatever their number.

Invariants: a connection is closed at its ``expires_at``, as it is then. There is no task while none expires.
Those that were closed before are forgotten when they are more than those that are open.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import trio

from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from trio_ws.rpc.task_pool import PooledTask, TaskPool

__all__ = ["check_expiry", "watch_expiry"]

#: RFC 6455 section 7.4.1: the connection is against a policy, which may be its end.
_CODE, _REASON = 1008, "expired"
#: Connections that are looked through for closed ones at least.
_SWEEP = 64


def check_expiry(value: Any) -> float | None:
    """Return a time at which a connection expires, or None for never.

    Raises:
        TypeError: it is neither a number nor None.
        ValueError: it is not a number that can be compared.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expires_at must be a time of trio's clock or None, not {type(value).__name__}")
    if math.isnan(value):
        raise ValueError("expires_at must not be NaN")
    return None if value == math.inf else float(value)


class Expiring(Protocol):
    """A `ClientConnection`."""

    _session: Any
    _ws: Any

    @property
    def expires_at(self) -> float | None:
        """When it is closed."""


class _ExpiringConnections:
    """The connections of one server that expire."""

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._heap: list[tuple[float, int, Expiring]] = []
        self._count = 0
        self._sweep_at = _SWEEP
        self._changed = Notification()
        self._running = False

    def add(self, connection: Expiring, end: float) -> None:
        self._count += 1
        heapq.heappush(self._heap, (end, self._count, connection))
        if len(self._heap) > self._sweep_at:
            self._heap = [entry for entry in self._heap if _is_due_at(entry[2], entry[0])]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SWEEP
        self._changed.notify_all()
        if not self._running:
            self._running = True
            self._pool.start(self._run)

    async def _run(self, worker: PooledTask) -> None:
        try:
            while self._heap:
                end, _, connection = self._heap[0]
                if not _is_due_at(connection, end):
                    heapq.heappop(self._heap)
                elif end > trio.current_time():
                    del connection
                    with trio.move_on_at(end):
                        await self._changed.wait()
                else:
                    heapq.heappop(self._heap)
                    connection._session.close_soon(_CODE, _REASON)
        finally:
            self._running = False


def _is_due_at(connection: Expiring, end: float) -> bool:
    return connection.expires_at == end and not connection._ws.closed


_BY_POOL: WeakKeyDictionary[TaskPool, _ExpiringConnections] = WeakKeyDictionary()


def watch_expiry(connection: Expiring) -> None:
    """Close a connection, which has a session, when it expires."""
    session, end = connection._session, connection.expires_at
    if session is not None and end is not None:
        expiring = _BY_POOL.get(session.pool)
        if expiring is None:
            expiring = _BY_POOL[session.pool] = _ExpiringConnections(session.pool)
        expiring.add(connection, end)
