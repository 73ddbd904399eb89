"""explore: run a test once for each of its checkpoints, cancelled there, and for each byte on its network.

Each case is a separate run of the test with a new listener, so a case can be repeated by its name.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal, NamedTuple

import trio
from trio.lowlevel import checkpoint

from trio_ws.errors import ConnectionClosedError, ConnectionFailedError
from trio_ws.testing.link import Link, MemoryListener

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio_ws.testing.link import Direction, LinkOptions

__all__ = ["Exploration", "cancelled_at", "explore"]

#: Rounds of the scheduler after a run, within which its remaining tasks must end.
_ROUNDS = 20
_CANCELLED = "cancelled at checkpoint"

Fault = Literal["cut", "clean cut", "partition"]


class Exploration(NamedTuple):
    """The extent of an exploration.

    Attributes:
        checkpoints: the number of checkpoints of the test's task.
        carried: the number of bytes on its links, in both directions.
        cases: the number of runs of the test.
    """

    checkpoints: int
    carried: int
    cases: int


async def explore(
    test: Callable[[MemoryListener], Awaitable[object]],
    *,
    faults: tuple[Fault, ...] = ("cut",),
    allowed: tuple[type[BaseException], ...] = (ConnectionClosedError, ConnectionFailedError),
    every: int = 1,
    time_limit: float = 3600.0,
    only: str | None = None,
) -> Exploration:
    """Run a test unchanged, cancelled at each of its checkpoints, and with a fault at each byte on its links.

    After each run, no task of the test may remain, and both ends of each of its links must be closed. Use it
    with `trio.testing.MockClock` (pytest-trio's ``autojump_clock``), so that waiting takes no time.

    Args:
        test: an async function that serves and connects on a `MemoryListener`, which is new for each run. It
            must behave the same in each run.
        faults: the faults to try at each byte: ``"cut"`` cuts the link, ``"clean cut"`` ends it as if the
            peer had closed it, and after ``"partition"`` nothing arrives. Default ``("cut",)``; empty for no
            faults.
        allowed: exceptions that the test may raise if the network fails, alone or in groups.
        every: explore only every n-th checkpoint and byte. Default 1.
        time_limit: seconds of trio's clock that a run may take. Default 3600.
        only: the name of a case, from the message of a failure, to run only this one.

    Raises:
        ValueError: ``every`` is below 1, or there is no case ``only``.
        AssertionError: a case failed. The message begins with the name of the case, and the exception of the
            test is the cause.
    """
    if every < 1:
        raise ValueError(f"every must be 1 or more, not {every}")
    kind, _, at = ("", "", "") if only is None else only.rpartition(" ")
    kinds = [_CANCELLED, *(f"{fault} at byte" for fault in faults)]
    if only is not None and not (at.isdecimal() and kind in kinds):
        raise ValueError(f"{only!r} is not the name of a case, such as 'cut at byte 212'")
    listener = _Listener()
    await _run("as it is", test, listener, time_limit, (), None)
    cases, checkpoints = 1, 0
    numbers = itertools.count(1, every) if only is None else [int(at)] if kind == _CANCELLED else []
    for number in numbers:
        if not await _run(f"{_CANCELLED} {number}", test, _Listener(), time_limit, (), number):
            break
        cases += 1
        checkpoints = number
    for fault in faults:
        for number in range(0, listener.carried, every):
            name = f"{fault} at byte {number}"
            if only is None or only == name:
                await _run(name, test, _Listener(fault, number), time_limit, allowed, None)
                cases += 1
    if only is not None and cases == 1:
        raise ValueError(f"the test has no case {only!r}: its links carry {listener.carried} bytes")
    return Exploration(checkpoints, listener.carried, cases)


async def cancelled_at(number: int, script: Callable[[], Awaitable[object]]) -> bool:
    """Run an async function in this task, and cancel it at one of its checkpoints.

    Args:
        number: which one, from 1 on.
        script: the function.

    Returns:
        Whether it had that many.
    """
    scope = trio.CancelScope()
    instrument = _CancelAt(trio.lowlevel.current_task(), scope, number)
    with scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            await script()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return instrument.left <= 0


class _CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task has come to its checkpoint number ``left``."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, left: int) -> None:
        self._task = task
        self._scope = scope
        self.left = left

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()


class _Link(Link):
    """A link that counts, and to which something happens at some byte."""

    def __init__(self, listener: _Listener, options: LinkOptions) -> None:
        super().__init__(**options)
        self._listener = listener

    def carry(self, direction: Direction, data: memoryview) -> int:
        left = self._listener.left
        count = super().carry(direction, data if left is None else data[: max(left, 1)])
        self._listener.count(self, count)
        return count


class _Listener(MemoryListener):
    """A listener that remembers its links, and the bytes of all of them."""

    def __init__(self, fault: Fault = "cut", at: int | None = None) -> None:
        super().__init__()
        self.links: list[_Link] = []
        self.carried = 0
        self.left = at
        self._fault = fault

    def _make_link(self, options: LinkOptions) -> Link:
        link = _Link(self, options)
        self.links.append(link)
        self.count(link, 0)
        return link

    def count(self, link: Link, count: int) -> None:
        self.carried += count
        if self.left is None:
            return
        self.left -= count
        if self.left <= 0:
            self.left = None
            if self._fault == "partition":
                link.partition()
            else:
                link.cut(clean=self._fault == "clean cut")


async def _run(
    name: str,
    test: Callable[[MemoryListener], Awaitable[object]],
    listener: _Listener,
    time_limit: float,
    allowed: tuple[type[BaseException], ...],
    cancel_at: int | None,
) -> bool:
    """Run one case; whether it was cancelled.

    Raises:
        AssertionError: it failed.
    """
    before = set(_tasks())
    cancelled = False
    with trio.move_on_after(time_limit) as limit:
        try:
            if cancel_at is None:
                await test(listener)
            else:
                cancelled = await cancelled_at(cancel_at, lambda: test(listener))
        except Exception as exc:
            if not _all_of(exc, allowed):
                raise AssertionError(f"{name}: {type(exc).__name__}: {exc}") from exc
    if limit.cancelled_caught:
        raise AssertionError(f"{name}: it has not ended in {time_limit} seconds")
    left = set(_tasks()) - before
    for _ in range(_ROUNDS):
        if left:
            await checkpoint()
            left = set(_tasks()) - before
    if left:
        raise AssertionError(f"{name}: tasks are left: {', '.join(sorted(task.name for task in left))}")
    for number, link in enumerate(listener.links, 1):
        for side, end in (("client", link.client), ("server", link.server)):
            if not end.closed:
                raise AssertionError(f"{name}: the {side}'s end of link {number} was not closed")
    return cancelled


def _all_of(exc: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(exc, BaseExceptionGroup) and not isinstance(exc, kinds):
        return all(_all_of(one, kinds) for one in exc.exceptions)
    return isinstance(exc, kinds)


def _tasks() -> Iterator[trio.lowlevel.Task]:
    """Every task of this run."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting += nursery.child_tasks
