"""Serving."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from trio_ws.compat.trio_websocket.connection import (
    CONN_TIMEOUT,
    MAX_MESSAGE_SIZE,
    MESSAGE_QUEUE_SIZE,
    RECEIVE_BYTES,
    Endpoint,
    WebSocketRequest,
    hold_request,
    options_for,
)
from trio_ws.compat.trio_websocket.exceptions import ConnectionClosed
from trio_ws.errors import ConnectionFailedError
from trio_ws.server.wrap import wrap_stream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["WebSocketServer", "serve_websocket", "wrap_server_stream"]


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
    options = options_for(max_message_size, open_timeout=1e6, close_timeout=1e6)
    # So that a socket is not taken out of its stream, and the caller can still close it.
    kept = trio.StapledStream(stream, stream)
    request: WebSocketRequest = await nursery.start(hold_request, kept, message_queue_size, options)
    return request


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
        self._failures: list[Exception] = []  # of handlers that ended after this server was cancelled
        self._options = options_for(
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
        """Serve until cancelled.

        Raises:
            ExceptionGroup: a handler has raised an exception.
        """
        try:
            await self._run(task_status)
        except BaseException as exc:
            failures, self._failures = self._failures, []
            if failures:
                raise BaseExceptionGroup(
                    "handlers of a cancelled server have failed", [exc, *failures]
                ) from None
            raise

    async def _run(self, task_status: trio.TaskStatus[WebSocketServer]) -> NoReturn:
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
        failure: Exception | None = None
        try:
            async with wrap_stream(stream, options=self._options) as ws:
                try:
                    await self._handler(WebSocketRequest(ws, stream, self._queue_size))
                except ConnectionClosed:
                    raise
                except Exception as exc:
                    failure = exc
                    raise
        except ConnectionFailedError as exc:
            if exc is failure:
                raise
            # The request was answered and logged.
        finally:
            if failure is not None and trio.current_effective_deadline() == -math.inf:
                # The client was told first, and then this server was cancelled. The exception would be lost,
                # because trio.serve_listeners closes the stream, which raises Cancelled.
                self._failures.append(failure)


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
