"""A raw WebSocket peer for tests, which can send any frames, valid or not.

Invariants:

- The peer shares no code with the rest of the library. It implements the frames and both sides of the opening
  handshake of RFC 6455 itself.
- It sends exactly the bytes that it is told to, replies to nothing by itself, and validates little.
- A cancelled receive loses no bytes.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Frame", "RawPeer"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_SAMPLE_NONCE = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
# From RFC 6455 section 5.7. It is fixed so that a script sends the same bytes each time.
_SAMPLE_KEY = b"\x37\xfa\x21\x3d"
_TEXT, _CLOSE = 1, 8


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame (RFC 6455 section 5.2).

    Attributes:
        fin: whether it is the last frame of its message.
        rsv: the reserved bits as a number: RSV1 is 4, RSV2 is 2, RSV3 is 1.
        opcode: 0 continuation, 1 text, 2 binary, 8 close, 9 ping, 10 pong.
        masked: whether it was masked.
        payload: the payload, unmasked.
    """

    fin: bool
    rsv: int
    opcode: int
    masked: bool
    payload: bytes


class RawPeer(trio.abc.AsyncResource):
    """A scripted peer on any stream.

    Args:
        stream: the stream; it may be in the middle of a connection.
        client: whether the peer is the client, and therefore masks its frames by default.

    Attributes:
        stream: the stream, for operations below frames, such as ``send_eof``.
        client: whether the peer is the client.
        head: the head of the received HTTP request or response, after `connect` or `accept`.
    """

    def __init__(self, stream: trio.abc.Stream, *, client: bool) -> None:
        self.stream = stream
        self.client = client
        self.head = b""
        self._buffer = bytearray()

    @classmethod
    async def connect(
        cls,
        stream: trio.abc.Stream,
        path: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        *,
        host: str = "localhost",
    ) -> Self:
        """Do a client's opening handshake (RFC 6455 section 4.1).

        For an invalid request, use ``send_raw`` and ``receive_head`` instead.

        Raises:
            AssertionError: the status is not 101, or ``Sec-WebSocket-Accept`` is wrong; the message shows the
                response.
            EOFError: the stream ended first.
        """
        peer = cls(stream, client=True)
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {_SAMPLE_NONCE}", "Sec-WebSocket-Version: 13"]
        await peer.send_raw(_head(lines, headers))
        peer.head = await peer.receive_head()
        token = _header(peer.head, b"sec-websocket-accept")
        if not peer.head.startswith(b"HTTP/1.1 101 ") or token != _accept_token(_SAMPLE_NONCE.encode()):
            raise AssertionError(f"the server did not upgrade: {peer.head!r}")
        return peer

    @classmethod
    async def accept(cls, stream: trio.abc.Stream, headers: Iterable[tuple[str, str]] = ()) -> Self:
        """Read a client's request and answer it with 101 (RFC 6455 section 4.2).

        Raises:
            AssertionError: the request has no ``Sec-WebSocket-Key``; the message shows the request.
            EOFError: the stream ended first.
        """
        peer = cls(stream, client=False)
        peer.head = await peer.receive_head()
        nonce = _header(peer.head, b"sec-websocket-key")
        if not nonce:
            raise AssertionError(f"the client asked for no WebSocket: {peer.head!r}")
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Accept: {_accept_token(nonce).decode()}"]
        await peer.send_raw(_head(lines, headers))
        return peer

    async def aclose(self) -> None:
        """Close the stream, without a closing handshake."""
        await self.stream.aclose()

    async def send_raw(self, data: bytes) -> None:
        """Send these bytes unchanged."""
        await self.stream.send_all(data)

    async def send_frame(
        self,
        opcode: int,
        payload: bytes = b"",
        *,
        fin: bool = True,
        rsv1: bool = False,
        rsv2: bool = False,
        rsv3: bool = False,
        mask: bool | None = None,
        length: int | None = None,
        key: bytes | None = None,
    ) -> None:
        """Send one frame (RFC 6455 section 5.2), without checking whether it is allowed.

        Args:
            opcode: 0 to 15.
            payload: the payload, which is masked here if the frame is.
            fin: whether it is the last frame of its message. Default True.
            rsv1: the first reserved bit.
            rsv2: the second reserved bit.
            rsv3: the third reserved bit.
            mask: whether to mask the frame. Default None: only clients do.
            length: the payload length in the header, 0 to 2**64 - 1. Default None: the real length.
            key: the masking key, 4 bytes. Default None: a fixed key.

        Raises:
            ValueError: a value does not fit its field.
        """
        key = _SAMPLE_KEY if key is None else key
        if not 0 <= opcode <= 15 or len(key) != 4:
            raise ValueError("opcode is from 0 to 15, and key is 4 bytes")
        mask = self.client if mask is None else mask
        size = len(payload) if length is None else length
        if not 0 <= size < 2**64:
            raise ValueError(f"length must be from 0 to 2**64 - 1, not {size}")
        first = fin << 7 | rsv1 << 6 | rsv2 << 5 | rsv3 << 4 | opcode
        if size < 126:
            head = struct.pack("!BB", first, mask << 7 | size)
        elif size < 2**16:
            head = struct.pack("!BBH", first, mask << 7 | 126, size)
        else:
            head = struct.pack("!BBQ", first, mask << 7 | 127, size)
        await self.send_raw(head + (key + _masked(payload, key) if mask else payload))

    async def send_text(self, text: str) -> None:
        """Send a text message in one frame."""
        await self.send_frame(_TEXT, text.encode())

    async def send_close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a Close frame with any code from 0 to 65535; with None, without a payload."""
        await self.send_frame(_CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())

    async def receive_head(self) -> bytes:
        """Wait for the head of an HTTP request or response; return it, including the empty line.

        Raises:
            EOFError: the stream ended first; the message shows what was received.
        """
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._receive_more():
                raise EOFError(f"the stream ended inside an HTTP head: {bytes(self._buffer)!r}")
        return self._take(end + 4)

    async def receive_frame(self) -> Frame | None:
        """Wait for a frame and return it; None if the stream ended before it.

        Raises:
            EOFError: the stream ended inside a frame.
            trio.BrokenResourceError: the stream broke.
        """
        while (frame := self._next_frame()) is None:
            if not await self._receive_more():
                if self._buffer:
                    raise EOFError(f"the stream ended inside a frame: {bytes(self._buffer[:80])!r}")
                return None
        return frame

    async def receive_until_close(self) -> tuple[int, str] | None:
        """Skip frames until a Close frame, and return its code and reason; None if the stream ends first.

        For a Close frame without a payload, that is ``(1005, "")`` (RFC 6455 section 7.1.5).
        """
        while (frame := await self.receive_frame()) is not None:
            if frame.opcode == _CLOSE:
                code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
                return code, frame.payload[2:].decode()
        return None

    async def expect_eof(self) -> None:
        """Wait for the end of the stream.

        Raises:
            AssertionError: bytes were received; the message shows them.
        """
        if self._buffer or await self._receive_more():
            raise AssertionError(f"no end of stream, but {bytes(self._buffer[:80])!r}")

    async def _receive_more(self) -> bool:
        data = await self.stream.receive_some()
        self._buffer += data
        return bool(data)

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _next_frame(self) -> Frame | None:
        """Take a complete frame from the buffer; None if there is none."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, size, masked = buffer[0], buffer[1] & 127, buffer[1] >= 128
        start = 2 + {126: 2, 127: 8}.get(size, 0)
        if size >= 126:
            size = int.from_bytes(buffer[2:start], "big")
        start += 4 * masked
        if len(buffer) < start or len(buffer) < start + size:
            return None
        head = self._take(start)
        payload = self._take(size)
        if masked:
            payload = _masked(payload, head[-4:])
        return Frame(first >= 128, first >> 4 & 7, first & 15, masked, payload)


def _masked(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask (RFC 6455 section 5.3), by one XOR of two large integers."""
    stream = (key * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return number.to_bytes(len(payload), "big")


def _accept_token(nonce: bytes) -> bytes:
    # RFC 6455 section 1.3 asks for SHA-1; nothing secret depends on it.
    return base64.b64encode(hashlib.sha1(nonce + _GUID, usedforsecurity=False).digest())


def _head(lines: list[str], headers: Iterable[tuple[str, str]]) -> bytes:
    every = lines + [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(every) + "\r\n\r\n").encode("latin-1")


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n")[1:]:
        if line.lower().startswith(name + b":"):
            return line[len(name) + 1 :].strip()
    return b""
