"""WebSocketServer and serve: handlers run as tasks of a nursery that belongs to the caller's block.

Invariants: a server whose block is left or cancelled sends 1001 to every peer, gives handlers
``drain_timeout`` seconds to finish and cancels the rest. No task remains. client_task.py handles each single
client.
"""

from __future__ import annotations

import functools
import math
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._blocks import EnteredOnly, check_not_importing, check_trio
from trio_ws._settings import shows_settings_of
from trio_ws.channels.sharing import share
from trio_ws.errors import check_close
from trio_ws.logs import logger_for
from trio_ws.rpc.detached import FinishSoon
from trio_ws.rpc.handler import serve_handler
from trio_ws.rpc.methods import allow_keyboard_interrupt, is_interruptible
from trio_ws.rpc.task_pool import TaskPool
from trio_ws.server.accepting import accept_forever, close_listeners, listening_socket
from trio_ws.server.blocking import run_in_thread
from trio_ws.server.client_task import ClientTasks, ServeFunction, set_pages
from trio_ws.server.config import ServerConfig, ServerSettings, server_config, tcp_address
from trio_ws.server.listeners import is_loopback, open_listeners
from trio_ws.server.router import Pages, Router, ServerResources
from trio_ws.server.routing import REQUEST, check_function, is_async
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.internals import close_for_shutdown, parts_of
from trio_ws.websocket.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from types import TracebackType

    from trio_ws.channels.broker import Broker
    from trio_ws.channels.hub import Hub
    from trio_ws.rpc.handler import WebSocketHandler
    from trio_ws.server.config import Target
    from trio_ws.server.listeners import SocketFile

__all__ = ["DrainReport", "WebSocketServer", "add_pages", "serve"]

logger = logger_for("trio_ws.server")


class DrainReport(NamedTuple):
    """The result of a drain.

    Attributes:
        finished: connections whose handlers ended by themselves.
        cancelled: connections whose handlers were cancelled after the timeout.
    """

    finished: int
    cancelled: int


class WebSocketServer(ClientTasks, EnteredOnly):
    """A WebSocket server for the duration of an ``async with`` block.

    Args:
        target: an async function of one `WebSocket`, run for each client. Its first send or receive accepts
            the client; if it returns without either, the client is rejected with 403. Or a plain function of
            one `BlockingWebSocket`, run in a thread for each client. Or an `App`, which routes requests. Or a
            `WebSocketHandler`, as a class or an instance, whose methods clients call. Without a target, call
            `accept` to get the connections.
        port: TCP port; 0 for a free one.
        host: name or address to listen on. None, the default, means the loopback addresses, 127.0.0.1 and, if
            there is one, ::1, which only this machine can reach. ``"*"`` means all interfaces, IPv4 and IPv6;
            ``"0.0.0.0"`` and ``"::"`` all interfaces of one kind.
        ssl_context: enables TLS with this context.
        unix_path: listen on a Unix socket at this path instead; ``unix_mode`` of ``options`` sets its
            permissions. The file of a socket that is no longer in use is replaced.
        listeners: listen with these instead; they are closed at the end.
        subprotocols: supported subprotocols, most preferred first. The first one that the client offered is
            selected, unless ``ws.accept`` names another. For a handler, the default is the RPC codecs.
        max_connections: overrides that field of ``options``.
        broker: connects the handler's channels to those of other processes: a `Broker`, or a URL such as
            ``"redis://localhost"`` (requires ``trio-ws[redis]``).
        debug: an unexpected exception of a handler ends the server and is raised from its block unchanged.
        options: limits and timeouts; default ``Options()``.

    Raises:
        TypeError, ValueError: immediately, for invalid arguments.
        OSError: on entering, if an address is not available.
        BrokerError: on entering, if the broker cannot be reached within ``open_timeout``.
    """

    _usage = "async with trio_ws.WebSocketServer(...) as server:"

    @shows_settings_of(server_config)
    def __init__(
        self, target: Target | None = None, port: int = 0, **settings: Unpack[ServerSettings]
    ) -> None:
        self._set_up(server_config(target, port, **settings))

    def _set_up(self, config: ServerConfig) -> None:
        self._config = config
        self.options = config.options
        self.listeners: Sequence[trio.abc.Listener[trio.abc.Stream]] = ()
        super().__init__(config.router, config.ssl_context)
        self._subprotocols = config.subprotocols
        self._debug = config.debug
        chosen = self._choose_target(config)
        if chosen is config.target and is_interruptible(chosen):
            allow_keyboard_interrupt(chosen)
        else:
            chosen = functools.partial(self._run_target, chosen)
        self._target = chosen
        self._to_accept, self._accepted = trio.open_memory_channel[WebSocket](0)
        self._manager: AbstractAsyncContextManager[None] | None = None
        self._acceptors: trio.Nursery  # set while the block runs

    def _choose_target(self, config: ServerConfig) -> ServeFunction:
        if config.target is None:
            return self._hand_out
        if config.handler is not None:
            return self._call_handler
        if config.router is not None:
            target: ServeFunction = config.target
            return target
        self._takes_request = REQUEST in check_function(config.target, "WebSocket")
        if not is_async(config.target):
            return self._call_in_thread
        return self._call_with_request if self._takes_request else config.target

    # -- public methods -----------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        check_trio("WebSocketServer")
        if self._state != "new":
            raise RuntimeError("a WebSocketServer can be entered only once; make another")
        self._manager = self._run() if self._router is None else self._run_with_lifespan(self._router)
        await self._manager.__aenter__()
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        result: bool | None = await self._manager.__aexit__(kind, exc, trace)
        return result

    async def serve_forever(self) -> None:
        """Wait until cancelled, or until a handler's exception ends the server with ``debug``.

        Raises:
            RuntimeError: the server's block was not entered, or was left; or a module that is imported to be
                served calls this, so that the import would never end.
        """
        check_not_importing()
        self._check_entered()
        await trio.sleep_forever()

    def _check_entered(self) -> None:
        if self._state == "new":
            raise RuntimeError(
                "the server does not run yet; enter its block: async with WebSocketServer(...)"
            )
        if self._state == "closed":
            raise RuntimeError("the server's block was left; make another WebSocketServer")

    async def accept(self) -> WebSocket:
        """Wait for the next client and return its open connection, which lives until it is closed.

        Raises:
            RuntimeError: the server has a target, which gets the connections; or its block was not entered.
            trio.ClosedResourceError: the server is shutting down.
        """
        check_trio("accept()")
        if self._config.target is not None:
            raise RuntimeError("accept() requires a WebSocketServer without a target")
        if self._state == "new":
            self._check_entered()
        try:
            return await self._accepted.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the server is shutting down") from None

    async def drain(
        self,
        code: int = 1001,
        reason: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> DrainReport:
        """Stop serving gracefully, as leaving the block does.

        New clients get 503, and every connection a Close frame. Handlers get ``timeout`` seconds to finish
        and are then cancelled.

        Args:
            code: close code for every connection; default 1001, going away.
            reason: at most 123 bytes of UTF-8.
            timeout: seconds; default ``drain_timeout``. 0 cancels at once.

        Returns:
            The numbers of handlers that finished and that were cancelled.

        Raises:
            RuntimeError: the server has not started.
        """
        check_trio("drain()")
        check_close(code, reason)
        if timeout is None:
            timeout = self.options.drain_timeout
        if math.isnan(timeout) or timeout < 0:
            raise ValueError(f"timeout must be 0 seconds or more, not {timeout}")
        if self._state == "new":
            raise RuntimeError("the server has not started; only a running server can be drained")
        self._state = "draining"
        self._to_accept.close()
        before = self.connections
        for ws in before:
            close_for_shutdown(ws, code, reason)
        # Do not wait for opening handshakes: one silent client would use up all the time.
        with trio.move_on_after(timeout):
            while before & self._connections.keys() or self._exchanges:
                await self._client_done.wait()
        late = before & self._connections.keys()
        if late:
            logger.warning(
                "drain: cancelling %d handlers after drain_timeout (%s seconds)", len(late), timeout
            )
        report = DrainReport(finished=len(before) - len(late), cancelled=len(late))
        self._state = "closed"  # from here on nothing may start in the handlers' nursery
        self._handlers.cancel_scope.cancel()
        while self._clients:
            await self._client_done.wait()
        return report

    async def stop_listening(self) -> None:
        """Close the listeners, and wait for opening handshakes under way to finish.

        Everything else continues. Other processes that share the listening sockets get the new clients from
        now on. The wait takes at most ``open_timeout``. A cancellation ends the wait; the listeners are
        closed anyway.

        Raises:
            RuntimeError: the server is not running.
        """
        check_trio("stop_listening()")
        if self._state != "serving":
            raise RuntimeError(f"the server is {self._state}; only a running server can stop listening")
        self._acceptors.cancel_scope.cancel()
        listeners, self.listeners = self.listeners, ()
        with trio.CancelScope(shield=True):
            await close_listeners(listeners)
        while self._handshakes:
            await self._client_done.wait()

    @property
    def state(self) -> Literal["new", "serving", "draining", "closed"]:
        """``"new"``, then ``"serving"``, ``"draining"`` and ``"closed"``."""
        return self._state

    @property
    def connections(self) -> frozenset[WebSocket]:
        """A copy of the set of connections whose handlers are running."""
        return frozenset(self._connections)

    @property
    def handler(self) -> WebSocketHandler | None:
        """The `WebSocketHandler` that serves the clients, or None for another target."""
        return self._config.handler

    @property
    def broker(self) -> Broker | None:
        """The broker, whose ``state`` and ``statistics()`` show its condition; None without a broker."""
        return self._config.broker

    @property
    def port(self) -> int:
        """The TCP port of the first listener.

        Raises:
            RuntimeError: there is no TCP listener, or the server is not running.
        """
        return tcp_address(self.listeners)[1]

    @property
    def url(self) -> str:
        """A URI to connect to the first listener from this machine.

        Raises:
            RuntimeError: as `port`; never with ``unix_path``.
        """
        return self._config.url(self.listeners)

    # -- running ------------------------------------------------------------------------------------

    @asynccontextmanager
    @enable_ki_protection
    async def _run_with_lifespan(self, router: Router) -> AsyncIterator[None]:
        try:
            async with router.run_lifespan(self.options.close_timeout), self._run():
                yield
        finally:
            with trio.CancelScope(shield=True):
                await close_listeners(self._config.listeners or ())

    @asynccontextmanager
    @enable_ki_protection
    async def _run(self) -> AsyncIterator[None]:
        hubs = self._hubs()
        async with AsyncExitStack() as stack:
            if self._config.broker is not None:
                await stack.enter_async_context(share(self._config.broker, hubs, self.options.open_timeout))
            await stack.enter_async_context(self._run_joined(hubs.values()))
            yield

    def _hubs(self) -> dict[str, Hub]:
        """Return the channels of each handler, by the namespace that they have at a broker."""
        if self._config.handler is not None:
            return {"": self._config.handler.channels}
        hubs: dict[str, Hub] = {}
        for path, handler in self._router.handlers.items() if self._router is not None else ():
            if handler.channels not in hubs.values():  # skip a handler that is mounted twice
                hubs[path.replace(":", "=")] = handler.channels
        return hubs

    @asynccontextmanager
    @enable_ki_protection
    async def _run_joined(self, hubs: Iterable[Hub]) -> AsyncIterator[None]:
        socket_file: SocketFile | None = None
        if self._config.listeners is not None:
            self.listeners = list(self._config.listeners)
        else:
            self.listeners, socket_file = await open_listeners(
                self._config.port, self._config.host, self._config.unix_path, self.options.unix_mode
            )
        try:
            async with open_runtime(self.options) as self._runtime:
                self._handlers = await self._runtime.nursery.start(_host_tasks, self._abort_without_task)
                # One thread per possible connection. A smaller limit would limit connections, which no option
                # says.
                threads = trio.CapacityLimiter(self.options.max_connections or math.inf)
                workers = self._runtime.reader.spawner = TaskPool(self._handlers)
                finish_soon = FinishSoon(self._start_finishing, self._forget_client)
                self._resources = ServerResources(workers, threads, self._debug, finish_soon)
                self._acceptors = await self._runtime.nursery.start(_host_tasks)
                for hub in hubs:
                    self._runtime.nursery.start_soon(hub.fanout.run, name="trio_ws channels")
                    if self._config.broker is not None:
                        self._runtime.nursery.start_soon(hub.run, name="trio_ws presence")
                        self._runtime.nursery.start_soon(hub.follow_histories, name="trio_ws histories")
                for listener in self.listeners:
                    admit = functools.partial(
                        self._accept_client, loopback=self._ssl_context is None and is_loopback(listener)
                    )
                    self._acceptors.start_soon(
                        accept_forever,
                        listener,
                        listening_socket(listener),
                        admit,
                        None if self._counts is None else self._counts.exceeds_others,
                    )
                self._state = "serving"
                try:
                    with trio.CancelScope() as self._block:
                        yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.drain()
        finally:
            listeners, self.listeners = self.listeners, ()
            with trio.CancelScope(shield=True):
                await close_listeners(listeners)
            if socket_file is not None:
                socket_file.remove()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @enable_ki_protection
    async def _call_handler(self, ws: WebSocket) -> object:
        handler = self._config.handler
        assert handler is not None
        resources = self._resources
        return await serve_handler(
            handler, ws, resources.task_pool, debug=self._debug, finish_soon=resources.finish_soon
        )

    def _start_finishing(self, ws: WebSocket, rest: Callable[[WebSocket], Awaitable[None]]) -> None:
        self._handlers.start_soon(self._finish_client, ws, rest)

    async def _call_with_request(self, ws: WebSocket) -> object:
        return await self._config.target(ws, request=ws.request)

    @enable_ki_protection
    async def _call_in_thread(self, ws: WebSocket) -> None:
        more = {REQUEST: ws.request} if self._takes_request else {}
        await run_in_thread(self._config.target, ws, self._resources.threads, more)

    async def _hand_out(self, ws: WebSocket) -> None:
        await ws.accept()
        try:
            self._to_accept.send_nowait(ws)
        except trio.WouldBlock:
            await self._offer(ws)
        except trio.ClosedResourceError:
            return  # accept() will not be called any more
        await ws.wait_closed()

    async def _offer(self, ws: WebSocket) -> None:
        """Wait until accept() returns it, the server stops, or it ends without unread messages."""
        async with trio.open_nursery() as nursery:

            async def end_with_it() -> None:
                await ws.wait_closed()
                if not parts_of(ws).receive_buffer.messages:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_it)
            try:
                await self._to_accept.send(ws)
            except trio.ClosedResourceError:
                await ws.close(1001)
            nursery.cancel_scope.cancel()


@enable_ki_protection
async def _host_tasks(
    when_cancelled: Callable[[], None] | None = None, *, task_status: trio.TaskStatus[trio.Nursery]
) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        try:
            await trio.sleep_forever()
        finally:
            if when_cancelled is not None:
                when_cancelled()


def add_pages(server: WebSocketServer, make: Callable[[object, str], Pages], name: str) -> None:
    """Add pages to a server that was not entered.

    Args:
        server: the server.
        make: makes the pages for its target, or the instance if that is a class, and a title.
        name: the title.
    """
    set_pages(server, make(server._config.target, name))


@shows_settings_of(server_config)
async def serve(
    target: Target,
    port: int,
    *,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
    **settings: Unpack[ServerSettings],
) -> None:
    """Run a `WebSocketServer` until cancelled: ``trio.run(trio_ws.serve, handler, 8000)``.

    ``await nursery.start(trio_ws.serve, handler, 0)`` returns the server once it listens. Arguments and
    cancellation are those of `WebSocketServer`.
    """
    check_trio("serve()")
    if target is None:
        raise TypeError("serve() needs a target: a function of one WebSocket, a WebSocketHandler or an App")
    async with WebSocketServer(target, port, **settings) as server:
        task_status.started(server)
        await server.serve_forever()
