"""The interface of trio-websocket 0.12, implemented by trio_ws: programs migrate by changing an import.

Differences:

- ``receive_buffer_size`` has no effect, and ``message_queue_size`` limits only how many messages may wait
  while the peer's Close frame is answered. Messages that wait to be received are limited in bytes.
- Of the private names only ``WebSocketConnection._send`` is here, which takes events of wsproto.
- Interim responses such as 100 are skipped (RFC 9110 section 15.2).
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from urllib.parse import urlsplit

import trio
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason as _Code

from trio_ws.client.config import connect_config
from trio_ws.client.connect import ConnectAttempts
from trio_ws.errors import ConnectionClosedError, ConnectionFailedError, HandshakeRejectedError, check_close
from trio_ws.options import Options
from trio_ws.server.wrap import wrap_stream
from trio_ws.websocket.internals import close_for_application, closed_error, parts_of
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from trio_ws._types import SocketAddress
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.runtime import ConnectionRuntime

__all__ = [
    "CloseReason",
    "ConnectionClosed",
    "ConnectionRejected",
    "ConnectionTimeout",
    "DisconnectionTimeout",
    "Endpoint",
    "HandshakeError",
    "WebSocketConnection",
    "WebSocketRequest",
    "WebSocketServer",
    "connect_websocket",
    "connect_websocket_url",
    "open_websocket",
    "open_websocket_url",
    "serve_websocket",
    "wrap_client_stream",
    "wrap_server_stream",
]

CONN_TIMEOUT = 60.0
MESSAGE_QUEUE_SIZE = 1
MAX_MESSAGE_SIZE = 2**20
RECEIVE_BYTES = 4 * 2**10

Headers = list[tuple[bytes, bytes]]


class HandshakeError(Exception):
    """Connecting or disconnecting failed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)


class ConnectionTimeout(HandshakeError):  # noqa: N818 - trio-websocket's name, like those below
    """The connection did not open in time."""


class DisconnectionTimeout(HandshakeError):  # noqa: N818
    """The connection did not close in time."""


class ConnectionClosed(Exception):  # noqa: N818
    """The connection is closed or closing.

    Attributes:
        reason: a `CloseReason`, or None.
    """

    def __init__(self, reason: CloseReason | None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.reason}>"


class ConnectionRejected(HandshakeError):  # noqa: N818
    """The server responded with an HTTP status other than 101.

    Attributes:
        status_code: the status.
        headers: pairs of names, in lower case, and values.
        body: the part of the body that was received, or None.
    """

    def __init__(
        self, status_code: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes | None
    ) -> None:
        super().__init__(status_code, headers, body)
        self.status_code = status_code
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"{type(self).__name__}<status_code={self.status_code}>"


class CloseReason:
    """Why a connection was closed."""

    def __init__(self, code: int, reason: str | None) -> None:
        self._code = code
        self._reason = reason

    @property
    def code(self) -> int:
        """The close code (RFC 6455 section 7.4)."""
        return self._code

    @property
    def name(self) -> str:
        """The name of the code, or of its range."""
        with contextlib.suppress(ValueError):
            return _Code(self._code).name
        ranges = {1: "RFC_RESERVED", 2: "RFC_RESERVED", 3: "IANA_RESERVED", 4: "PRIVATE_RESERVED"}
        return ranges.get(self._code // 1000, "INVALID_CODE")

    @property
    def reason(self) -> str | None:
        """The reason text, or None."""
        return self._reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}<code={self.code}, name={self.name}, reason={self.reason}>"


class Endpoint:
    """One end of a TCP connection.

    Attributes:
        address: an `ipaddress` object.
        port: the TCP port.
        is_ssl: whether TLS is used.
    """

    def __init__(self, address: str | int, port: int, is_ssl: bool) -> None:
        self.address = ip_address(address)
        self.port = port
        self.is_ssl = is_ssl

    @property
    def url(self) -> str:
        """The endpoint as a URL, without the port if it is the default of the scheme."""
        scheme = "wss" if self.is_ssl else "ws"
        port = "" if self.port == (443 if self.is_ssl else 80) else f":{self.port}"
        host = str(self.address) if self.address.version == 4 else f"[{self.address}]"
        return f"{scheme}://{host}{port}"

    def __repr__(self) -> str:
        return f'Endpoint(address="{self.address}", port={self.port}, is_ssl={self.is_ssl})'


def _endpoint(address: SocketAddress, is_ssl: bool, stream: object) -> Endpoint | str:
    if isinstance(address, tuple):
        return Endpoint(address[0], address[1], is_ssl)
    return repr(stream)


#: Headers of the handshake itself, which trio-websocket leaves out.
_HANDSHAKE = frozenset(
    {
        "connection",
        "host",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "upgrade",
    }
)


def _extra(headers: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    return _encoded((name, value) for name, value in headers if name.lower() not in _HANDSHAKE)


def _encoded(headers: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def _decoded(headers: Headers | None) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers or ()]


class WebSocketConnection(trio.abc.AsyncResource):
    """A connection. The functions of this module create these objects."""

    _numbers = itertools.count()

    def __init__(self, ws: WebSocket, stream: object, *, is_client: bool) -> None:
        self._ws = ws
        self._stream = stream
        self._is_client = is_client
        self._number = next(self._numbers)
        self._closed_here: CloseReason | None = None

    @property
    def closed(self) -> CloseReason | None:
        """Why the connection was closed or is closing; None while it is open."""
        if self._closed_here is not None:
            return self._closed_here
        code = self._ws.close_code
        return None if code is None else CloseReason(code, self._ws.close_reason or None)

    @property
    def is_client(self) -> bool:
        """Whether this side is the client."""
        return self._is_client

    @property
    def is_server(self) -> bool:
        """Whether this side is the server."""
        return not self._is_client

    @property
    def local(self) -> Endpoint | str:
        """This side's `Endpoint`, or the ``repr()`` of the stream if it has none."""
        return _endpoint(self._ws.local_address, self._ws.tls is not None, self._stream)

    @property
    def remote(self) -> Endpoint | str:
        """The other side's `Endpoint`, or the ``repr()`` of the stream if it has none."""
        return _endpoint(self._ws.remote_address, self._ws.tls is not None, self._stream)

    @property
    def path(self) -> str:
        """The target of the request, including the query."""
        return _target(self._ws)

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None."""
        return self._ws.subprotocol

    @property
    def handshake_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that the other side sent."""
        headers = self._ws.response_headers if self._is_client else self._ws.headers
        return _extra(headers or ())

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Do the closing handshake (RFC 6455 section 7). Closing again does nothing."""
        if self.closed is None:
            await self._send(CloseConnection(code, reason))
        await self._ws.close(code, reason or "")

    async def get_message(self) -> str | bytes:
        """Wait for the next message.

        Raises:
            ConnectionClosed: the connection is closed, and all messages before were received.
        """
        try:
            message = await self._ws.recv()
        except ConnectionClosedError:
            message = None
        if message is None:
            raise ConnectionClosed(self.closed)
        return message.payload

    async def send_message(self, message: str | bytes) -> None:
        """Send a message.

        Raises:
            ConnectionClosed: the connection is closed, or closing.
            ValueError: the message is neither ``str`` nor ``bytes``.
        """
        if not isinstance(message, str | bytes):
            raise ValueError("message must be str or bytes")  # noqa: TRY004 - what trio-websocket raises
        if isinstance(message, str):
            await self._send(TextMessage(message))
        else:
            await self._send(BytesMessage(message))

    async def ping(self, payload: bytes | None = None) -> None:
        """Send a ping and wait for its pong.

        Raises:
            ConnectionClosed: the connection ended first.
            ValueError: another ping with this payload waits for its pong.
        """
        try:
            await self._ws.ping(payload)
        except ConnectionClosedError:
            raise ConnectionClosed(self.closed) from None

    async def pong(self, payload: bytes | None = None) -> None:
        """Send an unsolicited pong (RFC 6455 section 5.5.3)."""
        await self._send(Pong(payload or b""))

    async def _send(self, event: Event) -> None:
        """Send an event of wsproto, and wait until the stream has taken it."""
        ws = self._ws
        try:
            if isinstance(event, TextMessage | BytesMessage):
                await ws.send(event.data)
            elif isinstance(event, Ping | Pong):
                kind: Literal["ping", "pong"] = "ping" if isinstance(event, Ping) else "pong"
                await ws.send(WebSocketMessage(kind, bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                check_close(event.code, event.reason or "")
                if self.closed is None:
                    self._closed_here = CloseReason(event.code, event.reason)
                close_for_application(ws, event.code, event.reason or "")
            else:
                raise TypeError(f"a connection does not send {type(event).__name__}")
            if await _written(ws) and not isinstance(event, CloseConnection):
                raise closed_error(ws)
        except ConnectionClosedError:
            raise ConnectionClosed(self.closed) from None

    def __str__(self) -> str:
        return f"{'client' if self._is_client else 'server'}-{self._number}"


async def _written(ws: WebSocket) -> bool:
    """Wait until the stream has taken what was sent. Return whether it failed.

    A cancellation ends the wait, and the data is sent all the same.
    """
    write_buffer = parts_of(ws).write_buffer
    while write_buffer.blocked and not write_buffer.broken:
        await write_buffer.writable.wait()
    return write_buffer.broken


def _target(ws: WebSocket) -> str:
    return ws.request.target


class WebSocketRequest:
    """An opening request, to be accepted or rejected."""

    def __init__(self, ws: WebSocket, stream: object, queue_size: int) -> None:
        self._ws = ws
        self._queue_size = queue_size
        self._connection = WebSocketConnection(ws, stream, is_client=False)
        self._answered = trio.Event()

    @property
    def headers(self) -> Headers:
        """Pairs of names, in lower case, and values."""
        return list(_extra(self._ws.headers))

    @property
    def path(self) -> str:
        """The target, including the query."""
        return _target(self._ws)

    @property
    def proposed_subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that the client offers, in its order of preference."""
        return tuple(self._ws.offered_subprotocols)

    @property
    def local(self) -> Endpoint | str:
        """This side's `Endpoint`."""
        return self._connection.local

    @property
    def remote(self) -> Endpoint | str:
        """The client's `Endpoint`."""
        return self._connection.remote

    async def accept(
        self, *, subprotocol: str | None = None, extra_headers: Headers | None = None
    ) -> WebSocketConnection:
        """Accept the request and return the connection."""
        await self._ws.accept(subprotocol=subprotocol, headers=_decoded(extra_headers))
        self._answered.set()
        await _written(self._ws)
        # From now on. A Close frame that has arrived by now is answered after the messages before it.
        parts_of(self._ws).closing.answers_over = self._queue_size
        return self._connection

    async def reject(
        self, status_code: int, *, extra_headers: Headers | None = None, body: bytes | None = None
    ) -> None:
        """Reject the request with an HTTP status other than 101."""
        await self._ws.reject(status_code, headers=_decoded(extra_headers), body=body or b"")
        self._answered.set()


# -- clients ------------------------------------------------------------------------------------------


def _options(max_message_size: int, open_timeout: float, close_timeout: float) -> Options:
    return Options(
        max_message_size=max_message_size,
        compression=False,
        ping_interval=None,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
    )


async def _run_runtime(
    options: Options, ended: trio.Event, *, task_status: trio.TaskStatus[ConnectionRuntime]
) -> None:
    async with open_runtime(options) as runtime:
        task_status.started(runtime)
        await ended.wait()


async def _connect(
    nursery: trio.Nursery, uri: str, max_message_size: int, queue_size: int, **settings: Any
) -> WebSocketConnection:
    options = _options(max_message_size, open_timeout=1e6, close_timeout=1e6)
    attempts = ConnectAttempts(connect_config(uri, proxy=None, options=options, **settings))
    ended = trio.Event()
    runtime: ConnectionRuntime = await nursery.start(_run_runtime, options, ended)
    try:
        ws = await attempts.open(runtime)
    except BaseException as exc:
        ended.set()
        if isinstance(exc, HandshakeRejectedError):
            raise ConnectionRejected(exc.status, _encoded(exc.headers), exc.body or None) from exc
        if isinstance(exc, ConnectionFailedError):
            raise HandshakeError(str(exc)) from exc
        raise
    parts_of(ws).closing.answers_over = queue_size
    runtime.nursery.start_soon(_end_with, ws, ended)
    return WebSocketConnection(ws, settings.get("stream"), is_client=True)


async def _end_with(ws: WebSocket, ended: trio.Event) -> None:
    await ws.wait_closed()
    await ws.close()  # the transport may take longer
    ended.set()


def _uri(host: str, port: int, resource: str, *, tls: bool) -> str:
    place = f"[{host}]" if ":" in host else host
    return f"{'wss' if tls else 'ws'}://{place}:{port}{resource or '/'}"


async def connect_websocket(
    nursery: trio.Nursery,
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: Headers | None = None,
    message_queue_size: int = MESSAGE_QUEUE_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    receive_buffer_size: int | None = RECEIVE_BYTES,  # noqa: ARG001
) -> WebSocketConnection:
    """Connect. Background tasks run in ``nursery``, and the caller must close the connection.

    Raises:
        HandshakeError: connecting failed.
        TypeError: ``use_ssl`` is neither a bool nor an SSL context.
    """
    if not isinstance(use_ssl, bool | ssl.SSLContext):
        raise TypeError("`use_ssl` argument must be bool or ssl.SSLContext")
    return await _connect(
        nursery,
        _uri(host, port, resource, tls=use_ssl is not False),
        max_message_size,
        message_queue_size,
        subprotocols=tuple(subprotocols or ()),
        headers=_decoded(extra_headers),
        ssl_context=use_ssl if isinstance(use_ssl, ssl.SSLContext) else None,
    )


async def wrap_client_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    host: str,
    resource: str,
    *,
    subprotocols: Iterable[str] | None = None,
    extra_headers: Headers | None = None,
    message_queue_size: int = MESSAGE_QUEUE_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    receive_buffer_size: int | None = RECEIVE_BYTES,  # noqa: ARG001
) -> WebSocketConnection:
    """Do a client's opening handshake over a stream, and return the connection."""
    place = f"[{host}]" if ":" in host else host
    return await _connect(
        nursery,
        f"ws://{place}{resource or '/'}",
        max_message_size,
        message_queue_size,
        stream=trio.StapledStream(stream, stream),  # so that a socket is not taken out of its stream
        subprotocols=tuple(subprotocols or ()),
        headers=_decoded(extra_headers),
    )


@asynccontextmanager
async def open_websocket(
    host: str,
    port: int,
    resource: str,
    *,
    use_ssl: bool | ssl.SSLContext,
    subprotocols: Iterable[str] | None = None,
    extra_headers: Headers | None = None,
    message_queue_size: int = MESSAGE_QUEUE_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    receive_buffer_size: int | None = RECEIVE_BYTES,  # noqa: ARG001
    connect_timeout: float = CONN_TIMEOUT,
    disconnect_timeout: float = CONN_TIMEOUT,
) -> AsyncGenerator[WebSocketConnection, None]:
    """Connect for the duration of a block.

    Raises:
        ConnectionTimeout: the connection did not open within ``connect_timeout`` seconds.
        DisconnectionTimeout: it did not close within ``disconnect_timeout`` seconds.
        HandshakeError: connecting failed for another reason.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                with trio.fail_after(connect_timeout):
                    connection = await connect_websocket(
                        nursery,
                        host,
                        port,
                        resource,
                        use_ssl=use_ssl,
                        subprotocols=subprotocols,
                        extra_headers=extra_headers,
                        message_queue_size=message_queue_size,
                        max_message_size=max_message_size,
                    )
            except trio.TooSlowError:
                failure = ConnectionTimeout()
                raise failure from None
            except OSError as exc:
                failure = HandshakeError(str(exc))
                raise failure from exc
            except BaseException as exc:
                failure = exc
                raise
            try:
                yield connection
            except BaseException as exc:
                failure = exc
                raise
            finally:
                scope = trio.move_on_after(disconnect_timeout)
                try:
                    with scope:
                        await connection.aclose()
                except trio.Cancelled:
                    if failure is None:
                        raise
                    # It is closed all the same, and what the block has raised goes on.
                if scope.cancelled_caught and failure is None:
                    failure = DisconnectionTimeout()
                    raise failure
    except BaseExceptionGroup as group:
        _, others = group.split(trio.Cancelled)
        if failure is None or others is None or others.exceptions != (failure,):
            raise
    if failure is not None:
        _raise(failure)


def _raise(exc: BaseException) -> NoReturn:
    """Raise an exception again without changing its context."""
    context = exc.__context__
    try:
        raise exc
    finally:
        exc.__context__ = context
        del exc, context


def _parts(url: str, ssl_context: ssl.SSLContext | None) -> tuple[str, int, str, bool | ssl.SSLContext]:
    parts = urlsplit(str(url))
    if parts.scheme not in ("ws", "wss"):
        raise ValueError('WebSocket URL scheme must be "ws:" or "wss:"')
    if ssl_context is not None and parts.scheme == "ws":
        raise ValueError("SSL context must be None for ws: URL scheme")
    if parts.hostname is None:
        raise ValueError("URL host must not be None")
    secure = parts.scheme == "wss"
    resource = (parts.path or "/") + (f"?{parts.query}" if "?" in str(url) else "")
    return parts.hostname, parts.port or (443 if secure else 80), resource, ssl_context or secure


def open_websocket_url(
    url: str, ssl_context: ssl.SSLContext | None = None, **settings: Any
) -> contextlib.AbstractAsyncContextManager[WebSocketConnection]:
    """Like `open_websocket`, for a URL."""
    host, port, resource, use_ssl = _parts(url, ssl_context)
    return open_websocket(host, port, resource, use_ssl=use_ssl, **settings)


async def connect_websocket_url(
    nursery: trio.Nursery, url: str, ssl_context: ssl.SSLContext | None = None, **settings: Any
) -> WebSocketConnection:
    """Like `connect_websocket`, for a URL."""
    host, port, resource, use_ssl = _parts(url, ssl_context)
    return await connect_websocket(nursery, host, port, resource, use_ssl=use_ssl, **settings)


# -- servers ------------------------------------------------------------------------------------------


async def wrap_server_stream(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    message_queue_size: int = MESSAGE_QUEUE_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    receive_buffer_size: int | None = RECEIVE_BYTES,  # noqa: ARG001
) -> WebSocketRequest:
    """Read the opening request from a stream, and return it.

    Background tasks run in ``nursery`` until the connection ends.
    """
    options = _options(max_message_size, open_timeout=1e6, close_timeout=1e6)
    # So that a socket is not taken out of its stream, and the caller can still close it.
    kept = trio.StapledStream(stream, stream)
    request: WebSocketRequest = await nursery.start(_hold_wrapped, kept, message_queue_size, options)
    return request


async def _hold_wrapped(
    stream: trio.abc.Stream,
    queue_size: int,
    options: Options,
    *,
    task_status: trio.TaskStatus[WebSocketRequest],
) -> None:
    async with wrap_stream(stream, options=options) as ws:
        request = WebSocketRequest(ws, stream, queue_size)
        task_status.started(request)
        await request._answered.wait()
        await ws.wait_closed()


class WebSocketServer:
    """A server on listeners that the caller has opened."""

    def __init__(
        self,
        handler: Callable[[WebSocketRequest], Awaitable[None]],
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        handler_nursery: trio.Nursery | None = None,
        message_queue_size: int = MESSAGE_QUEUE_SIZE,
        max_message_size: int = MAX_MESSAGE_SIZE,
        receive_buffer_size: int | None = RECEIVE_BYTES,
        connect_timeout: float = CONN_TIMEOUT,
        disconnect_timeout: float = CONN_TIMEOUT,
    ) -> None:
        if not listeners:
            raise ValueError("Listeners must contain at least one item.")
        self._handler = handler
        self._listeners = listeners
        self._handler_nursery = handler_nursery
        self._queue_size = message_queue_size
        self._options = _options(
            max_message_size, open_timeout=connect_timeout, close_timeout=disconnect_timeout
        )

    @property
    def port(self) -> int:
        """The TCP port of the only listener.

        Raises:
            RuntimeError: there are several listeners, or the listener has no port.
        """
        if len(self._listeners) > 1:
            raise RuntimeError("Cannot get port because this server has more than 1 listener.")
        (listener,) = self.listeners
        if isinstance(listener, str):
            raise RuntimeError(f"This socket does not have a port: {listener!r}")  # noqa: TRY004
        return listener.port

    @property
    def listeners(self) -> list[Endpoint | str]:
        """An `Endpoint` for each TCP listener, and the ``repr()`` of any other."""
        found: list[Endpoint | str] = []
        for listener in self._listeners:
            inner = listener.transport_listener if isinstance(listener, trio.SSLListener) else listener
            if isinstance(inner, trio.SocketListener):
                host, port = inner.socket.getsockname()[:2]
                found.append(Endpoint(host, port, inner is not listener))
            else:
                found.append(repr(listener))
        return found

    async def run(
        self, *, task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            serve_listeners: Any = partial(
                trio.serve_listeners,
                self._serve,
                list(self._listeners),
                handler_nursery=self._handler_nursery,
            )
            await nursery.start(serve_listeners)
            task_status.started(self)
            await trio.sleep_forever()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        try:
            async with wrap_stream(stream, options=self._options) as ws:
                await self._handler(WebSocketRequest(ws, stream, self._queue_size))
        except ConnectionFailedError:
            pass  # which was answered and logged


async def serve_websocket(
    handler: Callable[[WebSocketRequest], Awaitable[None]],
    host: str | bytes | None,
    port: int,
    ssl_context: ssl.SSLContext | None,
    *,
    handler_nursery: trio.Nursery | None = None,
    message_queue_size: int = MESSAGE_QUEUE_SIZE,
    max_message_size: int = MAX_MESSAGE_SIZE,
    receive_buffer_size: int | None = RECEIVE_BYTES,  # noqa: ARG001
    connect_timeout: float = CONN_TIMEOUT,
    disconnect_timeout: float = CONN_TIMEOUT,
    task_status: trio.TaskStatus[WebSocketServer] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve on TCP until cancelled. ``nursery.start`` returns the `WebSocketServer` once it listens."""
    listeners: Sequence[trio.abc.Listener[trio.abc.Stream]]
    if ssl_context is None:
        listeners = await trio.open_tcp_listeners(port, host=host)
    else:
        listeners = await trio.open_ssl_over_tcp_listeners(
            port, ssl_context, host=host, https_compatible=True
        )
    server = WebSocketServer(
        handler,
        listeners,
        handler_nursery=handler_nursery,
        message_queue_size=message_queue_size,
        max_message_size=max_message_size,
        connect_timeout=connect_timeout,
        disconnect_timeout=disconnect_timeout,
    )
    await server.run(task_status=task_status)
