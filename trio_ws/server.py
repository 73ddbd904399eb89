"""WebSocketServer and serve: handlers as tasks of a nursery that the caller can see.

The way of a client: a listener's task accepts it, a task of its own reads the opening request (all of it
within ``open_timeout``), makes a `WebSocket`, runs the handler on it and closes it.

What always holds:

- One bad connection costs one connection: whatever a handler raises is logged once and answered with 1011.
- A server that is left or cancelled says 1001 to everyone, gives handlers ``drain_timeout`` seconds to finish
  and cancels the rest. No task remains.
- Counters change in synchronous code, so that admission is exact.
"""

from __future__ import annotations

import functools
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import trio
from trio.lowlevel import current_task, disable_ki_protection, enable_ki_protection

from trio_ws.blocking import BlockingWebSocket, run_in_thread
from trio_ws.channels.hub import share
from trio_ws.channels.urls import broker_from
from trio_ws.errors import ConnectionClosedError, WebSocketException, check_close
from trio_ws.front import Exchange, Front, Shared
from trio_ws.handler import UNFINISHED, WebSocketHandler
from trio_ws.network.http import encode_response
from trio_ws.network.listen import (
    accept_forever,
    answer,
    check_request,
    open_listeners,
    read_request,
    read_request_now,
    secure,
    send_response,
)
from trio_ws.options import Options
from trio_ws.routing import check_function, is_async
from trio_ws.rpc.workers import Workers
from trio_ws.websocket.bell import Bell
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.endpoint import CONNECTING
from trio_ws.websocket.service import open_service
from trio_ws.websocket.transport import SocketTransport
from trio_ws.wire.handshake import check_subprotocols
from trio_ws.wire.http import HTTPError, http_response
from trio_ws.wire.packets import SUBPROTOCOLS
from trio_ws.wire.reader import RequestReader

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

    from trio_ws.channels.brokers import Broker
    from trio_ws.channels.hub import Hub
    from trio_ws.websocket.service import Service
    from trio_ws.websocket.transport import Transport
    from trio_ws.wire.http import Request

__all__ = ["DrainReport", "WebSocketServer", "serve"]

logger = logging.getLogger("trio_ws.server")

Target = (
    Callable[[WebSocket], Awaitable[object]]
    | Callable[[BlockingWebSocket], None]
    | Front
    | WebSocketHandler[Any]
    | type[WebSocketHandler[Any]]
)


class DrainReport(NamedTuple):
    """How a drain ended.

    Attributes:
        finished: connections whose handlers ended by themselves.
        cancelled: connections whose handlers were cancelled when the time was over.
    """

    finished: int
    cancelled: int


class WebSocketServer:
    """A WebSocket server for the length of an ``async with`` block.

    Args:
        target: an async function of one `WebSocket`, run for each client. It accepts implicitly when it first
            sends or receives; one that returns untouched rejects with 403. Or a plain function of one
            `BlockingWebSocket`, run in a thread for each client. Or an `App`, whose routes decide. Or a
            `WebSocketHandler`, class or instance, whose methods clients call. Without a target, `accept`
            hands out the connections.
        port: TCP port; 0 for one that is free.
        host: name or address to listen on; None for all, v4 and v6.
        ssl_context: speak TLS with it.
        unix_path: listen on a Unix socket at this path instead.
        listeners: listen with these instead; they are closed in the end.
        subprotocols: those that the server speaks, best first; the first that a client offered is agreed on
            unless ``ws.accept`` names another. For a handler the dialects of calls are the default.
        max_connections: overrides that field of ``options``.
        broker: joins the handler's channels to those of other processes: a `Broker`, or a URL such as
            ``"redis://localhost"`` (extra ``trio-ws[redis]``). None for none.
        debug: an unexpected exception of a handler ends the server and leaves its block as it was raised.
        options: limits and timeouts; default ``Options()``.

    Raises:
        TypeError, ValueError: at once, for arguments that do not fit.
        OSError: on entering, where an address cannot be had.
        BrokerError: on entering, where the broker cannot be reached within ``open_timeout``.
    """

    def __init__(
        self,
        target: Target | None = None,
        port: int = 0,
        *,
        host: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        listeners: Sequence[trio.abc.Listener[Any]] | None = None,
        subprotocols: Sequence[str] = (),
        max_connections: int | None = None,
        broker: Broker | str | None = None,
        debug: bool = False,
        options: Options | None = None,
    ) -> None:
        _check_target(target)
        _check_place(port, unix_path, listeners)
        if options is not None and not isinstance(options, Options):
            raise TypeError(f"options is an Options, not {type(options).__name__}; write Options(...)")
        self.options = options if options is not None else Options()
        if max_connections is not None:
            self.options = replace(self.options, max_connections=max_connections)
        self.listeners: Sequence[trio.abc.Listener[Any]] = ()
        self._handler = _as_handler(target)
        self._front = target if isinstance(target, Front) else None
        self._target: Any = target if target is not None else self._hand_out
        self._port = port
        self._host = host
        self._ssl_context = ssl_context
        self._unix_path = unix_path
        self._given_listeners = listeners
        if self._handler is not None:
            self._target = self._call_handler
            subprotocols = subprotocols or SUBPROTOCOLS
        elif target is not None and self._front is None and not is_async(target):
            self._target = self._call_in_thread
            self._function: Any = target
        self._subprotocols = tuple(check_subprotocols(subprotocols))
        self._broker = broker_from(broker) if broker is not None else None
        self._debug = debug or (self._front is not None and self._front.debug)
        self._state: Literal["new", "serving", "draining", "closed"] = "new"
        self._connections: set[WebSocket] = set()
        self._without_task: set[WebSocket] = set()  # those of them that live in the service's reader alone
        self._exchanges = 0  # plain HTTP requests that are being answered
        self._clients = 0  # connections in any state, those in their opening handshake too
        self._handshakes = 0
        self._gone = Bell()  # rings when a client has gone, or is through with its opening handshake
        self._failure: BaseException | None = None
        self._to_accept, self._accepted = trio.open_memory_channel[WebSocket](0)
        self._manager: Any = None
        # Set while the block runs.
        self._block: trio.CancelScope
        self._service: Service
        self._handlers: trio.Nursery
        self._shared: Shared
        self._acceptors: trio.Nursery

    # -- what a user sees ---------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a WebSocketServer is entered once; make another")
        self._manager = self._run() if self._front is None else self._run_front(self._front)
        await self._manager.__aenter__()
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        result: bool | None = await self._manager.__aexit__(kind, exc, trace)
        return result

    async def serve_forever(self) -> None:
        """Wait until cancelled, or until a handler's exception ends the server with ``debug``."""
        await trio.sleep_forever()

    async def accept(self) -> WebSocket:
        """Wait for the next client and hand out its open connection, which lives until it is closed.

        Raises:
            RuntimeError: the server has a target, which gets the connections.
            trio.ClosedResourceError: the server is going away.
        """
        if self._target != self._hand_out:
            raise RuntimeError("accept() is for a WebSocketServer without a target")
        try:
            return await self._accepted.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the server is going away") from None

    async def drain(
        self,
        code: int = 1001,
        reason: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> DrainReport:
        """Stop serving gracefully; leaving the block does the same.

        New clients get 503, every connection a Close frame; handlers get ``timeout`` seconds to finish and
        are cancelled then.

        Args:
            code: the close code for every connection; default 1001, going away.
            reason: at most 123 bytes of UTF-8.
            timeout: seconds; default ``drain_timeout``. 0 cancels at once.

        Returns:
            How many handlers finished and how many were cancelled.
        """
        check_close(code, reason)
        if timeout is None:
            timeout = self.options.drain_timeout
        if math.isnan(timeout) or timeout < 0:
            raise ValueError(f"timeout must be 0 seconds or more, not {timeout}")
        self._state = "draining"
        self._to_accept.close()
        before = self.connections
        for ws in before:
            ws._go_away(code, reason)
        # Who is still in the opening handshake is not waited for: one silent client would cost all the time.
        with trio.move_on_after(timeout):
            while before & self._connections or self._exchanges:
                await self._gone.wait()
        late = before & self._connections
        if late:
            logger.warning(
                "drain: cancelling %d handlers after drain_timeout (%s seconds)", len(late), timeout
            )
        report = DrainReport(finished=len(before) - len(late), cancelled=len(late))
        self._state = "closed"  # from here on nothing may start in the nursery of handlers
        self._handlers.cancel_scope.cancel()
        while self._clients:
            await self._gone.wait()
        return report

    async def stop_listening(self) -> None:
        """Close the listeners, and wait until those who are in their opening handshake have finished it.

        Everything else goes on. Where other processes have the same listening sockets, new clients are
        theirs from now on. The wait takes at most ``open_timeout``; a cancellation ends it, and the listeners
        are closed all the same.

        Raises:
            RuntimeError: the server does not serve.
        """
        if self._state != "serving":
            raise RuntimeError(f"the server is {self._state}; only one that serves can stop listening")
        self._acceptors.cancel_scope.cancel()
        listeners, self.listeners = self.listeners, ()
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()
        while self._handshakes:
            await self._gone.wait()

    @property
    def state(self) -> Literal["new", "serving", "draining", "closed"]:
        """``"new"``, then ``"serving"``, ``"draining"`` and ``"closed"``."""
        return self._state

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The connections whose handlers run now: a copy."""
        return frozenset(self._connections)

    @property
    def handler(self) -> WebSocketHandler[Any] | None:
        """The `WebSocketHandler` that serves the clients, or None where something else does."""
        return self._handler

    @property
    def broker(self) -> Broker | None:
        """The broker, whose ``state`` and ``statistics()`` show how it fares; None where there is none."""
        return self._broker

    @property
    def port(self) -> int:
        """The TCP port of the first listener.

        Raises:
            RuntimeError: there is no TCP listener, or the server does not run.
        """
        return int(self._tcp_address()[1])

    @property
    def url(self) -> str:
        """A URI that reaches the first listener from this machine."""
        scheme = "wss" if self._ssl_context is not None else "ws"
        if self._unix_path is not None:
            return f"{scheme}://localhost/"
        host, port = self._tcp_address()[:2]
        if host in ("0.0.0.0", "::"):  # noqa: S104 - a comparison, not a bind
            host = "localhost"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def _tcp_address(self) -> Any:
        for listener in self.listeners:
            if isinstance(listener, trio.SocketListener) and listener.socket.family != socket.AF_UNIX:
                return listener.socket.getsockname()
        raise RuntimeError("this server has no TCP listener, or does not run")

    # -- running ------------------------------------------------------------------------------------

    @asynccontextmanager
    @enable_ki_protection
    async def _run_front(self, front: Front) -> AsyncIterator[None]:
        try:
            async with front.live(self.options.close_timeout), self._run():
                yield
        finally:
            with trio.CancelScope(shield=True):
                for listener in self._given_listeners or ():
                    await listener.aclose()

    @asynccontextmanager
    @enable_ki_protection
    async def _run(self) -> AsyncIterator[None]:
        hubs = self._hubs()
        async with AsyncExitStack() as stack:
            if self._broker is not None:
                await stack.enter_async_context(share(self._broker, hubs, self.options.open_timeout))
            await stack.enter_async_context(self._run_joined(hubs.values()))
            yield

    def _hubs(self) -> dict[str, Hub]:
        """The channels of each handler, by what tells them apart at a broker."""
        if self._handler is not None:
            return {"": self._handler.channels}
        hubs: dict[str, Hub] = {}
        for path, handler in self._front.handlers.items() if self._front is not None else ():
            if handler.channels not in hubs.values():  # one that is mounted twice
                hubs[path.replace(":", "=")] = handler.channels
        return hubs

    @asynccontextmanager
    @enable_ki_protection
    async def _run_joined(self, hubs: Iterable[Hub]) -> AsyncIterator[None]:
        if self._given_listeners is not None:
            self.listeners = list(self._given_listeners)
        else:
            self.listeners = await open_listeners(self._port, self._host, self._unix_path)
        try:
            async with open_service(self.options) as self._service:
                self._handlers = await self._service.nursery.start(_host_tasks, self._end_those_without_task)
                # A thread for each connection there can be: waiting for one would be a limit that nobody set.
                threads = trio.CapacityLimiter(self.options.max_connections or math.inf)
                workers = self._service.reader.lender = Workers(self._handlers)
                self._shared = Shared(workers, threads, self._debug)
                self._acceptors = await self._service.nursery.start(_host_tasks)
                for hub in hubs:
                    self._service.nursery.start_soon(hub.flusher.run, name="trio_ws channels")
                for listener in self.listeners:
                    self._acceptors.start_soon(accept_forever, listener, self._admit)
                self._state = "serving"
                try:
                    with trio.CancelScope() as self._block:
                        yield
                finally:
                    with trio.CancelScope(shield=True):
                        await self.drain()
        finally:
            with trio.CancelScope(shield=True):
                for listener in self.listeners:
                    await listener.aclose()
            if self._unix_path is not None:
                await trio.Path(self._unix_path).unlink(missing_ok=True)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _admit(self, client: socket.socket | trio.abc.Stream, address: Any) -> None:
        if self._state == "closed":
            self._service.nursery.start_soon(self._refuse, client)
            return
        if self._handshakes >= self.options.max_handshakes:
            logger.warning("refused a client: max_handshakes (%d) are under way", self.options.max_handshakes)
            self._service.nursery.start_soon(self._refuse, client)
            return
        self._clients += 1
        self._handshakes += 1
        self._handlers.start_soon(self._serve_client, client, address)

    @enable_ki_protection
    async def _refuse(self, client: socket.socket | trio.abc.Stream) -> None:
        """Drop a client whose request is not going to be read, with a word if that can be said at once."""
        if isinstance(client, trio.abc.Stream):
            await trio.aclose_forcefully(client)
            return
        with client:
            if self._ssl_context is None:
                try:
                    client.send(http_response(503, [("Retry-After", "1")], b"too many connections\n"))
                    client.shutdown(socket.SHUT_WR)
                except OSError:
                    return  # it went away before

    @enable_ki_protection
    async def _serve_client(self, client: socket.socket | trio.abc.Stream, address: Any) -> None:
        over = True
        try:
            opened = await self._open(client, address)
            if opened is not None:
                ws, target = opened
                self._connections.add(ws)
                del opened
                over = await self._handle(ws, target)
        finally:
            if over:
                self._clients -= 1
                self._gone.ring()

    @enable_ki_protection
    async def _finish_client(self, ws: WebSocket, rest: Callable[[WebSocket], Awaitable[None]]) -> None:
        """The end of a connection that lived without a task."""
        self._without_task.discard(ws)
        try:
            await self._handle(ws, rest)
        finally:
            self._clients -= 1
            self._gone.ring()

    def _end_those_without_task(self) -> None:
        """Their handlers cannot be cancelled where the others are."""
        for ws in list(self._without_task):
            ws._end(None)

    async def _open(
        self, client: socket.socket | trio.abc.Stream, address: Any
    ) -> tuple[WebSocket, Any] | None:
        """A WebSocket of one client's opening request, and who serves it; None where it got an answer."""
        transport: Transport | None = None
        request: Request | None = None
        options = self.options
        try:
            try:
                reader = RequestReader(options.max_header_bytes, options.max_body_bytes)
                if self._ssl_context is None and isinstance(client, socket.socket):
                    transport = SocketTransport(client, address)
                    request = read_request_now(transport, reader)
                if request is None:
                    with trio.move_on_after(options.open_timeout) as scope:
                        if transport is None:
                            transport = await secure(self._service, client, address, self._ssl_context)
                        request = await read_request(transport, reader)
                        if request is None:
                            transport.close()
                            return None
                    if scope.cancelled_caught:
                        raise HTTPError(
                            408, f"no whole request came within open_timeout ({options.open_timeout} seconds)"
                        )
                assert transport is not None
                assert request is not None
                self._check_admission()
                target, subprotocols = self._target, self._subprotocols
                found = self._front.find(request) if self._front is not None else None
                if not isinstance(found, Exchange):
                    check_request(request, options)
                    if found is not None:
                        target = functools.partial(self._call_entry, found.serve)
                        if found.subprotocols is not None:
                            subprotocols = found.subprotocols
                    ws = WebSocket(
                        transport,
                        self._service,
                        options,
                        client=False,
                        request=request,
                        subprotocols=subprotocols,
                        trailing=reader.trailing,
                    )
                    if found is not None:
                        request._path_params = ws.path_params = found.path_params
                    return ws, target
            finally:
                self._handshakes -= 1
                self._gone.ring()
            await self._answer_http(found, request, transport)
            return None
        except HTTPError as exc:
            refusal = exc
        except (OSError, trio.BrokenResourceError) as exc:
            logger.info("a client left during its opening handshake: %r", exc)
            if transport is not None:
                transport.close()
            return None
        except BaseException:
            if transport is not None:
                transport.close()
            raise
        if refusal.status not in (403, 503):  # these were logged with the option that they depend on
            logger.info("refused a client at %s: %s", address, refusal)
        if transport is not None:
            await answer(transport, refusal, head_only=request is not None and request.method == "HEAD")
        return None

    def _check_admission(self) -> None:
        if self._state != "serving":
            logger.info("refused a client: the server is going away")
            raise HTTPError(503, "the server is going away", [("Retry-After", "1")])
        limit = self.options.max_connections
        if limit is not None and self._count_connections() >= limit:
            logger.warning("refused a client: max_connections (%d) are open", limit)
            raise HTTPError(503, "too many connections", [("Retry-After", "1")])

    def _count_connections(self) -> int:
        return len(self._connections) + self._exchanges

    async def _answer_http(self, found: Exchange, request: Request, transport: Transport) -> None:
        self._exchanges += 1
        try:
            response = await found.answer(request, self._shared)
            data = encode_response(response, head_only=request.method == "HEAD")
            await send_response(transport, data, self.options.close_timeout)
        finally:
            self._exchanges -= 1

    async def _handle(self, ws: WebSocket, target: Callable[[WebSocket], Awaitable[object]]) -> bool:
        """Run what serves a connection, and close it; False if it lives on without this task."""
        over = True
        try:
            code, reason = 1000, ""
            try:
                over = await self._run_target(ws, target) is not UNFINISHED
            except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - a handler may raise anything
                code, reason = self._verdict(ws, exc)
            if code == 1011 and ws._state == CONNECTING:
                await ws.reject(500)
            if over and not ws.closed:
                await ws.close(code, reason)
        finally:
            if over:
                self._connections.discard(ws)
                ws._end(None)
            else:
                self._without_task.add(ws)
        return over

    @disable_ki_protection
    async def _run_target(self, ws: WebSocket, target: Any) -> object:
        """User code, which Ctrl+C may strike anywhere; ours leaves it to the main task."""
        return await target(ws)

    def _verdict(self, ws: WebSocket, exc: BaseException) -> tuple[int, str]:
        """The close code for what a handler raised; what is not for us to judge is raised again."""
        rest: BaseException | None = exc
        if isinstance(exc, BaseExceptionGroup):
            # The handler's own nursery may have wrapped what is a normal end, or an error together with the
            # end of its time in a drain.
            rest = exc.split((ConnectionClosedError, trio.Cancelled))[1]
            while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
                rest = rest.exceptions[0]
        if rest is None or isinstance(rest, ConnectionClosedError):
            return 1000, ""  # if it was cancelled, so will the close be
        if isinstance(rest, WebSocketException):
            return rest.code, rest.reason
        if not isinstance(rest, Exception):
            raise exc
        if self._debug:
            if self._failure is None:
                self._failure = exc
            self._block.cancel()
        else:
            logger.error("the handler of %s for %s failed", ws.path, ws.remote_address, exc_info=exc)
        return 1011, "internal error"

    @enable_ki_protection
    async def _call_handler(self, ws: WebSocket) -> object:
        assert self._handler is not None
        context = current_task().context

        def finish_soon(rest: Callable[[WebSocket], Awaitable[None]]) -> None:
            context.run(self._handlers.start_soon, self._finish_client, ws, rest)

        workers = self._shared.workers
        return await self._handler._serve(ws, workers, debug=self._debug, finish_soon=finish_soon)

    @enable_ki_protection
    async def _call_entry(self, serve: Callable[[WebSocket, Shared], Awaitable[None]], ws: WebSocket) -> None:
        await serve(ws, self._shared)

    @enable_ki_protection
    async def _call_in_thread(self, ws: WebSocket) -> None:
        await run_in_thread(self._function, ws, self._shared.threads, {})

    async def _hand_out(self, ws: WebSocket) -> None:
        await ws.accept()
        try:
            await self._to_accept.send(ws)
        except trio.ClosedResourceError:
            return  # nobody will ask for it any more
        await ws.wait_closed()


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


async def serve(
    target: Target,
    port: int,
    *,
    host: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    listeners: Sequence[trio.abc.Listener[Any]] | None = None,
    subprotocols: Sequence[str] = (),
    max_connections: int | None = None,
    broker: Broker | str | None = None,
    debug: bool = False,
    options: Options | None = None,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a `WebSocketServer` until cancelled: ``trio.run(trio_ws.serve, handler, 8000)``.

    ``await nursery.start(trio_ws.serve, handler, 0)`` gives the server once it listens. The arguments, and
    what a cancellation does, are those of `WebSocketServer`.
    """
    async with WebSocketServer(
        target,
        port,
        host=host,
        ssl_context=ssl_context,
        unix_path=unix_path,
        listeners=listeners,
        subprotocols=subprotocols,
        max_connections=max_connections,
        broker=broker,
        debug=debug,
        options=options,
    ) as server:
        task_status.started(server)
        await server.serve_forever()


def _as_handler(target: object) -> WebSocketHandler[Any] | None:
    if isinstance(target, type) and issubclass(target, WebSocketHandler):
        target = target()
    if not isinstance(target, WebSocketHandler):
        return None
    target._prepare()
    return target


def _check_target(target: object) -> None:
    if target is None or isinstance(target, WebSocketHandler | Front):
        return
    if isinstance(target, type) and issubclass(target, WebSocketHandler):
        return
    check_function(target, "WebSocket")


def _check_place(port: int, unix_path: object, listeners: Sequence[trio.abc.Listener[Any]] | None) -> None:
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is an int, not {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535, not {port}")
    if unix_path is not None and listeners is not None:
        raise ValueError("give unix_path or listeners, not both")
    if listeners is not None and not listeners:
        raise ValueError("listeners is empty; leave it out to listen on a port")
