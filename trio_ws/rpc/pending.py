"""Requests that were sent and wait for their response.

Invariant: a pending call ends once, with a response or with the end of the connection, unless its caller is
cancelled and removes it first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, reschedule

from trio_ws.websocket._wait import ReusableOutcome

if TYPE_CHECKING:
    from trio_ws.codecs.base import Response
    from trio_ws.errors import ConnectionClosedError
    from trio_ws.rpc.deadlines import Lease

__all__ = ["CallCanceller", "PendingCall", "PendingCallWithDeadline", "ResponseSink"]


class ResponseSink(Protocol):
    """Receives the responses to one request.

    Attributes:
        sent_offset: the offset of the request's last byte among all bytes that were ever queued for writing.
            The request has left once ``bytes_sent`` of the write buffer has reached it.
        lease: the time that the other side was given for the call, or None; see deadlines.py.
    """

    sent_offset: int
    lease: Lease | None

    def on_response(self, response: Response, size: int) -> bool:
        """Take a response of ``size`` bytes; return whether it was the last."""
        raise NotImplementedError

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """The connection ended."""
        raise NotImplementedError


class CallCanceller(Protocol):
    """Gives up calls."""

    def cancel(self, call_id: str) -> None:
        """Remove a call, and send an abort to the other side."""


class PendingCall(ReusableOutcome["Response"]):
    """A call that waits for its one response, and the outcome that its task is woken with."""

    __slots__ = ("call_id", "outgoing", "sent_offset", "task")

    outgoing: CallCanceller
    call_id: str
    task: Task
    sent_offset: int
    lease: Lease | None = None

    def abort(self, _: RaiseCancelT) -> Abort:
        """Cancel the call, because its caller was cancelled."""
        self.outgoing.cancel(self.call_id)
        return Abort.SUCCEEDED

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """Raise ``error`` in the caller."""
        reschedule(self.task, outcome.Error(error))


class PendingCallWithDeadline(PendingCall):
    """A pending call with a deadline."""

    __slots__ = ("lease",)

    lease: Lease | None
