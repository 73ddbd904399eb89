"""Dispatch: run the function of a route, through the middleware.

Invariant: Ctrl+C may interrupt the user's functions anywhere, but none of our own code.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trio.lowlevel import disable_ki_protection, enable_ki_protection

from trio_ws.app.listener import MessageListener
from trio_ws.decoding import JSONAdapter
from trio_ws.errors import MessageError
from trio_ws.logs import logger_for, shown
from trio_ws.protocol.http import routed
from trio_ws.rpc.handler import WebSocketHandler, serve_handler
from trio_ws.server.blocking import NoThreadError, call_in_thread, run_in_thread
from trio_ws.server.http import HTTPResponse, as_response, encode_response
from trio_ws.server.routing import Pattern
from trio_ws.wall import judged, log_failure, traceback_of
from trio_ws.websocket.closing import CONNECTING
from trio_ws.websocket.internals import closing_of

if TYPE_CHECKING:
    from trio_ws._types import PathParameters
    from trio_ws.protocol.http import Request
    from trio_ws.server.router import ServerResources
    from trio_ws.websocket.connection import WebSocket

__all__ = ["HTTPMiddleware", "HTTPNext", "Middleware", "Next", "Route", "Wrapper", "answer", "begin", "serve"]

logger = logger_for("trio_ws.app")

#: Results of HTTP functions that are not encoded as JSON.
_NO_JSON = (HTTPResponse, str, bytes, bytearray, memoryview, type(None))

_NO_ARGUMENTS: PathParameters = {}

Next = Callable[["WebSocket"], Awaitable[None]]
Middleware = Callable[["WebSocket", Next], Awaitable[object]]
HTTPNext = Callable[["Request"], Awaitable[HTTPResponse]]
HTTPMiddleware = Callable[["Request", HTTPNext], Awaitable[object]]
#: Middleware of either kind.
Wrapper = Callable[..., Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route, as seen by the App that it was added to, or by one above."""

    pattern: Pattern
    middleware: tuple[list[Wrapper], ...]  # for its kind of request; outermost App first; may still grow
    function: Any  # of the user: a function, the WebSocketHandler, or the MessageListener
    awaits: bool = True  # whether it is async; otherwise it runs in a thread
    wanted: tuple[str, ...] = ()  # path parameters to pass as keyword arguments
    subprotocols: tuple[str, ...] | None = None
    methods: tuple[str, ...] = ()  # HTTP methods; none for a WebSocket
    json: JSONAdapter | None = None  # of the App that it was added to
    interruptible: bool = False  # whether it is a function that is marked as interruptible by Ctrl+C

    def under(self, prefix: Pattern, middleware: list[Wrapper]) -> Route:
        """Return the route as seen by the App that has mounted this one's."""
        return replace(self, pattern=self.pattern.under(prefix), middleware=(middleware, *self.middleware))

    def __str__(self) -> str:
        return f"{'/'.join(self.methods) or 'WebSocket'} {self.pattern.path}"


@enable_ki_protection
def serve(route: Route, params: PathParameters, ws: WebSocket, shared: ServerResources) -> Awaitable[object]:
    """Serve one connection through all middleware. The result is that of `WebSocketRoute.serve`.

    This is a plain function, as is `_serve_inner`, because every idle connection keeps a coroutine for each
    async one.
    """
    routed(ws.request, params, route.json)
    chain = [one for of_app in route.middleware for one in of_app]
    if chain:
        return _Next(chain, 0, functools.partial(_serve_inner, route, params, shared))(ws)
    # Without middleware, the connection may leave this task.
    return _serve_inner(route, params, shared, ws, detachable=True)


@enable_ki_protection
def begin(route: Route, params: PathParameters, ws: WebSocket, shared: ServerResources) -> bool:
    """Serve a connection of a listener without a task, if possible. See `WebSocketRoute.begin`."""
    if shared.finish_soon is None:
        return False
    routed(ws.request, params, route.json)
    listener: MessageListener = route.function
    wanted = {name: params.get(name, ws.request) for name in route.wanted} if route.wanted else _NO_ARGUMENTS
    return listener.begin(ws, shared.task_pool, wanted, shared.finish_soon)


class _Next:
    """The ``call_next`` of a middleware: the next middleware, or finally the route."""

    __slots__ = ("_at", "_chain", "_inner")

    def __init__(
        self, chain: Sequence[Middleware], at: int, inner: Callable[[WebSocket], Awaitable[object]]
    ) -> None:
        self._chain = chain
        self._at = at
        self._inner = inner

    @enable_ki_protection
    async def __call__(self, ws: WebSocket) -> None:
        if closing_of(ws).state != CONNECTING and not ws.accepted:
            return  # the client was refused
        if self._at < len(self._chain):
            await self._chain[self._at](ws, _Next(self._chain, self._at + 1, self._inner))
        else:
            await self._inner(ws)


@enable_ki_protection
def _serve_inner(
    route: Route, params: PathParameters, shared: ServerResources, ws: WebSocket, *, detachable: bool = False
) -> Awaitable[object]:
    function = route.function
    finish_soon = shared.finish_soon if detachable else None
    if isinstance(function, WebSocketHandler):
        return serve_handler(function, ws, shared.task_pool, debug=shared.debug, finish_soon=finish_soon)
    wanted = {name: params.get(name, ws.request) for name in route.wanted} if route.wanted else _NO_ARGUMENTS
    if isinstance(function, MessageListener):
        return function.serve(ws, shared.task_pool, wanted, finish_soon)
    if not route.awaits:
        return run_in_thread(function, ws, shared.threads, wanted)
    if detachable:
        return function(ws, **wanted)  # type: ignore[no-any-return]
    # It is awaited by code that Ctrl+C must not interrupt.
    return _run_user(functools.partial(function, ws, **wanted))


@enable_ki_protection
async def answer(route: Route, params: PathParameters, request: Request, shared: ServerResources) -> bytes:
    """Answer one plain request through all middleware, and return the encoded response."""
    routed(request, params, route.json)
    head_only = request.method == "HEAD"
    chain = [one for of_app in route.middleware for one in of_app]
    try:
        response = await _HTTPNext(chain, 0, route, params, shared)(request)
        # The response may have been modified since it was made.
        return encode_response(response, head_only=head_only)
    except BaseException as exc:  # noqa: BLE001 - classified in _failed
        response = _failed(route, request, judged(exc), debug=shared.debug)
        return encode_response(response, head_only=head_only)


class _HTTPNext:
    """The ``call_next`` of a middleware for HTTP: the next middleware, or finally the route."""

    __slots__ = ("_at", "_chain", "_params", "_route", "_shared")

    def __init__(
        self,
        chain: Sequence[HTTPMiddleware],
        at: int,
        route: Route,
        params: PathParameters,
        shared: ServerResources,
    ) -> None:
        self._chain = chain
        self._at = at
        self._route = route
        self._params = params
        self._shared = shared

    @enable_ki_protection
    async def __call__(self, request: Request) -> HTTPResponse:
        route = self._route
        result: object
        if self._at < len(self._chain):
            call_next = _HTTPNext(self._chain, self._at + 1, route, self._params, self._shared)
            result = await _run_user(functools.partial(self._chain[self._at], request, call_next))
        else:
            arguments = {name: self._params[name] for name in route.wanted}
            function = functools.partial(route.function, request, **arguments)
            if route.awaits:
                result = await _run_user(function)
            else:
                result = await call_in_thread(function, self._shared.threads)
        if route.json is not None and not isinstance(result, _NO_JSON):
            json = [("Content-Type", "application/json")]
            return HTTPResponse(headers=json, body=route.json.encode(result))
        return as_response(result)


@disable_ki_protection
async def _run_user(function: Callable[[], Awaitable[object]]) -> object:
    """Run user code, which Ctrl+C may interrupt anywhere; our own code leaves it to the main task."""
    return await function()


def _failed(route: Route, request: Request, exc: BaseException, *, debug: bool) -> HTTPResponse:
    if isinstance(exc, MessageError) and exc.__dict__.get("message") is request:
        return HTTPResponse(400, body=f"{exc}\n")
    if isinstance(exc, NoThreadError):
        return HTTPResponse(503, headers=[("Retry-After", "1")], body="no thread left\n")
    method = shown(request.method, 20)
    log_failure(logger, "the HTTP handler of %s %s failed", method, route.pattern.path, exc=exc)
    return HTTPResponse(500, body=f"{traceback_of(exc)}\n" if debug else "internal server error\n")
