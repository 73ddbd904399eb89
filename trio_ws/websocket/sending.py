"""Sending: everything in which a `WebSocket` takes messages to be written.

What always holds: a message is taken whole or not at all, whatever is cancelled; ``send`` of one task never
ends up inside a message of another.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

from trio_ws.models import encode_model
from trio_ws.protocol._accel import whole_frame
from trio_ws.protocol.frames import BINARY, CONTINUATION, FIN, PING, PONG, RSV1, TEXT
from trio_ws.protocol.framing import frame_pair, masked_frame, server_frame
from trio_ws.websocket.deferred_frame import DEFLATED_AT_ONCE, DeferredFrame
from trio_ws.websocket.handshaking import Handshaking
from trio_ws.websocket.lifetime import CONNECTING, OPEN
from trio_ws.websocket.message import WebSocketMessage, control_payload

if TYPE_CHECKING:
    from trio_ws.protocol.deflate import PerMessageDeflate

__all__ = ["Sending", "whole_message"]

BytesLike = bytes | bytearray | memoryview
Data = str | BytesLike | WebSocketMessage | AsyncIterable[str] | AsyncIterable[BytesLike]

#: Payloads of at least this many bytes are sent beside their header instead of joined to it.
_LARGE = 48 * 1024
#: Before it sends payloads of at least this many bytes, a task gives way to others: to have received one as
#: large, or to have made it, took a millisecond or two, and so will this.
_HUGE = 512 * 1024
#: Characters of text that are encoded at once: about a millisecond where they are not ASCII.
_ENCODED_AT_ONCE = 256 * 1024
#: Sends in a row that needed no wait, after which a sender gives way to other tasks: corked ones count one
#: each, and those with a system call eight. About a millisecond of echoes.
_SENDS_IN_A_ROW = 256
_DIRECT_SEND = 8
_FINAL_BINARY = FIN | BINARY

_encode_json = msgspec.json.Encoder(enc_hook=encode_model).encode


class Sending(Handshaking):
    """The half of a `WebSocket` that sends."""

    __slots__ = ()

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
            write_buffer = self._write_buffer
            if (
                write_buffer.size < self._fast_send_limit
                and len(data) < _LARGE
                and self._sends_since_yield < _SENDS_IN_A_ROW
            ):
                # The common case of _send(), without its coroutine.
                await checkpoint_if_cancelled()
                if self._messages:
                    self._sends_since_yield += 1
                    write_buffer.buffer(whole_frame(_FINAL_BINARY, data, b""))
                    return
                self._sends_since_yield += _DIRECT_SEND
                write_buffer.write(whole_frame(_FINAL_BINARY, data, b""))
                if write_buffer.broken:
                    raise self._closed_error()
                return
            await self._send(BINARY, data)
        elif type(data) is str:
            await self._send(
                TEXT, data.encode() if len(data) <= _ENCODED_AT_ONCE else await _encode_large(data)
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
        """Send one whole message, ``str``, bytes-like or a `WebSocketMessage` of these, without waiting.

        It checks for no cancellation, and does not give way to other tasks.

        Raises:
            trio.WouldBlock: `send` would have to wait: more than ``send_high_water`` bytes are still to be
                written, a fragmented message is under way, or a server has not accepted yet. Nothing was
                sent.
            ConnectionClosedError: the connection is closed.
            TypeError: ``value`` is of no such type.
        """
        opcode, payload = whole_message(value, "send_nowait()", "; use send()")
        if self._state == CONNECTING:
            raise trio.WouldBlock
        if self._state != OPEN:
            raise self._closed_error()
        if self._write_buffer.size >= self._options.send_high_water:
            self._write_buffer.flush()
        if self._fragmenting is not None or self._write_buffer.size >= self._options.send_high_water:
            raise trio.WouldBlock
        self._post(opcode, payload, cork=bool(self._messages))
        if self._write_buffer.broken:
            raise self._closed_error()

    async def send_text(self, text: str) -> None:
        """Send a text message. Waits, raises and is cancelled as `send`."""
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"send_text() takes a str, not {kind}; for bytes use send_binary()")
        await self._send(TEXT, text.encode() if len(text) <= _ENCODED_AT_ONCE else await _encode_large(text))

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
        if len(payload) < _HUGE:
            await checkpoint_if_cancelled()
        else:
            await checkpoint()
        write_buffer = self._write_buffer
        # One test for everything that is not the ordinary case.
        if self._state != OPEN or self._fragmenting or write_buffer.size >= self._options.send_high_water:
            await self._wait_for_room()
        first = FIN | opcode
        deflate = self._deflate
        if deflate is not None and len(payload) >= self._threshold:
            if len(payload) <= DEFLATED_AT_ONCE:
                payload = deflate.compress(payload, fin=True)
            else:
                payload = await self._deflate_large(deflate, payload)
            first |= RSV1
        if len(payload) >= _LARGE:
            write_buffer.write_pair(*frame_pair(first, payload, masked=self._client))
            frame = b""
        else:
            frame = masked_frame(first, payload) if self._client else server_frame(first, payload)
        if self._messages and frame:
            # More input of the same burst is at hand, so more output is to be expected: gather it.
            write_buffer.buffer(frame)
            self._sends_since_yield += 1
        else:
            if frame:
                write_buffer.write(frame)
            if write_buffer.broken:
                raise self._closed_error()
            self._sends_since_yield += _DIRECT_SEND
        if self._sends_since_yield >= _SENDS_IN_A_ROW:
            self._sends_since_yield = 0
            await cancel_shielded_checkpoint()  # the message is out: a cancellation waits for the next call

    async def _deflate_large(self, deflate: PerMessageDeflate, payload: bytes) -> bytes:
        """Deflate, and give way in between. Others may send meanwhile: it refers to nothing before it."""
        pieces: list[bytes] = []
        for piece in deflate.alone_in_pieces(payload, DEFLATED_AT_ONCE):
            pieces.append(piece)
            await checkpoint()
        if (
            self._state != OPEN
            or self._fragmenting
            or self._write_buffer.size >= self._options.send_high_water
        ):
            await self._wait_for_room()
        deflate.restart()
        return b"".join(pieces)

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
        self._write_buffer.write_control(self._frame(FIN | opcode, _as_bytes(payload)))

    async def _send_fragments(self, items: AsyncIterable[str] | AsyncIterable[BytesLike]) -> None:
        await self._wait_for_room()
        lock = self._fragmenting = trio.Lock()
        self._fast_send_limit = 0
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
                    await self._send_fragment(opcode, _as_bytes(item))
                    opcode = CONTINUATION
                    await cancel_shielded_checkpoint()
                if kind:
                    if self._state != OPEN:
                        raise self._closed_error()
                    last = self._deflate.compress(b"", fin=True) if self._deflate is not None else b""
                    self._write_fragment(CONTINUATION, last, fin=True)
                finished = True
        finally:
            self._fragmenting = None
            self._update_fast_send_limit()
            if kind and not finished:
                self._start_close(1011, "a fragmented message was not finished")
            if isinstance(items, AsyncGenerator):
                await items.aclose()

    async def _send_fragment(self, opcode: int, payload: bytes) -> None:
        """Send a fragment that is not the last, deflated in turns."""
        if self._deflate is not None:
            pieces = [self._deflate.compress(payload[:DEFLATED_AT_ONCE], fin=False)]
            for start in range(DEFLATED_AT_ONCE, len(payload), DEFLATED_AT_ONCE):
                await cancel_shielded_checkpoint()
                pieces.append(self._deflate.compress(payload[start : start + DEFLATED_AT_ONCE], fin=False))
            payload = b"".join(pieces)
            if self._state != OPEN:
                raise self._closed_error()
        self._write_fragment(opcode, payload, fin=False)

    def _write_fragment(self, opcode: int, payload: bytes, *, fin: bool) -> None:
        first = opcode | (FIN if fin else 0)
        if self._deflate is not None:
            first |= RSV1 if opcode != CONTINUATION else 0
        self._write_buffer.write(self._frame(first, payload))

    def _post(self, opcode: int, payload: bytes, *, cork: bool) -> None:
        """Send one whole message whatever the high-water mark, for those who keep a bound of their own.

        Nothing is sent once the connection closes.
        """
        if self._state != OPEN:
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
        frame = masked_frame(first, payload) if self._client else server_frame(first, payload)
        if cork:
            self._write_buffer.buffer(frame)
        else:
            self._write_buffer.write(frame)

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
            await self._wait_for_input()
        if self._pings is None:
            raise self._closed_error()
        return trio.current_time() - sent


async def _encode_large(text: str) -> bytes:
    """Encode, and give way in between."""
    pieces: list[bytes] = []
    for start in range(0, len(text), _ENCODED_AT_ONCE):
        pieces.append(text[start : start + _ENCODED_AT_ONCE].encode())
        await checkpoint()
    return b"".join(pieces)


def whole_message(value: object, taker: str, hint: str = "") -> tuple[int, bytes]:
    """The opcode and the payload of what can be sent without waiting for any of it.

    Raises:
        TypeError: it is neither ``str`` nor bytes-like, nor a message of these.
    """
    data = value
    if isinstance(data, WebSocketMessage) and data.msg_type in ("text", "binary"):
        data = data.payload
    if not isinstance(data, str | BytesLike):
        kind = data.msg_type if isinstance(data, WebSocketMessage) else type(data).__name__
        raise TypeError(f"{taker} takes str, bytes-like or a message of these, not {kind}{hint}")
    return (TEXT if isinstance(data, str) else BINARY), _as_bytes(data)


def _as_bytes(payload: BytesLike | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else bytes(payload)
