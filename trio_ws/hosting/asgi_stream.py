"""ASGIStream: one ASGI connection as the byte stream of a client that uses HTTP/1.1.

The server under an ASGI server is the same as the one that listens on sockets, and an `ASGIStream` takes the
place of its client. It encodes the scope as an opening request, and decodes HTTP responses to ASGI events. So
routing, checks and responses are implemented once. After a WebSocket is accepted, its messages are passed on
directly (see websocket.py).

Invariants:

- Messages are passed on whole and in order. Events are received from the ASGI server while the receive buffer
  has room. A send waits while more than ``send_high_water`` bytes were not accepted by the ASGI server.
- The ASGI server does the closing handshake and sends pongs. A Close of this side counts as answered when the
  ASGI server has accepted it.
- Data from the ASGI server cannot inject lines into the request, because h11 encodes and validates it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, unquote

import h11
import trio
from trio.lowlevel import checkpoint

from trio_ws.hosting.websocket import HANDLED
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.transport import READ_SIZE

if TYPE_CHECKING:
    from trio_ws.hosting.host_port import HostPort, Message
    from trio_ws.hosting.websocket import HostedWebSocket
    from trio_ws.rpc.task_pool import TaskPool

__all__ = ["ASGIStream", "HTTPStream", "Receive", "Scope", "Send", "WebSocketStream"]

Scope: TypeAlias = Mapping[str, Any]
# Hosts have types of their own for messages, so that these are Any.
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

# Headers for one hop of HTTP/1.1, and headers of the handshake, which are created here.
_HOP = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"})
_NOT_FORWARDED = _HOP | {
    b"content-length",
    b"expect",
    b"sec-websocket-accept",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
}
_UPGRADE = [
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Version", b"13"),
    # A placeholder; the ASGI server has answered the client's real key.
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
#: Internal events of this module: a message was refused, and a send has failed.
_VIOLATED = {"type": "trio_ws.violated"}
_FAILED = "trio_ws.failed"
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


class ASGIStream(trio.abc.Stream):
    """See the module docstring. There is a subclass for each kind of scope.

    `pump` must run in another task than those that read and write the stream.

    Attributes:
        failure: the exception to raise from the call, such as one of the ASGI server's ``send``.
        ws: the client's WebSocket, if it asked for one.
        nursery: the nursery for background tasks.
        workers: pooled tasks for the calls of this client.
        serving: the cancel scope around the task that serves the client.
        finished: set when no task serves the client any more.
    """

    _prefix = ""  # of the ASGI events of an HTTP response

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.remote_address = tuple(scope["client"]) if scope.get("client") else None
        self.scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        self._asgi_receive = receive
        self._asgi_send = send
        self.failure: BaseException | None = None
        self.ws: HostedWebSocket | None = None
        self.nursery: trio.Nursery | None = None
        self.workers: TaskPool | None = None
        self.serving = trio.CancelScope()
        self.finished = trio.Event()
        self._began = False
        self._http = h11.Connection(h11.CLIENT)
        self._unread = bytearray()  # bytes for the server to read
        self._ended = False  # nothing follows these bytes
        self._gone = False  # the client has left, so events for it are dropped
        self._closed = False
        self._answered = False  # by a complete HTTP response
        self._arrived = Notification()
        self._room = Notification()
        self._pumping: trio.CancelScope | None = None
        self._sending: trio.CancelScope | None = None

    # -- from the ASGI server -----------------------------------------------------------------------

    async def pump(self) -> None:
        """Receive events from the ASGI server until the client has left or the stream is closed."""
        with trio.CancelScope() as self._pumping:
            if self._closed:
                return
            await self._begin()
            while not self._ended:
                if self._has_room:
                    self._take(await self._asgi_receive())
                else:
                    await self._room.wait()

    @property
    def _has_room(self) -> bool:
        return len(self._unread) < READ_SIZE

    async def _begin(self) -> None:
        raise NotImplementedError

    def _take(self, event: Message) -> None:
        raise NotImplementedError

    def _request(self, method: str, more: list[tuple[bytes, bytes]], subprotocols: str = "") -> None:
        """Write the opening request."""
        scope = self.scope
        fields = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        kept = [(name, value) for name, value in fields if name.lower() not in _NOT_FORWARDED]
        if not any(name.lower() == b"host" and value for name, value in kept):
            kept = [item for item in kept if item[0].lower() != b"host"]
            kept.append((b"Host", _host(scope)))
        try:
            if subprotocols:
                kept.append((b"Sec-WebSocket-Protocol", subprotocols.encode("ascii")))
            request = h11.Request(method=method, target=_target(scope), headers=[*kept, *more])
            self._put(self._http.send(request) or b"")
        except (h11.LocalProtocolError, UnicodeEncodeError):
            # The scope is not a valid request. Send an invalid one, which the server answers with 400.
            self._http.send(h11.Request(method="GET", target="/", headers=[(b"Host", b"localhost")]))
            self._put(b"\r\n\r\n")

    def _put(self, data: bytes, *, end: bool = False) -> None:
        self._unread += data
        self._ended = self._ended or end
        self._arrived.notify_all()

    # -- to the ASGI server -------------------------------------------------------------------------

    async def _send_event(self, event: Message) -> None:
        if self._gone:
            await checkpoint()
            return
        try:
            await self._asgi_send(event)
        # The client has left (ASGI 2.4), or hypercorn 0.18 is answering its Close in another task.
        except (OSError, trio.BusyResourceError) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        except Exception as exc:
            self.failure = exc
            raise trio.BrokenResourceError("the ASGI server has failed") from exc

    async def _answer(self, data: bytes) -> None:
        """Pass on a part of an HTTP response."""
        self._http.receive_data(data)
        body: list[bytes] = []
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                await self._start(event)
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            else:
                break
        self._answered = isinstance(event, h11.EndOfMessage)
        if body or self._answered:
            await self._body(b"".join(body), more=not self._answered)

    async def _start(self, response: h11.Response) -> None:
        over_http_1 = str(self.scope.get("http_version", "1.1")).startswith("1")
        # A 426 response has an Upgrade header in HTTP/1.1, but HTTP/2 forbids it.
        headers = _lowered(response.headers, _HOP - {b"upgrade"} if over_http_1 else _HOP)
        await self._send_event(
            {"type": f"{self._prefix}.start", "status": response.status_code, "headers": headers}
        )

    async def _body(self, body: bytes, *, more: bool) -> None:
        await self._send_event({"type": f"{self._prefix}.body", "body": body, "more_body": more})

    async def _write(self, data: bytes) -> None:
        if not self._answered:
            await self._answer(data)

    # -- the stream ---------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await checkpoint()
        while not self._unread:
            if self._closed:
                raise trio.ClosedResourceError("the connection was closed")
            if self._ended:
                return b""
            await self._arrived.wait()
        data = bytes(self._unread[:max_bytes])
        del self._unread[: len(data)]
        self._room.notify_all()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await checkpoint()
        if not self._closed:
            with trio.CancelScope() as self._sending:
                await self._write(bytes(data))
        if self._closed:
            raise trio.ClosedResourceError("the connection was closed")

    async def wait_send_all_might_not_block(self) -> None:
        await checkpoint()

    async def aclose(self) -> None:
        self._closed = True
        if self._pumping is not None:
            self._pumping.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self._arrived.notify_all()
        await checkpoint()


class HTTPStream(ASGIStream):
    """A plain HTTP request."""

    _prefix = "http.response"

    async def _begin(self) -> None:
        if self._began:
            return
        self._began = True
        first = await self._asgi_receive()
        fields = [(bytes(name).lower(), bytes(value)) for name, value in self.scope["headers"]]
        framing = [(name, value) for name, value in fields if name == b"content-length"]
        if not framing and (first.get("body") or first.get("more_body")):
            framing = [(b"Transfer-Encoding", b"chunked")]
        self._request(self.scope["method"], framing)
        self._take(first)

    def _take(self, event: Message) -> None:
        if event["type"] != "http.request":
            self._gone = True
            self._put(b"", end=True)
        elif self._http.our_state is h11.SEND_BODY:
            try:
                self._put(self._http.send(h11.Data(data=bytes(event.get("body") or b""))) or b"")
                if not event.get("more_body"):
                    self._put(self._http.send(h11.EndOfMessage()) or b"")
            except h11.LocalProtocolError:  # the body does not match its Content-Length
                self._put(b"", end=True)


class WebSocketStream(ASGIStream):
    """A WebSocket that the ASGI server has, and the `MessagePort` of its `HostedWebSocket`.

    Args:
        direct: the source of events if the host runs on asyncio (see guest.py); otherwise None.
    """

    _prefix = "websocket.http.response"

    def __init__(self, scope: Scope, receive: Receive, send: Send, direct: HostPort | None = None) -> None:
        super().__init__(scope, receive, send)
        self._direct = direct
        self._can_answer = self._prefix in (scope.get("extensions") or {})
        self._open = False
        self._early: Message | None = None  # a message that came before the accept
        self._outgoing: deque[Message] = deque()  # for a host on trio
        self._idle = Notification()

    async def _begin(self) -> None:
        if self._began:
            return
        self._began = True
        event = await self._asgi_receive()
        if event["type"] != "websocket.connect":  # the client has left already
            self._gone = True
            self._put(b"", end=True)
            return
        self._request("GET", _UPGRADE, ", ".join(self.scope.get("subprotocols") or ()))
        self._http.send(h11.EndOfMessage())

    @property
    def _has_room(self) -> bool:
        if self._open and self.ws is not None:
            return self._direct is not None or self.ws.has_room
        return self._early is None

    def _take(self, event: Message) -> None:
        """Handle an event, including those that `received`, `sent` and `send_failed` return."""
        ws, kind = self.ws, event["type"]
        if kind == "websocket.disconnect":
            self._gone = True
            self._put(b"", end=True)
            if ws is not None:
                ws.client_left(event.get("code", 1005), event.get("reason") or "")
        elif ws is None or not self._open:
            self._early = event
        elif kind == "websocket.receive":
            self.received(event)
            ws.handle_events()
        elif kind == "websocket.close":
            ws.closed_by_host(event["code"])
        elif kind == _FAILED:
            ws.send_failed(event["cause"])
        else:
            ws.handle_events()

    async def _start(self, response: h11.Response) -> None:
        if self._can_answer:
            await super()._start(response)
        else:
            await self._send_event({"type": "websocket.close"})  # for which the ASGI server responds with 403

    async def _body(self, body: bytes, *, more: bool) -> None:
        if self._can_answer:
            await super()._body(body, more=more)

    # -- MessagePort --------------------------------------------------------------------------------

    def open(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
        self._open = True
        headers = [(name, value) for name, value in headers if name not in _NOT_FORWARDED]
        self._post({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        if self._direct is not None:
            self._direct.deliver(self)

    def opened(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            self._take(early)
        self.resume()

    def send(self, message: str | bytes) -> None:
        text, binary = (message, None) if isinstance(message, str) else (None, message)
        event = {"type": "websocket.send", "text": text, "bytes": binary}
        if self._direct is None:
            self._post(event)
        elif not self._gone:
            self._direct.post(event)

    def close(self, code: int, reason: str) -> None:
        self._post({"type": "websocket.close", "code": 1000 if code == 1005 else code, "reason": reason})

    def resume(self) -> None:
        self._room.notify_all()
        if self._direct is not None:
            self._direct.resume()

    async def wait_idle(self) -> None:
        while self._outgoing or (self._direct is not None and self._direct.busy):
            await self._idle.wait()

    def _post(self, event: Message) -> None:
        if self._gone:
            return
        if self._direct is not None:
            self._direct.post(event)
            return
        self._outgoing.append(event)
        if len(self._outgoing) == 1:
            assert self.nursery is not None
            self.nursery.start_soon(self._send_outgoing, name="trio_ws sender")

    async def _send_outgoing(self) -> None:
        with trio.CancelScope() as self._sending:
            while self._outgoing:
                event = self._outgoing[0]
                try:
                    await self._send_event(event)
                except trio.BrokenResourceError as exc:
                    self._outgoing.clear()
                    left = self.send_failed(exc)
                else:
                    self._outgoing.popleft()
                    left = self.sent(event)
                if left is not None:
                    self._take(left)
        self._outgoing.clear()
        self._idle.notify_all()

    # -- for HostPort -------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether there is room for more messages from the host."""
        return self.ws is None or self.ws.has_room

    def received(self, event: Message) -> Message | None:
        """Handle an event of the host if it is a message; otherwise return an event for `pump`.

        `HANDLED` is returned if nothing else is to do, and there is room for the next message.
        """
        ws = self.ws
        if event["type"] != "websocket.receive" or ws is None:
            return event
        text = event.get("text")
        if ws.message_received(bytes(event.get("bytes") or b"") if text is None else text):
            return HANDLED
        return _VIOLATED if ws.has_events else None

    def sent(self, event: Message) -> Message | None:
        """Handle that the host has accepted an event; after a Close, return the event for `pump`."""
        self._idle.notify_all()
        if event["type"] == "websocket.send" and self.ws is not None:
            self.ws.sent(len(event["bytes"] if event["text"] is None else event["text"]))
        return event if event["type"] == "websocket.close" else None

    def send_failed(self, exc: Exception) -> Message | None:
        """Handle that the host has failed to send; return an event for `pump`."""
        self._idle.notify_all()
        if not isinstance(exc, OSError | trio.BrokenResourceError):
            self.failure = self.failure or exc
        return {"type": _FAILED, "cause": trio.BrokenResourceError(str(exc))}


def _lowered(
    headers: Iterable[tuple[bytes, bytes]], leave_out: Iterable[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    """Return headers in ASGI's format, without some."""
    fields = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    return [(name, value) for name, value in fields if name not in leave_out]


def _host(scope: Scope) -> bytes:
    """Return the value for a Host header that the client did not send."""
    server = scope.get("server")
    if not server or server[1] is None:
        return b"localhost"
    host, port = server
    return f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()


def _target(scope: Scope) -> str:
    """Return path and query relative to the mount point, in their original encoding if it is known."""
    path = _below(scope["path"], scope.get("root_path") or "")
    raw = bytes(scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    target = quote(path, safe=_VISIBLE.replace("%", "").replace("?", "").replace("#", ""))
    for prefix in (scope.get("root_path") or "", quote(scope.get("root_path") or "")):
        rest = _below(raw, prefix)
        if unquote(rest) == path and all(char in _VISIBLE for char in rest):
            target = rest
    query = quote(bytes(scope.get("query_string") or b""), safe=_VISIBLE)
    return f"{target}?{query}" if query else target


def _below(path: str, root: str) -> str:
    """Return a path relative to a mount point; unchanged if it is not below it."""
    root = root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path or "/"
