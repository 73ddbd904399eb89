"""ConnectionManager: the consecutive connections of one client, and the tasks that wait for the next one.

Each connection has a task of its own (`_run_connection`), which ends with it. When a connection is lost,
another task (`_recover`) retries until there is a new one or it gives up. Both are children of the client's
runtime, so they end with the client's block.

Invariants:

- State changes in synchronous code only, and every change wakes all waiting tasks. No task waits for a
  connection that will never come: a wait ends with a connection, an error, or its own cancellation.
- One task at a time connects: the one that holds `_connect_lock`.
- A task that connects by itself (entering the block, `connect`) does so under its own cancel scope.
"""

from __future__ import annotations

import contextvars
import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection

from trio_ws._types import ANY_VALUE
from trio_ws.client.backoff import ONCE
from trio_ws.client.connect import close_after
from trio_ws.client.retry import Retries, StateTracker
from trio_ws.client.setup import ConnectionSetup
from trio_ws.errors import ConnectionClosedError, ConnectionClosedLocallyError, ConnectionFailedError
from trio_ws.logs import logger_for
from trio_ws.wall import judged, log_failure, text_of
from trio_ws.websocket.internals import close_for_application, closed_error, closing_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_ws._types import NamedValues, Value, Values
    from trio_ws.client.backoff import Backoff
    from trio_ws.client.notifications import Notifications
    from trio_ws.client.setup import SetUp
    from trio_ws.client.subscriptions import Subscriptions
    from trio_ws.codecs.base import Packet
    from trio_ws.rpc.batch import CallBatch
    from trio_ws.rpc.outgoing import RPCResponse
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.websocket.runtime import ConnectionRuntime

T = TypeVar("T")

__all__ = ["ConnectionManager"]

logger = logger_for("trio_ws.client")


class ConnectionManager(StateTracker):
    """Manages the connections of a client. See the module docstring.

    Its methods for calls are those of `RPCSession`, and first wait for a connection.

    Args:
        open_session: opens one connection in a runtime and returns its session, not yet running. Raises
            ConnectionFailedError.
        backoff: when to replace lost connections; None for never.
        subscriptions: subscriptions to restore on each connection.
        notifications: streams that end with the last connection.
        set_up: sets up each connection before it is used; it may call over it.
        open_timeout: seconds for that.

    Attributes:
        session: the session of the last connection, or None.
    """

    def __init__(
        self,
        open_session: Callable[[ConnectionRuntime], Awaitable[RPCSession]],
        backoff: Backoff | None,
        subscriptions: Subscriptions,
        notifications: Notifications,
        set_up: SetUp[RPCSession] | None,
        open_timeout: float,
    ) -> None:
        super().__init__()
        self._open_session = open_session
        self._backoff = backoff
        self._subscriptions = subscriptions
        self._notifications = notifications
        self._set_up = set_up
        self._open_timeout = open_timeout
        self._runtime: ConnectionRuntime | None = None
        self._close_timeout = 0.0
        self._context = contextvars.copy_context()
        self._connect_lock = trio.Lock()
        self._trying = trio.CancelScope()  # around attempts to connect
        self._failure: ConnectionFailedError | None = None
        self._retries = Retries()
        self.session: RPCSession | None = None

    # -- opening and closing ------------------------------------------------------------------------

    def begin(self, runtime: ConnectionRuntime, close_timeout: float) -> None:
        """Called when the client's block begins."""
        self._runtime = runtime
        self._close_timeout = close_timeout
        self._context = contextvars.copy_context()

    @enable_ki_protection
    async def connect(self, backoff: Backoff | None = None) -> None:
        """Connect in this task if there is no connection. If cancelled, no further attempt is made."""
        if self._runtime is None:
            raise RuntimeError("enter the client's block first: async with WebSocketClient(...) as client")
        await checkpoint_if_cancelled()
        while self.state in ("connecting", "waiting"):
            # Another task is connecting. Its result is ours too, unless it is cancelled.
            await self.changed.wait()
            if self._failure is not None and not self.may_reconnect:
                raise self._no_connection()
        async with self._connect_lock:
            if self.state == "connected":
                return
            if self.state == "closed":
                raise self._no_connection()
            self._retries.restart()
            self._failure = None
            try:
                with trio.CancelScope() as self._trying:
                    await self._connect_with_retry(backoff or self._backoff or ONCE, None)
            except ConnectionFailedError as exc:
                self._give_up(exc)
                raise
            except BaseException:
                self._set_state("disconnected")
                raise
            if self._trying.cancelled_caught:
                raise self._no_connection()

    async def close(self, exc: BaseException | None) -> None:
        """Close when the block is left with this exception, as `connect` does, and wake all waiting tasks."""
        self._set_state("closed")
        self._trying.cancel()
        self._end_streams(self._no_connection)
        if self._connect_lock.locked():
            # A task elsewhere that is connecting closes what it has opened, which requires the runtime.
            with trio.move_on_after(self._close_timeout, shield=True):
                async with self._connect_lock:
                    pass
        session = self.session
        if session is not None:
            session.leave()
            await close_after(session.ws, exc)
        del self._open_session, self._set_up  # break a reference cycle with the client

    # -- connecting ---------------------------------------------------------------------------------

    async def _connect_with_retry(
        self, backoff: Backoff, error: ConnectionFailedError | ConnectionClosedError | None
    ) -> None:
        """Retry until there is a connection. With ``error``, wait before the first attempt."""
        assert self._runtime is not None
        self._take(
            await self._retries.open(
                backoff, functools.partial(self._open, self._runtime), error, self._set_state
            )
        )

    async def _open(self, runtime: ConnectionRuntime) -> RPCSession:
        """Open one connection, run it, and set it up."""
        session = await self._open_session(runtime)
        if self._set_up is not None:
            self._start(self._run_connection, session)
            setup = ConnectionSetup(session.ws, functools.partial(self._set_up, session))
            self._start(ConnectionSetup.run, setup)
            await setup.finished(self._open_timeout)
            if session.over:
                raise ConnectionFailedError(
                    f"the connection ended while it was set up: {closed_error(session.ws)}"
                )
        return session

    def _take(self, session: RPCSession) -> None:
        """Start to use a new connection."""
        assert self._runtime is not None
        if self.session is not None:
            session.delivery.adopt(self.session.delivery)
        self.session = session
        self._failure = None
        self._retries.connected()
        session.on_over = lambda: self._on_disconnect(session)
        if self._set_up is None:
            self._start(self._run_connection, session)
        self._subscriptions.attach(session)
        self._set_state("connected")

    def _start(self, function: Callable[[T], Awaitable[None]], argument: T) -> None:
        """Start a task in the context of the client's block, whatever the current one is."""
        assert self._runtime is not None
        self._context.copy().run(self._runtime.nursery.start_soon, function, argument)

    @enable_ki_protection
    async def _run_connection(self, session: RPCSession) -> None:
        """Run one connection, in a nursery that must not fail."""
        try:
            await session.run()
        except BaseException as exc:  # noqa: BLE001 - classified by judged()
            log_failure(logger, "on_receive of a client's handler failed", exc=judged(exc))
            close_for_application(session.ws, 1011, "internal error")
        finally:
            await session.ws.close()  # finish an incomplete close; at once if the block was cancelled

    def _on_disconnect(self, session: RPCSession) -> None:
        """Called by the session when its connection has ended."""
        if session is not self.session or self.state != "connected":
            return
        ws, backoff = session.ws, self._backoff
        error = closed_error(ws)
        if backoff is None or not self._is_retried(backoff, error):
            self._set_state("disconnected")
            closing = closing_of(ws)
            self._end_streams(None if closing.ended_cleanly else closing.closed_error)
            return
        self._retries.disconnected(backoff)
        self._subscriptions.detach()
        self._set_state("waiting")
        self._start(self._recover, error)

    def _is_retried(self, backoff: Backoff, error: ConnectionClosedError) -> bool:
        try:
            return backoff.retries(error)
        except BaseException as exc:  # noqa: BLE001 - classified by judged()
            log_failure(logger, "retries() of the Backoff failed, which counts as false", exc=judged(exc))
            return False

    @enable_ki_protection
    async def _recover(self, error: ConnectionClosedError) -> None:
        assert self._backoff is not None
        async with self._connect_lock:
            if self.state != "waiting":
                return
            try:
                with trio.CancelScope() as self._trying:
                    await self._connect_with_retry(self._backoff, error)
            except ConnectionFailedError as exc:
                logger.warning("giving up reconnecting: %s", exc)
                self._give_up(exc)
            except BaseException as exc:  # noqa: BLE001 - classified by judged()
                log_failure(logger, "reconnecting failed", exc=judged(exc))
                failure = ConnectionFailedError(f"reconnecting failed: {text_of(exc)}")
                failure.__cause__ = exc
                self._give_up(failure)

    def _give_up(self, failure: ConnectionFailedError) -> None:
        self._failure = failure
        self._set_state("disconnected")
        self._end_streams(self._no_connection)

    def _end_streams(self, error: Callable[[], BaseException] | None) -> None:
        self._subscriptions.end(error)
        self._notifications.end(error)

    @property
    def given_up(self) -> Exception | None:
        """Why there will be no connection, if there was one or an attempt to make one."""
        if self.may_reconnect or (self.session is None and self._failure is None and self.state != "closed"):
            return None
        return self._no_connection()

    # -- waiting ------------------------------------------------------------------------------------

    @property
    def may_reconnect(self) -> bool:
        """Whether there is a connection, or one may be made automatically."""
        return self.state in ("connected", "connecting", "waiting")

    async def wait_connected(self) -> RPCSession:
        """Wait for a connection.

        Raises:
            ConnectionFailedError: the client has given up.
            ConnectionClosedError: the connection was lost, or the block was left, and there will be no other.
            RuntimeError: there was no connection yet, and no attempt to make one is under way.
        """
        while self.state != "connected":
            if not self.may_reconnect:
                await checkpoint()
                raise self._no_connection()
            await self.changed.wait()
        assert self.session is not None
        return self.session

    async def wait_writable(self) -> RPCSession:
        """Wait for a connection that accepts a request without waiting."""
        await checkpoint_if_cancelled()
        while True:
            session = await self.wait_connected()
            try:
                await session.outgoing.wait_writable()
            except ConnectionClosedError:
                if self.may_reconnect and self.session is session and not session.over:
                    # It is closing. As long as it is read, its end will be noticed.
                    with session.transport.read_demand:
                        await self.changed.wait()
                elif not self.may_reconnect:
                    raise self._no_connection() from None
            else:
                return session

    def _no_connection(self) -> Exception:
        if self.state == "closed":
            return ConnectionClosedLocallyError(1000, "the client's block was left")
        if self._failure is not None:
            return self._failure.with_traceback(None)  # or its traceback would grow each time
        if self.session is not None:
            return closed_error(self.session.ws)
        return RuntimeError("not connected; await client.connect() first, within the client's block")

    # -- the interface of RPCSession ----------------------------------------------------------------

    async def call(
        self, method: str, args: Values, kwargs: NamedValues, returns: object = ANY_VALUE
    ) -> Value:
        return await (await self.wait_writable()).outgoing.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, args: Values, kwargs: NamedValues) -> RPCResponse:
        return await (await self.wait_writable()).outgoing.send_rpc(method, args, kwargs)

    async def notify(self, method: str, args: Values, kwargs: NamedValues) -> None:
        await (await self.wait_writable()).outgoing.notify(method, args, kwargs)

    async def send_batch(self, batch: CallBatch) -> None:
        await (await self.wait_writable()).outgoing.send_batch(batch)

    async def open_stream(
        self, method: str, args: Values, kwargs: NamedValues, items: object
    ) -> ItemStream[Value]:
        return await (await self.wait_writable()).outgoing.open_stream(method, args, kwargs, items)

    @asynccontextmanager
    async def stream(
        self, method: str, args: Values, kwargs: NamedValues, items: object = ANY_VALUE
    ) -> AsyncIterator[ItemStream[Value]]:
        session = await self.wait_writable()
        async with session.outgoing.stream(method, args, kwargs, items) as results:
            yield results

    async def send(self, data: Value) -> None:
        await (await self.wait_writable()).outgoing.send(data)

    async def recv(self) -> Packet | None:
        while True:
            session = self.session
            if session is None or (session.over and not session.delivery.packets and self.may_reconnect):
                session = await self.wait_connected()
            elif session.over and not session.delivery.packets and self._failure is not None:
                await checkpoint()
                raise self._no_connection()
            try:
                packet = await session.recv()
            except ConnectionClosedError:
                if not self.may_reconnect and self._failure is None:
                    raise
            else:
                if packet is not None or not (self.may_reconnect or self._failure is not None):
                    return packet
