"""WebSocket: one connection as its user sees it. The machine underneath is in endpoint.py.

What always holds: each method either waits or checks for cancellation; a cancellation loses no message and
sends no part of one; ``send`` of one task never ends up inside a message of another.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any, TypeVar, overload

import msgspec
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from trio_ws.errors import CloseFrame, MessageError, check_close
from trio_ws.websocket.endpoint import CLOSED, CLOSING, CONNECTING, OPEN, Endpoint
from trio_ws.websocket.message import WebSocketMessage, control_payload, decode_json
from trio_ws.websocket.opening import answer_refusal, answer_upgrade
from trio_ws.websocket.parts import MessageParts
from trio_ws.wire.frames import (
    BINARY,
    CONTINUATION,
    FIN,
    PING,
    PONG,
    RSV1,
    TEXT,
    frame_head,
    masked_frame,
    server_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws.options import Options
    from trio_ws.websocket.service import Service
    from trio_ws.websocket.transport import Transport
    from trio_ws.wire.deflate import PerMessageDeflate
    from trio_ws.wire.http import Headers, Request

__all__ = ["WebSocket"]

T = TypeVar("T")
BytesLike = bytes | bytearray | memoryview
Data = str | BytesLike | WebSocketMessage | AsyncIterable[str] | AsyncIterable[BytesLike]

#: A server sends payloads of at least this many bytes beside their header instead of joined to it.
_LARGE = 16 * 1024
#: Sends in a row that needed no wait, after which a sender gives way to other tasks: corked ones count one
#: each, and those with a system call thirty-two.
_SENDS_IN_A_ROW = 1024
_DIRECT_SEND = 32
_FINAL_BINARY = FIN | BINARY

_encode_json = msgspec.json.Encoder().encode


class WebSocket(Endpoint, trio.abc.Channel[WebSocketMessage]):
    """One WebSocket connection (RFC 6455), a server's or a client's. Made by `connect` and by servers.

    It is a `trio.abc.Channel` of `WebSocketMessage` and an async iterator. Any number of tasks may send, and
    several may receive; each message goes to one of them.

    Raises:
        ConnectionClosedError: by every method that needs an open connection, once the peer has closed it or
            it broke. It is a `trio.BrokenResourceError`, and after our own `close` also a
            `trio.ClosedResourceError`.

    Attributes:
        path_params: what the route's pattern took from the path; empty without a route.
    """

    __slots__ = (
        "_fragmenting",
        "_offered",
        "_parts_open",
        "_request",
        "_response_headers",
        "_subprotocol",
        "_trailing",
        "_unyielded",
        "path_params",
    )

    def __init__(
        self,
        transport: Transport,
        service: Service,
        options: Options,
        *,
        client: bool,
        request: Request,
        subprotocols: tuple[str, ...] = (),
        trailing: bytes = b"",
    ) -> None:
        super().__init__(transport, service, options, client=client)
        self._request = request
        self._trailing = trailing  # what came behind the request
        self._offered = subprotocols  # those that an implicit accept() may choose from
        self._subprotocol: str | None = None
        self._response_headers: Headers | None = None
        self._fragmenting: trio.Lock | None = None  # held while one message goes out in fragments
        self._parts_open = False  # a message was begun by recv_streaming() and is not at its end
        self._unyielded = 0  # sends since one of them last gave way to other tasks
        self.path_params: dict[str, Any] = {}

    # -- receiving ----------------------------------------------------------------------------------

    async def recv(self) -> WebSocketMessage | None:
        """Wait for the next message.

        Returns:
            The message, or None once the peer has closed cleanly (with code 1000, 1001 or none).

        Raises:
            ConnectionClosedError: the connection ended in any other way.

        A cancellation loses no message.
        """
        # The common cases of _next(), a message that is here and one that a single read brings, without its
        # coroutine, which would be made for each message and kept while none comes. __anext__ has the same.
        inbox = self._inbox
        if inbox:
            await checkpoint_if_cancelled()
        elif self._state == OPEN and not (
            self._outbox.corked or self._parts_open or self._paused or self._violation
        ):
            self._queued = 0
            await self._advance()
            self._unyielded = 0
        if inbox and not self._parts_open and not self._paused:
            item = inbox.popleft()
        else:
            next_item = await self._next()
            if next_item is None:
                return None
            item = next_item
        return WebSocketMessage("text" if type(item) is str else "binary", item)

    async def receive(self) -> WebSocketMessage:
        """As `recv`, but raises `trio.EndOfChannel` where that returns None, as trio's channels do."""
        message = await self.recv()
        if message is None:
            raise trio.EndOfChannel
        return message

    async def __anext__(self) -> WebSocketMessage:
        inbox = self._inbox
        if inbox:
            await checkpoint_if_cancelled()
        elif self._state == OPEN and not (
            self._outbox.corked or self._parts_open or self._paused or self._violation
        ):
            self._queued = 0
            await self._advance()
            self._unyielded = 0
        if inbox and not self._parts_open and not self._paused:
            item = inbox.popleft()
        else:
            next_item = await self._next()
            if next_item is None:
                raise StopAsyncIteration
            item = next_item
        return WebSocketMessage("text" if type(item) is str else "binary", item)

    async def receive_text(self) -> str:
        """Wait for the next message, which must be text.

        Raises:
            MessageError: it is binary; ``error.message`` has it.
            ConnectionClosedError: the connection ended, cleanly or not.
        """
        item = await self._next_or_raise()
        if isinstance(item, str):
            return item
        raise MessageError("expected a text message and got a binary one", WebSocketMessage("binary", item))

    async def receive_bytes(self) -> bytes:
        """Wait for the next message, which must be binary. Raises as `receive_text` does."""
        item = await self._next_or_raise()
        if isinstance(item, bytes):
            return item
        raise MessageError("expected a binary message and got a text one", WebSocketMessage("text", item))

    @overload
    async def receive_json(self) -> Any: ...
    @overload
    async def receive_json(self, type: type[T]) -> T: ...
    async def receive_json(self, type: Any = Any) -> Any:
        """Wait for the next message, text or binary, and decode it as JSON straight into ``type`` by msgspec.

        Raises:
            MessageError: it is no JSON, or not of that type; the text has the path to the bad value.
            ConnectionClosedError: the connection ended, cleanly or not.
        """
        return decode_json(await self._next_or_raise(), type)

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Iterate over the parts of one message as they arrive: ``str`` of text, ``bytes`` of a binary one.

        A part is what has come so far, not a fragment as the peer cut it. ``max_message_size`` holds for the
        whole message. Once the peer has closed cleanly, the iteration ends without a part.

        A cancellation between parts loses none: another `recv_streaming` goes on in the same message. Until
        that message is at its end, the other ways to receive raise `MessageError`.

        Raises:
            ConnectionClosedError: the connection ended within the message, or not cleanly.
        """
        return MessageParts(self)

    async def _next(self) -> str | bytes | None:
        """The next message's payload; None after a clean end."""
        if self._parts_open:
            raise MessageError("a message is half received; finish it by iterating over recv_streaming()")
        inbox = self._inbox
        if inbox:
            await checkpoint_if_cancelled()
        else:
            waited = False
            while not inbox:
                if self._outbox.corked:
                    self._outbox.flush()
                if self._state == OPEN and not self._paused and self._violation is None:
                    self._queued = 0
                    await self._advance()
                elif not await self._more(waited=waited):
                    return None
                waited = True
            self._unyielded = 0
        item = inbox.popleft()
        if self._paused and not inbox:
            self._emptied()
        return item

    async def _more(self, *, waited: bool = False) -> bool:
        """With the inbox empty, wait for something to come; False after a clean end.

        Args:
            waited: the caller did so before, so that the end needs no checkpoint of its own.
        """
        self._emptied()
        if self._violation is not None:
            self._fail_now()
        if self._state == OPEN:
            await self._advance()
        elif self._state == CONNECTING:
            await self.accept()
        elif not self._no_more_messages:
            await self._advance()
        else:
            if not waited:
                await checkpoint()
            if self._ended_cleanly:
                return False
            raise self._closed_error()
        return True

    async def _next_part(self) -> str | bytes | None:
        """What has come of the next message, or of the one that was begun; None after a clean end."""
        while True:
            if self._inbox:
                await checkpoint_if_cancelled()
                self._parts_open = False
                return self._inbox.popleft()
            part = self._frames.take_part() if self._frames is not None else None
            if part:
                self._parts_open = True
                return part
            if not await self._more():
                if self._parts_open:
                    raise self._closed_error()
                return None

    async def _next_or_raise(self) -> str | bytes:
        item = await self._next()
        if item is None:
            raise self._closed_error()
        return item

    # -- sending ------------------------------------------------------------------------------------

    async def send(self, value: Data) -> None:
        """Send one message: ``str`` as text, bytes-like as binary, a `WebSocketMessage` as what it says.

        An async iterable of ``str`` or of bytes-like becomes one fragmented message (RFC 6455 section 5.4),
        a fragment for each item; other senders wait until it is at its end.

        Waits while more than ``send_high_water`` bytes are still to be written. Cancelled while it waits, it
        has sent nothing; it cannot be cancelled in the middle of a frame. If the iterable raises, or is
        cancelled, after its first item, the message cannot be finished and the connection closes with 1011.

        Raises:
            ConnectionClosedError: the connection is closed.
            TypeError: ``value`` is of no such type; for other objects there is `send_json`.
        """
        data: Data = value
        if type(data) is WebSocketMessage and (data.msg_type == "binary" or data.msg_type == "text"):
            data = data.payload
        if type(data) is bytes:
            outbox = self._outbox
            if outbox.size < self._plain_room and len(data) < _LARGE and self._unyielded < _SENDS_IN_A_ROW:
                # The common case of _send(), without its coroutine.
                await checkpoint_if_cancelled()
                if self._inbox:
                    self._unyielded += 1
                    outbox.cork(server_frame(_FINAL_BINARY, data))
                    return
                self._unyielded += _DIRECT_SEND
                outbox.write(server_frame(_FINAL_BINARY, data))
                if outbox.broken:
                    raise self._closed_error()
                return
            await self._send(BINARY, data)
        elif type(data) is str:
            await self._send(TEXT, data.encode())
        elif isinstance(data, WebSocketMessage):
            await self._send_control(data)
        elif isinstance(data, str):
            await self._send(TEXT, data.encode())
        elif isinstance(data, BytesLike):
            await self._send(BINARY, bytes(data))
        elif isinstance(data, AsyncIterable):
            await self._send_fragments(data)
        else:
            raise TypeError(
                "send() takes str, bytes-like, a WebSocketMessage or an async iterable, not"
                f" {type(data).__name__}; for other objects use send_json()"
            )

    async def send_text(self, text: str) -> None:
        """Send a text message. Waits, raises and is cancelled as `send`."""
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"send_text() takes a str, not {kind}; for bytes use send_binary()")
        await self._send(TEXT, text.encode())

    async def send_binary(self, data: BytesLike) -> None:
        """Send a binary message. Waits, raises and is cancelled as `send`."""
        if not isinstance(data, BytesLike):
            raise TypeError(
                f"send_binary() takes bytes-like, not {type(data).__name__}; for str use send_text()"
            )
        await self._send(BINARY, bytes(data))

    async def send_bytes(self, data: BytesLike) -> None:
        """The same as `send_binary`."""
        await self.send_binary(data)

    async def send_json(self, obj: Any) -> None:
        """Send ``obj`` as JSON text, encoded by msgspec. Waits and is cancelled as `send`.

        Raises:
            TypeError: msgspec cannot encode it; nothing was sent.
        """
        await self._send(TEXT, _encode_json(obj))

    async def _send(self, opcode: int, payload: bytes) -> None:
        await checkpoint_if_cancelled()
        outbox = self._outbox
        # One test for everything that is not the ordinary case.
        if self._state != OPEN or self._fragmenting or outbox.size >= self._options.send_high_water:
            await self._wait_for_room()
        first = FIN | opcode
        deflate = self._deflate
        if deflate is not None and len(payload) >= self._threshold:
            payload = deflate.compress(payload, fin=True)
            first |= RSV1
        if self._client:
            frame = masked_frame(first, payload)
        elif len(payload) < _LARGE:
            frame = server_frame(first, payload)
        else:
            outbox.write_pair(frame_head(first, len(payload)), payload)
            frame = b""
        if self._inbox and frame:
            # More input of the same burst is at hand, so more output is to be expected: gather it.
            outbox.cork(frame)
            self._unyielded += 1
        else:
            if frame:
                outbox.write(frame)
            if outbox.broken:
                raise self._closed_error()
            self._unyielded += _DIRECT_SEND
        if self._unyielded >= _SENDS_IN_A_ROW:
            self._unyielded = 0
            await cancel_shielded_checkpoint()  # the message is out: a cancellation waits for the next call

    async def _wait_for_room(self, *, fragment: bool = False) -> None:
        """Wait until the connection is open, no fragmented message is under way, and there is room."""
        while True:
            if self._state == CONNECTING:
                await self.accept()
            if self._state != OPEN:
                await checkpoint()
                raise self._closed_error()
            if self._fragmenting is not None and not fragment:
                async with self._fragmenting:
                    pass
            elif self._outbox.size >= self._options.send_high_water:
                self._outbox.flush()
                if self._outbox.size >= self._options.send_high_water:
                    await self._outbox.room.wait()
            else:
                return

    async def _send_control(self, message: WebSocketMessage) -> None:
        payload = message.payload
        if message.close_code is not None:
            await self.close(message.close_code, str(payload))
            return
        await checkpoint_if_cancelled()
        await self._wait_for_room(fragment=True)
        opcode = PING if message.is_ping() else PONG
        self._outbox.write_control(self._frame(FIN | opcode, _as_bytes(payload)))

    async def _send_fragments(self, items: AsyncIterable[str] | AsyncIterable[BytesLike]) -> None:
        await self._wait_for_room()
        lock = self._fragmenting = trio.Lock()
        self._plain_room = 0
        opcode = CONTINUATION
        kind = ""
        finished = False
        try:
            async with lock:
                async for item in items:
                    if not isinstance(item, str | BytesLike):
                        raise TypeError(f"a fragment is str or bytes-like, not {type(item).__name__}")
                    if kind and (kind == "str") is not isinstance(item, str):
                        raise TypeError("the fragments of one message are all str or all bytes-like")
                    await self._wait_for_room(fragment=True)
                    if not kind:
                        kind = "str" if isinstance(item, str) else "bytes"
                        opcode = TEXT if kind == "str" else BINARY
                    self._send_fragment(opcode, _as_bytes(item), fin=False)
                    opcode = CONTINUATION
                    await cancel_shielded_checkpoint()
                if kind:
                    if self._state != OPEN:
                        raise self._closed_error()
                    self._send_fragment(CONTINUATION, b"", fin=True)
                finished = True
        finally:
            self._fragmenting = None
            self._set_plain_room()
            if kind and not finished:
                self._start_close(1011, "a fragmented message was not finished")
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    def _send_fragment(self, opcode: int, payload: bytes, *, fin: bool) -> None:
        first = opcode | (FIN if fin else 0)
        if self._deflate is not None:
            payload = self._deflate.compress(payload, fin=fin)
            first |= RSV1 if opcode != CONTINUATION else 0
        self._outbox.write(self._frame(first, payload))

    async def ping(self, payload: BytesLike | str | None = None) -> float:
        """Send a ping and wait for its pong (RFC 6455 section 5.5.2).

        Args:
            payload: at most 125 bytes; by default four random ones.

        Returns:
            Seconds from here to there and back.

        Raises:
            ConnectionClosedError: the connection ended before the pong came.
            ValueError: the payload is too long, or a ping with this payload is under way.

        Cancelled, it waits no more; the pong is ignored when it comes.
        """
        await checkpoint_if_cancelled()
        if payload is None:
            payload = os.urandom(4)
        data = control_payload("a ping", payload.encode() if isinstance(payload, str) else payload)
        if self._pings is not None and data in self._pings:
            raise ValueError(f"a ping with payload {data!r} is under way; use another payload")
        await self._wait_for_room(fragment=True)
        sent = trio.current_time()
        self._send_ping(data)
        while self._pings is not None and data in self._pings:
            if self._close_received is not None:
                raise self._closed_error()
            await self._advance()
        if self._pings is None:
            raise self._closed_error()
        return trio.current_time() - sent

    def _opened(
        self,
        subprotocol: str | None,
        response_headers: Headers,
        deflate: PerMessageDeflate | None,
        trailing: bytes,
    ) -> None:
        """As a client, the handshake was answered."""
        self._subprotocol = subprotocol
        self._response_headers = response_headers
        self._open(deflate, trailing)

    # -- opening, on servers ------------------------------------------------------------------------

    async def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Accept the client (RFC 6455 section 4.2.2). Sending or receiving does it where this was not called.

        Args:
            subprotocol: one of those that the client offered. Default: the first of the server's own list
                that it offered, or none.
            headers: more response headers.

        Raises:
            RuntimeError: it was accepted or rejected already.
            ValueError: the client did not offer that subprotocol, or a header is not legal.
        """
        await checkpoint_if_cancelled()
        self._check_connecting("accept")
        answer, self._subprotocol, deflate = answer_upgrade(
            self._request, subprotocol, self._offered, headers, self._options
        )
        self._outbox.write(answer)
        if self._outbox.broken:
            raise self._closed_error()
        trailing, self._trailing = self._trailing, b""
        self._open(deflate, trailing)

    async def reject(
        self, status: int = 403, headers: Iterable[tuple[str, str]] = (), body: bytes | str = b""
    ) -> None:
        """Refuse the client with an HTTP response (RFC 6455 section 4.2.2), and close the connection.

        Args:
            status: an HTTP status from 200 to 599.
            headers: the response headers; Content-Length and Connection are added.
            body: the response body; text is sent as UTF-8.

        Raises:
            RuntimeError: it was accepted or rejected already.
        """
        await checkpoint_if_cancelled()
        self._check_connecting("reject")
        response = answer_refusal(status, headers, body)
        self._closed_locally = True
        self._refuse(response)

    def _check_connecting(self, what: str) -> None:
        if self._state != CONNECTING:
            if self._frames is None and not self._closed_locally:
                raise self._closed_error()  # by a server that goes away
            raise RuntimeError(f"{what}() comes once, before anything else")

    def _refuse(self, response: bytes) -> None:
        self._outbox.write(response)
        self._state = CLOSING
        self._service.keepalive.closing(self)
        self._outbox.close_when_empty()
        if not self._outbox.stuck:
            self._end(None)

    def _go_away(self, code: int, reason: str) -> None:
        """The server stops, and says so in whatever state the connection is."""
        if self._state == CONNECTING:
            self._refuse(answer_refusal(503, [("Retry-After", "1")], "the server is going away\n"))
        elif self._owner is not None:
            self._owner.go_away(code, reason)
        else:
            self._start_close(code, reason)

    # -- closing ------------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake (RFC 6455 section 7.1.2), in at most ``close_timeout`` seconds.

        Messages that were received and not yet taken are dropped, unless the peer was the one to close.
        Closing again is fine and waits for the same end. A connection that was not yet accepted is rejected
        with 403.

        Cancelled, it closes the transport at once: what is lost is the grace, never the closing.

        Args:
            code: 1000, or another that may be sent (section 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        check_close(code, reason)
        if self._state == CLOSED:
            # What the peer sent before it closed stays, for whoever comes to take it.
            await self._transport.wait_closed()
            return
        if self._state == CONNECTING:
            try:
                await self.reject()
            except BaseException:
                self._end(None)
                raise
        self._begin_close(code, reason)
        # A peer that broke the protocol may be unable to end the handshake, so it gets less time.
        failed = self._frames is not None and self._frames.done and self._close_received is None
        grace = min(1.0, self._options.close_timeout) if failed else self._options.close_timeout
        try:
            with trio.move_on_after(grace) as scope:
                while self._state != CLOSED:
                    await self._advance()
            if scope.cancelled_caught:
                self._close_timed_out()
        finally:
            self._end(None)
        await self._transport.wait_closed()

    async def aclose(self) -> None:
        """The same as ``close()``, under the name that trio's resources have."""
        await self.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, in whatever way. Messages stay where they are."""
        await checkpoint_if_cancelled()
        if self._state == CONNECTING:
            await self.accept()
        while self._state != CLOSED:
            if await self._advance() and self._state != CLOSED:
                # Others waited for what was just read: the next read is theirs.
                await self._arrived.wait()

    # -- state --------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Open for sending and receiving."""
        return self._state == OPEN

    @property
    def accepted(self) -> bool:
        """The opening handshake was completed, whatever came after."""
        return self._frames is not None

    @property
    def closed(self) -> bool:
        """At its end: nothing can come or go any more."""
        return self._state == CLOSED

    @property
    def close_code(self) -> int | None:
        """What the peer's Close frame said, else what ours did, else 1006; None before the end begins."""
        if self._state < CLOSING:
            return None
        return (self._close_received or self._close_sent or CloseFrame(1006, "")).code

    @property
    def close_reason(self) -> str | None:
        """The text beside `close_code`."""
        if self._state < CLOSING:
            return None
        return (self._close_received or self._close_sent or CloseFrame(1006, "")).reason

    @property
    def close_sent(self) -> CloseFrame | None:
        """The Close frame that we sent."""
        return self._close_sent

    @property
    def close_received(self) -> CloseFrame | None:
        """The Close frame that the peer sent."""
        return self._close_received

    @property
    def peer_closed_first(self) -> bool:
        """Whether the closing handshake began with the peer's Close frame."""
        return self._peer_closed_first

    @property
    def subprotocol(self) -> str | None:
        """What both sides agreed on, or None (RFC 6455 section 1.9)."""
        return self._subprotocol

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping, ours or keepalive's, took there and back; None before the first."""
        return self._latency

    @property
    def local_address(self) -> Any:
        """This side's socket address, or None where the stream has none."""
        return self._transport.local_address

    @property
    def remote_address(self) -> Any:
        """The peer's socket address, or None where the stream has none."""
        return self._transport.remote_address

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._outbox.size

    # -- the request --------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """The client's opening request."""
        return self._request

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return self._request.path

    @property
    def query_string(self) -> str:
        """The request's query as it was sent, without the question mark."""
        return self._request.query_string

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The request's query, decoded; a name may stand there more than once."""
        return self._request.query_params

    @property
    def headers(self) -> Headers:
        """All request headers, in order, duplicates kept."""
        return self._request.headers

    @property
    def response_headers(self) -> Headers | None:
        """On a client, all headers of the server's answer; None on a server."""
        return self._response_headers

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first request header of that name, in any case."""
        return self._request.header(name, default)

    def __repr__(self) -> str:
        state = ("connecting", "open", "closing", "closed")[self._state]
        role = "client" if self._client else "server"
        return f"<WebSocket {role} {state} {self._request.path!r} peer={self.remote_address!r}>"


def _as_bytes(payload: BytesLike | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else bytes(payload)
