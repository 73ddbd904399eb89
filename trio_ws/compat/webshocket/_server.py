"""WebSocketServer of webshocket."""

from __future__ import annotations

import typing
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Self

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

import trio_ws.server.server as engine_server
from trio_ws.compat.webshocket._background import Background, open_block
from trio_ws.compat.webshocket._engine import SUBPROTOCOLS, EngineHandler
from trio_ws.compat.webshocket.enum import ServerState
from trio_ws.compat.webshocket.exceptions import WebSocketError
from trio_ws.compat.webshocket.handler import DefaultWebSocketHandler, WebSocketHandler
from trio_ws.logs import logger_for
from trio_ws.options import Options

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from trio_ws.compat.webshocket.connection import ClientConnection

__all__ = ["DEFAULT_OPTIONS", "WebSocketServer"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    H = TypeVar("H", bound=WebSocketHandler[Any], default=DefaultWebSocketHandler[Any])
else:
    H = typing.TypeVar("H", bound=WebSocketHandler)

#: webshocket takes messages of 10 MiB.
DEFAULT_OPTIONS = Options(
    max_message_size=10 * 1024 * 1024,
    max_decoded_bytes=40 * 1024 * 1024,
    channel_max_bytes=4 * 1024 * 1024,
    json_in_binary=True,
)
#: Connections that have gone, and whose packets `accept` may still hand out.
_MAX_GONE = 16


class WebSocketServer(Generic[H]):
    """A server of webshocket's.

    Args:
        host: a name or an address; ``"0.0.0.0"`` for all interfaces.
        port: the TCP port; 0 for a free one, which then is ``port``.
        clientHandler: the class of its handler. Without one, `accept` gives the connections.
        ssl_context: set_codec TLS with it.
        max_connection: connections at most; further clients get 503. None for 20,000.
        packet_qsize: taken, and not used: packets of a client wait up to ``max_held_bytes``, in bytes.
        rpc_task_limit: calls that run at once; others wait for their turn.
        max_subscribed_channels: names and globs that ``connection.subscribe`` lets one client hold; 0 for no
            limit.

    Attributes:
        handler: the handler. Its attributes are found on the server, too: ``server.clients``,
            ``server.publish(...)``.
        host, port, ssl_context, max_connection: see above.
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
        self.handler: H = clientHandler()
        self.handler._set_up()
        self.handler._task_limit = trio.Semaphore(rpc_task_limit)
        self._max_subscribed_channels = max_subscribed_channels
        self._background: Background | None = None
        self._block: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._to_accept: dict[ClientConnection[Any], None] = {}  # in their order
        self._gone: deque[ClientConnection[Any]] = deque()  # those of them that have left
        self._arrivals = trio.lowlevel.ParkingLot()

    # -- life ---------------------------------------------------------------------------------------

    @enable_ki_protection
    async def start(
        self, *, nursery: trio.Nursery | None = None, options: Options | None = None, **kwargs: Any
    ) -> Self:
        """Begin to serve, and return while it goes on until `close`. Where it serves already, do nothing.

        Args:
            nursery: where it runs. By default in the block of ``async with``, where there is one; else in a
                system task, which ends with the program's main task at the latest.
            options: limits and timeouts. Default: messages of 10 MiB at most, and 4 MiB may wait to be
                written to one client.
            **kwargs: as for `trio_ws.WebSocketServer`: ``listeners``, ``unix_path``, ``broker``.

        Raises:
            OSError: the address cannot be had.
        """
        if self._background is not None:
            await checkpoint()
            return self
        self._background = Background(lambda begun: self._serve(begun, options or DEFAULT_OPTIONS, kwargs))
        try:
            await self._background.start(nursery or self._nursery)
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
        """Serve until `close` is called, or this is cancelled. It begins to serve, unless `start` has.

        Args:
            **kwargs: as for `start`.
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
        """Stop to serve: all clients get 1001, and calls that run may finish within ``drain_timeout``.

        Cancelled, it does not wait for that, which goes on.
        """
        if self._background is None:
            await checkpoint()
        else:
            await self._background.stop()

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        block = open_block(self.close)
        self._nursery = await block.__aenter__()
        self._block = block
        try:
            await self.start()
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        block, self._block, self._nursery = self._block, None, None
        if block is not None:
            await block.__aexit__(kind, exc, trace)

    # -- connections --------------------------------------------------------------------------------

    async def accept(self) -> ClientConnection[Any]:
        """Wait for the next client.

        Raises:
            TypeError: the server has a handler of its own.
            WebSocketError: the server does not serve.
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

    def _arrived(self, connection: ClientConnection[Any]) -> None:
        if isinstance(self.handler, DefaultWebSocketHandler):
            self._to_accept[connection] = None
            self._arrivals.unpark()

    def _left(self, connection: ClientConnection[Any]) -> None:
        """A client has gone, perhaps before anybody has accepted it: what it has sent can still be read."""
        if connection not in self._to_accept:
            return
        if not connection._peer.delivery.packets:
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
