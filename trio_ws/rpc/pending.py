"""What waits for answers: one slot for each request that was sent.

What always holds: a slot gets one end, an answer or the end of the connection, unless its owner takes it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, reschedule

from trio_ws.websocket._notify import ReusableOutcome

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ws.codecs.base import Response
    from trio_ws.errors import ConnectionClosedError
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.outgoing import OutgoingCalls
    from trio_ws.websocket._notify import Notification

__all__ = ["PendingCall", "PendingCallWithDeadline", "ReadDemand", "ResponseSink"]


class ResponseSink(Protocol):
    """Whoever waits for the answers to one request.

    Attributes:
        mark: where the request ended among all that ever waited to be written, and what waits no more is
            before it.
        lease: the time that the other side was given, or None; see deadlines.py.
    """

    sent_offset: int
    lease: Lease | None

    def on_response(self, response: Response, size: int) -> bool:
        """Take an answer of so many bytes; give whether it was the last."""
        raise NotImplementedError

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """The connection ended."""
        raise NotImplementedError


class PendingCall(ReusableOutcome["Response"]):
    """One outgoing that waits for one answer, and what it is woken with. See ``mark`` of `Waiting`."""

    __slots__ = ("call_id", "outgoing", "sent_offset", "task")

    outgoing: OutgoingCalls
    call_id: str
    task: Task
    sent_offset: int
    lease: Lease | None = None

    def abort(self, _: RaiseCancelT) -> Abort:
        """The outgoing was cancelled."""
        self.outgoing.cancel(self.call_id)
        return Abort.SUCCEEDED

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """The connection ended."""
        reschedule(self.task, outcome.Error(error))


class PendingCallWithDeadline(PendingCall):
    """A slot of a call with a deadline."""

    __slots__ = ("lease",)

    lease: Lease | None


class ReadDemand:
    """Counts the tasks that wait for something, but the answer to a call, which only reading can bring.

    Args:
        progress: is rung when another one begins.
    """

    __slots__ = ("_progress", "count")

    def __init__(self, progress: Notification) -> None:
        self.count = 0
        self._progress = progress

    def __enter__(self) -> None:
        self.count += 1
        self._progress.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.count -= 1
