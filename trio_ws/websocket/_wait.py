"""`wait_task`: trio's wait of a task, in one object.

`trio.lowlevel.wait_task_rescheduled` is a coroutine, which awaits a generator, which yields an object to
trio's loop. The first two cost 35 opcodes for each wait, and half a kilobyte for each task that waits. In the
extension they are one object, which yields what trio's do. What that is, is learned from trio itself when
this module is loaded; if it is not as expected, `wait_task` is trio's own function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import outcome
from trio.lowlevel import Abort, RaiseCancelT, wait_task_rescheduled

from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

    from trio_ws._types import Value

    WaitTask = Callable[[Callable[[RaiseCancelT], Abort]], Coroutine[object, object, Value]]

__all__ = ["ReusableOutcome", "wait_task"]

T = TypeVar("T")
R = TypeVar("R")


class ReusableOutcome(outcome.Outcome[T]):
    """The outcome of the wait of a task that is woken.

    An `outcome.Value` serves one wait, and making and checking it costs a tenth of a call. This one can be
    used again, and is made before its value is known. It has no ``__init__``, which would cost as much as all
    the rest: set `value` after making it.
    """

    __slots__ = ("value",)

    value: T

    def unwrap(self) -> T:
        return self.value

    def send(self, gen: Generator[R, T, object]) -> R:
        return gen.send(self.value)

    async def asend(self, agen: AsyncGenerator[R, T]) -> R:
        return await agen.asend(self.value)


def _abort(_: RaiseCancelT) -> Abort:
    return Abort.SUCCEEDED


def _choose() -> WaitTask:
    if extension is None:
        return wait_task_rescheduled
    wait = wait_task_rescheduled(_abort)  # noqa: ASYNC105 - driven by hand
    trap = wait.send(None)
    try:
        wait.send(outcome.Value(wait))
    except StopIteration as exc:
        names = [name for name, value in getattr(trap, "__dict__", {}).items() if value is _abort]
        if exc.value is not wait or len(names) != 1:
            return wait_task_rescheduled
    else:
        return wait_task_rescheduled
    extension.watch_waits(wait_task_rescheduled, type(trap), names[0], ReusableOutcome)
    in_c: WaitTask = extension.wait_task
    return in_c if in_c(_abort).send(None) == trap else wait_task_rescheduled


#: Waits until the current task is rescheduled, as `trio.lowlevel.wait_task_rescheduled` does.
wait_task = _choose()
