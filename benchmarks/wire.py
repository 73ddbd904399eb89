"""WebSocket bytes for the load side: handshakes, masked frames, and calls in the dialect ``webshocket.v1``.

This module uses only the standard library and msgspec, so that all servers get the same bytes, and the cost
of a client library is not measured.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CALLS",
    "LIMIT",
    "Requests",
    "client_frame",
    "connect",
    "count_frames",
    "echo_size",
    "opening",
    "receive",
    "request",
    "value_of",
]

LIMIT = 20.0  # seconds after which any wait fails
CALLS = "webshocket.v1"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def opening(path: str, subprotocol: str | None = None, extensions: str | None = None) -> bytes:
    """Return the opening handshake of a client."""
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    if subprotocol is not None:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extensions is not None:
        head += f"Sec-WebSocket-Extensions: {extensions}\r\n"
    return f"{head}\r\n".encode()


def connect(
    port: int, path: str, subprotocol: str | None = None, extensions: str | None = None
) -> socket.socket:
    """Open a WebSocket, and check the response as a client does."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(opening(path, subprotocol, extensions))
    head = b""
    while b"\r\n\r\n" not in head:
        head += receive(sock)
    if b" 101 " not in head[:20] or b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" not in head:
        raise ConnectionError(f"no WebSocket: {head!r}")
    if extensions is not None and b"permessage-deflate" not in head:
        raise ConnectionError("the server does not compress")
    return sock


def receive(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def client_frame(payload: bytes, opcode: int = 2, rsv: int = 0) -> bytes:
    """Return a final frame with a random mask, so that no server can skip unmasking."""
    key = os.urandom(4)
    size = len(payload)
    first = 0x80 | rsv | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return head + key + (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


def echo_size(size: int) -> int:
    """Return the size of the frame in which a server sends a payload of ``size`` bytes."""
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


def count_frames(data: bytes) -> tuple[int, int]:
    """Return the number of whole frames at the beginning of ``data``, and their total size."""
    at = count = 0
    size = len(data)
    while size - at >= 2:
        length = data[at + 1]
        end = at + 2 + length
        if length == 126:
            end = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        elif length == 127:
            end = at + 10 + int.from_bytes(data[at + 2 : at + 10], "big")
        if end > size:
            break
        at = end
        count += 1
    return count, at


def request(number: int, method: str, *args: Any) -> bytes:
    """Return the payload of a call. Calls with arguments of the same length have the same size."""
    rpc = {"type": "request", "method": method, "args": args, "kwargs": {}, "call_id": f"{number:07d}"}
    return _encode({"source": 5, "rpc": rpc})


def value_of(frame: bytes) -> Any:
    """Return the result of a call from the frame of its response."""
    start = 4 if frame[1] == 126 else 2
    rpc = _decode(frame[start:])["rpc"]
    if rpc.get("error") is not None:
        raise RuntimeError(f"the call failed: {rpc}")
    return rpc["response"]


class Requests:
    """An endless sequence of frames of one length. Several can be taken without joining them."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.size = len(frames[0])
        if any(len(frame) != self.size for frame in frames):
            raise ValueError("frames of several lengths")
        self._count = len(frames)
        self._twice = memoryview(b"".join(frames) * 2)
        self._next = 0

    def take(self, count: int) -> memoryview:
        count = min(count, self._count)
        start = self._next
        self._next = (start + count) % self._count
        return self._twice[start * self.size : (start + count) * self.size]
