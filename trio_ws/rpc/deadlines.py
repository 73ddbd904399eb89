"""Deadlines of calls that are under way.

A deadline belongs to the caller's cancel scope. The caller may move it while the call is under way, and trio
does not report that. So only the caller decides: its cancellation sends the abort, and while it waits, it
reports to the other side in time that the call may continue. The time that it sent last is a lease, which
ends the method if the caller has vanished.

Invariants:

- A call that its caller still waits for is renewed before its lease ends: `MARGIN` seconds before, or after a
  quarter of a shorter lease. A renewal may take that much longer than the one before, and either program may
  be blocked for as long.
- A call has at most one renewal that waits to be written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ws.rpc.task_pool import PooledTask, TaskPool
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["Lease", "Leased", "Renewals", "Timer", "let_own_deadline_speak"]

#: Seconds before the end of a lease at which it is renewed.
MARGIN = 2.0
#: Seconds of a renewed lease: the least and the most. A short one doubles.
SHORTEST = 1.0
LONGEST = 2 * MARGIN
#: Renewals that are due within this number of seconds are sent together.
TOGETHER = 0.05
#: Seconds after which the task checks whether there is still anything to renew.
MAX_SLEEP = 20.0


async def let_own_deadline_speak() -> None:
    """Raise Cancelled if the deadline of this task has passed too, even if trio has not noticed it yet."""
    if trio.current_effective_deadline() <= trio.current_time():
        await trio.lowlevel.checkpoint()


class Lease:
    """The time that the other side was given for a call.

    Attributes:
        seconds: the time that was sent last.
        renew_at: the clock's time at which it is renewed.
        sent_offset: of the last renewal; see `ResponseSink`.
    """

    __slots__ = ("renew_at", "seconds", "sent_offset")

    def __init__(self, seconds: float, now: float) -> None:
        self.sent_offset = 0
        self.granted(seconds, now)

    def granted(self, seconds: float, now: float) -> None:
        """Record that the other side now has this number of seconds."""
        self.seconds = seconds
        self.renew_at = now + max(seconds / 4, seconds - MARGIN)


class Timer(ABC):
    """Calls `on_due` at scheduled times, in a task that runs only while a time is scheduled.

    Args:
        pool: provides the task.

    Attributes:
        due: the clock's time of the next `on_due`.
    """

    __slots__ = ("_pool", "_scope", "due")

    def __init__(self, pool: TaskPool) -> None:
        self._pool = pool
        self._scope: trio.CancelScope | None = None  # around the task's sleep
        self.due = math.inf

    def schedule(self, due: float) -> None:
        """Call `on_due` at this time of the clock, or earlier."""
        if due >= self.due:
            return
        self.due = due
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=due)
            self._pool.start(self._run)
        else:
            self._scope.deadline = due

    def end(self) -> None:
        """Stop, because the connection is over."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, _: PooledTask) -> None:
        try:
            while self._scope is not None:
                with self._scope:
                    await trio.sleep_forever()
                now = trio.current_time()
                following = self.on_due(now)
                if following == math.inf:
                    break
                self.due = max(now, min(following, now + MAX_SLEEP))
                self._scope = trio.CancelScope(deadline=self.due)
        finally:
            self._scope = None
            self.due = math.inf

    @abstractmethod
    def on_due(self, now: float) -> float:
        """Send the renewals that are due. Return the clock's time of the next one, or infinity."""


class Leased(Protocol):
    """A call that may have a lease."""

    lease: Lease | None


class Renewals(Timer):
    """Renews the leases of one connection's calls.

    Args:
        transport: sends the renewals.
        tables: the calls under way, by id.
        pool: provides the task that waits.
    """

    __slots__ = ("_tables", "_transport")

    def __init__(
        self, transport: PacketTransport, tables: tuple[Mapping[str, Leased], ...], pool: TaskPool
    ) -> None:
        super().__init__(pool)
        self._transport = transport
        self._tables = tables

    def on_due(self, now: float) -> float:
        following = math.inf
        for call_id, lease in list(self._leases()):
            if lease.renew_at <= now + TOGETHER:
                self._renew_one(call_id, lease, now)
            following = min(following, lease.renew_at)
        return following

    def _leases(self) -> Iterator[tuple[str, Lease]]:
        for table in self._tables:
            for call_id, one in table.items():
                if one.lease is not None:
                    yield call_id, one.lease

    def _renew_one(self, call_id: str, lease: Lease, now: float) -> None:
        transport = self._transport
        write_buffer = transport.write_buffer
        seconds = min(max(2 * lease.seconds, SHORTEST), LONGEST)
        if lease.sent_offset <= write_buffer.bytes_sent:
            transport.post(transport.codec.deadline(call_id, seconds), cork=True)
            lease.sent_offset = write_buffer.bytes_sent + write_buffer.size
        lease.granted(seconds, now)
