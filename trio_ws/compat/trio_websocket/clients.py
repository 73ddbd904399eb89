"""Connecting."""

from __future__ import annotations

import contextlib
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import trio

from trio_ws.client.config import connect_config
from trio_ws.client.connect import ConnectAttempts
from trio_ws.compat.trio_websocket.connection import (
    CONN_TIMEOUT,
    MAX_MESSAGE_SIZE,
    MESSAGE_QUEUE_SIZE,
    RECEIVE_BYTES,
    Headers,
    WebSocketConnection,
    decoded,
    encoded,
    options_for,
)
from trio_ws.compat.trio_websocket.exceptions import (
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
)
from trio_ws.errors import ConnectionFailedError, HandshakeRejectedError
from trio_ws.websocket.internals import closing_of
from trio_ws.websocket.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from trio_ws.options import Options
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.runtime import ConnectionRuntime

__all__ = [
    "connect_websocket",
    "connect_websocket_url",
    "open_websocket",
    "open_websocket_url",
    "wrap_client_stream",
]


async def _run_runtime(
    options: Options, ended: trio.Event, *, task_status: trio.TaskStatus[ConnectionRuntime]
) -> None:
    async with open_runtime(options) as runtime:
        task_status.started(runtime)
        await ended.wait()


async def _connect(
    nursery: trio.Nursery, uri: str, max_message_size: int, queue_size: int, **settings: Any
) -> WebSocketConnection:
    options = options_for(max_message_size, open_timeout=1e6, close_timeout=1e6)
    attempts = ConnectAttempts(connect_config(uri, proxy=None, options=options, **settings))
    ended = trio.Event()
    runtime: ConnectionRuntime = await nursery.start(_run_runtime, options, ended)
    try:
        ws = await attempts.open(runtime)
    except BaseException as exc:
        ended.set()
        if isinstance(exc, HandshakeRejectedError):
            raise ConnectionRejected(exc.status, encoded(exc.headers), exc.body or None) from exc
        if isinstance(exc, ConnectionFailedError):
            raise HandshakeError(str(exc)) from exc
        raise
    closing_of(ws).answers_over = queue_size
    runtime.nursery.start_soon(_end_with, ws, ended)
    return WebSocketConnection(ws, settings.get("stream"), is_client=True)


async def _end_with(ws: WebSocket, ended: trio.Event) -> None:
    await ws.wait_closed()
    await ws.close()  # the transport may take longer
    ended.set()


def _uri(host: str, port: int, resource: str, *, tls: bool) -> str:
    return f"{'wss' if tls else 'ws'}://{_bracketed(host)}:{port}{resource or '/'}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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
        headers=decoded(extra_headers),
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
    return await _connect(
        nursery,
        f"ws://{_bracketed(host)}{resource or '/'}",
        max_message_size,
        message_queue_size,
        stream=trio.StapledStream(stream, stream),  # so that a socket is not taken out of its stream
        subprotocols=tuple(subprotocols or ()),
        headers=decoded(extra_headers),
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
            except BaseException as exc:  # noqa: BLE001 - raised outside of the nursery, which would wrap it
                failure = exc
            scope = trio.move_on_after(disconnect_timeout)
            try:
                with scope:
                    await connection.aclose()
            except trio.Cancelled:
                if failure is None:
                    raise
                # It is closed all the same, and what the block has raised goes on.
            if failure is not None:
                nursery.cancel_scope.cancel()
            elif scope.cancelled_caught:
                failure = DisconnectionTimeout()
                raise failure
    except BaseExceptionGroup as group:
        _, others = group.split(trio.Cancelled)
        if failure is None or (others is not None and others.exceptions != (failure,)):
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
