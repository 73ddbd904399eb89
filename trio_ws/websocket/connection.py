"""WebSocket: the public class of a connection, composed of parts that each own some of its state.

`ClosingHandshake` (closing.py) owns the state of the connection and the closing handshake. `ReceiveBuffer`
owns the messages that were read, and `WriteBuffer` the frames that wait to be written. `Reader` (readers.py)
reads from the transport into the receive buffer. `Liveness` (liveness.py) owns the pings, and handles control
frames. `Opening` (opening.py) owns what is needed until the client is accepted.

Invariants:

- Each async method either waits or checks for cancellation.
- A cancellation loses no message and no part of one, and sends no part of one.
- A message that one task sends is never written inside a fragmented message of another.
- `accept` or `reject` succeeds once. `close` returns within ``close_timeout``, and at once when cancelled.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled, reschedule

from trio_ws._types import ANY_VALUE
from trio_ws.decoding import decode_json
from trio_ws.errors import CloseFrame, ConnectionClosedError, MessageError, check_close
from trio_ws.logs import logger_for, shown
from trio_ws.models import encode_model
from trio_ws.protocol.frames import BINARY, CONTINUATION, FIN, PING, PONG, RSV1, TEXT
from trio_ws.protocol.framing import frame_pair, make_frame, masked_frame, server_frame
from trio_ws.protocol.handshake import offered_subprotocols
from trio_ws.protocol.http import adapter_of, comma_list
from trio_ws.protocol.masking import extension
from trio_ws.protocol.server_response import answer_refusal, answer_upgrade
from trio_ws.websocket._checkpoint import passed_checkpoint
from trio_ws.websocket._notify import WAKE, Notification
from trio_ws.websocket.closing import CLOSED, CLOSING, CONNECTING, OPEN, ClosingHandshake
from trio_ws.websocket.deferred_frame import DEFLATED_AT_ONCE, DeferredFrame
from trio_ws.websocket.fragmented_message import FragmentedMessage
from trio_ws.websocket.frame_log import log_extra, with_frame_logging
from trio_ws.websocket.liveness import Liveness
from trio_ws.websocket.message import (
    ENCODED_AT_ONCE,
    BytesLike,
    WebSocketMessage,
    encode_large,
    payload_bytes,
    raw_text,
    whole_message,
)
from trio_ws.websocket.message_stream import MessageStream
from trio_ws.websocket.opening import Opening, write_rejection
from trio_ws.websocket.readers import EPOLL, FULL_EPOLL, FULL_TASK, Reader
from trio_ws.websocket.receive_buffer import NO_MESSAGES, ReceiveBuffer, release
from trio_ws.websocket.write_buffer import LARGE, WriteBuffer, buffer_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from trio_ws._types import JSONObject, SocketAddress, Value
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.protocol.frames import Event
    from trio_ws.protocol.http import Headers, Request
    from trio_ws.protocol.tls import TLSInfo
    from trio_ws.websocket.message import MessageType
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["WebSocket"]

T = TypeVar("T")
Data = str | BytesLike | WebSocketMessage | AsyncIterable[str] | AsyncIterable[BytesLike]

logger = logger_for("trio_ws.websocket")

#: Each connection of this process has a number, for logs.
_numbers = itertools.count(1)

#: Sending this many bytes takes a few milliseconds, so `send` lets other tasks run first.
_HUGE = 512 * 1024
#: Consecutive sends without a wait, after which a sender lets other tasks run. A buffered send counts as one,
#: and a send with a system call as eight and one more for every 4 KiB. This is about a millisecond of echoes.
_SENDS_IN_A_ROW = 256
_DIRECT_SEND = 8
_BYTES_SHIFT = 12
_FINAL_BINARY = FIN | BINARY
_FINAL_TEXT = FIN | TEXT

_encode_json = msgspec.json.Encoder(enc_hook=encode_model).encode


#: The fast path of `WebSocket.send`, in C, if this task need neither be cancelled nor let others run: buffers
#: a small message while more received messages wait and a flush is due, or sends one while none of either
#: waits. Returns whether it has. It saves a fifth of the cost of an echo.
_send_at_once: Callable[[WebSocket, object], bool] | None = None


class WebSocket(trio.abc.Channel[WebSocketMessage]):
    """One WebSocket connection (RFC 6455), of a server or a client. `connect` and servers create these.

    It is a `trio.abc.Channel` of `WebSocketMessage` and an async iterator. Any number of tasks may send, and
    several may receive; each message goes to one of them.

    Raises:
        ConnectionClosedError: raised by every method that needs an open connection, after the peer has closed
            it or it was lost. It is a `trio.BrokenResourceError`, and after our own `close` also a
            `trio.ClosedResourceError`.
    """

    __slots__ = (
        "__weakref__",
        "_client",
        "_closing",
        "_deflate",
        "_fragmenting",
        "_liveness",
        "_number",
        "_opening",
        "_options",
        "_reader",
        "_receive_buffer",
        "_request",
        "_response_headers",
        "_runtime",
        "_sends_since_yield",
        "_subprotocol",
        "_threshold",
        "_transport",
        "_write_buffer",
    )

    def __init__(
        self,
        transport: Transport,
        runtime: ConnectionRuntime,
        options: Options,
        *,
        client: bool,
        request: Request,
        subprotocols: tuple[str, ...] = (),
        trailing: bytes = b"",
    ) -> None:
        self._number = next(_numbers)
        self._transport = transport
        self._runtime = runtime
        self._options = options
        self._client = client
        # The parts.
        self._receive_buffer = receive_buffer = ReceiveBuffer(options, client=client)
        self._write_buffer = write_buffer = self._make_write_buffer(transport, runtime)
        self._closing = closing = ClosingHandshake(self, receive_buffer, write_buffer, options, client=client)
        write_buffer.closing = closing
        self._reader = Reader(self, transport, receive_buffer, closing, runtime)
        self._liveness = Liveness(receive_buffer, write_buffer, closing)
        # The opening handshake.
        self._opening = None if client else Opening(subprotocols, trailing)
        self._request = request
        self._subprotocol: str | None = None
        self._response_headers: Headers | None = None
        # Sending.
        self._deflate: PerMessageDeflate | None = None
        self._threshold = 0  # the smallest payload that is compressed
        self._fragmenting: trio.Lock | None = None  # held while one message is sent in fragments
        self._sends_since_yield = 0  # sends since one of them, or a wait for input, last let other tasks run

    def _make_write_buffer(self, transport: Transport, runtime: ConnectionRuntime) -> WriteBuffer:
        return WriteBuffer(transport, runtime, client=self._client)

    # -- the opening handshake ----------------------------------------------------------------------

    def _came_early(self, data: bytes) -> None:
        """Keep bytes that came before the end of the opening handshake. Called by the reader."""
        if self._closing.state != CONNECTING or self._opening is None:
            return  # the client was rejected, but still sends
        limit = self._options.max_queue_bytes
        if not self._opening.keep(data, limit):
            logger.info("refused %r: more than max_queue_bytes (%d) came before it was let in", self, limit)
            self._reject_with(answer_refusal(413, (), "too much came before the WebSocket was open\n"))
            self._cancel_opening()

    def _cancel_opening(self) -> None:
        if self._opening is not None and self._opening.cancel():
            logger.info(
                "%r ended before it was let in: cancelling the code that serves it",
                self,
                extra=log_extra(self),
            )

    def _let_in(self) -> None:
        """Let the end of the connection cancel nothing any more."""
        if self._opening is not None and self._opening.leave() and self._closing.state != CONNECTING:
            self._opening = None

    def _opened(
        self,
        subprotocol: str | None,
        response_headers: Headers,
        deflate: PerMessageDeflate | None,
        trailing: bytes,
    ) -> None:
        """Open the connection of a client, after the server's response."""
        self._subprotocol = subprotocol
        self._response_headers = response_headers
        self._open(deflate, trailing)

    async def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Accept the client (RFC 6455 section 4.2.2). The first send or receive does this implicitly.

        Args:
            subprotocol: one of the subprotocols that the client offered. Default: the first of the server's
                own list that the client offered, or none.
            headers: more response headers.

        Raises:
            RuntimeError: the client was accepted or rejected already.
            SubprotocolError: the client did not offer that subprotocol. If a handler lets this propagate, the
                client is rejected with status 400. It is a ValueError.
            ValueError: a header is invalid.
            ConnectionClosedError: the client has left.
        """
        await checkpoint_if_cancelled()
        self._accept(subprotocol, headers)

    def _accept(self, subprotocol: str | None, headers: Iterable[tuple[str, str]]) -> None:
        opening = self._check_connecting("accept")
        answer, self._subprotocol, deflate = answer_upgrade(
            self._request, subprotocol, opening.offered, headers, self._options
        )
        self._write_buffer.write(answer)
        if self._write_buffer.broken:
            raise self._closing.closed_error()
        trailing, opening.trailing = opening.trailing, b""
        self._open(deflate, trailing)

    async def reject(
        self,
        status: int = 403,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | str | AsyncIterable[bytes | str] = b"",
    ) -> None:
        """Reject the client with an HTTP response (RFC 6455 section 4.2.2), and close the connection.

        Args:
            status: an HTTP status from 200 to 599. Default 403.
            headers: the response headers; Content-Length and Connection are added.
            body: the response body, or an async iterable of its parts; text is sent as UTF-8.

        Raises:
            RuntimeError: the client was accepted or rejected already.
            ConnectionClosedError: the client has left.
        """
        await checkpoint_if_cancelled()
        self._check_connecting("reject")
        if isinstance(body, AsyncIterable):
            high_water = self._options.send_high_water
            await write_rejection(self._write_buffer, self._closing, high_water, status, headers, body)
            self._reject_with(b"")
            return
        response = answer_refusal(status, headers, body)
        self._closing.refuse_messages()
        self._reject_with(response)

    def _check_connecting(self, what: str) -> Opening:
        if self._closing.state != CONNECTING or self._opening is None:
            if not (self._receive_buffer.opened or self._closing.closed_locally):
                raise self._closing.closed_error()  # the server has shut down
            raise RuntimeError(f"{what}() was called too late: the client is accepted or rejected already")
        return self._opening

    def _reject_with(self, response: bytes) -> None:
        self._write_buffer.write(response)
        self._closing.rejected()

    def _open(self, deflate: PerMessageDeflate | None, trailing: bytes) -> None:
        """Open the connection after the opening handshake; ``trailing`` are bytes that came after it."""
        self._deflate = deflate
        if deflate is not None and self._options.deflate is not None:
            self._threshold = self._options.deflate.threshold
        transport = with_frame_logging(self, self._transport, self._write_buffer.size)
        self._receive_buffer.open(deflate, direct=transport.direct)
        self._transport = self._write_buffer.transport = self._reader.transport = transport
        self._closing.opened()
        if self._opening is not None and not self._opening.held:
            self._let_in()
        self._update_fast_send_limit()
        self._runtime.keepalive.register(self._liveness)
        self._reader.open(trailing, deflated=deflate is not None)

    # -- called by the parts ------------------------------------------------------------------------

    def _handle_events(self, events: list[Event]) -> bool:
        """Handle control frames and protocol violations that the reader found.

        Returns:
            Whether a task may have waited for a pong among them.
        """
        awaited = self._liveness.is_awaited
        if self._liveness.handle_events(events, self):
            self._runtime.keepalive.pong_received(self._liveness)
        return awaited

    def _start_close_timer(self) -> None:
        self._runtime.keepalive.start_close_timer(self._liveness)

    def _state_changed(self) -> None:
        self._reader.notify_input()
        if self._reader.observer is not None:
            self._reader.observer.state_changed()

    def _ended(self, last: bytes | None, *, opening: bool) -> None:
        """Release resources, because the state is CLOSED now."""
        self._runtime.keepalive.unregister(self._liveness)
        self._transport.close(last)
        self._liveness.pings = None
        self._reader.end()
        if self._reader.observer is not None:
            self._reader.observer.connection_lost()
        # The code that serves the client is cancelled, unless it rejected the client itself.
        held = self._opening is not None and self._opening.held
        if opening or (held and self._receive_buffer.opened):
            self._cancel_opening()

    def _log_extra(self) -> JSONObject:
        return {"connection": self._number, "peer": self._transport.peer_address}

    # -- for the other parts of the package ---------------------------------------------------------

    def _shutdown(self, code: int, reason: str) -> None:
        """Close or reject, because the server shuts down."""
        if self._closing.state == CONNECTING:
            self._reject_with(answer_refusal(503, [("Retry-After", "1")], "the server is going away\n"))
        elif self._reader.observer is not None:
            self._reader.observer.shutdown(code, reason)
        else:
            self._closing.start(code, reason)

    def _start_application_close(self, code: int, reason: str) -> None:
        """Start to close for the application, without waiting."""
        self._closing.start_locally(code, reason)
        if self._closing.closed_locally:
            self._receive_buffer.clear()
            self._reader.emptied()

    # -- receiving ----------------------------------------------------------------------------------

    async def recv(self, *, none_when_lost: bool = False, decode: bool = True) -> WebSocketMessage | None:
        """Wait for the next message.

        Args:
            decode: whether to decode text messages to ``str``. If False, their payload is UTF-8 bytes, and
                ``msg_type`` distinguishes them from binary messages. Default True.
            none_when_lost: return None after any end of the connection, not only after a clean close, so that
                code after a loop always runs. `close_code` tells the difference. Default False.

        Returns:
            The message, or None after the peer has closed cleanly (with code 1000, 1001 or none).

        Raises:
            ConnectionClosedError: the connection ended in any other way.

        A cancellation loses no message.
        """
        if none_when_lost or not decode:
            try:
                message = await self.recv()
            except ConnectionClosedError:
                if not none_when_lost:
                    raise
                return None
            if decode or message is None or not isinstance(message.payload, str):
                return message
            return WebSocketMessage("text", message.payload.encode())
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    async def receive(self) -> WebSocketMessage:
        """Like `recv`, but raise `trio.EndOfChannel` instead of returning None, like trio's channels."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def __anext__(self) -> WebSocketMessage:
        # The common cases of _next_message() inline: messages are here, or a single read brings one. This
        # saves a coroutine for each message, and its memory while a connection is idle.
        buffer = self._receive_buffer
        messages = buffer.messages
        if len(messages) > 1 and not buffer.parts_open and passed_checkpoint():
            # One of several. Only the last one may have to start a reader that has stopped.
            item = messages.popleft()
            return WebSocketMessage("text" if type(item) is str else "binary", item)
        reader, closing = self._reader, self._closing
        if closing.state == CONNECTING:
            await self.accept()
            messages = buffer.messages
        by = reader.by
        waited = False
        if messages:
            await checkpoint_if_cancelled()
        elif (
            closing.state == OPEN
            and by is not FULL_EPOLL
            and by is not FULL_TASK
            and not (buffer.parts_open or self._write_buffer.flush_scheduled or closing.deferred)
        ):
            release(buffer)
            messages = buffer.messages  # keep nothing alive that is empty
            await (reader.input_arrived.wait() if by is EPOLL else reader.wait_for_input())
            self._sends_since_yield = 0
            by = reader.by
            waited = True
        messages = buffer.messages
        if messages and not buffer.parts_open and by is not FULL_EPOLL and by is not FULL_TASK:
            item = messages.popleft()
        else:
            next_item = await self._next_message(waited=waited)
            if next_item is None:
                raise StopAsyncIteration
            item = next_item
        return WebSocketMessage("text" if type(item) is str else "binary", item)

    async def receive_text(self) -> str:
        """Wait for the next message, which must be text.

        Raises:
            MessageError: the message is binary; it is in ``error.message``. If a handler lets this propagate,
                the connection is closed with code 1002.
            ConnectionEndedError: the peer has closed cleanly. It is also a `trio.EndOfChannel`.
            ConnectionClosedError: the connection ended in any other way.
        """
        item = await self._next_or_raise()
        if isinstance(item, str):
            return item
        raise _wrong_kind("expected a text message and got a binary one", "binary", item)

    async def receive_bytes(self) -> bytes:
        """Wait for the next message, which must be binary. Raises like `receive_text`."""
        item = await self._next_or_raise()
        if isinstance(item, bytes):
            return item
        raise _wrong_kind("expected a binary message and got a text one", "text", item)

    @overload
    async def receive_json(self) -> Value: ...
    @overload
    async def receive_json(self, type: type[T]) -> T: ...
    async def receive_json(self, type: object = ANY_VALUE) -> Value:
        """Wait for the next message, text or binary, and decode it from JSON.

        Args:
            type: the type that msgspec decodes the message to. Default: any JSON value.

        Raises:
            MessageError: the message is not JSON, or not of this type; the text has the path to the invalid
                value.
            ConnectionEndedError, ConnectionClosedError: as for `receive_text`.
        """
        payload = await self._next_or_raise()
        return decode_json("message", payload, type, payload, adapter_of(self._request))

    def recv_streaming(self, *, fragments: bool = False) -> AsyncIterator[str | bytes]:
        """Iterate over the parts of one message as they arrive: ``str`` of text, ``bytes`` of a binary one.

        A part consists of the data that has arrived so far. ``max_message_size`` applies to the whole
        message. After the peer has closed cleanly, the iteration ends without a part.

        Args:
            fragments: yield each fragment as the peer sent it (RFC 6455 section 5.4), once it is complete.
                The fragments of a message that arrived before the first such call may be joined. Empty
                fragments are skipped, a character that is split belongs to the later fragment, and beyond
                1,024 waiting fragments the rest is joined. A proxy may fragment messages differently, and an
                ASGI server joins them.

        A cancellation loses no part: another `recv_streaming` continues in the same message. Until the end of
        that message, the other methods to receive raise `MessageError`.

        Raises:
            ConnectionClosedError: the connection ended within the message, or not cleanly.
        """
        if fragments:
            self._receive_buffer.ask_for_fragments()
        return MessageStream(self._receive_buffer, self._closing, self._wait_for_more, fragments=fragments)

    async def _next_message(self, *, waited: bool = False) -> str | bytes | None:
        """Wait for the next message and return its payload; None after a clean end.

        Args:
            waited: whether the caller has waited already, so that no checkpoint is needed.
        """
        buffer = self._receive_buffer
        if buffer.parts_open:
            raise MessageError("a message is half received; finish it by iterating over recv_streaming()")
        if buffer.messages:
            await checkpoint_if_cancelled()
        elif not await self._wait_for_message(waited=waited):
            return None
        item = buffer.messages.popleft()
        if not buffer.messages and self._reader.stopped:
            self._reader.emptied()
        return item

    async def _wait_for_message(self, *, waited: bool = False) -> bool:
        """Wait for a message, since none is here; return False after a clean end. See `_next_message`."""
        buffer, reader, closing = self._receive_buffer, self._reader, self._closing
        while not buffer.messages:
            if self._write_buffer.flush_scheduled:
                self._write_buffer.flush()
            if closing.state == OPEN and not reader.stopped and closing.deferred is None:
                buffer.release()
                await reader.wait_for_input()
            elif not await self._wait_for_more(waited=waited):
                return False
            waited = True
        self._sends_since_yield = 0
        return True

    async def _wait_for_more(self, *, waited: bool = False) -> bool:
        """Wait for input, since no message is here; return False after a clean end.

        Args:
            waited: whether the caller has waited before, so that no other checkpoint is needed.
        """
        closing = self._closing
        self._reader.emptied()
        closing.send_deferred()
        if closing.state == OPEN:
            await self._reader.wait_for_input()
        elif closing.state == CONNECTING:
            await self.accept()
        elif not self._receive_buffer.finished:
            await self._reader.wait_for_input()
        else:
            if not waited:
                await checkpoint()
            if closing.ended_cleanly:
                return False
            raise closing.closed_error()
        return True

    async def _next_or_raise(self) -> str | bytes:
        item = await self._next_message()
        if item is None:
            raise self._closing.ended_error()
        return item

    # -- sending ------------------------------------------------------------------------------------

    def _update_fast_send_limit(self) -> None:
        plain = (
            self._closing.state == OPEN
            and not self._client
            and self._deflate is None
            and self._fragmenting is None
        )
        self._write_buffer.fast_send_limit = self._options.send_high_water if plain else 0

    async def send(self, value: Data, *, text: bool = False) -> None:
        """Send one message.

        It waits while more than ``send_high_water`` bytes wait to be written. If it is cancelled while it
        waits, nothing was sent. It cannot be cancelled in the middle of a frame.

        Args:
            value: a ``str`` is sent as text, a bytes-like object as binary, and a `WebSocketMessage`
                according to its type. An async iterable of ``str`` or of bytes-like objects is sent as one
                fragmented message (RFC 6455 section 5.4), with a fragment for each item. Other senders wait
                for its end. If the iterable raises or is cancelled after its first item, the message cannot
                be finished, and the connection is closed with code 1011.
            text: whether a bytes-like ``value`` is UTF-8, such as from a JSON encoder, and is sent as text.
                Default False.

        Raises:
            ConnectionClosedError: the connection is closed.
            TypeError: ``value`` has another type; for other objects there is `send_json`.
            UnicodeDecodeError: ``text`` is true, and ``value`` is not UTF-8.
        """
        if _send_at_once is not None and not text and _send_at_once(self, value):
            return
        data: Data = value
        if text and isinstance(data, BytesLike):
            await self._send(TEXT, raw_text(data))
            return
        if type(data) is WebSocketMessage and (data.msg_type == "binary" or data.msg_type == "text"):
            if (data.msg_type == "text") is not (type(data.payload) is str):  # such as of recv(decode=False)
                await self._send(*whole_message(data, "send()"))
                return
            data = data.payload
        first = _FINAL_BINARY
        if type(data) is str and len(data) < LARGE:
            first = _FINAL_TEXT
            data = data.encode()
        if type(data) is bytes:
            write_buffer = self._write_buffer
            if (
                write_buffer.size < write_buffer.fast_send_limit
                and len(data) < _HUGE
                and self._sends_since_yield < _SENDS_IN_A_ROW
                and passed_checkpoint()
            ):
                # The common case of _send() inline, which saves a coroutine.
                if self._receive_buffer.messages and len(data) < LARGE:
                    self._sends_since_yield += 1
                    buffer_frame(write_buffer, first, data)
                    return
                self._sends_since_yield += _DIRECT_SEND + (len(data) >> _BYTES_SHIFT)
                write_buffer.write_frame(first, data)
                if write_buffer.broken:
                    raise self._closing.closed_error()
                return
            await self._send(first & 0x0F, data)
        elif type(data) is str:
            await self._send(
                TEXT, data.encode() if len(data) <= ENCODED_AT_ONCE else await encode_large(data)
            )
        elif isinstance(data, WebSocketMessage):
            await self._send_control(data)
        elif isinstance(data, str):
            await self.send_text(data)
        elif isinstance(data, BytesLike):
            await self._send(BINARY, bytes(data))
        elif isinstance(data, AsyncIterable):
            await self._send_fragments(data)
        else:
            raise TypeError(
                "send() takes str, bytes-like, a WebSocketMessage or an async iterable, not"
                f" {type(data).__name__}; for other objects use send_json()"
            )

    def send_nowait(self, value: str | BytesLike | WebSocketMessage) -> None:
        """Send one message without waiting: ``str``, bytes-like, or a `WebSocketMessage` of these.

        It is not a checkpoint.

        Raises:
            trio.WouldBlock: `send` would have to wait, because more than ``send_high_water`` bytes wait to be
                written, a fragmented message is being sent, or the server has not accepted the client yet.
                Nothing was sent.
            ConnectionClosedError: the connection is closed.
            TypeError: ``value`` has another type.
        """
        opcode, payload = whole_message(value, "send_nowait()", "; use send()")
        if self._closing.state == CONNECTING:
            raise trio.WouldBlock
        if self._closing.state != OPEN:
            raise self._closing.closed_error()
        if self._write_buffer.size >= self._options.send_high_water:
            self._write_buffer.flush()
        if self._fragmenting is not None or self._write_buffer.size >= self._options.send_high_water:
            raise trio.WouldBlock
        self._post(opcode, payload, cork=bool(self._receive_buffer.messages))
        if self._write_buffer.broken:
            raise self._closing.closed_error()

    async def send_text(self, text: str) -> None:
        """Send a text message. Waits, raises and is cancelled like `send`."""
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"send_text() takes a str, not {kind}; for bytes use send_binary()")
        await self._send(TEXT, text.encode() if len(text) <= ENCODED_AT_ONCE else await encode_large(text))

    async def send_binary(self, data: BytesLike) -> None:
        """Send a binary message. Waits, raises and is cancelled like `send`."""
        if not isinstance(data, BytesLike):
            raise TypeError(
                f"send_binary() takes bytes-like, not {type(data).__name__}; for str use send_text()"
            )
        await self._send(BINARY, bytes(data))

    async def send_bytes(self, data: BytesLike) -> None:
        """The same as `send_binary`."""
        await self.send_binary(data)

    async def send_json(self, obj: Value) -> None:
        """Send ``obj`` as JSON text, encoded by msgspec or by the App's ``json``. Waits like `send`.

        Raises:
            TypeError: ``obj`` cannot be encoded. Nothing was sent.
            ConnectionClosedError: the connection is closed.
        """
        adapter = adapter_of(self._request)
        await self._send(TEXT, _encode_json(obj) if adapter is None else adapter.encode(obj))

    async def _send(self, opcode: int, payload: bytes) -> None:
        if len(payload) < _HUGE:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        write_buffer = self._write_buffer
        # One test for all special cases.
        if (
            self._closing.state != OPEN
            or self._fragmenting
            or write_buffer.size >= self._options.send_high_water
        ):
            await self._wait_for_room()
        first = FIN | opcode
        deflate = self._deflate
        if deflate is not None and len(payload) >= self._threshold:
            if len(payload) <= DEFLATED_AT_ONCE:
                payload = deflate.compress(payload, fin=True)
            else:
                payload = await self._deflate_large(deflate, payload)
            first |= RSV1
        if len(payload) >= LARGE:
            write_buffer.write_pair(*frame_pair(first, payload, masked=self._client))
            self._sends_since_yield += len(payload) >> _BYTES_SHIFT
            frame = b""
        else:
            frame = masked_frame(first, payload) if self._client else server_frame(first, payload)
        if self._receive_buffer.messages and frame:
            # More messages have arrived, so more output will probably follow: coalesce the writes.
            write_buffer.buffer(frame)
            self._sends_since_yield += 1
        else:
            if frame:
                write_buffer.write(frame)
            if write_buffer.broken:
                raise self._closing.closed_error()
            self._sends_since_yield += _DIRECT_SEND
        if self._sends_since_yield >= _SENDS_IN_A_ROW:
            self._sends_since_yield = 0
            await cancel_shielded_checkpoint()  # the message was sent, so this must not raise Cancelled

    async def _deflate_large(self, deflate: PerMessageDeflate, payload: bytes) -> bytes:
        """Compress a large payload in pieces, with checkpoints. Other tasks may send in between.

        This is possible because the compressed data does not refer to earlier messages.
        """
        pieces: list[bytes] = []
        for piece in deflate.alone_in_pieces(payload, DEFLATED_AT_ONCE):
            pieces.append(piece)
            await checkpoint()
        if (
            self._closing.state != OPEN
            or self._fragmenting
            or self._write_buffer.size >= self._options.send_high_water
        ):
            await self._wait_for_room()
        deflate.restart()
        return b"".join(pieces)

    async def _wait_for_room(self, *, fragment: bool = False) -> None:
        """Wait until the connection is open, no fragmented message is being sent, and there is room."""
        while True:
            if self._closing.state == CONNECTING:
                await self.accept()
            if self._closing.state != OPEN:
                await checkpoint()
                raise self._closing.closed_error()
            if self._fragmenting is not None and not fragment:
                async with self._fragmenting:
                    pass
            elif self._write_buffer.size >= self._options.send_high_water:
                self._write_buffer.flush()
                if self._write_buffer.size >= self._options.send_high_water:
                    await self._write_buffer.writable.wait()
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
        self._write_buffer.write_control(opcode, payload_bytes(payload))

    async def _send_fragments(self, items: AsyncIterable[str] | AsyncIterable[BytesLike]) -> None:
        await self._wait_for_room()
        lock = self._fragmenting = trio.Lock()
        self._update_fast_send_limit()
        room = functools.partial(self._wait_for_room, fragment=True)
        message = FragmentedMessage(items, self._closing, self._deflate, room, self._write_fragment)
        try:
            async with lock:
                await message.send()
        finally:
            self._fragmenting = None
            self._update_fast_send_limit()
            await message.aclose()

    def _write_fragment(self, opcode: int, payload: bytes, fin: bool) -> None:
        first = opcode | (FIN if fin else 0)
        if self._deflate is not None:
            first |= RSV1 if opcode != CONTINUATION else 0
        self._write_buffer.write(make_frame(first, payload, masked=self._client))

    def _post(self, opcode: int, payload: bytes, *, cork: bool) -> None:
        """Send one message regardless of the high-water mark, for callers that have their own limit.

        Nothing is sent if the connection is closing.
        """
        if self._closing.state != OPEN:
            return
        first = FIN | opcode
        if self._deflate is not None and len(payload) >= self._threshold:
            if len(payload) > DEFLATED_AT_ONCE:
                self._write_buffer.write_deferred(
                    DeferredFrame(first, payload, self._deflate, masked=self._client)
                )
                self._deflate.restart()
                return
            payload = self._deflate.compress(payload, fin=True)
            first |= RSV1
        if len(payload) >= LARGE:
            self._write_buffer.write_pair(*frame_pair(first, payload, masked=self._client))
            return
        frame = masked_frame(first, payload) if self._client else server_frame(first, payload)
        if cork:
            self._write_buffer.buffer(frame)
        else:
            self._write_buffer.write(frame)

    async def ping(self, payload: BytesLike | str | None = None) -> float:
        """Send a ping and wait for its pong (RFC 6455 section 5.5.2).

        Args:
            payload: at most 125 bytes. Default: four random bytes.

        Returns:
            The round-trip time in seconds.

        Raises:
            ConnectionClosedError: the connection ended before the pong arrived.
            ValueError: the payload is too long, or another ping with this payload waits for its pong.

        After a cancellation, the pong is ignored.
        """
        await checkpoint_if_cancelled()
        data = self._liveness.ping_payload(payload)
        await self._wait_for_room(fragment=True)
        return await self._liveness.ping(data, self._reader)

    # -- closing ------------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Do the closing handshake (RFC 6455 section 7.1.2), for at most ``close_timeout`` seconds.

        Unread messages are dropped, unless the peer started the closing handshake. Closing again waits for
        the end of the same handshake. A client that was not accepted yet is rejected with status 403.

        A cancellation closes the transport at once, without waiting for the peer's Close frame.

        Args:
            code: a close code that may be sent (section 7.4). Default 1000. The codes 1005, 1006 and 1015
                cannot be sent, but exceptions may have them, so they are accepted and ignored after the
                connection has started to close.
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        if code in (1005, 1006, 1015) and self._closing.state >= CLOSING:
            code = 1000  # a Close frame was sent already, or nothing can be sent
        check_close(code, reason)
        if self._closing.state == CLOSED:
            # Messages that the peer sent before it closed can still be received.
            await self._transport.wait_closed()
            return
        if self._closing.state == CONNECTING:
            try:
                await self.reject()
            except BaseException:
                self._closing.abort(None)
                raise
        self._start_application_close(code, reason)
        # A peer that violated the protocol may never finish the handshake, so it gets less time.
        failed = self._receive_buffer.done and self._closing.received is None
        grace = min(1.0, self._options.close_timeout) if failed else self._options.close_timeout
        try:
            with trio.move_on_after(grace) as scope:
                while self._closing.state != CLOSED:
                    await self._reader.wait_for_input()
            if scope.cancelled_caught:
                self._closing.timed_out()
        finally:
            self._closing.abort(None)
        await self._transport.wait_closed()

    async def aclose(self) -> None:
        """The same as ``close()``; see `trio.abc.AsyncResource`."""
        await self.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended for any reason. Received messages remain available."""
        await checkpoint_if_cancelled()
        if self._closing.state == CONNECTING:
            await self.accept()
        while self._closing.state != CLOSED:
            if await self._reader.wait_for_input() and self._closing.state != CLOSED:
                # Other tasks waited for this input, and one of them does the next read.
                await self._reader.input_arrived.wait()

    # -- state --------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the connection is open for sending and receiving."""
        return self._closing.state == OPEN

    @property
    def accepted(self) -> bool:
        """Whether the opening handshake was completed. It stays true after the end of the connection."""
        return self._receive_buffer.opened

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, so that nothing can be sent or received."""
        return self._closing.state == CLOSED

    @property
    def close_code(self) -> int | None:
        """The code of the peer's Close frame, else of ours, else 1006; None before the closing starts."""
        if self._closing.state < CLOSING:
            return None
        return self._closing.shown.code

    @property
    def close_reason(self) -> str | None:
        """The reason that belongs to `close_code`."""
        if self._closing.state < CLOSING:
            return None
        return self._closing.shown.reason

    @property
    def close_sent(self) -> CloseFrame | None:
        """The Close frame that this side has sent, or None."""
        return self._closing.sent

    @property
    def close_received(self) -> CloseFrame | None:
        """The Close frame that the peer has sent, or None."""
        return self._closing.received

    @property
    def peer_closed_first(self) -> bool:
        """Whether the peer started the closing handshake."""
        return self._closing.peer_first

    @property
    def subprotocol(self) -> str | None:
        """The negotiated subprotocol, or None (RFC 6455 section 1.9)."""
        return self._subprotocol

    @property
    def offered_subprotocols(self) -> list[str]:
        """The valid subprotocols that the client offers, most preferred first (RFC 6455 section 4.1)."""
        return offered_subprotocols(self._request)

    @property
    def offered_extensions(self) -> list[str]:
        """The extensions that the client offers, each with its parameters (RFC 6455 section 9.1)."""
        return comma_list(self._request.raw_values(b"sec-websocket-extensions"))

    @property
    def extensions(self) -> list[str]:
        """The negotiated extensions, each with its parameters; empty before the opening handshake is done."""
        if self._response_headers is not None:
            values = self._response_headers.get_all("Sec-WebSocket-Extensions")
            return comma_list(value.encode("latin-1") for value in values)
        return [] if self._deflate is None else [self._deflate.agreed]

    @property
    def on_ping(self) -> Callable[[bytes], object] | None:
        """A plain function that is called with the payload of each ping from the peer.

        Pings are answered automatically. The function is called when a ping arrives, and must be quick.
        Exceptions are logged.
        """
        return self._liveness.hooks[0]

    @on_ping.setter
    def on_ping(self, function: Callable[[bytes], object] | None) -> None:
        self._liveness.hooks = (function, self._liveness.hooks[1])

    @property
    def on_pong(self) -> Callable[[bytes], object] | None:
        """The same for unsolicited pongs (RFC 6455 section 5.5.3)."""
        return self._liveness.hooks[1]

    @on_pong.setter
    def on_pong(self, function: Callable[[bytes], object] | None) -> None:
        self._liveness.hooks = (self._liveness.hooks[0], function)

    @property
    def latency(self) -> float | None:
        """The round-trip time of the last ping, including keepalive's, in seconds; None before the first."""
        return self._liveness.latency

    @property
    def local_address(self) -> SocketAddress:
        """This side's socket address, or None if the stream has none."""
        return self._transport.local_address

    @property
    def remote_address(self) -> SocketAddress:
        """The peer's socket address, or None if the stream has none."""
        return self._transport.remote_address

    @property
    def client_address(self) -> SocketAddress:
        """The client's socket address: on a server `remote_address`, on a client `local_address`.

        On a server behind a proxy of `Options.trusted_proxies`, it is the address that the proxy reports: a
        tuple of host and port. The port is 0 if the proxy does not report it.
        """
        return self.local_address if self._client else self._request.client_address

    @property
    def tls(self) -> TLSInfo | None:
        """Information about the connection's TLS, such as the peer's certificate; None without TLS."""
        return self._request.tls

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._write_buffer.size

    # -- the request --------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """The client's opening request."""
        return self._request

    @property
    def path_params(self) -> JSONObject:
        """The path parameters of the route; empty without a route."""
        return self._request.path_params

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return self._request.path

    @property
    def query_string(self) -> str:
        """The request's query, not decoded, without the question mark."""
        return self._request.query_string

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The request's query, decoded; a name may occur more than once."""
        return self._request.query_params

    @property
    def headers(self) -> Headers:
        """All request headers in order, including duplicates."""
        return self._request.headers

    @property
    def response_headers(self) -> Headers | None:
        """On a client, all headers of the server's response; None on a server."""
        return self._response_headers

    @property
    def cookies(self) -> dict[str, str]:
        """The request's cookies by name. See `Request.cookies`."""
        return self._request.cookies

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first request header with this name, which is case-insensitive, or ``default``."""
        return self._request.header(name, default)

    def __repr__(self) -> str:
        state = ("connecting", "open", "closing", "closed")[self._closing.state]
        role = "client" if self._client else "server"
        return (
            f"<WebSocket {self._number} {role} {state} '{shown(self._request.path, 50)}'"
            f" peer={self._transport.peer_address!r}>"
        )


if extension is not None:
    extension.watch_connection(
        (WebSocket, ReceiveBuffer, WriteBuffer, WebSocketMessage, Reader, ClosingHandshake, Notification),
        NO_MESSAGES,
        OPEN,
        EPOLL,
        reschedule,
        WAKE,
    )
    if passed_checkpoint is extension.passed_checkpoint:
        # Messages without a coroutine for each, also while waiting for one, and sends in one call. Together
        # that is half the cost of an echo.
        _send_at_once = extension.send_at_once
        WebSocket.__anext__ = extension.next_method(WebSocket.__anext__)  # type: ignore[method-assign]


def _wrong_kind(text: str, kind: MessageType, item: str | bytes) -> MessageError:
    error = MessageError(text, WebSocketMessage(kind, item))
    error.close_code = 1002
    return error
