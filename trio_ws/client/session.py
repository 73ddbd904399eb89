"""Sessions: messages from a server that somebody else wrote, over one connection after the other.

`session` keeps a connection, sets each one up anew, and hands out the messages of all of them. `connections`
hands out the connections themselves.

Invariants:

- At most one connection is open at a time, and a new one is opened only when the last has ended.
- A message is handed out once. What an ended connection still holds comes before what the next gets.
- Messages of at most one ended connection are kept: a third one is opened once they are taken.
- What goes wrong in ``on_connection`` costs that connection and is told with its cause; the next is tried.
"""

from __future__ import annotations

import contextvars
import functools
import math
from collections import deque
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, Unpack

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from trio_ws._blocks import Block, block
from trio_ws._settings import shows_settings_of
from trio_ws.client.backoff import ONCE, Backoff
from trio_ws.client.config import AskURI, ConnectSettings, connect_config
from trio_ws.client.connect import ConnectAttempts, close_after
from trio_ws.client.retry import Retries, StateChanges, StateTracker
from trio_ws.client.setup import ConnectionSetup, check_set_up, drop
from trio_ws.errors import (
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionFailedError,
)
from trio_ws.logs import logger_for
from trio_ws.wall import judged, log_failure, text_of
from trio_ws.websocket.runtime import open_runtime

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
    """One connection after the other, as one stream of messages. Made by `session`.

    ``async for message in feed`` and `recv` go on over connections. Any task may `send`.
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
        self._unread: deque[WebSocket] = deque()  # those whose messages have not all been taken
        self._failure: ConnectionFailedError | None = None

    # -- what a user sees ---------------------------------------------------------------------------

    @property
    def ws(self) -> WebSocket | None:
        """The open connection, once it is set up; None while there is none."""
        ws = self._ws
        # The session's own task may learn of the end after whoever waits for it.
        return ws if self.state == "connected" and ws is not None and not ws.closed else None

    def watch_state(self) -> AsyncIterator[ClientState]:
        """Iterate over ``state``, as `WebSocketClient.watch_state` does."""
        return StateChanges(self)

    async def recv(self) -> WebSocketMessage | None:
        """Wait for the next message, over as many connections as it takes.

        Returns:
            The message. None only without ``reconnect``, once the server has closed cleanly.

        Raises:
            ConnectionFailedError: reconnecting was given up.
            ConnectionClosedError: without ``reconnect`` the connection ended, not cleanly.
            ConnectionClosedLocallyError: the session's block was left.

        A cancellation loses no message.
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
        """Send a message over the open connection; where there is none, wait for the next.

        ``text`` is as of `WebSocket.send`.

        Raises:
            ConnectionClosedError: the connection ended before the message was written. It may be sent again.
            ConnectionFailedError: reconnecting was given up.
        """
        await checkpoint_if_cancelled()
        while self.state != "connected":
            await self._wait_for_connection()
        assert self._ws is not None
        await self._ws.send(data, text=text)

    def reset(self, reason: str = "") -> None:
        """End the open connection, so that the next takes its place; without one, nothing happens.

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
        """Wait for a change; raise where there will be no more connection."""
        if self.state in ("disconnected", "closed"):
            await checkpoint()
            raise self._no_connection()
        await self.changed.wait()

    def _no_connection(self) -> Exception:
        if self.state == "closed":
            return ConnectionClosedLocallyError(1000, "the session's block was left")
        if self._failure is not None:
            return self._failure.with_traceback(None)  # raised again and again, it would grow
        assert self._ws is not None
        return self._ws._closed_error()

    @enable_ki_protection
    async def _begin(self) -> None:
        """Open the first connection, in the caller's task, and look after what follows."""
        self._take(await self._retries.open(self._backoff or ONCE, self._open, None, self._set_state))
        self._start(self._reconnect)

    def _start(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run a task in the context of the session's block."""
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
        """Replace each connection that ends, until reconnecting is given up."""
        backoff = self._backoff
        while True:
            ws = self._ws
            assert ws is not None
            await ws.wait_closed()
            error = ws._closed_error()
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
    """Keep a connection to a server for the length of a block, and set each one up anew.

    Entering tries until there is a connection that is set up, in the caller's task and cancel scope. From
    then on a connection that ends, for whatever reason, is replaced in the background, when ``reconnect``
    says so. Leaving the block closes the last one as `connect` does.

    Args:
        uri: as of `connect`.
        on_connection: called with each new `WebSocket` before its messages are handed out: to log in, to
            subscribe. An async function has done so when it returns. An async context manager function has
            done so when it yields; what it holds open, a nursery with a heartbeat for one, is cancelled when
            that connection has ended. It may receive what answers it. It gets ``open_timeout`` seconds.
            `Reconnect`, or any other exception, ends that connection, and the next is tried.
        reconnect: when to try again. None for a single connection. Default ``Backoff()``.
        silence: seconds that somebody waits for a message in vain, after which the connection is replaced.
            Default None, for no such limit; pings have theirs, ``ping_timeout``.
        settings: as of `connect`. With ``reconnect``, ``stream`` is a function.

    Yields:
        A `Session`.

    Raises:
        TypeError, ValueError: an argument does not fit.
        ConnectionFailedError: on entering, when trying was given up.
    """
    _check(on_connection, reconnect, silence)
    attempts = _attempts(uri, reconnect, settings)
    entered = False
    try:
        async with open_runtime(attempts.options) as runtime:
            entered = True
            feed = Session(attempts, runtime, on_connection, reconnect, silence)
            await feed._begin()
            try:
                yield feed
            except BaseException as exc:
                await feed._close(exc)
                raise
            await feed._close(None)
    finally:
        if not entered:
            await attempts.abandon()


def _attempts(uri: str | AskURI, reconnect: Backoff | None, settings: ConnectSettings) -> ConnectAttempts:
    config = connect_config(uri, **settings)
    if reconnect is not None and config.stream is not None and not callable(config.stream):
        raise ValueError("a stream is good for one connection; give an async function that opens one")
    return ConnectAttempts(config)


class Connections:
    """Connections, one after the other: ``async for ws in rounds``. Made by `connections`."""

    def __init__(self, attempts: ConnectAttempts, runtime: ConnectionRuntime, reconnect: Backoff) -> None:
        self._attempts = attempts
        self._runtime = runtime
        self._backoff = reconnect
        self._retries = Retries()
        self._ws: WebSocket | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WebSocket:
        """Close the connection of the last round, and open the next."""
        error: ConnectionClosedError | None = None
        if self._ws is not None:
            await self._ws.close()
            error = self._ws._closed_error()
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
    """A fresh `WebSocket` for each round of a loop, with pauses between as ``reconnect`` says::

        async with trio_ws.connections(uri) as rounds:
            async for ws in rounds:
                try:
                    async for message in ws: ...
                except trio_ws.ConnectionClosedError:
                    continue

    The first round begins at once. Each later one closes the connection before it, waits, and tries until
    there is another, in the task and cancel scope of the loop. Leaving the block closes the last connection
    as `connect` does.

    Args:
        uri: as of `connect`.
        reconnect: when to try again. Default ``Backoff()``.
        settings: as of `connect`. ``stream`` is a function.

    Raises:
        TypeError, ValueError: on entering, an argument does not fit.
        ConnectionFailedError: by a round, when trying was given up.
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
    async with open_runtime(attempts.options) as runtime:
        rounds = Connections(attempts, runtime, reconnect)
        try:
            yield rounds
        except BaseException as exc:
            await rounds._close(exc)
            raise
        await rounds._close(None)
