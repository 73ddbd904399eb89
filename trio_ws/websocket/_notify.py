"""Notification: the lightest way for tasks to wait until something has changed, and to wake them.

A `trio.Event` must be created for each wait, and a `trio.lowlevel.ParkingLot` weighs ten times as much. A
connection has several notifications, and most of them are never used. They keep no state that could be
missed: a task that waits has checked its condition in the same step, and checks it again when it was woken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule

from trio_ws.websocket._wait import ReusableOutcome, wait_task

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from trio_ws._types import Value

__all__ = ["WAKE", "Notification"]

#: For a wait without a result.
WAKE: ReusableOutcome[None] = ReusableOutcome()
WAKE.value = None


class Notification:
    """Tasks `wait`; `notify_all` wakes all that wait now, in the order in which they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: Task | dict[Task, None] | None = None  # a dict only where several wait

    def wait(self) -> Coroutine[object, object, Value]:
        """Wait for the next `notify_all`. Await the result at once. A cancellation leaves nothing behind.

        This is a plain function, because every idle connection would keep one more coroutine.
        """
        task = current_task()
        if self._waiting is None:
            self._waiting = task
            return wait_task(self._leave_first)
        return wait_task(self._join(task))

    def _leave_first(self, _: RaiseCancelT) -> Abort:
        """Cancel the task that came when no other waited.

        A closure would be four objects for the garbage collector, which then runs after every hundred waits.
        """
        if isinstance(self._waiting, dict):
            del self._waiting[next(iter(self._waiting))]
        else:
            self._waiting = None
        return Abort.SUCCEEDED

    def _join(self, task: Task) -> Callable[[RaiseCancelT], Abort]:
        """Wait with others. Returns the function that a cancellation calls."""
        waiting = self._waiting
        if not isinstance(waiting, dict):
            assert waiting is not None
            waiting = self._waiting = {waiting: None}
        waiting[task] = None

        def leave(_: RaiseCancelT) -> Abort:
            del waiting[task]
            return Abort.SUCCEEDED

        return leave

    def notify_all(self) -> int:
        """Wake all that wait. Returns how many that were."""
        waiting = self._waiting
        if waiting is None:
            return 0
        self._waiting = None
        if isinstance(waiting, Task):
            reschedule(waiting, WAKE)
            return 1
        for task in waiting:
            reschedule(task, WAKE)
        return len(waiting)
