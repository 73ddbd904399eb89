"""Deadlines of calls that are under way.

A deadline belongs to the caller's cancel scope, which may move it while the call is under way, and trio tells
nobody. So the caller alone decides: its cancellation sends the abort, and for as long as it waits, the other
side is told in time that the call may go on. What was said last ends the method if the caller is gone.

Invariants:

- A call that its caller still waits for is renewed before the time that was said last is over: `MARGIN`
  before, or three quarters of a shorter time. So much longer than the one before may a trip take, and so long
  may either program stand still.
- A call has at most one renewal that waits to be written.
- A request that waits for its turn past its deadline is answered, and not begun.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ws.rpc.incoming import IncomingCalls
    from trio_ws.rpc.outgoing import OutgoingCalls
    from trio_ws.rpc.pending import PendingCall, ResponseSink
    from trio_ws.rpc.task_pool import PooledTask, TaskPool

__all__ = ["HeldDeadlines", "Lease", "Renewals", "let_own_deadline_speak"]

#: Seconds before the end of a lease at which it is renewed.
MARGIN = 2.0
#: Seconds of a renewed lease: the least and the most. A short one doubles.
SHORTEST = 1.0
LONGEST = 2 * MARGIN
#: What is due within so many seconds is done together.
TOGETHER = 0.05
#: Seconds after which the task looks whether anything is left to renew.
LOOK_EVERY = 20.0


async def let_own_deadline_speak() -> None:
    """If this task's deadline has passed too, let that raise Cancelled: trio may not have come to it yet."""
    if trio.current_effective_deadline() <= trio.current_time():
        await trio.lowlevel.checkpoint()


class Lease:
    """The time that the other side was given for a call.

    Attributes:
        seconds: the time that was said last.
        renew_at: the clock's time at which more is to be said.
        mark: see waiting.py; of the last renewal.
    """

    __slots__ = ("mark", "renew_at", "seconds")

    def __init__(self, seconds: float, now: float) -> None:
        self.mark = 0
        self.said(seconds, now)

    def said(self, seconds: float, now: float) -> None:
        """The other side is told now that it has so much."""
        self.seconds = seconds
        self.renew_at = now + max(seconds / 4, seconds - MARGIN)


class Alarm(ABC):
    """Does what is due, in a task that runs while anything is going to be.

    Attributes:
        due: the clock's time at which it is going to look.
    """

    __slots__ = ("_scope", "_task_pool", "due")

    def __init__(self, workers: TaskPool) -> None:
        self._task_pool = workers
        self._scope: trio.CancelScope | None = None  # around the task's sleep
        self.due = math.inf

    def look_at(self, due: float) -> None:
        """Look no later than this."""
        if due >= self.due:
            return
        self.due = due
        if self._scope is None:
            self._scope = trio.CancelScope(deadline=due)
            self._task_pool.start(self._run)
        else:
            self._scope.deadline = due

    def end(self) -> None:
        """The connection is at its end, and nothing is left."""
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, _: PooledTask) -> None:
        try:
            while self._scope is not None:
                with self._scope:
                    await trio.sleep_forever()
                now = trio.current_time()
                following = self.ring(now)
                if following == math.inf:
                    break
                self.due = max(now, min(following, now + LOOK_EVERY))
                self._scope = trio.CancelScope(deadline=self.due)
        finally:
            self._scope = None
            self.due = math.inf

    @abstractmethod
    def ring(self, now: float) -> float:
        """Do what is due; give the clock's time of the next."""


class HeldDeadlines(Alarm):
    """Answers requests whose time is over before their turn has come."""

    __slots__ = ("_incoming",)

    def __init__(self, answerer: IncomingCalls, workers: TaskPool) -> None:
        super().__init__(workers)
        self._incoming = answerer

    def ring(self, now: float) -> float:
        following = math.inf
        for key, (request, _) in list(self._incoming._deferred_requests.items()):
            if request.timeout is None:
                continue
            if request.timeout <= now:
                self._incoming.answer_too_late(key)
            else:
                following = min(following, request.timeout)
        return max(following, now + TOGETHER)


class Renewals(Alarm):
    """Renews the leases of one connection's calls."""

    __slots__ = ("_outgoing",)

    def __init__(self, caller: OutgoingCalls, workers: TaskPool) -> None:
        super().__init__(workers)
        self._outgoing = caller

    def ring(self, now: float) -> float:
        following = math.inf
        for call_id, lease in list(self._leases()):
            if lease.renew_at <= now + TOGETHER:
                self._renew_one(call_id, lease, now)
            following = min(following, lease.renew_at)
        return following

    def _leases(self) -> Iterator[tuple[str, Lease]]:
        tables: tuple[Mapping[str, PendingCall | ResponseSink], ...] = (
            self._outgoing._calls,
            self._outgoing._pending,
        )
        for waiting in tables:
            for call_id, one in waiting.items():
                if one.lease is not None:
                    yield call_id, one.lease

    def _renew_one(self, call_id: str, lease: Lease, now: float) -> None:
        caller, write_buffer = self._outgoing, self._outgoing._write_buffer
        seconds = min(max(2 * lease.seconds, SHORTEST), LONGEST)
        if lease.mark <= write_buffer.bytes_sent:
            caller.post(caller.codec.deadline(call_id, seconds), cork=True)
            lease.mark = write_buffer.bytes_sent + write_buffer.size
        lease.said(seconds, now)
