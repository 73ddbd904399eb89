"""ConnectionSetup: runs the user's ``on_connection`` on one connection.

Invariants:

- It ends with its connection, and so does everything that it holds open.
- An exception in it ends only that connection, and is reported with its cause.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.errors import ConnectionClosedError, ConnectionFailedError, Reconnect
from trio_ws.logs import logger_for
from trio_ws.wall import close_of, failures_in, judged, log_failure, text_of

if TYPE_CHECKING:
    from trio_ws.websocket.connection import WebSocket

__all__ = ["ConnectionSetup", "SetUp", "check_set_up", "drop"]

logger = logger_for("trio_ws.client")

C = TypeVar("C")

#: An async function, or an async context manager function, of a connection.
SetUp = Callable[[C], Awaitable[object] | AbstractAsyncContextManager[object]]


class ConnectionSetup:
    """Sets up one connection, by an async function or by a context manager that stays open until its end.

    Args:
        ws: the connection.
        function: called without arguments.

    Attributes:
        scope: the cancel scope around it.
        done: set when the connection is set up, or when that has failed.
        failure: the error if it failed.
    """

    def __init__(
        self, ws: WebSocket, function: Callable[[], Awaitable[object] | AbstractAsyncContextManager[object]]
    ) -> None:
        self._ws = ws
        self._function = function
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.failure: ConnectionFailedError | TypeError | None = None

    @enable_ki_protection
    async def run(self) -> None:
        """Set up the connection. A context manager is left when the connection has ended."""
        close: tuple[int, str] | None = None
        try:
            with self.scope:
                result = self._function()
                if inspect.isawaitable(result):
                    await result
                elif hasattr(result, "__aenter__"):
                    await self._hold(result)
                else:
                    self.failure = TypeError(
                        f"on_connection must be async, but returned {type(result).__name__}; use async def"
                    )
                    await drop(self._ws)
        except BaseException as exc:  # noqa: BLE001 - judged there
            self._fail(exc)
            close = close_of(judged(exc))
            await drop(self._ws, *(close or (1000, "")))
        self.done.set()

    async def finished(self, limit: float) -> None:
        """Wait until the connection is set up. Close it if that fails, or if this is cancelled.

        Raises:
            ConnectionFailedError: it failed, or took more than ``limit`` seconds.
            TypeError: the function returned nothing to wait for, which another connection would not mend.
        """
        try:
            with trio.move_on_after(limit) as scope:
                await self.done.wait()
            if scope.cancelled_caught:
                raise ConnectionFailedError(
                    f"on_connection was not done within open_timeout ({limit} seconds); within it, use the"
                    " connection that it gets, since the client waits until it is done"
                )
            if self.failure is not None:
                raise self.failure
        except BaseException:
            self.scope.cancel()
            await drop(self._ws)
            raise

    async def _hold(self, manager: AbstractAsyncContextManager[object]) -> None:
        async with manager:
            if self._ws.closed:
                return
            self.done.set()
            await self._ws.wait_closed()
            self.scope.cancel()  # end its tasks too

    def _fail(self, exc: BaseException) -> None:
        failures = failures_in(exc)
        ended = self._ws.closed
        if all(isinstance(one, Reconnect) for one in failures):
            logger.info("on_connection asks for another connection in place of %r: %s", self._ws, failures[0])
        elif close_of(judged(exc)) is None and not (
            ended and all(isinstance(one, ConnectionClosedError) for one in failures)
        ):
            log_failure(logger, "on_connection of %r failed", self._ws, exc=judged(exc))
        self.failure = ConnectionFailedError(f"on_connection failed: {text_of(failures[0])}")
        self.failure.__cause__ = judged(exc)


async def drop(ws: WebSocket, code: int = 1000, reason: str = "") -> None:
    """Close without waiting for the peer's Close frame."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await ws.close(code, reason)


def check_set_up(on_connection: object, of: str) -> None:
    """Raise TypeError if ``on_connection`` cannot be called with a connection, or would not set it up."""
    if on_connection is None:
        return
    name = getattr(on_connection, "__qualname__", type(on_connection).__qualname__)
    rule = f"on_connection is an async function, or an async context manager function, of a {of}"
    if not callable(on_connection):
        raise TypeError(f"{rule}, not {type(on_connection).__name__}")
    try:
        inspect.signature(on_connection).bind(None)
    except TypeError:
        raise TypeError(f"{rule}, and cannot be called with one argument: {name}") from None
    except ValueError:
        pass  # not written in Python
    if inspect.isasyncgenfunction(on_connection) or inspect.isgeneratorfunction(on_connection):
        raise TypeError(f"{rule}; decorate {name} by @contextlib.asynccontextmanager")
