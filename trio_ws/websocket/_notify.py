"""Bell: the lightest way for tasks to wait until something has changed; and the lightest way to wake them.

A `trio.Event` is made anew for each wait and a `trio.lowlevel.ParkingLot` weighs ten times as much; a
connection has several of these and most of them never ring. There is no state to miss: whoever waits has
checked its condition in the same step, and checks it again when the bell has rung.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from outcome import Outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

__all__ = ["WAKE", "Notification", "ReusableOutcome"]

T = TypeVar("T")
R = TypeVar("R")


class ReusableOutcome(Outcome[T]):
    """What a task that is woken gets out of its wait.

    An `outcome.Value` is good for one wait, and to make it and to check that costs a tenth of a call. This
    may be used again, and is made before its value is known. It has no ``__init__``, which would cost as much
    as all else about it: whoever makes one sets what it holds.
    """

    __slots__ = ("value",)

    value: T

    def unwrap(self) -> T:
        return self.value

    def send(self, gen: Generator[R, T, object]) -> R:
        return gen.send(self.value)

    async def asend(self, agen: AsyncGenerator[R, T]) -> R:
        return await agen.asend(self.value)


#: For a wait that gives nothing.
WAKE: ReusableOutcome[None] = ReusableOutcome()
WAKE.value = None


class Notification:
    """Tasks wait on it; `ring` wakes all who wait now, in the order in which they came."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: Task | dict[Task, None] | None = None  # a dict only where several wait

    def wait(self) -> Coroutine[Any, Any, Any]:
        """Wait for the next ring; to be awaited at once. A cancellation leaves nothing behind.

        It is no coroutine of its own, since every idle connection would keep one.
        """
        task = current_task()
        if self._waiting is None:
            self._waiting = task
            return wait_task_rescheduled(self._leave_first)  # noqa: ASYNC105 - the caller does
        return wait_task_rescheduled(self._join(task))  # noqa: ASYNC105 - the caller does

    def _leave_first(self, _: RaiseCancelT) -> Abort:
        """The one who came when nobody waited is cancelled.

        A closure would be four objects for the garbage collector, which then comes after every hundred waits.
        """
        if isinstance(self._waiting, dict):
            del self._waiting[next(iter(self._waiting))]
        else:
            self._waiting = None
        return Abort.SUCCEEDED

    def _join(self, task: Task) -> Callable[[RaiseCancelT], Abort]:
        """Wait with others; give what a cancellation does."""
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
        """Wake everyone; give how many that were."""
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
