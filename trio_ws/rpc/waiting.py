"""What waits for answers: one slot for each request that was sent.

What always holds: a slot gets one end, an answer or the end of the connection, unless its owner takes it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import outcome
from trio.lowlevel import Task, reschedule

from trio_ws.websocket.bell import Bell

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ws.errors import ConnectionClosedError
    from trio_ws.rpc.calls import Caller
    from trio_ws.wire.packets import Response

__all__ = ["Needing", "Slot", "Waiting"]


class Waiting(Protocol):
    """Whoever waits for the answers to one request.

    Attributes:
        mark: where the request ended among all that ever waited to be written; 0 where it did not wait.
    """

    mark: int

    def answered(self, response: Response, size: int) -> bool:
        """Take an answer of so many bytes; give whether it was the last."""
        raise NotImplementedError

    def lost(self, error: ConnectionClosedError) -> None:
        """The connection ended."""
        raise NotImplementedError


class Slot:
    """One caller that waits for one answer."""

    __slots__ = ("caller", "mark", "task")

    def __init__(self, caller: Caller, task: Task) -> None:
        self.caller = caller
        self.task = task
        self.mark = 0

    def answered(self, response: Response, size: int) -> bool:
        self.caller.needing.count -= 1
        self.caller.woken += 1
        reschedule(self.task, outcome.Value(response))
        return True

    def lost(self, error: ConnectionClosedError) -> None:
        self.caller.needing.count -= 1
        reschedule(self.task, outcome.Error(error))


class Needing:
    """Counts the tasks that wait for something which only reading can bring."""

    __slots__ = ("bell", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bell = Bell()

    def __enter__(self) -> None:
        self.count += 1
        self.bell.ring()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1
