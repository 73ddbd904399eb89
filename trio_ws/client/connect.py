"""Connect: from a URI to an open WebSocket, within a bounded time.

Invariants: whatever fails, the stream is closed and the error is a `ConnectionFailedError` with its cause
chained. Only invalid arguments raise ValueError or TypeError.
"""

from __future__ import annotations

import functools
import inspect
import os
import socket
import ssl
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Unpack

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._blocks import block
from trio_ws._settings import shows_settings_of
from trio_ws.client.config import (
    AskURI,
    ConnectConfig,
    ConnectSettings,
    connect_config,
    header_pairs,
    is_function,
)
from trio_ws.client.failures import explain, failed
from trio_ws.client.proxy import choose_proxy, open_through
from trio_ws.client.redirect import redirect_location, resolve_redirect, without_credentials
from trio_ws.client.uri import parse_uri
from trio_ws.errors import ConnectionFailedError, HandshakeRejectedError
from trio_ws.logs import logger_for, shown
from trio_ws.protocol.deflate import PerMessageDeflate, confirm, offer
from trio_ws.protocol.handshake import ClientHandshake
from trio_ws.protocol.http import Request
from trio_ws.wall import only_cancelled
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.internals import open_client
from trio_ws.websocket.runtime import open_runtime
from trio_ws.websocket.sockets import LINK_ERRORS, close_forcefully, do_handshake, open_tcp
from trio_ws.websocket.tls import tls_client
from trio_ws.websocket.transport import SocketTransport, StreamTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from trio_ws.options import Options
    from trio_ws.protocol.handshake import Response
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["ClosedAfter", "ConnectAttempts", "close_after", "connect", "take_socket"]

logger = logger_for("trio_ws.network")

#: Placeholder for a URI that a function will return; it may be used with an SSL context.
_ANY_URI = "wss://unknown/"
#: Seconds to wait for the rest of a refusal's body after its head.
_BODY_SECONDS = 0.1


@shows_settings_of(connect_config)
@block("async with trio_ws.connect(...) as ws:")
@enable_ki_protection
async def connect(uri: str | AskURI, **settings: Unpack[ConnectSettings]) -> AsyncIterator[WebSocket]:
    """Open a WebSocket for the duration of an ``async with`` block (RFC 6455 section 4.1).

    Leaving the block closes it with 1000, or with 1011 if an exception leaves, within ``close_timeout``.
    Cancellation closes it at once, with 1001 if that can be sent without waiting. The block's own exception
    is not changed.

    Redirects are followed, up to ``max_redirects``, but never from ``wss://`` to ``ws://``. ``Authorization``
    and ``Cookie`` headers and the credentials of the URI are not sent to another scheme, host or port; other
    headers are.

    Args:
        uri: ``ws://`` or ``wss://``. ``user:password@`` becomes Basic authentication. Or a function without
            arguments, async or not, that returns the URI.
        subprotocols: offered subprotocols, most preferred first.
        headers: additional request headers. Or a function without arguments, async or not, that returns them,
            for example after fetching a token. It runs within ``open_timeout``, as one for ``uri`` does.
        stream: use this stream instead of opening a TCP connection. It is closed at the end, even if
            connecting fails. With ``wss://`` TLS is added on top of it. Or an async function without
            arguments that returns a stream; if it raises an `OSError`, connecting has failed.
        unix_path: connect to the Unix socket at this path; the URI still provides host and target.
        ssl_context: for ``wss://``; by default `ssl.create_default_context`, which verifies certificates.
        proxy: the URL of a proxy: ``http://``, ``https://`` (TLS to the proxy), ``socks5://`` (names are
            resolved locally) or ``socks5h://`` (by the proxy), with ``user:password@`` if required. SOCKS
            requires ``trio-ws[proxy]``. True, the default, uses the environment variables ``wss_proxy``,
            ``ws_proxy``, ``socks_proxy``, ``https_proxy``, ``http_proxy``, ``all_proxy`` and ``no_proxy``,
            and no proxy with ``stream`` or ``unix_path``. None means no proxy.
        options: limits and timeouts; default ``Options()``.

    Yields:
        The open `WebSocket`.

    Raises:
        InvalidURIError: ``uri`` is not a WebSocket URI, or ``proxy`` or its environment variable is invalid.
        HandshakeRejectedError: the server answered with another HTTP status.
        ConnectionFailedError: DNS, TCP, TLS, the proxy or the handshake failed, a redirect could not be
            followed, ``open_timeout`` expired, or a function for ``uri`` or ``headers`` raised an exception.
    """
    attempts = ConnectAttempts(connect_config(uri, **settings))
    async with attempts.open_runtime() as runtime:
        ws = await attempts.open(runtime)
        async with ClosedAfter(functools.partial(close_after, ws)):
            yield ws


class ConnectAttempts:
    """Opens connections, one after the other.

    Functions are called, and a mapping of headers is read, for each connection.
    """

    def __init__(self, config: ConnectConfig) -> None:
        self._config = config
        self.options = config.options
        # Made now to validate its arguments, as far as they are known.
        first = _ConnectAttempt(
            config, _ANY_URI if callable(config.uri) else config.uri, header_pairs(config.headers)
        )
        # An attempt can be used for one connection.
        self._first = None if callable(config.uri) or is_function(config.headers) else first
        self._opened = False

    async def open(self, runtime: ConnectionRuntime) -> WebSocket:
        """Open a connection within ``open_timeout``; raises as `connect`."""
        if self._opened and self._config.stream is not None and not callable(self._config.stream):
            raise RuntimeError("a stream serves one connection; pass an async function that opens one")
        self._opened = True
        attempt, self._first = self._first, None
        ws: WebSocket | None = None
        with trio.move_on_after(self.options.open_timeout):
            if attempt is None:
                attempt = await self._ask()
            ws = await attempt.open(runtime)
        if ws is None:
            if attempt is None:
                await self.abandon()
            raise ConnectionFailedError(
                f"the connection{'' if attempt is None else f' to {attempt.where}'} did not open within"
                f" open_timeout ({self.options.open_timeout} seconds)"
            )
        return ws

    @asynccontextmanager
    @enable_ki_protection
    async def open_runtime(self) -> AsyncIterator[ConnectionRuntime]:
        """Run the runtime of these connections for a block. If it cannot start, a given stream is closed."""
        entered = False
        try:
            async with open_runtime(self.options) as runtime:
                entered = True
                yield runtime
        finally:
            if not entered:
                await self.abandon()

    async def _ask(self) -> _ConnectAttempt:
        """Call the functions for this attempt."""
        try:
            uri = await _result("uri", self._config.uri) if callable(self._config.uri) else self._config.uri
            asked = self._config.headers
            headers = await _result("headers", asked) if is_function(asked) else asked
            return _ConnectAttempt(self._config, uri, header_pairs(headers))
        except BaseException:
            await self.abandon()
            raise

    async def abandon(self) -> None:
        """Close a given stream that `open` will not use."""
        if self._config.stream is not None and not callable(self._config.stream):
            await close_forcefully(self._config.stream)


async def _result(name: str, function: Callable[[], Any]) -> Any:
    """Call a function of the user.

    Raises:
        ConnectionFailedError: it raised an exception.
    """
    try:
        result = function()
        return await result if inspect.isawaitable(result) else result
    except ConnectionFailedError:
        raise
    except Exception as exc:
        logger.warning("the function for %s failed", name, exc_info=exc)
        raise ConnectionFailedError(
            f"the function for {name} raised {type(exc).__name__}: {explain(exc)}"
        ) from exc


async def close_after(ws: WebSocket, exc: BaseException | None) -> None:
    """Close because the block was left, normally or by an exception."""
    if exc is None:
        await ws.close()
        return
    try:
        await ws.close(1001 if only_cancelled(exc) else 1011)
    except trio.Cancelled:
        pass  # the exception of the block is more important


class ClosedAfter:
    """Close at the end of a block.

    Args:
        close: called with the exception of the block, or with None. The exception is not changed.
    """

    __slots__ = ("_close",)

    def __init__(self, close: Callable[[BaseException | None], Awaitable[None]]) -> None:
        self._close = close

    async def __aenter__(self) -> None:
        pass

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(exc)


class _ConnectAttempt:
    """One attempt to connect, which may pass through proxies and redirects."""

    def __init__(self, config: ConnectConfig, uri: str, headers: list[tuple[str, str]]) -> None:
        self.uri = parse_uri(uri)
        self.options = config.options
        self._config = config
        if config.ssl_context is not None and not self.uri.secure:
            raise ValueError("ssl_context requires a wss:// URI")
        self._proxy_choice: Literal[True] | str | None = (
            None if config.fixed and config.proxy is True else config.proxy
        )
        self._proxy = choose_proxy(self.uri, self._proxy_choice)
        self._headers = headers
        self._authorization = self.uri.authorization
        self._handshake = self._make_handshake()

    @property
    def where(self) -> str:
        """The server, and the proxy if there is one, for messages."""
        if self._config.unix_path is not None:
            return f"the Unix socket {os.fsdecode(self._config.unix_path)}"
        return self.uri.authority + (f" through the proxy {self._proxy}" if self._proxy else "")

    def _make_handshake(self) -> ClientHandshake:
        items = self._headers
        if self._authorization is not None and not any(name.lower() == "authorization" for name, _ in items):
            items = [*items, ("Authorization", self._authorization)]
        return ClientHandshake(
            self.uri.host_header,
            self.uri.target,
            subprotocols=self._config.subprotocols,
            extensions=offer(self.options.deflate) if self.options.deflate is not None else None,
            headers=items,
            max_header_bytes=self.options.max_header_bytes,
        )

    async def open(self, runtime: ConnectionRuntime) -> WebSocket:
        redirects = 0
        while True:
            try:
                return await self._open_here(runtime)
            except HandshakeRejectedError as exc:
                location = redirect_location(exc)
                if location is None or self.options.max_redirects == 0:
                    raise
                self._follow(location, redirects, exc)
            redirects += 1

    def _follow(self, location: str, redirects: int, rejected: HandshakeRejectedError) -> None:
        """Switch to the target of a redirect, without credentials of this server."""
        before = self.uri
        try:
            self.uri = resolve_redirect(before, location)
            where = shown(str(self.uri))
            if self._config.fixed:
                raise ConnectionFailedError(
                    f"{before} redirects to {where}, but {self._config.fixed} reaches one server only"
                )
            if redirects >= self.options.max_redirects:
                raise ConnectionFailedError(
                    f"{before} redirects to {where}, after max_redirects={redirects} redirects already"
                )
            if self.uri.origin != before.origin:
                self._headers = without_credentials(self._headers)
                self._authorization = None
            if self.uri.authorization is not None:
                self._authorization = self.uri.authorization
            self._proxy = choose_proxy(self.uri, self._proxy_choice)
            self._handshake = self._make_handshake()
        except ConnectionFailedError as exc:
            # The message includes the cause of the error, if it has one.
            raise exc from rejected

    async def _open_here(self, runtime: ConnectionRuntime) -> WebSocket:
        try:
            transport = await self._secure(runtime, await self._dial())
        except LINK_ERRORS as exc:
            raise failed(f"could not reach {self.where}", exc, self.uri.authority) from exc
        handshake = self._handshake
        try:
            response = await _shake_hands(transport, handshake)
            deflate = _agreed_deflate(response, self.options)
        except BaseException as exc:
            transport.close()
            if isinstance(exc, LINK_ERRORS):
                what = f"the connection to {self.where} broke in the handshake"
                raise failed(what, exc, self.uri.authority) from exc
            raise
        request = Request(handshake.request)
        request.tls, request.client_address = transport.tls, transport.local_address
        ws = WebSocket(transport, runtime, self.options, client=True, request=request)
        open_client(ws, response.subprotocol, response.headers, deflate, handshake.trailing)
        return ws

    async def _dial(self) -> trio.abc.Stream:
        if callable(self._config.stream):
            return await self._config.stream()
        if self._config.stream is not None:
            return self._config.stream
        if self._config.unix_path is not None:
            return await trio.open_unix_socket(self._config.unix_path)
        if self._proxy is not None:
            return await open_through(self._proxy, self.uri, self.options.max_header_bytes)
        return await open_tcp(self.uri.address, self.uri.port)

    async def _secure(self, runtime: ConnectionRuntime, stream: trio.abc.Stream) -> Transport:
        if self.uri.secure:
            plain = take_socket(stream) if isinstance(stream, trio.SocketStream) else stream
            context = self._config.ssl_context or ssl.create_default_context()
            stream = secured = tls_client(plain, context, self.uri.server_name)
            await do_handshake(secured)
        elif isinstance(stream, trio.SocketStream):
            return SocketTransport(take_socket(stream))
        return StreamTransport(stream, runtime.nursery)


def take_socket(stream: trio.SocketStream) -> socket.socket:
    """Take the socket out of a trio stream, which is closed from then on."""
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
        if handshake.rejected:
            await _read_rejection(transport, handshake)


async def _read_rejection(transport: Transport, handshake: ClientHandshake) -> NoReturn:
    """Read what arrives soon of a refusal's body. The refusal counts, whatever happens to the connection."""
    ends = trio.current_time() + _BODY_SECONDS
    if ends < trio.current_effective_deadline():
        with trio.move_on_at(ends):
            try:
                while received := await transport.receive():
                    handshake.feed(received)
            except LINK_ERRORS:
                pass
    handshake.eof()


def _agreed_deflate(response: Response, options: Options) -> PerMessageDeflate | None:
    compression = options.deflate
    if response.extensions is None or compression is None:
        return None
    try:
        params = confirm(compression, response.extensions)
    except ValueError as exc:
        raise ConnectionFailedError(f"the server's compression parameters are invalid: {exc}") from exc
    return PerMessageDeflate(
        client=True, params=params, compression=compression, max_message_size=options.max_message_size
    )
