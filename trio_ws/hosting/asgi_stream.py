"""Gateways: one ASGI connection, seen as the byte stream of a client that speaks HTTP/1.1.

The server under an ASGI server is the same that listens on sockets: a gateway plays its client. It writes
the scope as an opening request and messages as frames, and reads answers and frames back as ASGI events. So
there is one implementation of everything, and what a handler sees does not depend on who accepted the client.

What always holds:

- Messages pass whole and in order. What waits here is less than one read and one message each way: we ask
  the ASGI server for more when the last was taken, and a send of ours waits as long as the ASGI server does.
- The closing handshake and pongs are the ASGI server's business. A Close of ours is answered here once the
  ASGI server has taken it; how the client went becomes the Close frame, or the end, that our side reads.
- Nothing the ASGI server hands over can smuggle a line into the request: h11 writes and checks it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import h11
import trio
from trio.lowlevel import checkpoint

from trio_ws.errors import CloseFrame, check_close
from trio_ws.protocol._accel import frame_head
from trio_ws.protocol.frames import BINARY, CLOSE, FIN, PONG, TEXT, FrameReader, Ping
from trio_ws.protocol.framing import close_payload
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.transport import READ_SIZE

__all__ = ["ASGIStream", "HTTPStream", "Receive", "Scope", "Send", "WebSocketStream"]

Scope: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

# What belongs to one hop of HTTP/1.1, and what the client's part of a handshake is made of anew.
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
    # Only the ASGI server's own key goes over the wire.
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]
_NO_MASK = b"\0\0\0\0"  # frames of a client are masked (RFC 6455 section 5.3); this mask changes nothing
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


class ASGIStream(trio.abc.Stream):
    """See the module's text; the kinds of scope have a subclass each.

    `pump` has to run beside whoever reads and writes the stream.

    Attributes:
        failure: what ``send`` of the ASGI server has raised, for whoever made the call; else None.
    """

    _prefix = ""  # of the ASGI events that answer with HTTP

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.remote_address = tuple(scope["client"]) if scope.get("client") else None
        self.scheme = "https" if scope.get("scheme") in ("https", "wss") else "http"
        self._asgi_receive = receive
        self._asgi_send = send
        self.failure: Exception | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._unread = bytearray()  # what the server is to read
        self._ended = False  # nothing more is to come behind it
        self._gone = False  # the client is; what is sent to it goes nowhere
        self._closed = False
        self._answered = False  # with a whole HTTP response
        self._arrived = Notification()
        self._room = Notification()
        self._pumping = trio.CancelScope()
        self._sending: trio.CancelScope | None = None

    # -- from the ASGI server -----------------------------------------------------------------------

    async def pump(self) -> None:
        """Take what the ASGI server has, until the client is gone or the stream closed."""
        with self._pumping:
            await self._begin()
            while not self._ended:
                if len(self._unread) < READ_SIZE:
                    self._take(await self._asgi_receive())
                else:
                    await self._room.wait()

    async def _begin(self) -> None:
        raise NotImplementedError

    def _take(self, event: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _request(self, method: str, more: list[tuple[bytes, bytes]]) -> None:
        """Write the opening request."""
        scope = self.scope
        fields = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        kept = [(name, value) for name, value in fields if name.lower() not in _NOT_FORWARDED]
        if not any(name.lower() == b"host" and value for name, value in kept):
            kept = [item for item in kept if item[0].lower() != b"host"]
            kept.append((b"Host", _host(scope)))
        try:
            request = h11.Request(method=method, target=_target(scope), headers=[*kept, *more])
            self._put(self._http.send(request) or b"")
        except h11.LocalProtocolError:
            # No request can be made of this, so the server gets what it answers with 400.
            self._http.send(h11.Request(method="GET", target="/", headers=[(b"Host", b"localhost")]))
            self._put(b"\r\n\r\n")

    def _put(self, data: bytes, *, end: bool = False) -> None:
        self._unread += data
        self._ended = self._ended or end
        self._arrived.notify_all()

    # -- to the ASGI server -------------------------------------------------------------------------

    async def _say(self, event: dict[str, Any]) -> None:
        if self._gone:
            await checkpoint()
            return
        try:
            await self._asgi_send(event)
        except OSError as exc:  # the client has gone, by ASGI 2.4
            raise trio.BrokenResourceError(str(exc)) from exc
        except Exception as exc:
            self.failure = exc
            raise trio.BrokenResourceError("the ASGI server has failed") from exc

    async def _answer(self, data: bytes) -> None:
        """Pass on what came of an HTTP response."""
        self._http.receive_data(data)
        body: list[bytes] = []
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                await self._start(event)
            elif isinstance(event, h11.InformationalResponse):
                await self._switch(event)
                return
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            else:
                break
        self._answered = isinstance(event, h11.EndOfMessage)
        if body or self._answered:
            await self._body(b"".join(body), more=not self._answered)

    async def _start(self, response: h11.Response) -> None:
        over_http_1 = str(self.scope.get("http_version", "1.1")).startswith("1")
        # A 426 over HTTP/1.1 names what to upgrade to; HTTP/2 knows no such header.
        headers = _lowered(response.headers, _HOP - {b"upgrade"} if over_http_1 else _HOP)
        await self._say({"type": f"{self._prefix}.start", "status": response.status_code, "headers": headers})

    async def _body(self, body: bytes, *, more: bool) -> None:
        await self._say({"type": f"{self._prefix}.body", "body": body, "more_body": more})

    async def _switch(self, response: h11.InformationalResponse) -> None:
        raise AssertionError("only a WebSocket switches protocols")

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
        self._pumping.cancel()
        if self._sending is not None:
            self._sending.cancel()
        self._arrived.notify_all()
        await checkpoint()


class HTTPStream(ASGIStream):
    """A plain HTTP request."""

    _prefix = "http.response"

    async def _begin(self) -> None:
        first = await self._asgi_receive()
        fields = [(bytes(name).lower(), bytes(value)) for name, value in self.scope["headers"]]
        framing = [(name, value) for name, value in fields if name == b"content-length"]
        if not framing and (first.get("body") or first.get("more_body")):
            framing = [(b"Transfer-Encoding", b"chunked")]
        self._request(self.scope["method"], framing)
        self._take(first)

    def _take(self, event: Mapping[str, Any]) -> None:
        if event["type"] != "http.request":
            self._gone = True
            self._put(b"", end=True)
        elif self._http.our_state is h11.SEND_BODY:
            try:
                self._put(self._http.send(h11.Data(data=bytes(event.get("body") or b""))) or b"")
                if not event.get("more_body"):
                    self._put(self._http.send(h11.EndOfMessage()) or b"")
            except h11.LocalProtocolError:  # not as long as its Content-Length
                self._put(b"", end=True)


class WebSocketStream(ASGIStream):
    """A WebSocket over HTTP/1.1, 2 or 3, as the ASGI server has it."""

    _prefix = "websocket.http.response"

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self._messages: list[str | bytes] = []
        self._frames: FrameReader | None = None  # once the server has accepted
        self._can_answer = self._prefix in (scope.get("extensions") or {})

    async def _begin(self) -> None:
        event = await self._asgi_receive()
        if event["type"] != "websocket.connect":  # it has gone already
            self._gone = True
            self._put(b"", end=True)
            return
        offers = ", ".join(self.scope.get("subprotocols") or ()).encode("latin-1")
        self._request("GET", [*_UPGRADE, (b"Sec-WebSocket-Protocol", offers)] if offers else _UPGRADE)
        self._http.send(h11.EndOfMessage())

    def _take(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "websocket.receive":
            text = event.get("text")
            if text is not None:
                # What is no text then is for our own reader to refuse.
                self._put_frame(FIN | TEXT, text.encode("utf-8", "surrogatepass"))
            else:
                self._put_frame(FIN | BINARY, bytes(event.get("bytes") or b""))
        elif event["type"] == "websocket.disconnect":
            self._gone = True
            self._put_close(event.get("code", 1005), event.get("reason") or "")

    def _put_frame(self, first: int, payload: bytes) -> None:
        self._put(frame_head(first, len(payload), 0x80) + _NO_MASK + payload)

    def _put_close(self, code: int | None, reason: str) -> None:
        """The client's Close frame; where it sent none (1006, and what no frame may carry), just the end."""
        if self._ended:
            return
        try:
            if code is not None and code != 1005:
                check_close(code, reason)
            self._put_frame(FIN | CLOSE, close_payload(1005 if code is None else code, reason))
        except (TypeError, ValueError):
            pass
        self._put(b"", end=True)

    async def _start(self, response: h11.Response) -> None:
        if self._can_answer:
            await super()._start(response)
        else:
            await self._say({"type": "websocket.close"})  # which the ASGI server turns into a 403

    async def _body(self, body: bytes, *, more: bool) -> None:
        if self._can_answer:
            await super()._body(body, more=more)

    async def _switch(self, response: h11.InformationalResponse) -> None:
        named = dict(_lowered(response.headers))
        subprotocol = named.get(b"sec-websocket-protocol")
        await self._say(
            {
                "type": "websocket.accept",
                "subprotocol": None if subprotocol is None else subprotocol.decode("ascii"),
                "headers": _lowered(response.headers, _NOT_FORWARDED),
            }
        )
        self._frames = FrameReader(self._messages, client=True, max_message_size=None)
        trailing = self._http.trailing_data[0]
        if trailing:
            await self._write(trailing)

    async def _write(self, data: bytes) -> None:
        frames = self._frames
        if frames is None:
            await super()._write(data)
            return
        frames.feed(data)
        messages = self._messages[:]
        self._messages.clear()
        for message in messages:
            text, binary = (message, None) if isinstance(message, str) else (None, message)
            await self._say({"type": "websocket.send", "text": text, "bytes": binary})
        events, frames.events = frames.events, []
        for event in events:
            if isinstance(event, Ping):
                self._put_frame(FIN | PONG, event.payload)
            elif isinstance(event, CloseFrame):
                code = 1000 if event.code == 1005 else event.code
                await self._say({"type": "websocket.close", "code": code, "reason": event.reason})
                self._put_close(event.code, "")


def _lowered(
    headers: Iterable[tuple[bytes, bytes]], leave_out: Iterable[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them."""
    fields = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    return [(name, value) for name, value in fields if name not in leave_out]


def _host(scope: Scope) -> bytes:
    """What stands for a Host header that the client did not send."""
    server = scope.get("server")
    if not server or server[1] is None:
        return b"localhost"
    host, port = server
    return f"[{host}]:{port}".encode() if ":" in host else f"{host}:{port}".encode()


def _target(scope: Scope) -> str:
    """Path and query below where the application is mounted, as they came wherever that is known."""
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
    """The rest of a path below a mount; the whole of one that does not lie there."""
    root = root.rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return path or "/"
