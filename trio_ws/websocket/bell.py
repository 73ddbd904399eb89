"""Bell: the lightest way for tasks to wait until something has changed.

A `trio.Event` is made anew for each wait and a `trio.lowlevel.ParkingLot` weighs ten times as much; a
connection has several of these and most of them never ring. There is no state to miss: whoever waits has
checked its condition in the same step, and checks it again when the bell has rung.
"""

from __future__ import annotations

from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

__all__ = ["Bell"]


class Bell:
    """Tasks wait on it; `ring` wakes all who wait now, in the order in which they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[Task, None] | None = None

    async def wait(self) -> None:
        """Wait for the next ring. A cancellation leaves nothing behind."""
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = {}
        task = current_task()
        waiting[task] = None

        def abort(_: RaiseCancelT) -> Abort:
            waiting.pop(task, None)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)

    def ring(self) -> int:
        """Wake everyone; give how many that were."""
        waiting = self._waiting
        if not waiting:
            return 0
        self._waiting = None
        for task in waiting:
            reschedule(task)
        return len(waiting)
