"""Client tasks: the handling of each client of a server.

A listener's task passes each client to a task of its own. This task reads the opening request, within
``open_timeout``, makes a `WebSocket`, runs the target on it, and closes it. Then it serves another client:
starting a task takes a fifteenth of what opening and closing a connection takes.

Invariants:

- A failing handler ends its own connection only: its exception is logged once, and the close code is 1011
  (see wall.py).
- Exceptions that end the program, above all Ctrl+C in a handler, end the server in the same way as leaving
  its block: all peers receive a Close frame first.
- Counters change in synchronous code only, so limits are exact.
- Each client is served in a new context. A task that a handler has left in another state, such as in a cancel
  scope, serves no other client.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    current_task,
    disable_ki_protection,
    enable_ki_protection,
    reschedule,
)

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.errors import ConnectionClosedError, MessageError, SubprotocolError
from trio_ws.logs import logger_for, shown
from trio_ws.protocol.http import HTTPError, forwarded_as, http_response, is_forwarded, routed
from trio_ws.protocol.http_parser import RequestReader
from trio_ws.protocol.proxy_protocol import ProxyHeaderError
from trio_ws.protocol.tls import lacks_certificate
from trio_ws.rpc.detached import DETACHED
from trio_ws.server.accepting import (
    KnownRequests,
    answer,
    check_host,
    check_request,
    read_body,
    read_now,
    read_proxy_header,
    read_request,
    secure,
    send_response,
)
from trio_ws.server.access_log import AccessLog, wants_access_log
from trio_ws.server.address_shares import AddressShares, share_key
from trio_ws.server.blocking import NoThreadError
from trio_ws.server.router import HTTPRoute, Pages, Router, ServerResources, WebSocketRoute
from trio_ws.server.trusted_proxies import TrustedProxies
from trio_ws.wall import (
    close_nurseries,
    close_of,
    ends_program,
    failures_in,
    is_innermost,
    judged,
    log_failure,
    only_cancelled,
)
from trio_ws.websocket._notify import Notification
from trio_ws.websocket._wait import ReusableOutcome, wait_task
from trio_ws.websocket.closing import CONNECTING
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.disconnect_watch import DisconnectWatch
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import (
    begin_opening,
    close_for_shutdown,
    closing_of,
    end_opening,
    reader_of,
)
from trio_ws.websocket.sockets import LINK_ERRORS, close_forcefully, shut_down
from trio_ws.websocket.tls import note_server_names
from trio_ws.websocket.transport import SocketTransport, peer_of

if TYPE_CHECKING:
    import ssl

    from trio_ws._types import SocketAddress
    from trio_ws.options import Options
    from trio_ws.protocol.http import Request
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["ClientCounts", "ClientTasks", "PendingClient", "count_clients", "set_pages"]

#: Serves one WebSocket: a function of the user, or a method of the server.
ServeFunction = Callable[[WebSocket], Awaitable[object]]

#: A new WebSocket, what serves it, and `WebSocketRoute.begin`.
_Opened = tuple[WebSocket, ServeFunction, Callable[[WebSocket, ServerResources], bool] | None]

logger = logger_for("trio_ws.server")

#: All tasks of clients share it; trio would make a name for each.
_TASK_NAME = "trio_ws client"
#: The maximum number of tasks without a client that are kept for the next ones.
_MAX_IDLE_TASKS = 64
#: The context of these tasks, so that they keep nothing alive that a handler has set.
_NO_CONTEXT = contextvars.Context()
#: Close reason if the system cannot start another thread.
_NO_THREAD = "no thread left"
#: Close reason if the handler returned before the client was accepted.
_NOT_ACCEPTED = "the handler returned without accepting the client"
#: Close reason if the client did not offer the subprotocol of ``accept(subprotocol=...)``.
_NO_SUBPROTOCOL = "the handler needs a subprotocol that was not offered"


class PendingClient:
    """A client during its opening handshake.

    Attributes:
        stream: the accepted stream.
        address: the client's address as far as it is known; at first that of a proxy.
        peer: the address of the other end of the stream.
        loopback: whether it connected to a loopback address.
        share: the key that its connection is counted under, see `share_key`. None for a trusted proxy.
        transport: the transport on the stream, once there is one.
        request: its opening request, once the head was read.
        opening: whether its opening handshake is counted; False if it was dropped for another one.
        scope: cancel scope around the waits of its opening handshake, once it waits.
    """

    __slots__ = (
        "address",
        "loopback",
        "opening",
        "peer",
        "request",
        "scope",
        "share",
        "stream",
        "transport",
    )

    def __init__(
        self, stream: socket.socket | trio.abc.Stream, address: SocketAddress, *, loopback: bool
    ) -> None:
        self.stream = stream
        self.address = self.peer = peer_of(stream) if address is None else address
        self.loopback = loopback
        self.share: str | None = None
        self.transport: Transport | None = None
        self.request: Request | None = None
        self.opening = True
        self.scope: trio.CancelScope | None = None

    async def drop(self) -> None:
        """Close the stream."""
        if self.transport is not None:
            self.transport.close()
        elif isinstance(self.stream, socket.socket):
            self.stream.close()
        else:
            await close_forcefully(self.stream)


class ClientCounts(Protocol):
    """The numbers of clients of several processes that accept from the same sockets."""

    def clients_changed(self, number: int) -> None:
        """This process has so many clients now."""

    def exceeds_others(self) -> bool:
        """Whether another process should accept the next client."""
        ...


class ClientTasks:
    """Runs the clients of a server. See the module docstring. `WebSocketServer` adds start and stop."""

    options: Options
    _websocket_type: type[WebSocket] = WebSocket

    def __init__(self, router: Router | None, ssl_context: ssl.SSLContext | None) -> None:
        self._router = router
        self._ssl_context = ssl_context
        self._target: Any = None  # a `ServeFunction`: serves WebSockets that the router has no route for
        self._subprotocols: tuple[str, ...] = ()
        self._debug = False
        self._pages: Pages | None = None
        self._state: Literal["new", "serving", "draining", "closed"] = "new"
        self._connections: dict[WebSocket, bool] = {}  # whether each has a task
        self._exchanges = 0  # plain HTTP requests that are being answered
        self._clients = 0  # connections in any state, including their opening handshake
        self._counts: ClientCounts | None = None  # is told this number, if it shares its sockets
        self._handshakes = 0
        self._shares = AddressShares(self.options)
        self._proxies = TrustedProxies(self.options)
        self._trusts_proxies = bool(self._proxies)
        self._known_requests = KnownRequests()
        if ssl_context is not None:
            note_server_names(ssl_context)
        self._idle_tasks: list[Task] = []  # without a client, see `_serve_client`
        # Notified when a client has gone, or has finished its opening handshake.
        self._client_done = Notification()
        self._failure: BaseException | None = None
        self._access_log = AccessLog() if wants_access_log() else None
        # Set while the server runs.
        self._block: trio.CancelScope
        self._runtime: ConnectionRuntime
        self._handlers: trio.Nursery
        self._resources: ServerResources

    def _accept_client(
        self, stream: socket.socket | trio.abc.Stream, address: SocketAddress, *, loopback: bool = False
    ) -> None:
        client = PendingClient(stream, address, loopback=loopback)
        client.share = self._share_of(client.address)
        if self._state == "closed" or not self._has_room_for(client):
            self._runtime.nursery.start_soon(self._refuse, stream)
            return
        self._clients += 1
        if self._counts is not None:
            self._counts.clients_changed(self._clients)
        self._handshakes += 1
        self._shares.begin(client.share, client)
        if self._idle_tasks:
            task = self._idle_tasks.pop()
            task.context = contextvars.copy_context()
            next_client: ReusableOutcome[PendingClient] = ReusableOutcome()
            next_client.value = client
            reschedule(task, next_client)
        else:
            self._handlers.start_soon(self._serve_client, client, name=_TASK_NAME)

    def _has_room_for(self, client: PendingClient) -> bool:
        """Return whether another client may begin its opening handshake, and log a refusal."""
        options = self.options
        # More than max_connections, because clients beyond it get an HTTP response.
        limit = None if options.max_connections is None else options.max_connections + options.max_handshakes
        why = self._shares.refusal(client.share)
        if why is None and limit is not None and self._clients >= limit:
            why = f"max_connections ({options.max_connections}) and max_handshakes are reached"
        if why is None and self._handshakes >= options.max_handshakes:
            late = self._shares.crowding(client.share)
            if late is not None:
                self._make_room(late)
            else:
                why = f"max_handshakes ({options.max_handshakes}) are under way"
        if why is None:
            return True
        logger.warning("refused a client: %s", why, extra={"peer": client.address})
        return False

    def _make_room(self, client: PendingClient) -> None:
        """Drop the opening handshake of another client, if its address has more of them."""
        logger.warning(
            "dropped a client in its handshake: max_handshakes (%d) are under way, most of them of %s",
            self.options.max_handshakes,
            client.share or "proxies and Unix sockets",
            extra={"peer": client.address},
        )
        self._opened(client)
        if client.scope is not None:
            client.scope.cancel()

    def _opened(self, client: PendingClient) -> None:
        """Record that the opening handshake of a client is over."""
        if client.opening:
            client.opening = False
            self._handshakes -= 1
            self._shares.opened(client.share, client)
            self._client_done.notify_all()

    def _share_of(self, address: SocketAddress) -> str | None:
        return None if self._trusts_proxies and address in self._proxies else share_key(address)

    def _locate(self, client: PendingClient, address: SocketAddress) -> None:
        """Set the address of a client that connected through a trusted proxy, which itself has no share.

        Raises:
            HTTPError: the address has used up its share.
        """
        if not client.opening:
            raise _too_many()
        share = self._share_of(address)
        refusal = self._shares.refusal(share)
        client.address, client.share = address, share
        self._shares.opened(None, client)
        self._shares.begin(share, client)
        if refusal is not None:
            logger.warning("refused a client: %s", refusal, extra={"peer": address})
            raise _too_many()

    @enable_ki_protection
    async def _refuse(self, client: socket.socket | trio.abc.Stream) -> None:
        """Drop a client without reading its request. Send an error if that is possible without waiting."""
        if isinstance(client, trio.abc.Stream):
            await close_forcefully(client)
            return
        with client:
            if self._ssl_context is None:
                with contextlib.suppress(OSError):  # it has left already
                    client.send(http_response(503, [("Retry-After", "1")], b"too many connections\n"))
            shut_down(client)

    @enable_ki_protection
    async def _serve_client(self, client: PendingClient) -> None:
        """Serve a client, and then others for which `_accept_client` would start a task."""
        while True:
            over = reusable = True
            address, share = client.address, client.share
            try:
                try:
                    opened = await self._open(client)
                finally:
                    address, share = client.address, client.share
                    del client
                if opened is not None:
                    ws, target, begin = opened
                    self._connections[ws] = True
                    if self._access_log is not None:
                        self._access_log.opened(ws)
                    if begin is not None and self._begin(ws, begin):
                        over = False
                        del opened, ws, target, begin
                    else:
                        begin_opening(ws)
                        handling = self._handle(ws, target)
                        del opened, ws, target, begin  # an idle connection would keep them
                        over = await handling
                        del handling
            except BaseException as exc:  # noqa: BLE001 - classified in _task_failed
                self._task_failed(exc, address)
                reusable = False
            finally:
                if over:
                    self._client_gone(share)
            task = current_task()
            if (
                not reusable
                or len(self._idle_tasks) >= _MAX_IDLE_TASKS
                # The handler has left a scope open, or a host has started this task elsewhere.
                or not is_innermost(self._handlers.cancel_scope)
            ):
                return
            task.context = _NO_CONTEXT
            self._idle_tasks.append(task)
            client = await wait_task(self._cancel_idle)

    def _begin(self, ws: WebSocket, begin: Callable[[WebSocket, ServerResources], bool]) -> bool:
        """Serve a connection without a task, if possible. Return whether it lives on so."""
        try:
            begun = begin(ws, self._resources)
        except BaseException:
            self._connection_over(ws)
            raise
        if begun:
            self._connections[ws] = False
        return begun

    def _cancel_idle(self, _: RaiseCancelT) -> Abort:
        """Cancel an idle task. All are cancelled together."""
        self._idle_tasks.clear()
        return Abort.SUCCEEDED

    def _client_gone(self, share: str | None) -> None:
        self._clients -= 1
        if self._counts is not None:
            self._counts.clients_changed(self._clients)
        self._shares.end(share)
        self._client_done.notify_all()

    @enable_ki_protection
    async def _finish_client(self, ws: WebSocket, rest: Callable[[WebSocket], Awaitable[None]]) -> None:
        """Finish a connection that lived without a task."""
        self._connections[ws] = True
        try:
            await self._handle(ws, rest)
        except BaseException as exc:  # noqa: BLE001 - classified in _task_failed
            self._task_failed(exc, ws.remote_address)
        finally:
            self._client_gone(self._share_of(reader_of(ws).transport.peer_address))

    def _forget_client(self, ws: WebSocket) -> None:
        """Do the same for a connection that is closed, and of which nothing is left to do."""
        self._connection_over(ws)
        self._client_gone(self._share_of(reader_of(ws).transport.peer_address))

    def _connection_over(self, ws: WebSocket) -> None:
        self._connections.pop(ws, None)
        closing_of(ws).abort(None)
        if self._access_log is not None:
            self._access_log.closed(ws)

    def _task_failed(self, exc: BaseException, address: SocketAddress) -> None:
        """Handle an exception at the end of a client's task.

        A Cancelled belongs to the server, or to a scope that user code has left open. The second kind must
        not leave the task.
        """
        if ends_program(exc):
            self._shut_down_with(exc)
        elif not only_cancelled(exc):
            log_failure(logger, "serving %s failed", address, exc=judged(exc), extra={"peer": address})

    def _abort_without_task(self) -> None:
        """Abort connections without a task, which cannot be cancelled with the others."""
        for ws in [ws for ws, has_task in self._connections.items() if not has_task]:
            closing_of(ws).abort(None)

    async def _open(self, client: PendingClient) -> _Opened | None:
        """Make a WebSocket of an opening request, with its target. Return None after an HTTP response."""
        try:
            try:
                asked = await self._read_request(client)
            finally:
                self._opened(client)
            if asked is None:
                await client.drop()
                return None
            found, request, reader = asked
            transport = client.transport
            assert transport is not None
            if not isinstance(found, HTTPRoute):
                return self._make_websocket(found, request, transport, reader.trailing)
            await self._answer_http(found, request, transport)
            return None
        except HTTPError as exc:
            refusal = exc
        except LINK_ERRORS as exc:
            extra = {"peer": client.address}
            if lacks_certificate(exc):
                text = (
                    "TLS with a client failed: %r; has ssl_context a certificate? Use its load_cert_chain()"
                )
                logger.warning(text, exc, extra=extra)
            else:
                logger.info("a client left during its opening handshake: %r", exc, extra=extra)
            await client.drop()
            return None
        except BaseException:
            await client.drop()
            raise
        if self._access_log is not None:
            self._access_log.refused(client.request, client.address, refusal.status)
        if not refusal.logged:
            logger.info("refused a client at %s: %s", client.address, refusal, extra={"peer": client.address})
        if client.transport is not None:
            head_only = client.request is not None and client.request.method == "HEAD"
            await answer(client.transport, refusal, head_only=head_only)
        else:
            await client.drop()  # too early for an HTTP response
        return None

    async def _read_request(
        self, client: PendingClient
    ) -> tuple[WebSocketRoute | HTTPRoute | None, Request, RequestReader] | None:
        """Read a request, with its body if it is needed, and find its target. Return None if it has none.

        Raises:
            HTTPError: the response to send instead.
            OSError, trio.BrokenResourceError: the client has gone.
        """
        options = self.options
        reader = RequestReader(options.max_header_bytes, options.max_body_bytes)
        request: Request | None = None
        announced = options.proxy_protocol and client.address in self._proxies
        if self._ssl_context is None and isinstance(client.stream, socket.socket) and not announced:
            client.transport = SocketTransport(client.stream, client.peer)
            data = read_now(client.transport)
            if data is not None:
                request = self._known_requests.get(data, loopback=client.loopback)
                if request is not None:
                    return self._find_route(client, request, known=True), request, reader
                request = reader.feed(data)
                if request is not None and reader.complete:
                    found = self._find_route(client, request)
                    if (
                        request.head is data
                        and not is_forwarded(request)
                        and not isinstance(found, HTTPRoute)
                    ):
                        self._known_requests.add(data, loopback=client.loopback)
                    return found, request, reader
        with trio.move_on_after(options.open_timeout) as client.scope:
            if not client.opening:
                raise _too_many()
            if announced:
                await self._read_proxy_header(client)
            if client.transport is None:
                client.transport = await secure(self._runtime, client.stream, client.peer, self._ssl_context)
            if request is None:
                request = await read_request(client.transport, reader)
                if request is None:
                    return None
            found = self._find_route(client, request)
            if not reader.complete:
                request.body = await read_body(client.transport, reader)
                self._check_admission()  # reading may have taken a while
            return found, request, reader
        if not client.opening:
            raise _too_many()
        seconds = options.open_timeout
        raise HTTPError(408, f"the request was not complete after open_timeout ({seconds} seconds)")

    async def _read_proxy_header(self, client: PendingClient) -> None:
        """Read the address of a client from its proxy."""
        try:
            source = await read_proxy_header(client.stream, self.options.max_header_bytes)
        except ProxyHeaderError as exc:
            logger.warning(
                "refused a connection of proxy %s: %s, which Options(proxy_protocol=True) requires",
                client.address,
                exc,
                extra={"peer": client.address},
            )
            raise HTTPError(400, "the PROXY header is missing", logged=True) from None
        if source is not None:
            self._locate(client, source)

    def _find_route(
        self, client: PendingClient, request: Request, *, known: bool = False
    ) -> WebSocketRoute | HTTPRoute | None:
        """Find the route for the head of a request; None means the server's own target.

        Args:
            client: the client that sent it.
            request: the request, whose body may be missing.
            known: whether it is one of the known requests.

        Raises:
            HTTPError: there is no route.
        """
        client.request = request
        scheme = self._scheme_of(client)
        if self._trusts_proxies or scheme is not None:
            forwarded = self._proxies.origin(request, client.address)
            if forwarded.address != client.address:
                self._locate(client, forwarded.address)
            forwarded_as(request, forwarded._replace(scheme=forwarded.scheme or scheme))
        transport = client.transport
        assert transport is not None
        transport.peer_address = request.client_address = client.address
        request.tls = transport.tls
        self._check_admission()
        if known and not is_forwarded(request):
            found = None if self._router is None else self._router.find_websocket(request.path)
            if self._router is None or found is not None:
                return found
        check_host(request, self.options, loopback=client.loopback)
        matched = self._match(request)
        if not isinstance(matched, HTTPRoute):
            check_request(request, self.options)
        return matched

    def _match(self, request: Request) -> WebSocketRoute | HTTPRoute | None:
        if self._pages is not None:
            page = self._pages.find(request)
            if page is not None:
                return page
        return self._router.match(request) if self._router is not None else None

    def _scheme_of(self, client: PendingClient) -> str | None:
        """Return the scheme that the client used, if an ASGI or RSGI host reports it."""
        return None

    def _make_websocket(
        self, found: WebSocketRoute | None, request: Request, transport: Transport, trailing: bytes
    ) -> _Opened:
        target, subprotocols, begin = self._target, self._subprotocols, None
        if found is not None:
            begin = found.begin
            target = functools.partial(self._call_route, found.serve)
            if not found.interruptible:
                target = functools.partial(self._run_target, target)
            if found.subprotocols is not None:
                subprotocols = found.subprotocols
        ws = self._websocket_type(
            transport,
            self._runtime,
            self.options,
            client=False,
            request=request,
            subprotocols=subprotocols,
            trailing=trailing,
        )
        if found is not None:
            routed(request, found.path_params)
        return ws, target, begin

    def _check_admission(self) -> None:
        if self._state != "serving":
            logger.info("refused a client: the server is going away")
            raise HTTPError(503, "the server is going away", [("Retry-After", "1")], logged=True)
        limit = self.options.max_connections
        if limit is not None and self._count_connections() >= limit:
            logger.warning("refused a client: max_connections (%d) are open", limit)
            raise _too_many()

    def _count_connections(self) -> int:
        """The number of connections after their opening handshake: open, being answered, or lingering."""
        return self._clients - self._handshakes

    async def _answer_http(self, found: HTTPRoute, request: Request, transport: Transport) -> None:
        self._exchanges += 1
        response: bytes | None = None
        started = time.monotonic()
        try:
            with trio.CancelScope() as scope:
                presence = DisconnectWatch(transport, self._runtime, scope)
                try:
                    response = await found.answer(request, self._resources)
                finally:
                    await close_nurseries("an HTTP function")
                    await presence.leave()
            if response is None:
                logger.info("%s left before the response to %r", transport.remote_address, request)
                transport.close()
            else:
                await send_response(transport, response, self.options.close_timeout)
        finally:
            self._exchanges -= 1
            if self._access_log is not None:
                self._access_log.answered(request, transport.remote_address, response, started)

    async def _handle(self, ws: WebSocket, target: Callable[[WebSocket], Awaitable[object]]) -> bool:
        """Run the target on a connection, and close it. Return False if it lives on without this task."""
        over = True
        try:
            code, reason = 1000, ""
            try:
                try:
                    running = target(ws)
                    del target  # an idle connection would keep it
                    over = await running is not DETACHED
                except BaseException as exc:
                    await close_nurseries("a handler")
                    if not end_opening(ws, exc):
                        raise
                else:
                    if current_task().child_nurseries:
                        await close_nurseries("a handler")
                    end_opening(ws, None)
                    if over and closing_of(ws).state == CONNECTING:
                        reason = _NOT_ACCEPTED
            except BaseException as exc:  # noqa: BLE001 - classified in _close_code_for
                code, reason = self._close_code_for(ws, exc)
            if code == 1011 and closing_of(ws).state == CONNECTING:
                await ws.reject(500)
            if reason == _NO_SUBPROTOCOL and closing_of(ws).state == CONNECTING:
                await ws.reject(400, (), f"{_NO_SUBPROTOCOL}\n")
            if reason == _NOT_ACCEPTED and closing_of(ws).state == CONNECTING:
                await ws.reject(403, (), f"{_NOT_ACCEPTED}\n")
            if reason == _NO_THREAD and closing_of(ws).state == CONNECTING:
                await ws.reject(503, [("Retry-After", "1")], f"{_NO_THREAD}\n")
            if over and not ws.closed:
                await ws.close(code, reason)
        finally:
            if over:
                self._connection_over(ws)
            else:
                self._connections[ws] = False
        return over

    @disable_ki_protection
    async def _run_target(self, target: ServeFunction, ws: WebSocket) -> object:
        """Run user code, which Ctrl+C may interrupt anywhere; our own code leaves it to the main task.

        Targets that are `is_interruptible` do without it, which saves each idle connection a coroutine.
        """
        running = target(ws)
        del target
        return await running

    def _close_code_for(self, ws: WebSocket, exc: BaseException) -> tuple[int, str]:
        """Return the close code for an exception of a handler, or re-raise its own cancellation."""
        if ends_program(exc):
            self._shut_down_with(exc)
            close_for_shutdown(ws, 1001, "")
            return 1001, ""
        # The handler's own nursery may have wrapped a normal end in a group.
        failures = [one for one in failures_in(exc) if not isinstance(one, ConnectionClosedError)]
        if not failures:
            return 1000, ""
        if len(failures) == 1 and isinstance(failures[0], NoThreadError):
            return 1013, _NO_THREAD
        close = close_of(failures[0]) if len(failures) == 1 else None
        if close is not None:
            return close
        if len(failures) == 1 and isinstance(failures[0], MessageError) and failures[0].close_code:
            return failures[0].close_code, str(failures[0])
        if (
            len(failures) == 1
            and isinstance(failures[0], SubprotocolError)
            and closing_of(ws).state == CONNECTING
        ):
            logger.warning("refused a client at %s: %s", shown(ws.path), failures[0], extra=log_extra(ws))
            return 1002, _NO_SUBPROTOCOL
        if self._debug:
            self._fail_with(exc)
        else:
            log_failure(
                logger,
                "the handler of %s for %s failed",
                shown(ws.path),
                ws.client_address,
                exc=exc,
                extra=log_extra(ws),
            )
        return 1011, "internal error"

    def _shut_down_with(self, exc: BaseException) -> None:
        """Leave the server's block and raise this there; raise it now if the block was left already."""
        if isinstance(exc, BaseExceptionGroup):
            exc = unwrap_exception_group(exc)
        if self._state != "serving":
            raise exc
        self._fail_with(exc)

    def _fail_with(self, exc: BaseException) -> None:
        """Leave the server's block, and raise this there."""
        if self._failure is None:
            self._failure = exc
        self._block.cancel()

    @enable_ki_protection
    def _call_route(
        self, serve: Callable[[WebSocket, ServerResources], Awaitable[object]], ws: WebSocket
    ) -> Awaitable[object]:
        return serve(ws, self._resources)


def _too_many() -> HTTPError:
    return HTTPError(503, "too many connections", [("Retry-After", "1")], logged=True)


def count_clients(tasks: ClientTasks, counts: ClientCounts | None) -> None:
    """Divide the clients of shared sockets among processes, from the start of the server on, or no longer."""
    tasks._counts = counts


def set_pages(tasks: ClientTasks, pages: Pages) -> None:
    """Answer plain requests with these pages, before the router is asked."""
    tasks._pages = pages
