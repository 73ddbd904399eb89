"""Sessions: plain messages over a connection that is replaced when it is lost.

`session` keeps a connection open, sets up each new one, and receives the messages of all of them.
`connections` yields the connections themselves.

Invariants:

- At most one connection is open at a time. A new one is opened only after the previous one has ended.
- Each message is received once. Unread messages of an ended connection come before those of the next one.
- Unread messages of at most one ended connection are kept. A third connection is opened only after they were
  received.
- An exception in ``on_connection`` ends only that connection. It is reported with its cause, and the next
  connection is attempted.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections import deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Self, Unpack

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from trio_ws._blocks import Block, block
from trio_ws._settings import shows_settings_of
from trio_ws.client.backoff import ONCE, Backoff
from trio_ws.client.config import AskURI, ConnectSettings, connect_config
from trio_ws.client.connect import ClosedAfter, ConnectAttempts, close_after
from trio_ws.client.retry import Retries, StateChanges, StateTracker
from trio_ws.client.setup import ConnectionSetup, check_set_up, drop
from trio_ws.errors import (
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionFailedError,
)
from trio_ws.logs import logger_for
from trio_ws.wall import judged, log_failure, text_of
from trio_ws.websocket.internals import closed_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_ws.client.retry import ClientState
    from trio_ws.client.setup import SetUp
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.message import WebSocketMessage
    from trio_ws.websocket.runtime import ConnectionRuntime

    OnConnection = SetUp[WebSocket]

__all__ = ["Connections", "Session", "connections", "session"]

logger = logger_for("trio_ws.client")

_BACKOFF = Backoff()


class Session(StateTracker):
    """Consecutive connections as one stream of messages. Made by `session`.

    ``async for message in feed`` and `recv` continue on the next connection. Any task may `send`.
    """

    def __init__(
        self,
        attempts: ConnectAttempts,
        runtime: ConnectionRuntime,
        on_connection: OnConnection | None,
        reconnect: Backoff | None,
        silence: float | None,
    ) -> None:
        super().__init__()
        self._attempts = attempts
        self._runtime = runtime
        self._on_connection = on_connection
        self._backoff = reconnect
        self._silence = silence
        self._retries = Retries()
        self._context = contextvars.copy_context()
        self._ws: WebSocket | None = None
        self._unread: deque[WebSocket] = deque()  # those with unread messages, and the open one
        self._failure: ConnectionFailedError | None = None

    # -- for users ----------------------------------------------------------------------------------

    @property
    def ws(self) -> WebSocket | None:
        """The open connection, after it was set up; None if there is none."""
        ws = self._ws
        # Other tasks may notice the end before the session's own task does.
        return ws if self.state == "connected" and ws is not None and not ws.closed else None

    def watch_state(self) -> AsyncIterator[ClientState]:
        """Iterate over ``state``, like `WebSocketClient.watch_state`."""
        return StateChanges(self)

    async def recv(self) -> WebSocketMessage | None:
        """Wait for the next message, from the next connection if necessary. A cancellation loses none.

        Returns:
            The message. None only without ``reconnect``, after the server has closed cleanly.

        Raises:
            ConnectionFailedError: the session has given up reconnecting.
            ConnectionClosedError: without ``reconnect``, the connection ended in another way than cleanly.
            ConnectionClosedLocallyError: the session's block was left.
        """
        while True:
            if not self._unread:
                await self._wait_for_connection()
                continue
            ws = self._unread[0]
            try:
                message = await self._receive(ws)
            except ConnectionClosedError:
                if self._backoff is None:
                    raise
                message = None
            if message is not None or self._backoff is None:
                return message
            await ws.wait_closed()
            if self._unread and self._unread[0] is ws:
                self._unread.popleft()
                self.changed.notify_all()  # a connection may wait for that

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WebSocketMessage:
        message = await self.recv()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, data: str | bytes, *, text: bool = False) -> None:
        """Send a message over the open connection. Without one, wait for the next connection first.

        Args:
            data: the message.
            text: as for `WebSocket.send`.

        Raises:
            ConnectionClosedError: the connection ended before the message was written. It may be sent again.
            ConnectionFailedError: the session has given up reconnecting.
        """
        await checkpoint_if_cancelled()
        while self.state != "connected":
            await self._wait_for_connection()
        assert self._ws is not None
        await self._ws.send(data, text=text)

    def reset(self, reason: str = "") -> None:
        """Close the open connection, so that it is replaced. Without an open connection, do nothing.

        Args:
            reason: for the Close frame, at most 123 bytes of UTF-8.
        """
        if self.state == "connected":
            assert self._ws is not None
            self._runtime.nursery.start_soon(drop, self._ws, 1000, reason)

    # -- connections --------------------------------------------------------------------------------

    async def _receive(self, ws: WebSocket) -> WebSocketMessage | None:
        if self._silence is None:
            return await ws.recv()
        with trio.move_on_after(self._silence) as scope:
            return await ws.recv()
        if scope.cancelled_caught and not ws.closed:
            logger.info("%r was silent for %s seconds; replacing it", ws, self._silence)
            await drop(ws, 1000, "silent for too long")
        return None

    async def _wait_for_connection(self) -> None:
        """Wait for a change of state; raise if there will be no other connection."""
        if self.state in ("disconnected", "closed"):
            await checkpoint()
            raise self._no_connection()
        await self.changed.wait()

    def _no_connection(self) -> Exception:
        if self.state == "closed":
            return ConnectionClosedLocallyError(1000, "the session's block was left")
        if self._failure is not None:
            return self._failure.with_traceback(None)  # or its traceback would grow each time
        assert self._ws is not None
        return closed_error(self._ws)

    @enable_ki_protection
    async def _begin(self) -> None:
        """Open the first connection in the caller's task, and start the task that replaces it."""
        self._take(await self._retries.open(self._backoff or ONCE, self._open, None, self._set_state))
        self._start(self._reconnect)

    def _start(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Start a task in the context of the session's block."""
        self._context.copy().run(self._runtime.nursery.start_soon, function, *args)

    async def _open(self) -> WebSocket:
        """Open one connection and set it up."""
        ws = await self._attempts.open(self._runtime)
        if self._on_connection is None:
            return ws
        setup = ConnectionSetup(ws, functools.partial(self._on_connection, ws))
        self._start(setup.run)
        await setup.finished(self._attempts.options.open_timeout)
        return ws

    def _take(self, ws: WebSocket) -> None:
        self._retries.connected()
        self._ws = ws
        self._unread.append(ws)
        self._set_state("connected")

    @enable_ki_protection
    async def _reconnect(self) -> None:
        """Replace each connection that ends, until an attempt fails for good."""
        backoff = self._backoff
        while True:
            ws = self._ws
            assert ws is not None
            await ws.wait_closed()
            error = closed_error(ws)
            if backoff is None:
                self._set_state("disconnected")
                return
            self._retries.disconnected(backoff)
            self._set_state("waiting")
            while len(self._unread) > 1:
                await self.changed.wait()
            try:
                self._take(await self._retries.open(backoff, self._open, error, self._set_state))
            except ConnectionFailedError as exc:
                logger.warning("giving up reconnecting: %s", exc)
                self._failure = exc
            except BaseException as exc:  # noqa: BLE001 - judged there
                log_failure(logger, "reconnecting failed", exc=judged(exc))
                self._failure = ConnectionFailedError(f"reconnecting failed: {text_of(exc)}")
                self._failure.__cause__ = exc
            if self._failure is not None:
                self._set_state("disconnected")
                return

    async def _close(self, exc: BaseException | None) -> None:
        ws = self.ws
        self._set_state("closed")
        if ws is not None:
            await close_after(ws, exc)


def _check(on_connection: object, reconnect: object, silence: object) -> None:
    check_set_up(on_connection, "WebSocket")
    if reconnect is not None and not isinstance(reconnect, Backoff):
        raise TypeError(f"reconnect is a Backoff or None, not {type(reconnect).__name__}")
    if silence is None:
        return
    if isinstance(silence, bool) or not isinstance(silence, int | float):
        raise TypeError(f"silence is a number of seconds or None, not {type(silence).__name__}")
    if not 0 < silence < math.inf:
        raise ValueError(f"silence must be above 0 seconds and finite, not {silence}")


@shows_settings_of(connect_config)
@block("async with trio_ws.session(...) as feed:")
@enable_ki_protection
async def session(
    uri: str | AskURI,
    *,
    on_connection: OnConnection | None = None,
    reconnect: Backoff | None = _BACKOFF,
    silence: float | None = None,
    **settings: Unpack[ConnectSettings],
) -> AsyncIterator[Session]:
    """Keep a connection to a server open for the duration of a block, and set up each new one.

    Entering the block makes attempts until a connection is open and set up, in the caller's task and cancel
    scope. After that, a connection that ends for any reason is replaced in the background, as ``reconnect``
    says. Leaving the block closes the last connection like `connect`.

    Args:
        uri: as for `connect`.
        on_connection: called with each new `WebSocket` before its messages are received by the session, for
            example to log in or to subscribe. It may send and receive. It is an async function, which is done
            when it returns, or an async context manager function, which is done when it yields and is left
            when the connection has ended; its tasks are cancelled then. It must be done within
            ``open_timeout``. `Reconnect` or any other exception ends that connection, and the next one is
            attempted.
        reconnect: when to retry. None for a single connection. Default ``Backoff()``.
        silence: seconds without a message, while a task waits for one, after which the connection is
            replaced. Default None: no limit. Pings have their own limit, ``ping_timeout``.
        settings: as for `connect`. With ``reconnect``, ``stream`` must be a function.

    Yields:
        A `Session`.

    Raises:
        TypeError, ValueError: an argument is invalid.
        ConnectionFailedError: on entering, the session has given up connecting.
    """
    _check(on_connection, reconnect, silence)
    attempts = _attempts(uri, reconnect, settings)
    async with attempts.open_runtime() as runtime:
        feed = Session(attempts, runtime, on_connection, reconnect, silence)
        await feed._begin()
        async with ClosedAfter(feed._close):
            yield feed


def _attempts(uri: str | AskURI, reconnect: Backoff | None, settings: ConnectSettings) -> ConnectAttempts:
    config = connect_config(uri, **settings)
    if reconnect is not None and config.stream is not None and not callable(config.stream):
        raise ValueError("a stream serves one connection only; pass an async function that opens a stream")
    return ConnectAttempts(config)


class Connections:
    """Consecutive connections: ``async for ws in rounds``. Made by `connections`."""

    def __init__(self, attempts: ConnectAttempts, runtime: ConnectionRuntime, reconnect: Backoff) -> None:
        self._attempts = attempts
        self._runtime = runtime
        self._backoff = reconnect
        self._retries = Retries()
        self._ws: WebSocket | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WebSocket:
        """Close the previous connection, and open the next one."""
        error: ConnectionClosedError | None = None
        if self._ws is not None:
            await self._ws.close()
            error = closed_error(self._ws)
            self._retries.disconnected(self._backoff)
        ws = await self._retries.open(self._backoff, self._open, error, lambda _: None)
        self._retries.connected()
        self._ws = ws
        return ws

    async def _open(self) -> WebSocket:
        return await self._attempts.open(self._runtime)

    async def _close(self, exc: BaseException | None) -> None:
        if self._ws is not None:
            await close_after(self._ws, exc)


@shows_settings_of(connect_config)
def connections(
    uri: str | AskURI, *, reconnect: Backoff = _BACKOFF, **settings: Unpack[ConnectSettings]
) -> AbstractAsyncContextManager[Connections]:
    """Open a new `WebSocket` for each iteration of a loop, with delays in between as ``reconnect`` says::

        async with trio_ws.connections(uri) as rounds:
            async for ws in rounds:
                try:
                    async for message in ws: ...
                except trio_ws.ConnectionClosedError:
                    continue

    The first iteration connects at once. Each later one closes the previous connection, waits, and makes
    attempts until there is another, in the task and cancel scope of the loop. Leaving the block closes the
    last connection like `connect`.

    Args:
        uri: as for `connect`.
        reconnect: when to retry. Default ``Backoff()``.
        settings: as for `connect`. ``stream`` must be a function.

    Raises:
        TypeError, ValueError: on entering, an argument is invalid.
        ConnectionFailedError: an iteration has given up connecting.
    """
    if not isinstance(reconnect, Backoff):
        raise TypeError(f"reconnect is a Backoff, not {type(reconnect).__name__}; write Backoff(...)")
    usage = "async with trio_ws.connections(...) as rounds: async for ws in rounds: ..."
    return Block(_open_connections(uri, reconnect, settings), "connections()", usage)


@asynccontextmanager
@enable_ki_protection
async def _open_connections(
    uri: str | AskURI, reconnect: Backoff, settings: ConnectSettings
) -> AsyncIterator[Connections]:
    attempts = _attempts(uri, reconnect, settings)
    async with attempts.open_runtime() as runtime:
        rounds = Connections(attempts, runtime, reconnect)
        async with ClosedAfter(rounds._close):
            yield rounds
