"""Connecting: from a URI to an open WebSocket, in one bounded time.

What always holds: whatever fails on the way, the stream is closed and the error is a
`ConnectionFailedError` with its cause chained; only wrong arguments raise ValueError or TypeError.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.errors import ConnectionFailedError
from trio_ws.network.uri import parse_uri
from trio_ws.options import Options
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.service import open_service
from trio_ws.websocket.transport import SocketTransport, StreamTransport
from trio_ws.wire.deflate import PerMessageDeflate, confirm, offer
from trio_ws.wire.handshake import ClientHandshake
from trio_ws.wire.http import Request

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from trio_ws.network.uri import WebSocketURI
    from trio_ws.websocket.service import Service
    from trio_ws.websocket.transport import Transport
    from trio_ws.wire.handshake import Response

    OpenStream = Callable[[], Awaitable[trio.abc.Stream]]

__all__ = ["Opening", "close_after", "connect", "take_socket"]

HeaderItems = "Mapping[str, str] | Iterable[tuple[str, str]]"


@asynccontextmanager
@enable_ki_protection
async def connect(
    uri: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    stream: trio.abc.Stream | OpenStream | None = None,
    unix_path: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    options: Options | None = None,
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket for the length of an ``async with`` block (RFC 6455 section 4.1).

    Leaving the block closes it with 1000, with 1011 where an exception leaves, within ``close_timeout``.
    A cancellation closes it at once, with 1001 if that can be sent without waiting. The block's own
    exception leaves as it was raised.

    Args:
        uri: ``ws://`` or ``wss://``. ``user:password@`` becomes Basic authentication.
        subprotocols: those offered, best first.
        headers: more request headers.
        stream: speak over this stream instead of opening a TCP connection. It is taken over: it is closed in
            the end, also when connecting fails. With ``wss://`` TLS is put on top of it. Or an async
            function without arguments that gives one; an `OSError` of it is a failed connection.
        unix_path: connect to the Unix socket at this path; the URI still names host and target.
        ssl_context: for ``wss://``; by default `ssl.create_default_context`, which checks certificates.
        options: limits and timeouts; default ``Options()``.

    Yields:
        The open `WebSocket`.

    Raises:
        InvalidURIError: ``uri`` names no WebSocket.
        HandshakeRejectedError: the server answered with another HTTP status.
        ConnectionFailedError: DNS, TCP, TLS or the handshake failed, or ``open_timeout`` passed.
    """
    opening = Opening(uri, subprotocols, headers, stream, unix_path, ssl_context, options)
    entered = False
    try:
        async with open_service(opening.options) as service:
            entered = True
            ws = await opening.open(service)
            try:
                yield ws
            except BaseException as exc:
                await close_after(ws, exc)
                raise
            await ws.close()
    finally:
        if not entered:
            await opening.abandon()


class Opening:
    """How a connection is opened: the arguments of `connect`, checked. With a function for a stream, again
    and again.
    """

    def __init__(
        self,
        uri: str,
        subprotocols: Sequence[str] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        stream: trio.abc.Stream | OpenStream | None = None,
        unix_path: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        options: Options | None = None,
    ) -> None:
        self._uri = parse_uri(uri)
        if options is not None and not isinstance(options, Options):
            raise TypeError(f"options is an Options, not {type(options).__name__}; write Options(...)")
        self.options = options if options is not None else Options()
        if ssl_context is not None and not self._uri.secure:
            raise ValueError("ssl_context goes with a wss:// URI")
        if stream is not None and unix_path is not None:
            raise ValueError("give stream or unix_path, not both")
        self._subprotocols = subprotocols
        self._headers = dict(headers) if isinstance(headers, Mapping) else list(headers)
        self._stream = stream
        self._unix_path = unix_path
        self._ssl_context = ssl_context
        # Made here for what may be wrong with its parts. One is good for one connection.
        self._handshake: ClientHandshake | None = self._make_handshake()

    def _make_handshake(self) -> ClientHandshake:
        return _handshake(self._uri, self._subprotocols, self._headers, self.options)

    async def open(self, service: Service) -> WebSocket:
        """Open a connection in ``open_timeout``; raises as `connect`."""
        uri, options = self._uri, self.options
        if self._handshake is None and self._stream is not None and not callable(self._stream):
            raise RuntimeError("a stream is good for one connection; give an async function that opens one")
        handshake, self._handshake = self._handshake or self._make_handshake(), None
        ws: WebSocket | None = None
        with trio.move_on_after(options.open_timeout):
            ws = await _open(
                service, uri, handshake, self._stream, self._unix_path, self._ssl_context, options
            )
        if ws is None:
            raise ConnectionFailedError(
                f"the connection to {uri.host}:{uri.port} did not open within open_timeout"
                f" ({options.open_timeout} seconds)"
            )
        return ws

    async def abandon(self) -> None:
        """It comes to no `open`: close the stream that was given."""
        if self._stream is not None and not callable(self._stream):
            await trio.aclose_forcefully(self._stream)


async def close_after(ws: WebSocket, exc: BaseException) -> None:
    """Close because of what left a block."""
    try:
        await ws.close(1001 if _is_cancellation(exc) else 1011)
    except trio.Cancelled:
        pass  # what the block raised says more


def _is_cancellation(exc: BaseException) -> bool:
    """Whether the block was cancelled, and nothing else: its own nursery makes a group of that."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[1] is None
    return isinstance(exc, trio.Cancelled)


def _handshake(
    uri: WebSocketURI,
    subprotocols: Sequence[str],
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    options: Options,
) -> ClientHandshake:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    items = list(cast("Iterable[tuple[str, str]]", pairs))
    if uri.authorization is not None and not any(name.lower() == "authorization" for name, _ in items):
        items.append(("Authorization", uri.authorization))
    return ClientHandshake(
        uri.host_header,
        uri.target,
        subprotocols=subprotocols,
        extensions=offer(options.deflate) if options.deflate is not None else None,
        headers=items,
        max_header_bytes=options.max_header_bytes,
    )


async def _open(
    service: Service,
    uri: WebSocketURI,
    handshake: ClientHandshake,
    stream: trio.abc.Stream | OpenStream | None,
    unix_path: str | os.PathLike[str] | None,
    ssl_context: ssl.SSLContext | None,
    options: Options,
) -> WebSocket:
    try:
        if stream is None:
            stream = await _dial(uri, unix_path)
        elif callable(stream):
            stream = await stream()
        transport = await _transport(service, uri, stream, ssl_context)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise ConnectionFailedError(f"could not reach {uri.host}:{uri.port}: {_why(exc)}") from exc
    began = trio.current_time()
    try:
        response = await _shake_hands(transport, handshake)
        deflate = _agreed_deflate(response, options)
    except BaseException as exc:
        transport.close()
        if isinstance(exc, OSError | trio.BrokenResourceError):
            raise ConnectionFailedError(
                f"the connection to {uri.host}:{uri.port} broke in the handshake: {_why(exc)}"
            ) from exc
        raise
    ws = WebSocket(transport, service, options, client=True, request=Request(handshake.request))
    ws._opened(response.subprotocol, response.headers, deflate, handshake.trailing)
    ws._round_trip = trio.current_time() - began
    return ws


async def _dial(uri: WebSocketURI, unix_path: str | os.PathLike[str] | None) -> trio.SocketStream:
    if unix_path is not None:
        return await trio.open_unix_socket(unix_path)
    return await trio.open_tcp_stream(uri.host, uri.port)


async def _transport(
    service: Service, uri: WebSocketURI, stream: trio.abc.Stream, ssl_context: ssl.SSLContext | None
) -> Transport:
    if uri.secure:
        stream = trio.SSLStream(
            stream,
            ssl_context or ssl.create_default_context(),
            server_hostname=uri.host,
            https_compatible=True,
        )
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    elif isinstance(stream, trio.SocketStream):
        return SocketTransport(take_socket(stream))
    return StreamTransport(stream, service.nursery)


def take_socket(stream: trio.SocketStream) -> socket.socket:
    """Take the socket out of a trio stream, for which it is closed from then on."""
    inner = stream.socket
    sock = socket.socket(inner.family, inner.type, inner.proto, fileno=inner.detach())
    sock.setblocking(False)
    return sock


async def _shake_hands(transport: Transport, handshake: ClientHandshake) -> Response:
    data = memoryview(handshake.request)
    while data:
        data = data[await transport.send_some(data) :]
    while True:
        received = await transport.receive()
        if not received:
            handshake.eof()
        response = handshake.feed(received)
        if response is not None:
            return response


def _agreed_deflate(response: Response, options: Options) -> PerMessageDeflate | None:
    compression = options.deflate
    if response.extensions is None or compression is None:
        return None
    try:
        params = confirm(compression, response.extensions)
    except ValueError as exc:
        raise ConnectionFailedError(f"the server's answer about compression is wrong: {exc}") from exc
    return PerMessageDeflate(
        client=True, params=params, compression=compression, max_message_size=options.max_message_size
    )


def _why(exc: BaseException) -> str:
    """The innermost reason, for people: trio says that a stream broke, and OpenSSL why."""
    cause = exc.__cause__
    return str(cause if isinstance(cause, OSError) else exc) or type(exc).__name__
