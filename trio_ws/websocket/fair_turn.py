"""FairTurn: how long a task that works for many connections may go on before other tasks run.

trio runs every task that can run once per round. A task that serves thousands of connections would therefore
get no more of a busy processor than the task of a single connection: if it does 2 ms of work in a turn, and
all other tasks together 50 ms, then all its connections wait although most of the work is theirs. So such a
task does its minimum in each turn, and goes on while the other tasks have used more time since its last turn
than it has used in this one, up to `MAX_TURN`.

If several tasks do so, each counts only what the remaining tasks have used. Otherwise they would make each
other's turns ever longer.
"""

from __future__ import annotations

from time import perf_counter

from trio.lowlevel import checkpoint

__all__ = ["MAX_TURN", "FairTurn"]

#: Maximum duration of the part of a turn that is more than the minimum, in seconds.
MAX_TURN = 0.05

_used = 0.0  # by all turns of this kind, in seconds


class FairTurn:
    """The turns of one task."""

    __slots__ = ("_began", "_ended", "_share", "_used_before")

    def __init__(self) -> None:
        self._began = 0.0
        self._ended: float | None = None
        self._share = self._used_before = 0.0

    def end(self) -> None:
        """End a turn because other tasks are to run, although there is more to do."""
        global _used  # noqa: PLW0603 - one number for all tasks of this kind
        self._ended = perf_counter()
        if self._share:
            _used += self._ended - self._began
        self._used_before = _used

    def begin(self) -> None:
        """Begin a turn. If `end` did not end the last one, the task has waited, and now does its minimum."""
        if self._ended is None:
            self._share = 0.0
            return
        self._began = perf_counter()
        self._share = min(self._began - self._ended - (_used - self._used_before), MAX_TURN)
        self._ended = None

    def may_continue(self) -> bool:
        """Return whether the task may do its minimum once more in this turn."""
        return self._share > 0.0 and perf_counter() - self._began < self._share

    async def let_others_run(self) -> None:
        """End a turn, and begin the next."""
        self.end()
        await checkpoint()
        self.begin()
