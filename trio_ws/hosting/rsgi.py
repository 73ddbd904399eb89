"""RSGI: run an `ASGIApp` under servers that support RSGI, such as granian.

RSGI has fewer features than ASGI: a WebSocket is accepted without a subprotocol and without headers, it is
rejected with a status but without a body, and there is no close code.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from trio_ws.hosting.asgi_stream import Receive, Scope, Send
    from trio_ws.hosting.host_port import Message

    ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["RSGILifespan", "RSGIScope", "serve_rsgi"]

_CLOSE, _BYTES = 0, 1  # kinds of messages
_ASGI = {"version": "3.0", "spec_version": "2.4"}


class RSGIScope(Protocol):
    """The scope of a request in RSGI."""

    proto: str
    http_version: str
    client: str
    server: str
    scheme: str
    method: str
    path: str
    query_string: str
    authority: str | None

    @property
    def headers(self) -> Mapping[str, str]: ...


class _Frame(Protocol):
    kind: int
    data: str | bytes


class _WebSocketTransport(Protocol):
    async def receive(self) -> _Frame: ...
    async def send_str(self, data: str, /) -> None: ...
    async def send_bytes(self, data: bytes, /) -> None: ...


class _WebSocketProtocol(Protocol):
    async def accept(self) -> _WebSocketTransport: ...
    def close(self, status: int, /) -> object: ...


class _BodyTransport(Protocol):
    async def send_bytes(self, data: bytes, /) -> None: ...


class _HTTPProtocol(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def client_disconnect(self) -> None: ...
    def response_empty(self, status: int, headers: list[tuple[str, str]], /) -> None: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes, /) -> None: ...
    def response_stream(self, status: int, headers: list[tuple[str, str]], /) -> _BodyTransport: ...


async def serve_rsgi(app: ASGI, scope: RSGIScope, protocol: Any) -> None:
    """Serve one RSGI connection by an ASGI application.

    Raises:
        ValueError: the connection is neither a WebSocket nor an HTTP request.
    """
    if scope.proto == "ws":
        ws = _WebSocket(protocol)
        await app(_asgi_scope(scope, "websocket"), ws.receive, ws.send)
        ws.end()
    elif scope.proto == "http":
        http = _HTTP(protocol)
        await app(_asgi_scope(scope, "http"), http.receive, http.send)
    else:
        raise ValueError(f"trio_ws serves the RSGI protocols ws and http, not {scope.proto!r}")


class RSGILifespan:
    """The lifespan of an ASGI application, between ``__rsgi_init__`` and ``__rsgi_del__``."""

    def __init__(self, app: ASGI, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._started: asyncio.Future[str | None] = loop.create_future()
        self._failure: str | None = None
        self._task = loop.create_task(self._run(app), name="trio_ws lifespan")

    async def _run(self, app: ASGI) -> None:
        try:
            await app({"type": "lifespan", "asgi": _ASGI}, self._events.get, self._send)
        finally:
            if not self._started.done():
                self._started.set_result("it ended without a word")

    async def _send(self, event: Message) -> None:
        failure = event["message"] if event["type"].endswith(".failed") else None
        if event["type"].startswith("lifespan.startup"):
            self._started.set_result(failure)
        else:
            self._failure = failure

    def start(self) -> None:
        """Run the loop until the application has started.

        Raises:
            RuntimeError: the application failed to start.
        """
        self._events.put_nowait({"type": "lifespan.startup"})
        failure = self._loop.run_until_complete(self._started)
        if failure is not None:
            raise RuntimeError(f"the lifespan of the application failed: {failure}")

    def stop(self) -> None:
        """Run the loop until the application has ended.

        Raises:
            RuntimeError: its lifespan failed at the end.
        """
        self._events.put_nowait({"type": "lifespan.shutdown"})
        self._loop.run_until_complete(self._task)
        if self._failure is not None:
            raise RuntimeError(f"the lifespan of the application failed: {self._failure}")


class _WebSocket:
    """Translates the ASGI events of a WebSocket to RSGI."""

    def __init__(self, protocol: _WebSocketProtocol) -> None:
        self._protocol = protocol
        self._transport: Any = None  # a _WebSocketTransport, once it is accepted
        self._connected = False
        self._accepted = asyncio.Event()
        self._ended = False

    async def receive(self) -> dict[str, object]:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        await self._accepted.wait()
        try:
            message = await self._transport.receive()
        except Exception as exc:  # noqa: BLE001 - RSGI has exceptions of its own, with only a text
            return {"type": "websocket.disconnect", "code": 1006, "reason": str(exc)[:100]}
        if message.kind == _CLOSE:
            return {"type": "websocket.disconnect", "code": 1005}
        if message.kind == _BYTES:
            return {"type": "websocket.receive", "bytes": message.data}
        return {"type": "websocket.receive", "text": message.data}

    async def send(self, event: Message) -> None:
        kind = event["type"]
        if kind == "websocket.accept":
            self._transport = await self._protocol.accept()
            self._accepted.set()
        elif kind == "websocket.send":
            text = event.get("text")
            try:
                if text is not None:
                    await self._transport.send_str(text)
                else:
                    await self._transport.send_bytes(event["bytes"])
            except Exception as exc:
                raise ConnectionResetError(str(exc)) from exc
        elif kind == "websocket.http.response.start":
            self._close(event["status"])
        elif kind == "websocket.close":
            self._close(event.get("code", 1000) if self._transport is not None else 403)

    def _close(self, status: int) -> None:
        if not self._ended:
            self._ended = True
            self._protocol.close(status)

    def end(self) -> None:
        """End the connection, because no task serves the client any more."""
        self._close(1000 if self._transport is not None else 500)


class _HTTP:
    """Translates the ASGI events of an HTTP request to RSGI."""

    def __init__(self, protocol: _HTTPProtocol) -> None:
        self._protocol = protocol
        self._body: AsyncIterator[bytes] | None = None
        self._read = False
        self._start: Message = {}
        self._transport: _BodyTransport | None = None

    async def receive(self) -> dict[str, object]:
        if self._read:
            await self._protocol.client_disconnect()
            return {"type": "http.disconnect"}
        if self._body is None:
            self._body = aiter(self._protocol)
        try:
            return {"type": "http.request", "body": bytes(await anext(self._body)), "more_body": True}
        except StopAsyncIteration:
            self._read = True
            return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, event: Message) -> None:
        if event["type"] == "http.response.start":
            self._start = event
            return
        status = self._start["status"]
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in self._start["headers"]
        ]
        body, more = event.get("body", b""), event.get("more_body", False)
        if self._transport is None and not more:
            if body:
                self._protocol.response_bytes(status, headers, body)
            else:
                self._protocol.response_empty(status, headers)
            return
        if self._transport is None:
            self._transport = self._protocol.response_stream(status, headers)
        if body:
            try:
                await self._transport.send_bytes(body)
            except Exception as exc:
                raise ConnectionResetError(str(exc)) from exc


def _asgi_scope(scope: RSGIScope, kind: str) -> dict[str, object]:
    headers = [(_octets(name.lower()), _octets(value)) for name, value in scope.headers.items()]
    if scope.authority and not any(name == b"host" for name, _ in headers):
        headers.append((b"host", _octets(scope.authority)))
    secure = scope.scheme in ("https", "wss")
    schemes = ("ws", "wss") if kind == "websocket" else ("http", "https")
    return {
        "type": kind,
        "asgi": _ASGI,
        "http_version": scope.http_version,
        "scheme": schemes[secure],
        "method": scope.method,
        "path": scope.path,  # granian has decoded it
        "query_string": scope.query_string.encode(),
        "root_path": "",
        "headers": headers,
        "client": _address(scope.client),
        "server": _address(scope.server),
        "subprotocols": [],  # RSGI cannot select one
        "extensions": {"websocket.http.response": {}} if kind == "websocket" else {},
    }


def _octets(text: str) -> bytes:
    """Return the bytes of a header, which a host has decoded as Latin-1 or as UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() else None
