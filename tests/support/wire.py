"""Frames for tests as bytes, valid or not, and how wsproto alone parses them.

Invariant: this module does not use `trio_ws.protocol`, because it is used to test that.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wsproto.extensions import Extension

__all__ = ["KEY", "Outcome", "by_wsproto", "frame", "split"]

#: From RFC 6455 section 5.7.
KEY = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    key: bytes = KEY,
    form: int = 0,
    length: int | None = None,
) -> bytes:
    """Return the bytes of a frame.

    Args:
        opcode: 0 to 15.
        payload: the bytes after the header.
        fin: whether it is the last frame of its message.
        rsv: the reserved bits; RSV1 is 4.
        masked: whether it is masked with ``key``.
        key: the masking key.
        form: number of bytes of the length: 1, 2 or 8; 0 for the shortest form.
        length: the length in the header; by default that of the payload.
    """
    size = len(payload) if length is None else length
    form = max(form, 1 if size < 126 else 2 if size < 65536 else 8)
    second = masked << 7 | {1: size, 2: 126, 8: 127}[form]
    head = struct.pack("!BB", fin << 7 | rsv << 4 | opcode, second)
    if form > 1:
        head += struct.pack("!H" if form == 2 else "!Q", size)
    if masked:
        head += key
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    return head + payload


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Split ``data`` at the cuts, which may be any integers. No piece is empty."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@dataclass
class Outcome:
    """The messages, the control frames and the error in a stream of frames."""

    messages: list[str | bytes] = field(default_factory=list)
    controls: list[tuple[Opcode, bytes]] = field(default_factory=list)
    close: tuple[int, str] | None = None
    violation: int | None = None
    unfinished: bytes = b""


def by_wsproto(data: bytes, *, client: bool, extensions: Sequence[Extension] = ()) -> Outcome:
    """Parse all of ``data`` with wsproto alone."""
    outcome = Outcome()
    parts: list[str | bytes] = []
    protocol = FrameProtocol(client, list(extensions))
    protocol.receive_bytes(data)
    try:
        for got in protocol.received_frames():
            payload = got.payload
            if isinstance(payload, tuple):
                outcome.close = (int(payload[0]), payload[1])
            elif got.opcode in (Opcode.PING, Opcode.PONG):
                assert isinstance(payload, bytes | bytearray)
                outcome.controls.append((got.opcode, bytes(payload)))
            else:
                parts.append(payload if isinstance(payload, str) else bytes(payload))
                if got.message_finished:
                    empty: str | bytes = "" if got.opcode is Opcode.TEXT else b""
                    outcome.messages.append(empty.join(parts))  # type: ignore[arg-type]
                    parts.clear()
    except ParseFailed as exc:
        outcome.violation = int(exc.code)
    outcome.unfinished = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return outcome
