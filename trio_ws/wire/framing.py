"""Frames that go: the header around a payload, and its mask (RFC 6455 section 5)."""

from __future__ import annotations

import struct

from trio_ws.wire.frames import BINARY, FIN, TEXT
from trio_ws.wire.masking import MaskKeys, mask

__all__ = ["close_payload", "frame_head", "frame_pair", "masked_frame", "server_frame"]

# Headers of the shortest frames, ready made: a look-up where building one takes a quarter of a microsecond.
_SHORT_HEADS = {first: tuple(bytes((first, n)) for n in range(126)) for first in (FIN | TEXT, FIN | BINARY)}
_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack
_keys = MaskKeys()


def frame_head(first: int, size: int, mask_bit: int = 0) -> bytes:
    """The header of a frame up to its mask: first byte, payload size, and 0x80 where it is masked."""
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return _pack_16(first, mask_bit | 126, size)
    return _pack_64(first, mask_bit | 127, size)


def server_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """One unmasked frame."""
    size = len(payload)
    if size < 126:
        if first in _SHORT_HEADS:
            return _SHORT_HEADS[first][size] + payload
    elif size < 65536:  # as frame_head() does it, without the call
        return _pack_16(first, 126, size) + payload
    return frame_head(first, size) + payload


def frame_pair(first: int, payload: bytes, *, masked: bool) -> tuple[bytes, bytes]:
    """One frame in two parts, its header and its payload, because joining them would copy a big payload."""
    if not masked:
        return frame_head(first, len(payload)), payload
    key = _keys.next()
    return frame_head(first, len(payload), 0x80) + key, mask(payload, key)


def masked_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """One frame masked with a fresh key (RFC 6455 section 5.3)."""
    key = _keys.next()
    return frame_head(first, len(payload), 0x80) + key + mask(payload, key)


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame; 1005 stands for none (RFC 6455 section 5.5.1)."""
    return b"" if code == 1005 else struct.pack("!H", code) + reason.encode()
