"""App: WebSocket and HTTP routes, mounted handlers, middleware and a lifespan, served as one target.

Invariants:

- Mistakes are errors where they are made, not when the first client connects: an invalid path, a function
  with an unsuitable signature, a second route for one path.
- A route that is added to a mounted App is immediately part of the Apps above it.
- Middleware runs from the outermost App to the innermost, and within each in the order in which it was added.
"""

from __future__ import annotations

import functools
import inspect
import signal
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack, cast

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._blocks import check_no_loop
from trio_ws._settings import shows_settings_of
from trio_ws.app.dispatch import Route, answer, begin, serve
from trio_ws.app.docs import DocsPage
from trio_ws.app.javascript import ClientModule
from trio_ws.app.lifespan import run_lifespans
from trio_ws.app.listener import MessageListener
from trio_ws.codecs.registry import SUBPROTOCOLS
from trio_ws.decoding import JSONAdapter
from trio_ws.hosting.asgi import ASGIApp, for_this_loop
from trio_ws.logs import logger_for
from trio_ws.protocol.handshake import check_subprotocols
from trio_ws.protocol.http import HTTPError, Request, is_token
from trio_ws.rpc.handler import WebSocketHandler, prepare
from trio_ws.rpc.methods import allow_keyboard_interrupt, is_interruptible
from trio_ws.schema import Schema
from trio_ws.server.config import ServerSettings, server_config
from trio_ws.server.router import HTTPRoute, Router, WebSocketRoute
from trio_ws.server.routing import Pattern, Table, check_function, is_async, name_of
from trio_ws.server.server import WebSocketServer
from trio_ws.signals import cancel_on_signals, in_main_thread

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Awaitable, Sequence

    from trio_ws.app.dispatch import Middleware, Next, Wrapper
    from trio_ws.hosting.asgi_stream import Receive, Scope, Send
    from trio_ws.hosting.rsgi import RSGIScope
    from trio_ws.websocket.connection import WebSocket

__all__ = ["App"]

logger = logger_for("trio_ws.app")

F = TypeVar("F", bound=Callable[..., object])


#: What other frameworks call their decorators and methods, and what to write here.
_OTHER_NAMES = {
    **dict.fromkeys(("get", "route", "page"), "@app.http(path)"),
    **{
        name: f"@app.http(path, methods=[{name.upper()!r}])"
        for name in ("post", "put", "patch", "delete", "options", "head")
    },
    **dict.fromkeys(("ws", "websocket_route", "add_websocket_route"), "@app.websocket(path)"),
    **dict.fromkeys(("include_router", "register_blueprint"), "app.mount(path, other_app)"),
    **dict.fromkeys(("on_event", "on_startup", "before_serving"), "@app.lifespan, with one yield"),
    **dict.fromkeys(("serve", "listen"), "app.run(port), or in trio: await trio_ws.serve(app, port)"),
}


class App(Router):
    """Routes for WebSockets and plain HTTP: a target for `serve` and `WebSocketServer`.

    Paths have typed parameters: ``/rooms/{room_id:int}``. The types are ``str`` (the default), ``int``,
    ``float``, ``uuid`` and, for the rest of a path, ``path``. Parameters are available in ``ws.path_params``,
    and are passed to functions that name them. If several routes match, the most specific one is used. A
    trailing slash makes no difference. Without a matching route the response is 404.

    Args:
        debug: like a server's ``debug``: an unexpected exception of a WebSocket function ends the server and
            is raised from its block. The traceback of an HTTP function is sent to the client.
        json: a library that encodes and decodes JSON in the functions of this App, such as orjson: a module
            with ``dumps`` and ``loads``, or with ``encode`` and ``decode``. Default: msgspec, which validates
            types passed to ``receive_json`` and ``request.json`` in any case.

    Attributes:
        debug: the argument; it may be changed before the App is served.
        state: a namespace for objects that the functions of the App share, such as a pool opened by its
            lifespan.
    """

    def __init__(self, debug: bool = False, *, json: object = None) -> None:
        self.debug = debug
        self._json = JSONAdapter(json) if json is not None else None
        self.state = types.SimpleNamespace()
        self._websockets: Table[Route] = Table()
        self._https: Table[Route] = Table()
        self._middleware: list[Wrapper] = []
        self._http_middleware: list[Wrapper] = []
        self._lifespans: list[Callable[[App], AbstractAsyncContextManager[object]]] = []
        self._mounted: list[App] = []
        self._docs: list[DocsPage] = []
        self._lives = 0  # open blocks of run_lifespan()
        self._asgi: ASGIApp | None = None
        self._above: list[tuple[App, Pattern]] = []  # Apps in which this one is mounted

    if not TYPE_CHECKING:  # type checkers report these mistakes themselves

        def __getattr__(self, name: str) -> NoReturn:
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            write = _OTHER_NAMES.get(name)
            raise AttributeError(f"{text}; write: {write}" if write is not None else text)

    # -- adding routes ------------------------------------------------------------------------------

    def websocket(self, path: str, *, subprotocols: Sequence[str] | None = None) -> Callable[[F], F]:
        """Serve WebSockets at a path: a decorator for a function of one `WebSocket`.

        A plain ``def`` receives a `BlockingWebSocket` and runs in a thread of its own. Otherwise a function
        behaves like the target of a server.

        Args:
            path: see `App`.
            subprotocols: supported subprotocols, most preferred first; default those of the server.

        Raises:
            TypeError: the function has an unsuitable signature.
            ValueError: the path is invalid, or has a route already.
        """
        pattern = Pattern(path)
        offered = None if subprotocols is None else tuple(check_subprotocols(subprotocols))

        def add(function: F) -> F:
            given: object = function
            if isinstance(given, type) and issubclass(given, WebSocketHandler):
                raise TypeError(
                    f"{name_of(function)} is a WebSocketHandler; use app.mount({path!r}, {name_of(function)})"
                )
            wanted = check_function(function, "WebSocket", pattern)
            interruptible = is_interruptible(function)
            if interruptible:
                allow_keyboard_interrupt(function)
            self._add(
                Route(
                    pattern,
                    (self._middleware,),
                    function,
                    is_async(function),
                    wanted,
                    offered,
                    json=self._json,
                    interruptible=interruptible,
                )
            )
            return function

        return add

    def listener(
        self,
        path: str,
        *,
        on_connect: Callable[[WebSocket], Awaitable[object]] | None = None,
        on_disconnect: Callable[[WebSocket], Awaitable[object]] | None = None,
        subprotocols: Sequence[str] | None = None,
    ) -> Callable[[F], F]:
        """Call a function for each message at a path: a decorator for a function of a WebSocket and data.

        ::

            @app.listener("/moves/{game:int}")
            async def move(ws, data: Move, game: int) -> Ack:
                return Ack(await store(game, data))

        The annotation of the second argument says what it is: ``str`` for text messages, ``bytes`` for binary
        ones, ``str | bytes`` for both, `WebSocketMessage` for the message itself. Any other type, also none,
        is decoded from JSON and validated. A message of the wrong kind closes the connection with 1003, and
        invalid data with 1007.

        The result is sent back: ``str`` as text, bytes as a binary message, None not at all, and any other
        object as JSON text.

        The messages of one connection are handled one after the other. The function runs in the task that has
        read the message, like an RPC method, so an idle connection needs no task. It may wait. A plain
        ``def`` runs there too, not in a thread, so it must not block. If the connection breaks, the function
        is cancelled; if the peer closes it, the messages that came before are still handled. What the
        function raises closes the connection, as in `websocket`.

        Args:
            path: see `App`.
            on_connect: an async function of the WebSocket, awaited before the client is accepted. It may call
                ``ws.reject()``, or raise `CloseConnection`.
            on_disconnect: an async function of the WebSocket, awaited once for each client for which
                ``on_connect`` has returned without refusing it. It is shielded from cancellation for
                ``close_timeout`` seconds.
            subprotocols: see `websocket`.

        Raises:
            TypeError: a function has an unsuitable signature, or msgspec does not support the type.
            ValueError: the path is invalid, or has a route already.
        """
        pattern = Pattern(path)
        offered = None if subprotocols is None else tuple(check_subprotocols(subprotocols))

        def add(function: F) -> F:
            listener = MessageListener(function, pattern, self._json, on_connect, on_disconnect)
            self._add(
                Route(
                    pattern,
                    (self._middleware,),
                    listener,
                    wanted=listener.wanted,
                    subprotocols=offered,
                    json=self._json,
                )
            )
            return function

        return add

    def http(self, path: str, methods: Iterable[str] = ("GET",)) -> Callable[[F], F]:
        """Answer plain HTTP requests at a path: a decorator for a function of one `Request`.

        The function returns text, bytes, an object that msgspec encodes as JSON, None for a 204, or an
        `HTTPResponse`. A plain ``def`` runs in a thread. The whole request is read, up to ``max_body_bytes``,
        and the connection is closed after the response. HEAD is answered like GET. An exception of the
        function is logged and answered with 500, a `MessageError` of ``request.json()`` with 400.

        Args:
            path: see `App`.
            methods: supported methods; others get 405.

        Raises:
            TypeError: the function has an unsuitable signature.
            ValueError: the path or a method is invalid, or the path has a route for one of the methods
                already.
        """
        pattern = Pattern(path)
        names = _check_methods(methods)

        def add(function: F) -> F:
            wanted = check_function(function, "Request", pattern)
            self._add(
                Route(
                    pattern,
                    (self._http_middleware,),
                    function,
                    is_async(function),
                    wanted,
                    methods=names,
                    json=self._json,
                )
            )
            return function

        return add

    def mount(
        self,
        path: str,
        target: App | WebSocketHandler | type[WebSocketHandler],
        *,
        subprotocols: Sequence[str] | None = None,
    ) -> None:
        """Serve a `WebSocketHandler` at a path, or all routes of another App below it.

        Mount handlers before the App is served, because their channels start with the server.

        Args:
            path: see `App`. Its parameters are in ``path_params`` of connections and requests.
            target: a class is instantiated once; `handlers` contains the instance.
            subprotocols: for a handler; default the RPC dialects.

        Raises:
            TypeError: the target is neither.
            ValueError: the path is invalid, or a path of the target has a route already; nothing was added.
        """
        pattern = Pattern(path)
        if isinstance(target, App):
            if subprotocols is not None:
                raise TypeError("the routes of a mounted App have their own subprotocols; omit the argument")
            self._mount_app(pattern, target)
            return
        if isinstance(target, type) and issubclass(target, WebSocketHandler):
            target = target()
        if not isinstance(target, WebSocketHandler):
            raise TypeError(
                f"mount() requires a WebSocketHandler or an App, not {target!r};"
                " for a function use app.websocket()"
            )
        prepare(target)
        offered = tuple(check_subprotocols(SUBPROTOCOLS if subprotocols is None else subprotocols))
        self._add(Route(pattern, (self._middleware,), target, subprotocols=offered))

    def mount_client(self, path: str = "/trio-ws.js") -> None:
        """Serve the JavaScript client at a path: an ES module, which a page imports.

        ``import { Client } from "/trio-ws.js"``. It can call the methods of handlers in this App and of other
        servers. The response is gzipped if the browser accepts that, and has an ``ETag``.

        Args:
            path: see `App`.

        Raises:
            ValueError: the path is invalid, or already has a route.
        """
        self.http(path)(ClientModule().answer)

    def mount_docs(
        self,
        path: str = "/docs",
        *,
        allow: Callable[[Request], object] | None = None,
        title: str | None = None,
    ) -> None:
        """Serve a page that lists the methods and channels of all handlers mounted here, and tries them.

        It is one HTML file, which loads nothing else. It calls the handlers over WebSockets with the cookies
        of the browser, and so has the rights of its user.

        Args:
            path: see `App`; without parameters.
            allow: a function of the `Request`, ``async`` or not, that returns whether to send the page. If it
                returns an `HTTPResponse`, such as a 401, that is sent instead; for any other false value, a
                403. Without ``allow`` the page is sent to everybody, and the server must be in debug mode.
            title: default "API".

        Raises:
            TypeError: ``allow`` is not a function.
            ValueError: the path is invalid, has parameters, or has a route already. Creating a server for the
                App raises ValueError if ``allow`` is missing and it is not in debug mode, and the errors of
                `Schema`.
        """
        given: object = allow
        if given is not None and (not callable(given) or isinstance(given, type)):
            raise TypeError(f"allow must be a function of a Request, not {allow!r}")
        pattern = Pattern(path)
        if pattern.types:
            raise ValueError(f"the path of the page must not have parameters, not {path!r}")
        page = DocsPage(pattern.path, title or "API", self, allow)
        self.http(path)(page.answer)
        self._docs.append(page)

    def check_settings(self, *, debug: bool) -> None:
        """Check the pages of documentation. For those who serve an App by other means.

        Raises:
            TypeError, ValueError: see `mount_docs`.
        """
        for app in self._family():
            for page in app._docs:
                page.check(debug=debug)

    def _mount_app(self, prefix: Pattern, child: App) -> None:
        if child is self or child in self._all_above():
            raise ValueError("an App cannot be mounted in itself")
        routes = [self._under(prefix, route) for route in child._routes()]
        for route in routes:
            self._check_all(route)
        child._above.append((self, prefix))
        self._mounted.append(child)
        for route in routes:
            self._add(route)

    def middleware(self, function: F) -> F:
        """Wrap every connection: a decorator for an async context manager function.

        The function takes the `WebSocket`, has one ``yield``, and surrounds the route's function::

            @app.middleware
            async def count(ws):
                counter.up()
                try:
                    yield
                finally:
                    counter.down()

        It runs before the connection is accepted. ``await ws.reject(401)`` in it refuses the client, and the
        route's function is not called; so does raising `CloseConnection`, with 403. It does not apply to
        plain HTTP requests; see `http_middleware`.
        """
        manager = _as_manager(function, "middleware", "WebSocket")

        async def around(ws: WebSocket, call_next: Next) -> None:
            async with manager(ws):
                await call_next(ws)

        allow_keyboard_interrupt(function)
        self._middleware.append(around)
        return function

    def add_middleware(self, wrapper: Middleware) -> None:
        """Wrap every connection in an async function, which runs the rest with ``await call_next(ws)``.

        If it returns without calling it, and without using the WebSocket, the client is refused with 403.

        Raises:
            TypeError: it is not an async function of a WebSocket and ``call_next``.
        """
        if not is_async(wrapper):
            raise TypeError(f"the middleware {name_of(wrapper)} is not an async function of (ws, call_next)")
        _check_arguments(wrapper, "middleware", "(ws, call_next)", 2)
        allow_keyboard_interrupt(wrapper)
        self._middleware.append(wrapper)

    def http_middleware(self, function: F) -> F:
        """Wrap every plain HTTP request: a decorator for an async function of the request and ``call_next``.

        ::

            @app.http_middleware
            async def no_store(request, call_next):
                response = await call_next(request)
                response.headers = Headers([*response.headers, ("Cache-Control", "no-store")])
                return response

        ``await call_next(request)`` runs the rest, and returns its `HTTPResponse`, which may be changed. What
        the function returns is sent, like the result of a route's function. If it does not call
        ``call_next``, the route's function is not called. Exceptions of the rest are raised by ``call_next``;
        those that no middleware catches are answered with 500. It surrounds all routes for HTTP, also those
        of `mount_client` and `mount_docs`, but not requests for which there is no route.

        Raises:
            TypeError: it is not an async function of a request and ``call_next``.
        """
        if not is_async(function):
            raise TypeError(
                f"the HTTP middleware {name_of(function)} is not an async function of (request, call_next)"
            )
        _check_arguments(function, "HTTP middleware", "(request, call_next)", 2)
        allow_keyboard_interrupt(function)
        self._http_middleware.append(cast("Wrapper", function))
        return function

    def lifespan(self, function: F) -> F:
        """Run code around serving the App: a decorator for an async context manager function of the App.

        The part before its ``yield`` runs before the server listens. The part after it runs after the server
        has drained, for at most ``close_timeout`` seconds, even if the server was cancelled. A cancellation
        during the first part interrupts it; what it and earlier lifespans have opened has the same time to
        close, and may wait. The function runs in a task of its own, so it may hold nurseries and cancel
        scopes. Its exceptions end the server, and are raised from its block unchanged. Several lifespans are
        entered in order and left in reverse order; those of mounted Apps come after those of the App itself.
        """
        manager = _as_manager(function, "lifespan", "App")
        allow_keyboard_interrupt(function)
        self._lifespans.append(manager)
        return function

    def _add(self, route: Route) -> None:
        """Add a route here and in every App above, or nowhere."""
        for app, one in self._check_all(route):
            (app._https if one.methods else app._websockets).add(one)

    def _check_all(self, route: Route) -> list[tuple[App, Route]]:
        seen = [(self, route), *self._seen_above(route)]
        for app, one in seen:
            app._check(one)
        return seen

    def _check(self, route: Route) -> None:
        for other in self._https if route.methods else self._websockets:
            if other.pattern.shape == route.pattern.shape and (
                not route.methods or set(route.methods) & set(other.methods)
            ):
                raise ValueError(
                    f"there is already a route for {other}, {name_of(other.function)};"
                    f" use another path for {name_of(route.function)}"
                )

    def _under(self, prefix: Pattern, route: Route) -> Route:
        """Return a route of a mounted App as this App has it."""
        return route.under(prefix, self._http_middleware if route.methods else self._middleware)

    def _seen_above(self, route: Route) -> list[tuple[App, Route]]:
        seen: list[tuple[App, Route]] = []
        for app, prefix in self._above:
            one = app._under(prefix, route)
            seen += [(app, one), *app._seen_above(one)]
        return seen

    def _all_above(self) -> list[App]:
        return [one for app, _ in self._above for one in (app, *app._all_above())]

    def _routes(self) -> list[Route]:
        return [*self._websockets, *self._https]

    # -- serving ------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Mapping[str, WebSocketHandler]:
        """Every `WebSocketHandler` mounted here or in a mounted App, by path."""
        found = {route.pattern.path: route.function for route in self._websockets}
        return {path: one for path, one in found.items() if isinstance(one, WebSocketHandler)}

    def schema(self) -> Schema:
        """The methods and channels of all mounted handlers, as OpenRPC, AsyncAPI and TypeScript.

        Raises:
            TypeError, ValueError: they cannot be described, or there are none; see `Schema`.
        """
        return Schema(self)

    @shows_settings_of(server_config)
    def run(self, port: int = 8000, **settings: Unpack[ServerSettings]) -> None:
        """Serve until Ctrl+C or SIGTERM, which drain the server: `trio.run` and `serve` in one.

        The arguments are those of `serve`. In a running event loop, use ``await serve(app, port)``.

        Raises:
            OSError: the address is in use or not available.
            RuntimeError: an event loop runs here already.
        """
        check_no_loop("App.run()")

        async def main() -> None:
            server = WebSocketServer(self, port, **settings)
            with cancel_on_signals(signal.SIGTERM) if in_main_thread() else nullcontext():
                async with server:
                    logger.info("serving at %s", server.url)
                    await server.serve_forever()

        try:
            trio.run(main)
        except KeyboardInterrupt:
            logger.info("stopped by Ctrl+C")

    def find_websocket(self, path: str) -> WebSocketRoute | None:
        """Return the route for a handshake at a path, or None. For serving an App by other means."""
        for route, params in self._websockets.find(path):
            serving = functools.partial(serve, route, params)
            # Middleware has code of ours around the function.
            direct = not any(route.middleware)
            alone = (
                direct and isinstance(route.function, MessageListener) and route.function.on_connect is None
            )
            beginning = functools.partial(begin, route, params) if alone else None
            interruptible = route.interruptible and direct
            return WebSocketRoute(serving, params, route.subprotocols, interruptible, beginning)
        return None

    def find_http(self, method: str, path: str) -> HTTPRoute | None:
        """Return the route for a plain request, or None. For serving an App by other means.

        Raises:
            HTTPError: 405, with Allow.
        """
        allowed: dict[str, None] = {}
        for route, params in self._https.find(path):
            if method in route.methods:
                return HTTPRoute(functools.partial(answer, route, params))
            allowed.update(dict.fromkeys(route.methods))
        if not allowed:
            return None
        raise HTTPError(405, "method not allowed", [("Allow", ", ".join(allowed))])

    def run_lifespan(self, grace: float = 10.0) -> AbstractAsyncContextManager[None]:
        """Run a block within the lifespans. For serving an App by other means.

        Args:
            grace: seconds for the lifespans to end; default 10, the default of ``close_timeout``.
        """
        return for_this_loop(functools.partial(self._run_lifespan, grace))

    @asynccontextmanager
    @enable_ki_protection
    async def _run_lifespan(self, grace: float) -> AsyncIterator[None]:
        managers = self._managers()
        if not managers:
            yield
            return
        async with run_lifespans(managers, grace):
            self._lives += 1
            try:
                yield
            finally:
                self._lives -= 1

    def live(self, grace: float = 10.0) -> AbstractAsyncContextManager[None]:
        """Deprecated: use `run_lifespan`."""
        warnings.warn("live() is deprecated, use run_lifespan()", DeprecationWarning, stacklevel=2)
        return self.run_lifespan(grace)

    def ensure_lifespan(self) -> None:
        if self._managers() and not self._lives:
            raise RuntimeError(
                "the lifespan of this App is not running; daphne runs no lifespans, and ASGI servers none of"
                " mounted applications; write async with app.run_lifespan() in the lifespan of the outer"
                " application"
            )

    def _managers(self) -> list[Callable[[], AbstractAsyncContextManager[object]]]:
        return [functools.partial(one, app) for app in self._family() for one in app._lifespans]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve as an ASGI 3 application, like an `ASGIApp` with default options."""
        await self._hosted()(scope, receive, send)

    async def __rsgi__(self, scope: RSGIScope, protocol: Any) -> None:
        """Serve as an RSGI application, like an `ASGIApp` with default options."""
        await self._hosted().__rsgi__(scope, protocol)

    def __rsgi_init__(self, loop: AbstractEventLoop) -> None:
        """Enter the lifespans, before the RSGI server serves."""
        self._hosted().__rsgi_init__(loop)

    def __rsgi_del__(self, loop: AbstractEventLoop) -> None:
        """Leave the lifespans, after the RSGI server has served."""
        self._hosted().__rsgi_del__(loop)

    def _hosted(self) -> ASGIApp:
        if self._asgi is None:
            self._asgi = ASGIApp(self)
        return self._asgi

    def _family(self) -> list[App]:
        """This App and all Apps mounted below it, each once."""
        family: list[App] = [self]
        for app in self._mounted:
            family += [one for one in app._family() if one not in family]
        return family


# -- checks -----------------------------------------------------------------------------------------


def _check_methods(methods: Iterable[str]) -> tuple[str, ...]:
    if isinstance(methods, str):
        raise TypeError(f"methods must be a sequence of str; use methods=[{methods!r}]")
    names = tuple(dict.fromkeys(methods))
    if "GET" in names and "HEAD" not in names:
        names += ("HEAD",)  # RFC 9110 section 9.3.2: GET without the body
    if not names:
        raise ValueError("methods is empty; omit it for GET")
    for name in names:
        if not is_token(name) or name != name.upper():
            raise ValueError(f"{name!r} is not an HTTP method; use upper case, such as 'GET'")
    return names


def _takes_next(function: object) -> bool:
    """Whether this is middleware that calls the rest itself."""
    return callable(function) and "call_next" in inspect.signature(function).parameters


def _as_manager(
    function: object, what: str, first: str
) -> Callable[[Any], AbstractAsyncContextManager[object]]:
    if inspect.isasyncgenfunction(function):
        manager: Any = asynccontextmanager(function)
    elif callable(function) and not is_async(function) and not inspect.isgeneratorfunction(function):
        manager = function
    elif _takes_next(function):
        raise TypeError(f"the {what} {name_of(function)} takes call_next; use app.add_middleware() for it")
    else:
        raise TypeError(
            f"the {what} {name_of(function)} must be an async context manager function of one {first}:"
            " use async def with one yield"
        )
    _check_arguments(function, what, f"one {first}", 1)
    return manager  # type: ignore[no-any-return]


def _check_arguments(function: Callable[..., object], what: str, takes: str, count: int) -> None:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        raise TypeError(f"the {what} {name_of(function)} must be a function of {takes}") from None


def docs_path(app: App) -> str | None:
    """Return the path of the first page of `App.mount_docs`, if there is one."""
    return next((page.path for page in app._docs), None)


def routes_of(app: App) -> list[Route]:
    """The routes of an App and of those that are mounted in it: of WebSockets, then of HTTP."""
    return app._routes()
