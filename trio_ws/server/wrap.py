"""wrap_stream: a server's WebSocket on a stream that the application has accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._blocks import block
from trio_ws.client.connect import close_after
from trio_ws.errors import ConnectionFailedError
from trio_ws.server.config import server_config
from trio_ws.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from trio_ws.options import Options
    from trio_ws.websocket.connection import WebSocket

__all__ = ["wrap_stream"]


class _StreamServer(EmbeddedServer):
    """A server of one client."""

    def __init__(self, subprotocols: Sequence[str], options: Options | None) -> None:
        super().__init__(server_config(self._pass_on, subprotocols=subprotocols, options=options))
        self.ws: WebSocket | None = None
        self.done = trio.Event()

    async def _pass_on(self, ws: WebSocket) -> None:
        self.ws = ws
        self._client_done.notify_all()
        await self.done.wait()

    async def serve(self, stream: trio.abc.Stream) -> WebSocket:
        """Read the opening request.

        Raises:
            ConnectionFailedError: the request was refused, or the client has disconnected.
        """
        self._accept_client(stream, None)
        while self.ws is None:
            if not self._clients:
                raise ConnectionFailedError(
                    "the stream did not become a WebSocket: the log contains the reason"
                )
            await self._client_done.wait()
        return self.ws


class _Replayed(trio.abc.Stream):
    """A stream that first returns data that was already read from it. It owns ``inner``."""

    def __init__(self, inner: trio.abc.Stream, data: bytes) -> None:
        self._inner = inner
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if not self._data:
            return await self._inner.receive_some(max_bytes)
        await trio.lowlevel.checkpoint()
        data, self._data = self._data[:max_bytes], b"" if max_bytes is None else self._data[max_bytes:]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


@block("async with trio_ws.wrap_stream(...) as ws:")
@enable_ki_protection
async def wrap_stream(
    stream: trio.abc.Stream,
    request: bytes = b"",
    *,
    subprotocols: Sequence[str] = (),
    options: Options | None = None,
) -> AsyncIterator[WebSocket]:
    """Serve one client on a stream that was accepted elsewhere, for the duration of an ``async with`` block.

    Entering the block reads the opening request (RFC 6455 section 4.2.1). ``ws.accept``, or the first message
    that is sent or received, accepts the connection. Leaving the block closes it with 1000, or with 1011
    after an exception, or rejects it with 403 if it was not accepted. For the client's side of a stream, use
    ``connect(uri, stream=stream)``.

    Args:
        stream: a byte stream; if it uses TLS, after the TLS handshake. This function owns it, and always
            closes it, even after an error.
        request: data that was already read from the stream: the whole request or its beginning.
        subprotocols: as for `WebSocketServer`.
        options: as for `WebSocketServer`.

    Yields:
        The `WebSocket`, which has not been accepted yet.

    Raises:
        TypeError: ``stream`` is no stream.
        ConnectionFailedError: no valid opening request arrived within ``open_timeout``; an invalid one was
            answered with an HTTP error.
    """
    if not hasattr(stream, "send_all"):
        raise TypeError(f"stream must be a trio.abc.Stream, not {type(stream).__name__}")
    server = _StreamServer(subprotocols, options)
    async with server:
        ws = await server.serve(_Replayed(stream, request) if request else stream)
        try:
            yield ws
        except BaseException as exc:
            if ws.accepted:
                await close_after(ws, exc)
            raise
        else:
            await ws.close()
        finally:
            server.done.set()
