"""WebSocketClient: calls, streams and packets over one connection, for the length of a block."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from trio.lowlevel import enable_ki_protection

from trio_ws.handler import ClientConnection, WebSocketHandler
from trio_ws.network.connect import connect
from trio_ws.rpc.calls import PacketStream
from trio_ws.rpc.limits import Limiter
from trio_ws.rpc.peer import Peer
from trio_ws.rpc.proxy import Proxy
from trio_ws.rpc.workers import Workers
from trio_ws.wire.packets import choose, plain_dialect

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    import trio

    from trio_ws.options import Options
    from trio_ws.rpc.calls import RPCResponse
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.wire.packets import Packet

__all__ = ["WebSocketClient"]

logger = logging.getLogger("trio_ws.client")

T = TypeVar("T")

_DIALECTS = {
    "trio-ws.v1": ("trio-ws.v1",),
    "webshocket.v1": ("webshocket.v1",),
    "jsonrpc": ("jsonrpc",),
    "json": (),
    None: ("trio-ws.v1", "webshocket.v1"),
}


class WebSocketClient:
    """A connection to a server of calls, for the length of an ``async with`` block.

    Leaving the block closes with 1000; calls that are still under way fail. A cancellation closes at once.
    Any number of tasks may call, stream, send and receive.

    Args:
        uri: ``ws://`` or ``wss://``.
        handler: a `WebSocketHandler`, class or instance, whose methods the server may call. Its
            ``on_receive`` gets the packets that else `recv` gives.
        dialect: ``"trio-ws.v1"``, ``"webshocket.v1"``, ``"jsonrpc"`` or ``"json"``; by default the first two
            are offered, and JSON is spoken with a server that knows neither.
        headers: more request headers.
        stream: speak over this stream; see `connect`.
        unix_path: connect to the Unix socket at this path.
        ssl_context: for ``wss://``.
        proxy: True for what the environment says, None for none, or a proxy's URL; see `connect`.
        options: limits and timeouts.

    Raises:
        ConnectionFailedError: on entering, as `connect`.
    """

    def __init__(
        self,
        uri: str,
        *,
        handler: WebSocketHandler[Any] | type[WebSocketHandler[Any]] | None = None,
        dialect: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        stream: trio.abc.Stream | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Literal[True] | str | None = True,
        options: Options | None = None,
    ) -> None:
        if dialect not in _DIALECTS:
            names = ", ".join(repr(name) for name in _DIALECTS if name)
            raise ValueError(f"dialect is one of {names}, not {dialect!r}")
        self._uri = uri
        self._subprotocols: Sequence[str] = _DIALECTS[dialect]
        self._handler = _make_handler(handler)
        self._connecting: dict[str, Any] = {
            "headers": headers,
            "stream": stream,
            "unix_path": unix_path,
            "ssl_context": ssl_context,
            "proxy": proxy,
            "options": options,
        }
        self._manager: Any = None
        self._peer: Peer | None = None
        self._ws: WebSocket | None = None

    # -- life ---------------------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError("a WebSocketClient is entered once; make another")
        self._manager = self._run()
        await self._manager.__aenter__()
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        result: bool | None = await self._manager.__aexit__(kind, exc, trace)
        return result

    @asynccontextmanager
    @enable_ki_protection
    async def _run(self) -> AsyncIterator[None]:
        async with connect(self._uri, subprotocols=self._subprotocols, **self._connecting) as ws:
            self._ws = ws
            handler = self._handler
            handler._prepare()
            connection: ClientConnection[Any] = ClientConnection(ws)
            dialect = choose(ws.subprotocol, ws._options)

            async def on_packet(packet: Packet) -> None:
                await handler.on_receive(connection, packet)

            takes_packets = type(handler).on_receive is not WebSocketHandler.on_receive
            peer = self._peer = Peer(
                ws,
                Workers(ws._service.nursery),
                dialect or plain_dialect(ws._options),
                undecided=dialect is None and self._subprotocols != (),
                methods=handler._methods,
                connection=connection,
                on_packet=on_packet if takes_packets else None,
                limiter=Limiter(),
                default_limit=handler.default_rate_limit,
            )
            object.__setattr__(connection, "_peer", peer)
            ws._service.nursery.start_soon(_host, peer)
            try:
                yield
            finally:
                peer.ended()  # connect() closes; what was under way here has failed before that

    @property
    def _live(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("not connected; use: async with WebSocketClient(...) as client")
        return self._peer

    # -- calls --------------------------------------------------------------------------------------

    @overload
    async def call(self, method: str, /, *args: Any, returns: type[T], **kwargs: Any) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Any, returns: Any = ..., **kwargs: Any) -> Any: ...
    def call(self, method: str, /, *args: Any, returns: Any = Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a method of the server and wait for its value.

        The time left of the scope that this runs in travels with the call and ends the method over there too.
        An argument that is an async iterable arrives as a stream (trio-ws.v1). A cancellation cancels the
        method, within one trip of the link.

        Args:
            method: its name.
            *args: what it takes, by position.
            returns: the type that the value must be of, and is converted to by msgspec.
            **kwargs: what it takes, by name.

        Raises:
            RPCError: the call failed, see the tree in `trio_ws.errors`.
            PacketValidationError: the value is not of type ``returns``.
            PacketError: an argument cannot be encoded; nothing was sent.
            ConnectionClosedError: the connection ended first; the method may have run, or not.
        """
        return self._live.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, /, *args: Any, **kwargs: Any) -> RPCResponse:
        """Call a method and give how it ended: ``.data``, ``.error``, ``.result()``. Else as `call`."""
        return await self._live.send_rpc(method, args, kwargs)

    @overload
    def stream(
        self, method: str, /, *args: Any, items: type[T], **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[T]]: ...
    @overload
    def stream(
        self, method: str, /, *args: Any, items: Any = ..., **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[Any]]: ...
    def stream(
        self, method: str, /, *args: Any, items: Any = Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[Any]]:
        """Call a method that is a stream, for the length of a block: ``async with ... as items: async for``.

        Leaving the block early cancels the method. Who does not take items suspends the method at its
        ``yield``, after ``stream_window`` items. Arguments and errors are those of `call`; an error of the
        method comes in its place among the items.
        """
        return self._live.stream(method, args, kwargs, items)

    def stream_rpc(self, method: str, /, *args: Any, **kwargs: Any) -> PacketStream:
        """Iterate over the items of a stream as packets: ``async for packet in ...: packet.data``.

        The same as `stream` without a block: it ends with the iterator, which ``break`` drops. Arguments that
        are streams need the block.
        """
        peer = self._live
        return PacketStream(lambda: peer.open_stream(method, args, kwargs, Any))

    # -- packets ------------------------------------------------------------------------------------

    async def send(self, data: Any) -> None:
        """Send a packet that is no call. Waits, raises and is cancelled as `WebSocket.send`."""
        await self._live.send(data)

    async def recv(self) -> Packet | None:
        """Wait for the next packet that is no call; None after a clean end. A cancellation loses none.

        Packets that nobody takes are kept up to ``max_queue_bytes``. Past that we stop reading; but while a
        call or a stream waits for its answer the oldest packets are dropped, counted and logged once.

        Raises:
            ConnectionClosedError: the connection ended in any other way.
            RuntimeError: the handler's ``on_receive`` takes the packets.
        """
        return await self._live.recv()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        packet = await self.recv()
        if packet is None:
            raise StopAsyncIteration
        return packet

    def proxy(self, api: Callable[..., T]) -> T:
        """An object with the methods of ``api``, a `WebSocketHandler` class or a Protocol, as calls.

        ``math = client.proxy(MathAPI)``, then ``await math.add(1, 2)``. Results are converted to the types
        that the methods are annotated with.
        """
        return Proxy(self._live, api)  # type: ignore[return-value]

    # -- state --------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether calls can be sent now."""
        return self._ws is not None and self._ws.connected

    @property
    def dialect(self) -> str:
        """What both sides speak: ``"trio-ws.v1"``, ``"webshocket.v1"``, ``"json"`` or ``"jsonrpc"``."""
        return self._live.dialect.name

    @property
    def websocket(self) -> WebSocket:
        """The connection itself, for its state; it is read and written by the client alone."""
        return self._live.ws

    async def ping(self) -> float:
        """Ping the server; seconds there and back."""
        return await self.websocket.ping()


@enable_ki_protection
async def _host(peer: Peer) -> None:
    """Run a peer in a nursery that must not fail."""
    try:
        await peer.run()
    except Exception:
        logger.exception("on_receive of a client's handler failed")
        peer.ws._begin_close(1011, "internal error")


def _make_handler(handler: Any) -> WebSocketHandler[Any]:
    if handler is None:
        return WebSocketHandler()
    if isinstance(handler, type) and issubclass(handler, WebSocketHandler):
        return handler()
    if isinstance(handler, WebSocketHandler):
        return handler
    raise TypeError(f"handler is a WebSocketHandler, class or instance, not {handler!r}")
