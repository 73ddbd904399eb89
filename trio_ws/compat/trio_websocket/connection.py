"""Connections and opening requests."""

from __future__ import annotations

import itertools
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

import trio
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from trio_ws.compat.trio_websocket.exceptions import CloseReason, ConnectionClosed
from trio_ws.errors import ConnectionClosedError, check_close
from trio_ws.options import Options
from trio_ws.server.wrap import wrap_stream
from trio_ws.websocket.internals import close_for_application, closed_error, closing_of, parts_of
from trio_ws.websocket.message import WebSocketMessage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws._types import SocketAddress
    from trio_ws.websocket.connection import WebSocket

__all__ = [
    "CONN_TIMEOUT",
    "MAX_MESSAGE_SIZE",
    "MESSAGE_QUEUE_SIZE",
    "RECEIVE_BYTES",
    "Endpoint",
    "Headers",
    "WebSocketConnection",
    "WebSocketRequest",
    "decoded",
    "encoded",
    "hold_request",
    "options_for",
]

CONN_TIMEOUT = 60.0
MESSAGE_QUEUE_SIZE = 1
MAX_MESSAGE_SIZE = 2**20
RECEIVE_BYTES = 4 * 2**10

Headers = list[tuple[bytes, bytes]]


def options_for(max_message_size: int, open_timeout: float, close_timeout: float) -> Options:
    """Return options that behave like trio-websocket."""
    return Options(
        max_message_size=max_message_size,
        compression=False,
        ping_interval=None,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
    )


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
    return encoded((name, value) for name, value in headers if name.lower() not in _HANDSHAKE)


def encoded(headers: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return headers as bytes, with names in lower case."""
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)


def decoded(headers: Headers | None) -> list[tuple[str, str]]:
    """Return headers as text."""
    return [(_text(name), _text(value)) for name, value in headers or ()]


def _text(part: bytes | str) -> str:
    """Return a part of a header as text. Programs pass text, too, which trio-websocket accepts."""
    return part if isinstance(part, str) else part.decode("latin-1")


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
        await self._ws.accept(subprotocol=subprotocol, headers=decoded(extra_headers))
        self._answered.set()
        await _written(self._ws)
        # From now on. A Close frame that has arrived by now is answered after the messages before it.
        closing_of(self._ws).answers_over = self._queue_size
        return self._connection

    async def reject(
        self, status_code: int, *, extra_headers: Headers | None = None, body: bytes | None = None
    ) -> None:
        """Reject the request with an HTTP status other than 101."""
        await self._ws.reject(status_code, headers=decoded(extra_headers), body=body or b"")
        self._answered.set()


async def hold_request(
    stream: trio.abc.Stream,
    queue_size: int,
    options: Options,
    *,
    task_status: trio.TaskStatus[WebSocketRequest],
) -> None:
    """Keep the WebSocket on a stream until its request is answered and it has ended."""
    async with wrap_stream(stream, options=options) as ws:
        request = WebSocketRequest(ws, stream, queue_size)
        task_status.started(request)
        await request._answered.wait()
        await ws.wait_closed()
