"""Build outgoing frames: a header before a payload, and its mask (RFC 6455 section 5)."""

from __future__ import annotations

import os
import struct

from trio_ws.protocol._accel import frame_head, whole_frame
from trio_ws.protocol.masking import mask, mask_keys

__all__ = [
    "UNFRAMED",
    "Unframed",
    "close_payload",
    "frame_pair",
    "make_frame",
    "masked_frame",
    "new_key",
    "server_frame",
]


class Unframed:
    """A compression of connections whose ASGI or RSGI server takes whole messages and makes the frames."""

    __slots__ = ()

    settings = ("whole",)

    def restart(self) -> None:
        """Do nothing: no message refers to earlier ones."""


UNFRAMED = Unframed()


def _draw_own_keys() -> None:
    """Start a new page of masking keys, so that a forked child does not reuse those of its parent."""
    global _next_key  # noqa: PLW0603 - one look-up per frame instead of a call
    _next_key = mask_keys().__next__


_next_key = mask_keys().__next__
if hasattr(os, "register_at_fork"):  # missing on systems without fork
    os.register_at_fork(after_in_child=_draw_own_keys)


def new_key() -> bytes:
    """Return a fresh masking key (RFC 6455 section 5.3)."""
    return _next_key()


def server_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Build an unmasked frame."""
    return whole_frame(first, payload, b"")


def frame_pair(first: int, payload: bytes, *, masked: bool) -> tuple[bytes, bytes]:
    """Build a frame as header and payload, since joining them would copy a big payload."""
    if not masked:
        return frame_head(first, len(payload)), payload
    key = _next_key()
    return frame_head(first, len(payload), 0x80) + key, mask(payload, key)


def masked_frame(first: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Build a frame masked with a fresh key (RFC 6455 section 5.3)."""
    return whole_frame(first, payload, _next_key())


def make_frame(first: int, payload: bytes, *, masked: bool) -> bytes:
    """Build a frame, masked or not."""
    return masked_frame(first, payload) if masked else server_frame(first, payload)


def close_payload(code: int, reason: str = "") -> bytes:
    """Build the payload of a Close frame; 1005 means an empty one (RFC 6455 section 5.5.1)."""
    return b"" if code == 1005 else struct.pack("!H", code) + reason.encode()
