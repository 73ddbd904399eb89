"""WebSockets under a host that parses and serializes their frames, so that only messages are passed on.

A `HostedWebSocket` differs from other WebSockets in three parts:

- The `MessagePort` puts messages into its receive buffer, in whatever task is running.
- Its write buffer passes messages to that port.
- No task reads messages from its transport; tasks only wait for messages, as with the shared reader.

Before it is accepted or rejected, it uses HTTP over its transport, like other WebSockets.

Invariants:

- Received messages that wait are limited by ``max_queue_bytes``, and messages to send by ``send_high_water``.
- Nothing is sent to a client that has left.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from trio_ws.errors import CloseFrame, check_close
from trio_ws.logs import logger_for
from trio_ws.protocol.frames import CLOSE, PING, TEXT, Pong
from trio_ws.protocol.framing import UNFRAMED
from trio_ws.protocol.http import encode_headers
from trio_ws.protocol.server_response import answer_upgrade
from trio_ws.websocket.closing import CLOSED, OPEN
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.frame_log import log_message
from trio_ws.websocket.readers import EPOLL
from trio_ws.websocket.transport import StreamTransport
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["HANDLED", "HostTransport", "HostedWebSocket", "MessagePort"]

logger = logger_for("trio_ws.frames")

#: Returned if a message was received, nothing is left for a trio task, and there is room for the next one.
HANDLED: Mapping[str, object] = {}
#: Consecutive sends after which a sender lets other tasks run.
_SENDS_IN_A_ROW = 32
#: Seconds to wait for unsent messages when a connection is closed at once.
_LAST_SECONDS = 0.1


class MessagePort(Protocol):
    """The connection of one WebSocket to its host.

    While `HostedWebSocket.has_room` is true, it passes events of the host to
    `HostedWebSocket.message_received` and `HostedWebSocket.client_left`.
    """

    def open(self, subprotocol: str | None, headers: list[tuple[bytes, bytes]]) -> None:
        """Tell the host to accept the client."""

    def opened(self) -> None:
        """Start to pass messages in both directions."""

    def send(self, message: str | bytes) -> None:
        """Send a message to the host. `HostedWebSocket.sent` is called when the host has accepted it."""

    def close(self, code: int, reason: str) -> None:
        """Let the host close, after all messages. `HostedWebSocket.closed_by_host` is called then."""

    def resume(self) -> None:
        """Continue, because there is room again."""

    async def wait_idle(self) -> None:
        """Wait until the host has accepted everything."""


class HostTransport(StreamTransport):
    """The transport of a `HostedWebSocket`: HTTP until the client is accepted, and then the host."""

    __slots__ = ("port",)

    def __init__(self, stream: Any, nursery: trio.Nursery) -> None:
        super().__init__(stream, nursery)
        self.remote_address = self.peer_address = stream.remote_address
        self.port: Any = stream  # a MessagePort, if the stream is that of a WebSocket

    def share(self, reader: object, connection: object) -> bool:
        return True

    def resume(self, connection: object) -> None:
        self.port.resume()

    async def _close(self, last: bytes | None) -> None:
        if last is not None:
            with trio.move_on_after(_LAST_SECONDS, shield=True):
                await self.port.wait_idle()
        await super()._close(None)
        if self.port.ws is not None:
            self.port.ws.transport_closed()


class MessageWriteBuffer(WriteBuffer):
    """Data that the host has not accepted yet: HTTP until the client is accepted, and then messages."""

    __slots__ = ("_count", "_log", "_port", "_receiver")

    whole = UNFRAMED

    def __init__(self, transport: Transport, runtime: ConnectionRuntime, receiver: HostedWebSocket) -> None:
        super().__init__(transport, runtime)
        self._port: MessagePort | None = None  # once the client is accepted
        self._receiver = receiver
        self._count = 0  # messages that wait
        self._log = False

    def open(self, port: MessagePort) -> None:
        """Write messages from now on, because the client was accepted."""
        self._port = port
        self._log = logger.isEnabledFor(logging.DEBUG)

    def write(self, frame: Any, *, last: bool = False) -> None:
        """Send a message, or HTTP before the client is accepted."""
        port = self._port
        if port is None:
            super().write(frame)
        elif not self.broken:
            self._count += 1
            self.size += len(frame)
            if self._log:
                log_message(self._receiver, ">", frame)
            port.send(frame)

    def write_many(self, frames: list[Any]) -> None:
        for frame in frames:
            self.write(frame)

    def buffer(self, frame: Any) -> None:
        self.write(frame)

    def write_control(self, opcode: int, payload: bytes, *, pong: bool = False, last: bool = False) -> None:
        if self._port is None or self.broken:
            return
        if opcode == CLOSE:
            self._count += 1
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._port.close(code, payload[2:].decode())
        elif opcode == PING:
            self._receiver.pong_received(payload)

    def sent(self, size: int) -> None:
        """Record that the host has accepted a message of this size, or a Close with size 0."""
        if self.broken:
            return
        self._count -= 1
        self.size -= size
        self.bytes_sent += size
        self.progressed = True
        self.notify_writable()
        if not self._count:
            if self._when_empty is not None:
                self._when_empty()
            elif self.subscriber is not None:
                self.subscriber.drained()

    def failed(self, cause: BaseException) -> None:
        """Record that the host accepts nothing any more."""
        if not self.broken:
            self._break(cause)

    def discard(self) -> bytes:
        self._count = 0
        return super().discard()

    @property
    def blocked(self) -> bool:
        return self._draining or self._count > 0

    def _do_when_empty(self, action: Callable[[], None]) -> None:
        if self._count:
            self._when_empty = action
        else:
            super()._do_when_empty(action)


class HostedWebSocket(WebSocket):
    """A server's WebSocket that receives messages from a host.

    Attributes:
        stream: the connection to the host.
        sent: records that the host has accepted a message of a size.
    """

    __slots__ = ("_fragments", "_messages", "sent", "stream")

    def __init__(self, transport: Transport, *args: Any, **more: Any) -> None:
        super().__init__(transport, *args, **more)
        assert isinstance(transport, HostTransport)
        self.stream: Any = transport.port
        self.stream.ws = self
        self._reader.by = EPOLL  # the host reads, even before the client is accepted
        self._fragments: list[bytes] = []  # of the message that is being sent in parts

    def _make_write_buffer(self, transport: Transport, runtime: ConnectionRuntime) -> WriteBuffer:
        self._messages = MessageWriteBuffer(transport, runtime, self)
        self.sent = self._messages.sent
        return self._messages

    # -- from the host ------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether there is room for more messages."""
        return not self._receive_buffer.full

    def message_received(self, message: str | bytes) -> bool:
        """Add a message from the client. This method and `sent` may be called outside of trio.

        Returns:
            Whether nothing else is to do, so that `handle_events` need not be called, and there is room.
        """
        buffer = self._receive_buffer
        if buffer.frames is None or self._closing.state == CLOSED:
            return False
        if self._messages._log:
            log_message(self, "<", message)
        buffer.put(message)
        reader = self._reader
        reader.notify_input()
        if buffer.received >= buffer.max_received:
            reader.stop_if_full()
            return False
        return not buffer.frames.events

    @property
    def has_events(self) -> bool:
        """Whether `handle_events` has something to do."""
        frames = self._receive_buffer.frames
        return frames is not None and bool(frames.events)

    def handle_events(self) -> None:
        """Handle violations in received messages. It must be called in a trio task."""
        if self.has_events:
            self._input_arrived()

    def client_left(self, code: int | None, reason: str) -> None:
        """End the connection, because the client has left.

        Args:
            code: the close code of the client; 1005 for a Close frame without a code. A code that cannot be
                sent means that there was no Close frame.
            reason: the close reason.
        """
        buffer = self._receive_buffer
        if buffer.frames is not None and self._closing.state != CLOSED:
            code = 1005 if code is None else code
            try:
                if code != 1005:
                    check_close(code, reason)
                buffer.frames.take_close(CloseFrame(code, reason if code != 1005 else ""))
            except (TypeError, ValueError):
                pass
            self._input_arrived()
        self._closing.abort(None)

    def transport_closed(self) -> None:
        """End the connection, since no task reads and would notice the end."""
        self._closing.abort(None)

    def pong_received(self, payload: bytes) -> None:
        """Answer our own ping, because the host is responsible for pings to the client."""
        frames = self._receive_buffer.frames
        if frames is not None and not frames.done:
            frames.add_event(Pong(payload))
            self._input_arrived()

    def _input_arrived(self) -> None:
        reader, frames = self._reader, self._receive_buffer.frames
        assert frames is not None
        if frames.events:
            self._handle_events(frames.take_events())
        reader.notify_input()
        reader.stop_if_full()

    def closed_by_host(self, code: int) -> None:
        """End the connection, because the host has accepted our Close and does the closing handshake."""
        self._messages.sent(0)
        frames = self._receive_buffer.frames
        if frames is not None and self._closing.state != CLOSED:
            frames.take_close(CloseFrame(code, ""))
            self._input_arrived()
        self._closing.abort(None)

    def send_failed(self, cause: BaseException) -> None:
        """Record that the host has failed to send."""
        self._messages.failed(cause)

    # -- to the host --------------------------------------------------------------------------------

    async def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        await checkpoint_if_cancelled()
        opening = self._check_connecting("accept")
        headers = list(headers)
        # This validates the arguments. The host sends the response.
        _, self._subprotocol, _ = answer_upgrade(
            self._request, subprotocol, opening.offered, headers, self._options
        )
        self._messages.open(self.stream)
        self.stream.open(
            self._subprotocol, [(name.lower(), value) for name, value in encode_headers(headers)]
        )
        self._open(None, b"")
        self.stream.opened()

    def _update_fast_send_limit(self) -> None:
        self._write_buffer.fast_send_limit = 0  # because the fast path writes frames

    async def _send(self, opcode: int, payload: bytes) -> None:
        write_buffer = self._write_buffer
        await checkpoint_if_cancelled()
        if (
            self._closing.state != OPEN
            or self._fragmenting is not None
            or write_buffer.size >= self._options.send_high_water
        ):
            await self._wait_for_room()
        self._messages.write(payload.decode() if opcode == TEXT else payload)
        self._sends_since_yield += 1
        if self._sends_since_yield >= _SENDS_IN_A_ROW:
            self._sends_since_yield = 0
            await cancel_shielded_checkpoint()

    def _post(self, opcode: int, payload: bytes, *, cork: bool) -> None:
        if self._closing.state == OPEN:
            self._messages.write(payload.decode() if opcode == TEXT else payload)

    def _write_fragment(self, opcode: int, payload: bytes, fin: bool) -> None:
        """Collect the fragments of a message, because hosts accept only whole messages."""
        if opcode:
            self._fragments.clear()
            self._fragments.append(bytes([opcode]))
        self._fragments.append(payload)
        if fin:
            opcode = self._fragments.pop(0)[0]
            whole = b"".join(self._fragments)
            self._fragments.clear()
            self._post(opcode, whole, cork=False)
