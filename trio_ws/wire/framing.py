"""Frames that go: the header around a payload, and its mask (RFC 6455 section 5)."""

from __future__ import annotations

import struct

from trio_ws.wire.fast import frame_head, whole_frame
from trio_ws.wire.masking import mask, mask_keys

__all__ = ["close_payload", "frame_pair", "masked_frame", "server_frame"]

_next_key = mask_keys().__next__


def server_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """One unmasked frame."""
    return whole_frame(first, payload, b"")


def frame_pair(first: int, payload: bytes, *, masked: bool) -> tuple[bytes, bytes]:
    """One frame in two parts, its header and its payload, because joining them would copy a big payload."""
    if not masked:
        return frame_head(first, len(payload)), payload
    key = _next_key()
    return frame_head(first, len(payload), 0x80) + key, mask(payload, key)


def masked_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """One frame masked with a fresh key (RFC 6455 section 5.3)."""
    return whole_frame(first, payload, _next_key())


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame; 1005 stands for none (RFC 6455 section 5.5.1)."""
    return b"" if code == 1005 else struct.pack("!H", code) + reason.encode()
