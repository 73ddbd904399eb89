"""Front: what a server asks of an `App`, and what it lends.

An App stands above the servers, because it can run one; servers, and whoever else has connections to give
away, know it as a `Front`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from trio_ws.protocol.http import HTTPError, comma_list

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    import trio

    from trio_ws.protocol.http import Request
    from trio_ws.rpc.client_connection import CleanupScheduler
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["HTTPRoute", "Router", "ServerResources", "WebSocketRoute"]


class ServerResources(NamedTuple):
    """What a server lends to all that it serves.

    Attributes:
        workers: for calls that wait.
        threads: for handlers that block.
        debug: whether what goes wrong may be told to everyone.
        finisher: called in a connection's task, gives what that may leave its end to; see
            ``WebSocketHandler._serve``.
    """

    task_pool: TaskPool
    threads: trio.CapacityLimiter
    debug: bool
    finisher: Callable[[WebSocket], CleanupScheduler]


class WebSocketRoute(NamedTuple):
    """A route that takes a WebSocket.

    Attributes:
        serve: the life of one connection, from before it is accepted. Raises what the handler raises, and
            gives `UNFINISHED` where it has only left its task.
        path_params: for ``ws.path_params``.
        subprotocols: those of the route; None for the server's own.
    """

    serve: Callable[[WebSocket, ServerResources], Awaitable[object]]
    path_params: dict[str, Any]
    subprotocols: tuple[str, ...] | None


class HTTPRoute(NamedTuple):
    """A route that answers a plain HTTP request.

    Attributes:
        answer: makes the response, as it is sent; what goes wrong in it is logged, and is a response as well.
    """

    answer: Callable[[Request, ServerResources], Awaitable[bytes]]


class Router(ABC):
    """Routes, and what lives as long as they are served."""

    debug: bool

    @property
    @abstractmethod
    def handlers(self) -> Mapping[str, Any]:
        """Every mounted `WebSocketHandler`, by its path."""

    @abstractmethod
    def find_websocket(self, path: str) -> WebSocketRoute | None:
        """The route for a handshake."""

    @abstractmethod
    def find_http(self, method: str, path: str) -> HTTPRoute | None:
        """The route for a plain request; None where nothing at that path speaks HTTP.

        Raises:
            HTTPError: 405, with Allow.
        """

    @abstractmethod
    def run_lifespan(self, grace: float) -> AbstractAsyncContextManager[None]:
        """What must be there while connections are served; ``grace`` seconds bound its end."""

    @abstractmethod
    def ensure_lifespan(self) -> None:
        """See that `live` runs, where that makes a difference.

        Raises:
            RuntimeError: it does not.
        """

    def match(self, request: Request) -> WebSocketRoute | HTTPRoute:
        """The route for a request. One for a handshake may still be none: that is for the caller to check.

        Raises:
            HTTPError: 404, or 405 with Allow.
        """
        path = request.path
        if request.method == "GET" and _asks_for_websocket(request):
            # A page at the same path is no answer to a client that wants to speak WebSocket.
            entry = self.find_websocket(path)
            if entry is None:
                raise HTTPError(404, "there is no WebSocket here")
            return entry
        found = self.find_http(request.method, path) or self.find_websocket(path)
        if found is None:
            raise HTTPError(404, "there is nothing here")
        return found


def _asks_for_websocket(request: Request) -> bool:
    return "websocket" in [name.lower() for name in comma_list(request.raw_values(b"upgrade"))]
