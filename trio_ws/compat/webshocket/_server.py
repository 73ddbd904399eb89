"""WebSocketServer of webshocket."""

from __future__ import annotations

import inspect
import typing
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

import trio_ws.server.server as engine_server
from trio_ws._blocks import check_trio
from trio_ws._nurseries import open_block
from trio_ws.compat.webshocket._background import Background, UserBlock
from trio_ws.compat.webshocket._engine import SUBPROTOCOLS, EngineHandler
from trio_ws.compat.webshocket.connection import session_of
from trio_ws.compat.webshocket.enum import ServerState
from trio_ws.compat.webshocket.exceptions import WebSocketError
from trio_ws.compat.webshocket.handler import DefaultWebSocketHandler, WebSocketHandler, limit_tasks
from trio_ws.logs import logger_for
from trio_ws.options import Options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType

    from trio_ws.compat.webshocket.connection import ClientConnection

__all__ = ["DEFAULT_OPTIONS", "WebSocketServer"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    H = TypeVar("H", bound=WebSocketHandler, default=DefaultWebSocketHandler)
else:
    H = typing.TypeVar("H", bound=WebSocketHandler)

#: webshocket takes messages of 10 MiB.
DEFAULT_OPTIONS = Options(
    max_message_size=10 * 1024 * 1024,
    max_decoded_bytes=40 * 1024 * 1024,
    channel_max_bytes=4 * 1024 * 1024,
    json_in_binary=True,
)
#: The maximum number of closed connections with unread packets that `accept` may still return.
_MAX_GONE = 16


class WebSocketServer(Generic[H]):
    """A server with the interface of webshocket's.

    Args:
        host: a name or an address; ``"0.0.0.0"`` for all IPv4 interfaces.
        port: the TCP port; 0 for a free one, which the attribute ``port`` then has.
        clientHandler: the class of the handler. Default: `DefaultWebSocketHandler`, with which `accept`
            returns the connections.
        ssl_context: the SSL context for TLS. Default: no TLS.
        max_connection: the maximum number of connections. Other clients get status 503. Default None: 20,000.
        packet_qsize: accepted and ignored. Waiting packets are limited in bytes (``max_held_bytes``).
        rpc_task_limit: the maximum number of calls that run concurrently. Others wait. Default 1024.
        max_subscribed_channels: the maximum number of names and globs that ``connection.subscribe`` allows;
            0 for no limit. Default 5.

    Attributes:
        handler: the handler. Its attributes are available on the server too, such as ``server.clients`` and
            ``server.publish(...)``.
        host, port, ssl_context, max_connection: the arguments.
        logger: the logger ``webshocket.server``.
        state: SERVING or CLOSED.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        clientHandler: type[H] = DefaultWebSocketHandler,  # type: ignore[assignment]
        ssl_context: ssl.SSLContext | None = None,
        max_connection: int | None = None,
        packet_qsize: int = 512,
        rpc_task_limit: int = 1024,
        max_subscribed_channels: int = 5,
    ) -> None:
        self.host = host
        self.port = port
        self.ssl_context = ssl_context
        self.max_connection = max_connection
        self.logger = logger_for("webshocket.server")
        self.state = ServerState.CLOSED
        self.handler: H = _make_handler(clientHandler)
        limit_tasks(self.handler, rpc_task_limit)
        self._max_subscribed_channels = max_subscribed_channels
        self._background: Background | None = None
        self._block = UserBlock(self.close)
        self._to_accept: dict[ClientConnection, None] = {}  # in order of arrival
        self._gone: deque[ClientConnection] = deque()  # those of them that have ended
        self._arrivals = trio.lowlevel.ParkingLot()

    # -- starting and closing -----------------------------------------------------------------------

    @enable_ki_protection
    async def start(
        self, *, nursery: trio.Nursery | None = None, options: Options | None = None, **kwargs: Any
    ) -> Self:
        """Start to serve, and return. The server runs until `close`. Starting it again does nothing.

        Args:
            nursery: the nursery for the background task. Default: that of the server's ``async with`` block;
                without one, a system task is used, which ends with the program's main task at the latest.
            options: limits and timeouts. Default: messages of up to 10 MiB, and up to 4 MiB that wait to be
                written to one client.
            **kwargs: arguments of `trio_ws.WebSocketServer`, such as ``listeners``, ``unix_path`` and
                ``broker``.

        Raises:
            OSError: the address is not available.
        """
        check_trio("start()")
        if self._background is not None:
            await checkpoint()
            return self
        self._background = Background(lambda begun: self._serve(begun, options or DEFAULT_OPTIONS, kwargs))
        try:
            await self._background.start(nursery or self._block.nursery)
        except BaseException:
            self._background = None
            raise
        self.logger.info("Server started on %s:%s", self.host, self.port)
        return self

    async def _serve(self, begun: Callable[[], None], options: Options, kwargs: dict[str, Any]) -> None:
        background = self._background
        assert background is not None
        options = replace(
            options,
            json_in_binary=True,
            max_connections=self.max_connection or options.max_connections,
        )
        if "listeners" not in kwargs and "unix_path" not in kwargs:
            kwargs = {"port": self.port, "host": self.host, **kwargs}
        handler = EngineHandler(self.handler, self._max_subscribed_channels, self._arrived, self._left)
        try:
            async with engine_server.WebSocketServer(
                handler,
                ssl_context=self.ssl_context,
                subprotocols=SUBPROTOCOLS,
                options=options,
                **kwargs,
            ) as server:
                if "port" in kwargs:
                    self.port = server.port
                self.state = ServerState.SERVING
                begun()
                await background.stopping.wait()
        finally:
            self.state = ServerState.CLOSED
            self._background = None
            self._to_accept.clear()
            self._gone.clear()
            self._arrivals.unpark_all()

    async def serve_forever(self, **kwargs: Any) -> None:
        """Serve until `close` is called or this is cancelled. The server may have been started already.

        Args:
            **kwargs: arguments of `start`.
        """
        if self._background is not None:
            await self._wait_closed()
            return
        async with open_block(self.close) as nursery:
            await self.start(nursery=nursery, **kwargs)
            await self._wait_closed()

    async def _wait_closed(self) -> None:
        if self._background is not None:
            await self._background.done.wait()

    async def close(self) -> None:
        """Stop serving. Running calls may finish within ``drain_timeout``, and clients get close code 1001.

        After a cancellation, this continues in the background.
        """
        if self._background is None:
            await checkpoint()
        else:
            await self._background.stop()

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        check_trio("start()")
        await self._block.enter(self.start)
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block.leave(kind, exc, trace)

    # -- connections --------------------------------------------------------------------------------

    async def accept(self) -> ClientConnection:
        """Wait for the next client.

        Raises:
            TypeError: the server has another handler than `DefaultWebSocketHandler`.
            WebSocketError: the server is not running.
        """
        if not isinstance(self.handler, DefaultWebSocketHandler):
            raise TypeError("Cannot use manual accept() when handler callback is active.")
        await checkpoint()
        while True:
            if self._background is None:
                raise WebSocketError("Error getting client: server is not started")
            if self._to_accept:
                connection = next(iter(self._to_accept))
                del self._to_accept[connection]
                return connection
            await self._arrivals.park()

    def _arrived(self, connection: ClientConnection) -> None:
        if isinstance(self.handler, DefaultWebSocketHandler):
            self._to_accept[connection] = None
            self._arrivals.unpark()

    def _left(self, connection: ClientConnection) -> None:
        """Handle the end of a connection. If it waits for `accept`, its packets can still be received."""
        if connection not in self._to_accept:
            return
        if not session_of(connection).delivery.packets:
            del self._to_accept[connection]
            return
        self._gone.append(connection)
        if len(self._gone) > _MAX_GONE:
            self._to_accept.pop(self._gone.popleft(), None)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and "handler" in self.__dict__:
            try:
                return getattr(self.handler, name)
            except AttributeError:
                pass
        raise AttributeError(f"{type(self).__name__!r} object and its handler have no attribute {name!r}")


def _make_handler(factory: Callable[[], H]) -> H:
    """Call ``clientHandler``, which is a class, or a function that makes an instance."""
    rule = "clientHandler must be a class that inherits from trio_ws.compat.webshocket.WebSocketHandler, not"
    given: object = factory
    if isinstance(given, WebSocketHandler) or inspect.iscoroutinefunction(given):
        raise TypeError(f"{rule} {factory!r}")
    handler = factory()
    if not isinstance(handler, WebSocketHandler):
        raise TypeError(f"{rule} {factory!r}")
    return handler
