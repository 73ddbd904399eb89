"""Timetable: the times at which entries are due, and one task that waits for the earliest.

Invariants:

- There is a task only while something may become due.
- An entry that was replaced or discarded, or that is gone, is ignored when it is due. At most as many of
  these are kept as there are others, or a few.
- The entries of a pool are forgotten when it ends.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import trio

from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from trio_ws.rpc.task_pool import PooledTask, TaskPool

__all__ = ["Timetable"]

ItemT = TypeVar("ItemT")
#: When it is due, a sequence number, the key and the item.
Entry: TypeAlias = "tuple[float, int, Hashable, ItemT]"

#: Entries up to which a timetable is not compacted.
_SHORTEST = 64


class Timetable(Generic[ItemT]):
    """Items that are due at a time, for each `TaskPool` by a key.

    Args:
        on_due: called with an item that is due, in a pooled task. The other items of the pool wait for it.
        is_gone: whether an item has ended, so that it is ignored.
    """

    def __init__(self, on_due: Callable[[ItemT], Awaitable[None]], is_gone: Callable[[ItemT], bool]) -> None:
        self._on_due = on_due
        self._is_gone = is_gone
        self._by_pool: WeakKeyDictionary[TaskPool, _Waiting[ItemT]] = WeakKeyDictionary()

    def put(self, pool: TaskPool, key: Hashable, item: ItemT, due: float) -> None:
        """Call ``on_due`` with an item at this time of trio's clock. It replaces the item of the same key."""
        waiting = self._by_pool.get(pool)
        if waiting is None:
            waiting = self._by_pool[pool] = _Waiting(self._on_due, self._is_gone)
        waiting.put(key, item, due)
        if not waiting.running:
            waiting.running = True
            pool.start(waiting.run)

    def discard(self, pool: TaskPool, key: Hashable) -> None:
        """Drop the item of a key."""
        waiting = self._by_pool.get(pool)
        if waiting is not None:
            waiting.entries.pop(key, None)

    @property
    def running(self) -> bool:
        """Whether there is a task."""
        return any(waiting.running for waiting in self._by_pool.values())

    def __len__(self) -> int:
        return sum(len(waiting.heap) for waiting in self._by_pool.values())


class _Waiting(Generic[ItemT]):
    """The items of one pool. It does not refer to the pool, which has to be collected.

    Attributes:
        entries: the number of the entry of each key.
        heap: all entries, with those that are not current any more.
    """

    def __init__(self, on_due: Callable[[ItemT], Awaitable[None]], is_gone: Callable[[ItemT], bool]) -> None:
        self._on_due = on_due
        self._is_gone = is_gone
        self.entries: dict[Hashable, int] = {}
        self.heap: list[Entry[ItemT]] = []
        self._count = 0
        self._compact_at = _SHORTEST
        self._changed = Notification()
        self.running = False

    def put(self, key: Hashable, item: ItemT, due: float) -> None:
        self._count += 1
        self.entries[key] = self._count
        heapq.heappush(self.heap, (due, self._count, key, item))
        if len(self.heap) > self._compact_at:
            self._compact()
        self._changed.notify_all()

    def _compact(self) -> None:
        """Drop outdated entries. Their times may be far away, so a peer could fill the heap with them."""
        self.heap = [entry for entry in self.heap if self._is_current(entry)]
        heapq.heapify(self.heap)
        self.entries = {key: number for _, number, key, _ in self.heap}
        self._compact_at = max(_SHORTEST, 2 * len(self.heap))

    def _is_current(self, entry: Entry[ItemT]) -> bool:
        _, number, key, item = entry
        return self.entries.get(key) == number and not self._is_gone(item)

    async def run(self, _: PooledTask) -> None:
        try:
            while self.heap:
                if not self._is_current(self.heap[0]):
                    self._pop()
                elif self.heap[0][0] > trio.current_time():
                    with trio.move_on_at(self.heap[0][0]):
                        await self._changed.wait()
                else:
                    await self._on_due(self._pop())
        finally:
            self.running = False
            self.heap.clear()
            self.entries.clear()

    def _pop(self) -> ItemT:
        _, number, key, item = heapq.heappop(self.heap)
        if self.entries.get(key) == number:
            del self.entries[key]
        return item
