"""WebSocketClient of webshocket."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

import trio_ws.errors as engine_errors
from trio_ws._blocks import check_trio
from trio_ws._nurseries import open_block
from trio_ws.client.backoff import Backoff
from trio_ws.client.client import session_of
from trio_ws.compat.webshocket._background import Background, UserBlock
from trio_ws.compat.webshocket._engine import EngineClient
from trio_ws.compat.webshocket._sending import Sent, post
from trio_ws.compat.webshocket._server import DEFAULT_OPTIONS as SERVER_OPTIONS
from trio_ws.compat.webshocket.enum import ClientType, ConnectionState, PacketSource, RPCErrorCode
from trio_ws.compat.webshocket.exceptions import (
    ConnectionClosedError,
    ReceiveTimeoutError,
    RPCTimeoutError,
    UnserializableError,
    closed,
    failed,
)
from trio_ws.compat.webshocket.packets import (
    AnyPacket,
    Packet,
    RPCResponse,
    encode,
    from_engine,
    response_for,
)
from trio_ws.logs import logger_for
from trio_ws.websocket.internals import closed_error

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from trio_ws._types import Value
    from trio_ws.options import Options
    from trio_ws.rpc.outgoing import PacketStream
    from trio_ws.rpc.session import RPCSession

__all__ = ["DEFAULT_OPTIONS", "ResponseStream", "WebSocketClient"]

#: A client's write buffer may be larger than a server's, because its own program fills it.
DEFAULT_OPTIONS = replace(SERVER_OPTIONS, channel_max_bytes=16 * 1024 * 1024)
#: Seconds that a call may take.
_CALL_TIMEOUT = 30.0
#: The maximum number of seconds between two attempts to connect.
_LONGEST_WAIT = 300.0


class _Retries(Backoff):
    """The delays of webshocket: powers of two, and up to a second in addition."""

    def delay(self, wait: int, error: engine_errors.WebSocketError | None = None) -> float:
        waits = min(float(wait) - 1, 64)
        return min(self.maximum, self.initial * 2**waits + self.random.uniform(0, 1))


class WebSocketClient:
    """A client with the interface of webshocket's.

    Args:
        uri: a ``ws://`` or ``wss://`` URI.
        on_receive: an async function that is called with each packet that is not a response, one at a time.
            `recv` cannot be used then. If it raises, the connection is closed, and the exception is raised
            from the block or nursery in which the client runs, or logged if that is a system task.
        ssl_context: the SSL context for ``wss://``.
        max_packet_qsize: accepted and ignored. Waiting packets are limited in bytes (``max_held_bytes``).

    Attributes:
        uri, ssl_context: the arguments.
        logger: the logger ``webshocket.client``.
    """

    def __init__(
        self,
        uri: str,
        on_receive: Callable[[AnyPacket], Awaitable[None]] | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        max_packet_qsize: int = 128,
    ) -> None:
        self.uri = uri
        self.ssl_context = ssl_context
        self.logger = logger_for("webshocket.client")
        self._on_receive = on_receive
        self._has_callback = trio.Event()
        if on_receive is not None:
            self._has_callback.set()
        self._client: EngineClient | None = None
        self._background: Background | None = None
        self._block = UserBlock(self.close)
        self._state = ConnectionState.DISCONNECTED

    @property
    def state(self) -> ConnectionState:
        """The state of the connection: CONNECTING while the client reconnects, CLOSED after `close`."""
        if self._client is None or self._state is not ConnectionState.CONNECTED:
            return self._state
        return {
            "connected": ConnectionState.CONNECTED,
            "connecting": ConnectionState.CONNECTING,
            "waiting": ConnectionState.CONNECTING,
        }.get(self._client.state, ConnectionState.DISCONNECTED)

    @property
    def on_receive_callback(self) -> Callable[[AnyPacket], Awaitable[None]] | None:
        """The argument ``on_receive``, which can also be set later."""
        return self._on_receive

    @on_receive_callback.setter
    def on_receive_callback(self, function: Callable[[AnyPacket], Awaitable[None]]) -> None:
        self._on_receive = function
        self._has_callback.set()

    # -- connecting and closing ---------------------------------------------------------------------

    @enable_ki_protection
    async def connect(
        self,
        retry: bool = False,
        max_retry_attempt: int = 3,
        retry_interval: float = 2,
        *,
        nursery: trio.Nursery | None = None,
        extra_headers: Any = (),
        options: Options | None = None,
        **kwargs: Any,
    ) -> Self:
        """Connect, and return. The connection stays open until `close`. An earlier connection is closed.

        Args:
            retry: try several times, and reconnect when the connection is lost. Default False.
            max_retry_attempt: the maximum number of consecutive attempts, with ``retry``. Default 3.
            retry_interval: seconds before the second attempt. Each further delay is twice as long, and up to
                a second is added to each. Default 2.
            nursery: the nursery for the background task. Default: that of the client's ``async with`` block;
                without one, a system task is used, which ends with the program's main task at the latest.
            extra_headers: more headers for the opening request.
            options: limits and timeouts. Default: messages of up to 10 MiB, and up to 16 MiB that wait to be
                written.
            **kwargs: arguments of `trio_ws.WebSocketClient`, such as ``proxy``, ``stream`` and ``unix_path``.

        Raises:
            ConnectionFailedError: the client could not connect. If the server refused the TCP connection, it
                is also a built-in ConnectionRefusedError.
            InvalidURIError: ``uri`` is not the URI of a WebSocket.
        """
        check_trio("connect()")
        if self._background is not None:
            await self.close()
        backoff = None
        if retry:
            backoff = _Retries(
                initial=retry_interval, maximum=_LONGEST_WAIT + retry_interval, attempts=max_retry_attempt
            )
        self._client = EngineClient(
            self.uri,
            headers=kwargs.pop("headers", extra_headers),
            ssl_context=self.ssl_context,
            options=options or DEFAULT_OPTIONS,
            reconnect=backoff,
            **kwargs,
        )
        background = self._background = Background(self._run)
        self._state = ConnectionState.CONNECTING
        try:
            await background.start(nursery or self._block.nursery)
        except engine_errors.ConnectionFailedError as exc:
            self._state = ConnectionState.CLOSED if retry else ConnectionState.DISCONNECTED
            text = "All connection attempts failed after multiple retries." if retry else None
            raise failed(exc, text) from exc
        except BaseException:
            self._state = ConnectionState.DISCONNECTED
            if self._background is background:
                self._background = None  # the nursery is closed
            raise
        self._state = ConnectionState.CONNECTED
        self.logger.info("Successfully connected to %s", self.uri)
        return self

    async def _run(self, begun: Callable[[], None]) -> None:
        client, background = self._client, self._background
        assert client is not None
        assert background is not None
        try:
            async with client:
                begun()
                async with open_block(trio.lowlevel.checkpoint) as nursery:
                    nursery.start_soon(self._deliver, client, background)
                    nursery.start_soon(self._watch, client, background)
                    await background.stopping.wait()
                    nursery.cancel_scope.cancel()
        finally:
            if self._background is background:
                self._background = None

    async def _watch(self, client: EngineClient, background: Background) -> None:
        """Stop when the client will not reconnect any more, after all received packets were delivered."""
        async for state in client.watch_state():
            if state == "disconnected":
                break
        if self._on_receive is None:
            background.stopping.set()

    async def _deliver(self, client: EngineClient, background: Background) -> None:
        await self._has_callback.wait()
        try:
            while True:
                try:
                    packet = await client.recv()
                except engine_errors.WebSocketError as exc:
                    self.logger.info("the connection to %s has ended: %s", self.uri, exc)
                    break
                if packet is None:
                    break
                assert self._on_receive is not None
                result = self._on_receive(from_engine(packet, ClientType.FRAMEWORK))
                if not inspect.isawaitable(result):
                    kind = type(result).__name__
                    raise TypeError(f"on_receive must be async, but returned {kind}; use async def")
                await result
        finally:
            background.stopping.set()

    async def close(self) -> None:
        """Close the connection. After a cancellation, the closing handshake continues in the background."""
        self._state = ConnectionState.CLOSED
        if self._background is None:
            await checkpoint()
        else:
            await self._background.stop()

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        check_trio("connect()")
        await self._block.enter(self._connect_once)
        return self

    async def _connect_once(self) -> None:
        if self.state is not ConnectionState.CONNECTED:
            await self.connect()

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._block.leave(kind, exc, trace)

    # -- packets ------------------------------------------------------------------------------------

    def _connected(self, what: str) -> EngineClient:
        """Return the engine's client, if it is connected or connecting."""
        state = self.state
        if self._client is None or state not in (ConnectionState.CONNECTED, ConnectionState.CONNECTING):
            raise ConnectionClosedError(f"Cannot {what}: client is not connected.")
        return self._client

    def send(self, data: Value) -> Sent:
        """Send data or a `Packet` without waiting.

        If more than 16 MiB wait to be written, the connection is closed with code 1013. A program that sends
        a lot should await the returned object, which waits until there is room.

        Raises:
            WebSocketError: the client is not connected.
            PacketError: the data cannot be encoded, and nothing was sent. It is also a TypeError.
        """
        client = self._connected("send data")
        packet = data if isinstance(data, Packet) else Packet(PacketSource.CUSTOM, data)
        peer = session_of(client)
        if not client.connected or peer is None:
            raise ConnectionClosedError("Cannot send data: client is not connected.")
        payload = encode(packet, ClientType.FRAMEWORK if peer.ws.subprotocol else ClientType.GENERIC)
        if not post(peer.ws, payload):
            raise closed(closed_error(peer.ws), "Cannot send data: client is not connected.")
        return Sent(lambda: _wait_for_room(peer))

    async def recv(self, timeout: float | None = 30) -> AnyPacket:  # noqa: ASYNC109
        """Wait for the next packet that is not a response. A cancellation or a timeout loses none.

        Args:
            timeout: seconds; None for no limit. Default 30.

        Raises:
            ReceiveTimeoutError: no packet arrived in time. It is a `TimeoutError` of this package.
            WebSocketError: the client is not connected, and no received packet is left.
        """
        text = "Cannot receive data: client is not connected."
        client = self._client
        if client is None:
            raise ConnectionClosedError(text)
        peer = session_of(client)
        limit = (
            math.inf if timeout is None or (peer is not None and peer.delivery.packets) else max(timeout, 0)
        )
        packet = None
        try:
            with trio.move_on_after(limit) as scope:
                packet = await client.recv()
        except (engine_errors.ConnectionClosedError, engine_errors.ConnectionFailedError) as exc:
            raise ConnectionClosedError(text) from exc
        if scope.cancelled_caught:
            raise ReceiveTimeoutError(f"Receive operation timed out after {timeout} seconds.")
        if packet is None:
            raise ConnectionClosedError(text)
        return from_engine(packet, ClientType.FRAMEWORK)

    # -- calls --------------------------------------------------------------------------------------

    async def send_rpc(
        self, method_name: str, /, *args: Value, raise_on_rate_limit: bool = False, **kwargs: Value
    ) -> RPCResponse:
        """Call a method, and return the response, which may be an error.

        Args:
            method_name: the name of the method.
            *args: positional arguments.
            raise_on_rate_limit: raise ``RateLimitError`` instead of returning it. Default False.
            **kwargs: keyword arguments.

        Raises:
            RateLimitError: the client exceeded the method's rate limit, and ``raise_on_rate_limit`` is true.
            RPCTimeoutError: there was no response within 30 seconds. The method is cancelled.
            WebSocketError: the client is not connected, or the connection was lost.
        """
        client = self._connected("send RPC")
        answer = None
        try:
            with trio.move_on_after(_CALL_TIMEOUT):
                answer = await client.send_rpc(method_name, *args, **kwargs)
        except engine_errors.WebSocketError as exc:
            raise _mapped(exc) from exc
        if answer is None:
            raise RPCTimeoutError("RPC request timed out.")
        if answer.error is None:
            return RPCResponse(answer.call_id, answer.data)
        response = response_for(answer.error, answer.call_id)
        if raise_on_rate_limit and response.error is RPCErrorCode.RATE_LIMIT_EXCEEDED:
            raise answer.error
        return response

    def stream_rpc(
        self, method_name: str, *args: Value, raise_on_rate_limit: bool = True, **kwargs: Value
    ) -> ResponseStream:
        """Iterate over the items of a stream: ``async for response in client.stream_rpc("count", 5)``.

        If the stream fails, the last response has an ``error``. Leaving the loop cancels the method.

        Args:
            method_name: the name of the method.
            *args: positional arguments.
            raise_on_rate_limit: raise ``RateLimitError`` instead of returning it. Default True.
            **kwargs: keyword arguments.

        Raises:
            RateLimitError: the client exceeded the method's rate limit, and ``raise_on_rate_limit`` is true.
            WebSocketError: the client is not connected, or the connection was lost.
        """
        return ResponseStream(
            lambda: self._connected("send RPC").stream_rpc(method_name, *args, **kwargs),
            raise_on_rate_limit=raise_on_rate_limit,
        )


class ResponseStream(AsyncGenerator[RPCResponse, None]):
    """The iterator that `WebSocketClient.stream_rpc` returns. Closing or dropping it cancels the method."""

    __slots__ = ("_call_id", "_open", "_over", "_raises", "_stream")

    def __init__(self, open_stream: Callable[[], PacketStream], *, raise_on_rate_limit: bool) -> None:
        self._open = open_stream
        self._raises = raise_on_rate_limit
        self._stream: PacketStream | None = None
        self._call_id = ""
        self._over = False

    async def __anext__(self) -> RPCResponse:
        if self._over:
            await checkpoint()
            raise StopAsyncIteration
        try:
            if self._stream is None:
                self._stream = self._open()
            packet = await self._stream.__anext__()
        except engine_errors.RPCError as exc:
            self._over = True
            response = response_for(exc, self._call_id, is_stream=True)
            if self._raises and response.error is RPCErrorCode.RATE_LIMIT_EXCEEDED:
                raise
            return response
        except (engine_errors.WebSocketError, StopAsyncIteration) as exc:
            self._over = True
            if isinstance(exc, engine_errors.WebSocketError):
                raise _mapped(exc) from exc
            raise
        assert packet.rpc is not None
        self._call_id = packet.rpc.call_id
        return RPCResponse(self._call_id, packet.data, is_stream=True)

    async def asend(self, value: None) -> RPCResponse:
        """Return the next item, like ``__anext__``. The value is ignored."""
        return await self.__anext__()

    async def athrow(self, typ: Any, val: Any = None, tb: object = None) -> RPCResponse:
        """Cancel the method, and raise the exception."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """Cancel the method."""
        self._over = True
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await checkpoint()


def _mapped(error: engine_errors.WebSocketError) -> engine_errors.WebSocketError:
    """Return webshocket's exception for an exception of the engine."""
    if isinstance(error, ConnectionClosedError):
        return error
    if isinstance(error, engine_errors.ConnectionClosedError):
        return closed(error)
    if isinstance(error, engine_errors.ConnectionFailedError):
        return failed(error)
    if isinstance(error, engine_errors.PacketError):
        return UnserializableError(str(error))
    return error


async def _wait_for_room(peer: RPCSession) -> None:
    await checkpoint()
    try:
        await peer.transport.wait_for_room()
    except engine_errors.ConnectionClosedError as exc:
        raise closed(exc) from exc
