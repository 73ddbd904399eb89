"""DeferredRequests: requests that were received while there was no room to start them.

Invariants:

- A deferred request is charged to the ledger from `add` to `pop`, or to the end of the connection.
- Requests leave in the order in which they came, unless they are aborted or their deadline passes.
- A request whose deadline passes here is answered, and never started.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trio_ws.errors import RPCTimeoutError
from trio_ws.ledger import OVERHEAD, size_of
from trio_ws.rpc.deadlines import Timer
from trio_ws.rpc.errors import answer_error

if TYPE_CHECKING:
    from collections.abc import Hashable

    from trio_ws.codecs.base import Request
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["DeferredRequests", "deadline_passed"]

#: Seconds between two checks of the deadlines of deferred requests, at least.
_CHECK_EVERY = 0.05


def deadline_passed() -> RPCTimeoutError:
    """Return the error of a call whose deadline has passed."""
    return RPCTimeoutError("the caller's deadline has passed")


class DeferredRequests:
    """See the module docstring.

    Attributes:
        requests: each with the bytes it is charged, by its call id. While it is here, ``timeout`` of a
            request is a time of the clock.
    """

    __slots__ = ("_deadlines", "_pool", "_transport", "requests")

    def __init__(self, transport: PacketTransport, pool: TaskPool) -> None:
        self._transport = transport
        self._pool = pool
        self._deadlines: _Deadlines | None = None  # made for the first request that has a deadline
        self.requests: dict[Hashable, tuple[Request, int]] = {}

    def add(self, request: Request, size: int) -> None:
        """Defer a request that took ``size`` bytes on the wire."""
        transport = self._transport
        if request.timeout is not None:
            request.timeout += trio.current_time()
            self._check_at(request.timeout)
        decoded = transport.measured or size_of(request.args) + size_of(request.kwargs)
        size = max(size, decoded) + OVERHEAD
        transport.ledger.held += size
        self.requests[request.call_id or object()] = request, size

    def pop(self, key: Hashable) -> Request:
        """Remove a request, and return it with its deadline still as a time of the clock."""
        request, size = self.requests.pop(key)
        self._transport.release(size)
        return request

    def pop_first(self) -> tuple[Request, int]:
        """Remove the oldest request, and return it with the bytes that it was charged."""
        key, (request, size) = next(iter(self.requests.items()))
        self.pop(key)
        if request.timeout is not None:
            request.timeout -= trio.current_time()
        return request, size

    def set_deadline(self, key: Hashable, deadline: float) -> None:
        """Move the deadline of a request to this time of the clock."""
        self.requests[key][0].timeout = deadline
        self._check_at(deadline)

    def end(self) -> None:
        """Drop all requests, because the connection is over."""
        self._transport.ledger.held -= sum(size for _, size in self.requests.values())
        self.requests.clear()
        if self._deadlines is not None:
            self._deadlines.end()
            self._deadlines = None  # break the reference cycle

    def expire(self, now: float) -> float:
        """Answer the requests whose deadline has passed; return the time of the next deadline."""
        following = math.inf
        for key, (request, _) in list(self.requests.items()):
            if request.timeout is None:
                continue
            if request.timeout <= now:
                answer_error(self._transport, self.pop(key), deadline_passed())
            else:
                following = min(following, request.timeout)
        return max(following, now + _CHECK_EVERY)

    def _check_at(self, deadline: float) -> None:
        if self._deadlines is None:
            self._deadlines = _Deadlines(self, self._pool)
        self._deadlines.schedule(deadline)


class _Deadlines(Timer):
    """Watches the deadlines of deferred requests."""

    __slots__ = ("_deferred",)

    def __init__(self, deferred: DeferredRequests, pool: TaskPool) -> None:
        super().__init__(pool)
        self._deferred = deferred

    def on_due(self, now: float) -> float:
        return self._deferred.expire(now)
