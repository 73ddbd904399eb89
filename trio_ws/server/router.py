"""The interface between a server and an `App`.

An App is layered above the servers, because it can run one. Servers, and hosts that pass connections to an
App, know it only as a `Router`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trio_ws.protocol.http import HTTPError, comma_list

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    import trio

    from trio_ws._types import PathParameters
    from trio_ws.protocol.http import Request
    from trio_ws.rpc.detached import FinishSoon
    from trio_ws.rpc.handler import WebSocketHandler
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["HTTPRoute", "Pages", "Router", "ServerResources", "WebSocketRoute", "asks_for_websocket"]


class ServerResources(NamedTuple):
    """Resources of a server that its connections share.

    Attributes:
        workers: the task pool for calls that wait.
        threads: the limiter for blocking handlers.
        debug: whether unexpected exceptions may be reported to everyone.
        finish_soon: finishes connections that have left their tasks, see `Detached`; None if no connection
            may leave its task.
    """

    task_pool: TaskPool
    threads: trio.CapacityLimiter
    debug: bool
    finish_soon: FinishSoon | None


class WebSocketRoute(NamedTuple):
    """A route for WebSockets.

    Attributes:
        serve: serves one connection, starting before it is accepted. It raises what the handler raises, and
            returns `DETACHED` if the connection lives on without the task.
        path_params: for ``ws.path_params``.
        subprotocols: those of the route; None for the server's own.
        interruptible: whether the user code in it is marked as interruptible by Ctrl+C.
        begin: serves a connection that needs no task, starting before it is accepted, as if `serve` had
            returned `DETACHED`. It returns False if the connection needs one; then call `serve`. None if all
            connections need one.
    """

    serve: Callable[[WebSocket, ServerResources], Awaitable[object]]
    path_params: PathParameters
    subprotocols: tuple[str, ...] | None
    interruptible: bool = False
    begin: Callable[[WebSocket, ServerResources], bool] | None = None


class HTTPRoute(NamedTuple):
    """A route for plain HTTP requests.

    Attributes:
        answer: returns the response to send. Failures are logged, and turned into a response as well.
    """

    answer: Callable[[Request, ServerResources], Awaitable[bytes]]


class Pages(Protocol):
    """Pages of the command line, at paths where the target of a server answers no plain requests."""

    def find(self, request: Request) -> HTTPRoute | None:
        """Return the page for a request, or None."""


class Router(ABC):
    """Routes, and the lifespan of their handlers."""

    debug: bool

    @property
    @abstractmethod
    def handlers(self) -> Mapping[str, WebSocketHandler]:
        """Every mounted `WebSocketHandler`, by path."""

    @abstractmethod
    def find_websocket(self, path: str) -> WebSocketRoute | None:
        """Return the route for a handshake, or None."""

    @abstractmethod
    def find_http(self, method: str, path: str) -> HTTPRoute | None:
        """Return the route for a plain request, or None if nothing at that path accepts HTTP.

        Raises:
            HTTPError: 405, with Allow.
        """

    @abstractmethod
    def run_lifespan(self, grace: float) -> AbstractAsyncContextManager[None]:
        """Run the lifespans while connections are served. ``grace`` seconds bound the end."""

    @abstractmethod
    def ensure_lifespan(self) -> None:
        """Check that `run_lifespan` is active, if anything depends on it.

        Raises:
            RuntimeError: it is not.
        """

    def check_settings(self, *, debug: bool) -> None:
        """Check that all routes can be served with these settings.

        Raises:
            TypeError, ValueError: a route cannot; the message says why.
        """
        return

    def match(self, request: Request) -> WebSocketRoute | HTTPRoute:
        """Return the route for a request. The caller checks whether a handshake is valid.

        Raises:
            HTTPError: 404, or 405 with Allow.
        """
        path = request.path
        if request.method == "GET" and asks_for_websocket(request):
            # Do not serve a page at the same path to a client that asks for a WebSocket.
            entry = self.find_websocket(path)
            if entry is None:
                raise HTTPError(404, "no WebSocket at this path")
            return entry
        found = self.find_http(request.method, path) or self.find_websocket(path)
        if found is None:
            raise HTTPError(404, "nothing at this path")
        return found


def asks_for_websocket(request: Request) -> bool:
    """Whether a request is an opening handshake, which may still be invalid."""
    return "websocket" in [name.lower() for name in comma_list(request.raw_values(b"upgrade"))]
