"""Calls of the other side that have begun: what is known of one, and of one that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_ws.rpc.streams import LIMITLESS, StreamSender

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Coroutine

    from trio_ws.codecs.base import Request
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.rpc.task_pool import PooledTask
    from trio_ws.websocket._notify import Notification

__all__ = ["IncomingCall", "SuspendedCall"]


class IncomingCall(StreamSender):
    """A call of the other side that has begun.

    Attributes:
        answers: what its coroutine gives is the answer; a stream has sent its own.
        ended_by: ``"abort"`` or ``"end"`` where its scope was cancelled for that.
    """

    __slots__ = ("context", "ended_by", "has_result", "inputs", "key", "worker")

    def __init__(self, request: Request, context: contextvars.Context, *, answers: bool) -> None:
        self.request = request
        self.credit = request.credits
        self.credit_bytes = LIMITLESS if request.credit_bytes is None else request.credit_bytes
        self.credit_arrived: Notification | None = None
        self.has_result = answers
        self.key: Any = request.call_id
        self.context = context
        self.worker: PooledTask | None = None
        self.inputs: list[ItemStream[Any]] | None = None
        self.ended_by = ""

    def cancel(self, why: str) -> None:
        """End it from outside."""
        if not self.ended_by:
            self.ended_by = why
            if self.worker is not None:
                self.worker.scope.cancel()


class SuspendedCall:
    """A call whose coroutine waits, with what that needs to go on.

    Attributes:
        size: bytes that its arguments take, where that is known already; else 0.
    """

    __slots__ = ("call", "coroutine", "size", "trap")

    def __init__(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any], trap: Any) -> None:
        self.call = call
        self.coroutine = coroutine
        self.trap = trap
        self.size = 0
