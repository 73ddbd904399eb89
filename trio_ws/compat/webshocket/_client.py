"""WebSocketClient of webshocket."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

import trio_ws.errors as engine_errors
from trio_ws.client.backoff import Backoff
from trio_ws.compat.webshocket._background import Background, open_block
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
from trio_ws.compat.webshocket.packets import Packet, RPCResponse, encode, from_engine, response_for
from trio_ws.logs import logger_for

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from trio_ws.options import Options
    from trio_ws.rpc.outgoing import PacketStream
    from trio_ws.rpc.session import RPCSession

__all__ = ["DEFAULT_OPTIONS", "ResponseStream", "WebSocketClient"]

#: What waits to be written is the program's own doing here.
DEFAULT_OPTIONS = replace(SERVER_OPTIONS, channel_max_bytes=16 * 1024 * 1024)
#: Seconds that a call may take.
_CALL_TIMEOUT = 30.0
#: Seconds between two tries to connect.
_LONGEST_WAIT = 300.0


class _Retries(Backoff):
    """Waits as webshocket does: in powers of two, and up to a second more."""

    def delay(self, wait: int, error: engine_errors.WebSocketError | None = None) -> float:
        waits = min(float(wait) - 1, 64)
        return min(self.maximum, self.initial * 2**waits + self.random.uniform(0, 1))


class WebSocketClient:
    """A client of webshocket's.

    Args:
        uri: ``ws://`` or ``wss://``.
        on_receive: an async function that gets each packet that is no answer, one after the other, in place
            of `recv`. What it raises closes the connection; it leaves the block, or the nursery, in which the
            client runs, and is logged where that is a system task.
        ssl_context: for ``wss://``.
        max_packet_qsize: taken, and not used: packets wait up to ``max_held_bytes``, in bytes.

    Attributes:
        uri, ssl_context: see above.
        logger: the logger ``webshocket.client``.
    """

    def __init__(
        self,
        uri: str,
        on_receive: Callable[[Packet[Any]], Awaitable[None]] | None = None,
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
        self._block: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None
        self._state = ConnectionState.DISCONNECTED

    @property
    def state(self) -> ConnectionState:
        """The state of the connection: CLOSED after `close`, CONNECTING also while it reconnects."""
        if self._client is None or self._state is not ConnectionState.CONNECTED:
            return self._state
        return {
            "connected": ConnectionState.CONNECTED,
            "connecting": ConnectionState.CONNECTING,
            "waiting": ConnectionState.CONNECTING,
        }.get(self._client.state, ConnectionState.DISCONNECTED)

    @property
    def on_receive_callback(self) -> Callable[[Packet[Any]], Awaitable[None]] | None:
        """What gets the packets; see ``on_receive`` above. It may be set later, too."""
        return self._on_receive

    @on_receive_callback.setter
    def on_receive_callback(self, function: Callable[[Packet[Any]], Awaitable[None]]) -> None:
        self._on_receive = function
        self._has_callback.set()

    # -- life ---------------------------------------------------------------------------------------

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
        """Connect, and return while the connection goes on until `close`. An earlier one is closed.

        Args:
            retry: try several times, and connect again whenever the connection is lost.
            max_retry_attempt: tries in a row, with ``retry``.
            retry_interval: seconds of the first wait between two tries; each next one is twice as long. Up
                to a second is added to each.
            nursery: where it runs. By default in the block of ``async with``, where there is one; else in a
                system task, which ends with the program's main task at the latest.
            extra_headers: more headers of the opening request.
            options: limits and timeouts. Default: messages of 10 MiB at most, and 16 MiB may wait to be
                written.
            **kwargs: as for `trio_ws.WebSocketClient`: ``proxy``, ``stream``, ``unix_path``.

        Raises:
            ConnectionFailedError: no connection could be had. Where the server refused TCP, this is the
                built-in ConnectionRefusedError, too.
            InvalidURIError: ``uri`` names no WebSocket.
        """
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
            await background.start(nursery or self._nursery)
        except engine_errors.ConnectionFailedError as exc:
            self._state = ConnectionState.CLOSED if retry else ConnectionState.DISCONNECTED
            text = "All connection attempts failed after multiple retries." if retry else None
            raise failed(exc, text) from exc
        except BaseException:
            self._state = ConnectionState.DISCONNECTED
            if self._background is background:
                self._background = None  # the nursery did not take it
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
        """End it all when no connection will come any more; what came last is still delivered."""
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
                await self._on_receive(from_engine(packet, ClientType.FRAMEWORK))
        finally:
            background.stopping.set()

    async def close(self) -> None:
        """Close the connection. Cancelled, it does not wait for the closing handshake, which goes on."""
        self._state = ConnectionState.CLOSED
        if self._background is None:
            await checkpoint()
        else:
            await self._background.stop()

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        block = open_block(self.close)
        self._nursery = await block.__aenter__()
        self._block = block
        if self.state is not ConnectionState.CONNECTED:
            try:
                await self.connect()
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

    # -- packets ------------------------------------------------------------------------------------

    def _connected(self, what: str) -> EngineClient:
        """The client, where there is a connection or one will come."""
        state = self.state
        if self._client is None or state not in (ConnectionState.CONNECTED, ConnectionState.CONNECTING):
            raise ConnectionClosedError(f"Cannot {what}: client is not connected.")
        return self._client

    def send(self, data: Any) -> Sent:
        """Send data, or a ready `Packet`, without waiting.

        More than 16 MiB of what waits to be written closes the connection with 1013. A program that sends
        much awaits what this returns, which then waits until there is room.

        Raises:
            WebSocketError: there is no connection.
            PacketError: the data cannot be encoded; nothing was sent. It is a TypeError, too.
        """
        client = self._connected("send data")
        packet = data if isinstance(data, Packet) else Packet(PacketSource.CUSTOM, data)
        peer = client._connections.session
        if not client.connected or peer is None:
            raise ConnectionClosedError("Cannot send data: client is not connected.")
        payload = encode(packet, ClientType.FRAMEWORK if peer.ws.subprotocol else ClientType.GENERIC)
        if not post(peer.ws, payload):
            raise closed(peer.ws._closed_error(), "Cannot send data: client is not connected.")
        return Sent(lambda: _wait_for_room(peer))

    async def recv(self, timeout: float | None = 30) -> Packet[Any]:  # noqa: ASYNC109
        """Wait for the next packet that is no answer. A cancellation, or a timeout, loses none.

        Args:
            timeout: seconds; None for no limit.

        Raises:
            ReceiveTimeoutError: nothing came in time. It is a `TimeoutError` of this module's.
            WebSocketError: there is no connection, and no packet is left of it.
        """
        text = "Cannot receive data: client is not connected."
        client = self._client
        if client is None:
            raise ConnectionClosedError(text)
        peer = client._connections.session
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
        self, method_name: str, /, *args: Any, raise_on_rate_limit: bool = False, **kwargs: Any
    ) -> RPCResponse:
        """Call a method, and give how it ended.

        Args:
            method_name: its name.
            *args: its arguments by position.
            raise_on_rate_limit: raise where the client has called it too often.
            **kwargs: its arguments by name.

        Raises:
            RateLimitError: see ``raise_on_rate_limit``.
            RPCTimeoutError: there was no answer within 30 seconds. The method is cancelled.
            WebSocketError: there is no connection, or it was lost.
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
        self, method_name: str, *args: Any, raise_on_rate_limit: bool = True, **kwargs: Any
    ) -> ResponseStream:
        """Iterate over the items of a stream: ``async for response in client.stream_rpc("count", 5)``.

        A stream that fails gives a last one with ``error``. Leaving the loop cancels the method.

        Args:
            method_name: its name.
            *args: its arguments by position.
            raise_on_rate_limit: raise where the client has called it too often.
            **kwargs: its arguments by name.

        Raises:
            RateLimitError: see ``raise_on_rate_limit``.
            WebSocketError: there is no connection, or it was lost.
        """
        return ResponseStream(
            lambda: self._connected("send RPC").stream_rpc(method_name, *args, **kwargs),
            raise_on_rate_limit=raise_on_rate_limit,
        )


class ResponseStream(AsyncGenerator[RPCResponse, None]):
    """What `WebSocketClient.stream_rpc` gives. It is dropped, or closed, to cancel the method."""

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
        """The same as the next step of the iteration; nothing is sent."""
        return await self.__anext__()

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None) -> RPCResponse:
        """Take no more, and raise this."""
        await self.aclose()
        raise typ if val is None else val

    async def aclose(self) -> None:
        """Take no more: the method is cancelled."""
        self._over = True
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await checkpoint()


def _mapped(error: engine_errors.WebSocketError) -> engine_errors.WebSocketError:
    """The error of webshocket's for one of a call's."""
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
