"""The data that attackers send: frames, requests and packets as bytes, valid or not.

Invariants: this module uses no code of the product. The same call always returns the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BINARY",
    "CLOSE",
    "DEFLATE",
    "MORE",
    "PING",
    "PONG",
    "TEXT",
    "batch",
    "call",
    "credit",
    "deflated",
    "frame",
    "get",
    "item",
    "jsonrpc",
    "msgpack_list",
    "opening",
    "packet",
]

MORE, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
#: The header that offers compression.
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv1: bool = False, masked: bool = True
) -> bytes:
    """Return a frame. Its masking key is four zeros, which is valid and costs an attacker nothing."""
    size = len(payload)
    first, mask = fin << 7 | rsv1 << 6 | opcode, masked << 7
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 2**16:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + bytes(4 * masked) + payload


def deflated(data: bytes, bits: int = 15) -> bytes:
    """Return the compressed payload of a message, which does not refer to earlier messages."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def opening(path: str = "/", *headers: str, subprotocol: str = "", host: str = "localhost") -> bytes:
    """Return the opening request of a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(path: str = "/", *headers: str, method: str = "GET") -> bytes:
    """Return the head of a plain HTTP request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode("latin-1")


def packet(source: int, **fields: Any) -> bytes:
    """Return a packet of ``trio-ws.v1`` or ``webshocket.v1``, without a frame."""
    return msgspec.msgpack.encode({"source": source, **fields})


def call(method: str, *args: Any, call_id: str = "", **fields: Any) -> bytes:
    """Return a request of ``trio-ws.v1`` in a frame; ``fields`` are its other fields, such as ``credits``."""
    rpc = {"type": "request", "method": method, "args": list(args), "call_id": call_id, **fields}
    return frame(BINARY, packet(5, rpc=rpc))


def item(stream_id: str, value: Any = None, **fields: Any) -> bytes:
    """Return an item of an upload in a frame, or its end with ``is_end`` or ``error``."""
    rpc = {"type": "response", "call_id": stream_id, "response": value, "is_stream": True, **fields}
    return frame(BINARY, packet(5, rpc=rpc))


def credit(call_id: str, count: int) -> bytes:
    """Return credit for a stream in a frame."""
    return call("__credit__", call_id, count)


def jsonrpc(method: str, *params: Any, id: Any = None) -> bytes:
    """Return a JSON-RPC request, or a notification without an id. It has no frame."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": list(params)}
    if id is not None:
        message["id"] = id
    return msgspec.json.encode(message)


def batch(members: Iterable[bytes]) -> bytes:
    """Return a JSON-RPC batch in a frame."""
    return frame(TEXT, b"[" + b",".join(members) + b"]")


def msgpack_list(element: bytes, count: int) -> Any:
    """Return an encoded list of ``count`` equal elements, without creating them."""
    return msgspec.Raw(b"\xdd" + count.to_bytes(4, "big") + element * count)
