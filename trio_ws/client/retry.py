"""Retrying to connect: counted attempts, delays, and the state that users can watch.

`WebSocketClient`, `session` and `connections` use this module to reconnect.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal, Self, TypeVar

import trio
from trio.lowlevel import checkpoint

from trio_ws.errors import (
    CloseCode,
    ConnectionClosedError,
    ConnectionFailedError,
    HandshakeRejectedError,
)
from trio_ws.logs import logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.client.backoff import Backoff

__all__ = ["ClientState", "Retries", "StateChanges", "StateTracker"]

logger = logger_for("trio_ws.client")

T = TypeVar("T")

#: Consecutive internal errors of the server that end the attempts if trio's clock jumps. Otherwise they
#: would never end, and take no time.
_ERRORS_WHILE_JUMPING = 20

#: See `WebSocketClient.state`.
ClientState = Literal["disconnected", "connecting", "connected", "waiting", "closed"]


class StateTracker:
    """A state that tasks can wait for changes of.

    Attributes:
        state: see `WebSocketClient.state`; ``"closed"`` is the last.
        changes: counts the changes of ``state``.
        changed: notified of each.
    """

    def __init__(self) -> None:
        self.state: ClientState = "disconnected"
        self.changes = 0
        self.changed = Notification()

    def _set_state(self, state: ClientState) -> None:
        if state != self.state and self.state != "closed":
            self.state = state
            self.changes += 1
            self.changed.notify_all()


class StateChanges(AsyncIterator[ClientState]):
    """The states of a client, as they change: ``async for state in client.watch_state()``.

    It begins with the current state and ends after ``"closed"``. A slow consumer sees the latest state and
    not those in between; nothing is queued.
    """

    def __init__(self, tracker: StateTracker) -> None:
        self._tracker = tracker
        self._seen = -1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClientState:
        tracker = self._tracker
        if self._seen != tracker.changes:
            await checkpoint()
        while self._seen == tracker.changes:
            if tracker.state == "closed":
                await checkpoint()
                raise StopAsyncIteration
            await tracker.changed.wait()
        self._seen = tracker.changes
        return tracker.state


class Retries:
    """Counts the attempts to connect, and waits between them."""

    def __init__(self) -> None:
        self._tries = 0  # since the counting began
        self._waits = 0
        self._since = 0.0
        self._server_errors = 0  # internal errors of the server, one after the other
        self._first_error = (0.0, 0.0)  # when that began, by trio's clock and in real time

    def restart(self) -> None:
        """Reset the counters."""
        self._tries = self._waits = self._server_errors = 0

    def connected(self) -> None:
        """Record that a connection is open."""
        self._since = trio.current_time()

    def disconnected(self, backoff: Backoff) -> None:
        """Record that the connection ended. Reset the counters if it was open for ``reset_after`` seconds."""
        if trio.current_time() - self._since >= backoff.reset_after:
            self.restart()

    async def open(
        self,
        backoff: Backoff,
        open_one: Callable[[], Awaitable[T]],
        error: ConnectionFailedError | ConnectionClosedError | None,
        set_state: Callable[[ClientState], None],
    ) -> T:
        """Make attempts until there is a connection.

        Args:
            backoff: the retry policy.
            open_one: makes one attempt; raises ConnectionFailedError.
            error: the error because of which to wait before the first attempt. None to begin at once.
            set_state: called with ``"waiting"`` and ``"connecting"``. It is not stored, which would create a
                reference cycle.

        Raises:
            ConnectionFailedError: the last attempt failed, or an attempt failed for good.
        """
        try:
            while True:
                if error is not None:
                    if not self._may_try_again(backoff, error):
                        raise self._failure(error)
                    self._count_server_error(error)
                    self._waits += 1
                    delay = backoff.delay(self._waits, error)
                    logger.info("%s; the next try is in %.3g s", error, delay)
                    set_state("waiting")
                    await trio.sleep(delay)
                set_state("connecting")
                self._tries += 1
                try:
                    return await open_one()
                except ConnectionFailedError as exc:
                    error = exc
        finally:
            del error  # break the reference cycle of its traceback and this frame

    def _may_try_again(self, backoff: Backoff, error: ConnectionFailedError | ConnectionClosedError) -> bool:
        return backoff.retries(error) and (backoff.attempts is None or self._tries < backoff.attempts)

    def _count_server_error(self, error: ConnectionFailedError | ConnectionClosedError) -> None:
        """Raise after too many server errors if trio's clock jumps (`trio.testing.MockClock`).

        Otherwise a test of a broken server would loop forever. In real time, a server may be repaired.
        """
        if not _is_server_error(error):
            self._server_errors = 0
            return
        now = (trio.current_time(), time.monotonic())
        if not self._server_errors:
            self._first_error = now
        self._server_errors += 1
        if self._server_errors < _ERRORS_WHILE_JUMPING:
            return
        waited, real = (end - start for end, start in zip(now, self._first_error, strict=True))
        if waited <= 10 * real:
            return
        failure = self._failure(error)
        failure.add_note(
            f"The client gave up after {self._server_errors} such errors in a row, as trio's clock jumps "
            f"(trio.testing.MockClock): {waited:.0f} seconds passed in {real:.1f}, so this would never end. "
            f"The log of 'trio_ws.server' shows the exception that the server raised."
        )
        raise failure

    def _failure(self, error: ConnectionFailedError | ConnectionClosedError) -> ConnectionFailedError:
        if isinstance(error, ConnectionFailedError):
            return error
        failure = ConnectionFailedError(
            f"the connection was lost soon after each of {self._tries} tries: {error}"
        )
        failure.__cause__ = error
        return failure


def _is_server_error(error: BaseException) -> bool:
    """Return whether the server reported an internal error: status 500, or close code 1011."""
    if isinstance(error, HandshakeRejectedError):
        return error.status == 500
    return isinstance(error, ConnectionClosedError) and error.code == CloseCode.INTERNAL_ERROR
