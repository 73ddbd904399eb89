"""Read and write common frames, in C if the extension was built and otherwise in Python.

A common frame is a whole text or binary message without RSV bits. It is masked as the role requires, and its
length is in the shortest form and at most 256 KiB. Reading a small one takes wsproto 13 microseconds, this
Python code one or two, and the C code a third of one.

Invariant: both implementations return the same results for any bytes. `masking` selects one.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from trio_ws.protocol.masking import extension, python_mask

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence

    Messages = MutableSequence[str | bytes]
    BytesLike = bytes | bytearray | memoryview

__all__ = [
    "FIRST_READ",
    "LONGEST",
    "MAX_FRAMES",
    "frame_head",
    "python_receive_frame",
    "python_send_frame",
    "python_take_frames",
    "python_whole_frame",
    "receive_frame",
    "send_frame",
    "take_frames",
    "whole_frame",
]

#: The longest payload of a common frame.
LONGEST = 256 * 1024
#: Maximum number of common frames per call: a millisecond of work for the receiver. The same as in
#: speedups/common.h.
MAX_FRAMES = 1024

#: A message that `receive_frame` returns came in a read of fewer bytes. As in speedups/common.h.
FIRST_READ = 4096
_FINAL_TEXT, _FINAL_BINARY = 0x81, 0x82
_from_bytes = int.from_bytes

_pack_16 = struct.Struct("!BBH").pack
_pack_64 = struct.Struct("!BBQ").pack


def python_take_frames(
    data: bytes | memoryview, start: int, masked: bool, limit: int, messages: Messages
) -> int:
    """Append the messages of consecutive common frames to ``messages``, and stop at any other frame.

    It also stops after `MAX_FRAMES` frames.

    Args:
        data: received bytes, with the beginning of a frame at ``start``.
        start: an index into ``data``.
        masked: whether the frames must be masked.
        limit: the longest payload to accept, at most `LONGEST`.
        messages: receives a ``str`` for text and ``bytes`` for binary.

    Returns:
        The index of the first byte that was not read, or -1 after text that is not valid UTF-8.
    """
    size = len(data)
    i = start
    mask_bit, key_size = (0x80, 4) if masked else (0, 0)
    for _ in range(MAX_FRAMES):
        if size - i < 2:
            break
        first = data[i]
        if first != _FINAL_BINARY and first != _FINAL_TEXT:
            break
        n = data[i + 1] ^ mask_bit
        begin = i + 2 + key_size
        if n >= 126:
            begin += 2 if n == 126 else 8
            if n > 127 or size < begin:
                break
            shortest = 126 if n == 126 else 65536
            n = _from_bytes(data[i + 2 : begin - key_size], "big")
            if n < shortest:
                break
        end = begin + n
        if n > limit or end > size:
            break
        payload = bytes(data[begin:end])
        if masked:
            payload = python_mask(payload, bytes(data[begin - 4 : begin]))
        if first == _FINAL_BINARY:
            messages.append(payload)
        else:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                return -1
        i = end
    return i


def python_receive_frame(fd: int, size: int, masked: bool, limit: int) -> str | bytes | tuple[bytes] | None:
    """Read once from a non-blocking socket, and return the message if that was one whole common frame.

    Args:
        fd: the socket's descriptor.
        size: the maximum number of bytes to read, at least 4096.
        masked, limit: as for `python_take_frames`.

    Returns:
        The message if the read brought one common frame of less than 4 KiB and nothing else. Otherwise a
        tuple of what it brought, which is empty at the end of the stream. None if there is nothing yet.

    Raises:
        OSError: the connection is broken.
    """
    try:
        data = os.read(fd, size)
    except BlockingIOError:
        return None
    size = len(data)
    short = data[1] & 127 if size >= 2 else 0
    if not 2 <= size < FIRST_READ or (short < 126 and short != size - (6 if masked else 2)):
        return (data,)  # most reads that are anything else
    messages: list[str | bytes] = []
    taken = python_take_frames(data, 0, masked, limit, messages)
    return messages[0] if taken == size and len(messages) == 1 else (data,)


def frame_head(first: int, size: int, mask_bit: int = 0) -> bytes:
    """Return the header of a frame up to its mask. ``mask_bit`` is 0x80 if it is masked."""
    if size < 126:
        return bytes((first, mask_bit | size))
    if size < 65536:
        return _pack_16(first, mask_bit | 126, size)
    return _pack_64(first, mask_bit | 127, size)


# Headers of the shortest frames: looking one up saves a quarter of a microsecond.
_SHORT_HEADS = {first: tuple(bytes((first, n)) for n in range(126)) for first in (_FINAL_TEXT, _FINAL_BINARY)}


def python_whole_frame(first: int, payload: BytesLike, key: bytes) -> bytes:
    """Encode one frame.

    Args:
        first: its first byte: FIN, RSV bits and opcode.
        payload: of any length.
        key: four bytes to mask it with, or empty for no mask.
    """
    size = len(payload)
    if key:
        return frame_head(first, size, 0x80) + key + python_mask(payload, key)
    if size < 126 and first in _SHORT_HEADS:
        return _SHORT_HEADS[first][size] + payload
    return frame_head(first, size) + payload


def python_send_frame(fd: int, first: int, payload: bytes) -> bytes | memoryview | None:
    """Make an unmasked frame, and send what a non-blocking socket takes of it.

    Args:
        fd: the socket's descriptor.
        first, payload: as for `python_whole_frame`.

    Returns:
        The rest of the frame, or None if all of it was sent.

    Raises:
        OSError: the connection is broken.
    """
    frame = python_whole_frame(first, payload, b"")
    try:
        sent = os.write(fd, frame)
    except BlockingIOError:
        return frame
    return frame[sent:] or None


take_frames: Callable[[bytes | memoryview, int, bool, int, Messages], int] = python_take_frames
whole_frame: Callable[[int, BytesLike, bytes], bytes] = python_whole_frame
receive_frame: Callable[[int, int, bool, int], str | bytes | tuple[bytes] | None] = python_receive_frame
send_frame: Callable[[int, int, bytes], bytes | memoryview | None] = python_send_frame
if extension is not None:
    take_frames, whole_frame = extension.take_frames, extension.whole_frame
    if hasattr(extension, "receive_frame"):  # only on Linux
        receive_frame, send_frame = extension.receive_frame, extension.send_frame
