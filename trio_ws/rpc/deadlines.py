"""Deadlines of calls that are under way, on the caller's side.

A deadline belongs to the caller's cancel scope, which may move it while the call is under way, and trio tells
nobody. So the caller alone decides: its cancellation sends the abort, and for as long as it waits, the other
side is told in time that the call may go on. What was said last ends the method if the caller is gone.

Invariants:

- A call that its caller still waits for is renewed before the time that was said last is over: `MARGIN`
  before, or three quarters of a shorter time. So much longer than the one before may a trip take, and so long
  may either program stand still.
- A call has at most one renewal that waits to be written.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_ws.rpc.calls import Caller
    from trio_ws.rpc.waiting import Slot, Waiting
    from trio_ws.rpc.workers import Worker, Workers

__all__ = ["Lease", "Renewals", "let_own_deadline_speak"]

#: Seconds before the end of a lease at which it is renewed.
MARGIN = 2.0
#: Seconds of a renewed lease: the least and the most. A short one doubles.
SHORTEST = 1.0
LONGEST = 2 * MARGIN
#: Leases that are due within so many seconds are renewed together.
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


class Renewals:
    """Renews the leases of one connection's calls, in a task that runs while there are any.

    Attributes:
        due: the clock's time at which the task is going to look for leases to renew.
    """

    __slots__ = ("_alarm", "_caller", "_workers", "due")

    def __init__(self, caller: Caller, workers: Workers) -> None:
        self._caller = caller
        self._workers = workers
        self._alarm: trio.CancelScope | None = None  # around the task's sleep
        self.due = math.inf

    def look_at(self, due: float) -> None:
        """Look for leases to renew no later than this."""
        self.due = due
        if self._alarm is None:
            self._alarm = trio.CancelScope(deadline=due)
            self._workers.start(self._run)
        else:
            self._alarm.deadline = due

    def end(self) -> None:
        """The connection is at its end."""
        if self._alarm is not None:
            self._alarm.cancel()

    async def _run(self, _: Worker) -> None:
        try:
            while self._alarm is not None:
                with self._alarm:
                    await trio.sleep_forever()
                self._renew()
        finally:
            self._alarm = None
            self.due = math.inf

    def _renew(self) -> None:
        """Renew what is due, and set the alarm for the next."""
        now = trio.current_time()
        following = math.inf
        for call_id, lease in list(self._leases()):
            if lease.renew_at <= now + TOGETHER:
                self._renew_one(call_id, lease, now)
            following = min(following, lease.renew_at)
        if following == math.inf:
            self._alarm = None
        else:
            self.due = min(following, now + LOOK_EVERY)
            self._alarm = trio.CancelScope(deadline=self.due)

    def _leases(self) -> Iterator[tuple[str, Lease]]:
        tables: tuple[Mapping[str, Slot | Waiting], ...] = (self._caller._calls, self._caller._pending)
        for waiting in tables:
            for call_id, one in waiting.items():
                if one.lease is not None:
                    yield call_id, one.lease

    def _renew_one(self, call_id: str, lease: Lease, now: float) -> None:
        caller, outbox = self._caller, self._caller._outbox
        seconds = min(max(2 * lease.seconds, SHORTEST), LONGEST)
        if lease.mark <= outbox.passed:
            caller.post(caller.dialect.deadline(call_id, seconds), cork=True)
            lease.mark = outbox.passed + outbox.size
        lease.said(seconds, now)
