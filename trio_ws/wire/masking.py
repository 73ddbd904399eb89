"""Masking of payloads (RFC 6455 section 5.3).

What always holds: `mask` is its own inverse, never changes its argument, and gives ``bytes``. Keys come
from the operating system's random source and each frame gets a fresh one.
"""

from __future__ import annotations

import os

__all__ = ["MaskKeys", "mask"]

_from_bytes = int.from_bytes

# Two ways, each the faster one on its side of this many bytes: one big-integer xor, and a look-up of every
# fourth byte in a table for each byte of the key. From 16 KiB on the second is three times as fast.
_INTEGER_MAX = 512

_XOR_TABLES = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))


def mask(data: bytes | bytearray | memoryview, key: bytes) -> bytes:
    """Xor ``data`` with the four bytes of ``key``, repeated."""
    size = len(data)
    if size <= _INTEGER_MAX:
        repeated = (key * ((size + 3) >> 2))[:size]
        return (_from_bytes(data, "little") ^ _from_bytes(repeated, "little")).to_bytes(size, "little")
    masked = bytearray(data)
    for lane in range(4):
        masked[lane::4] = masked[lane::4].translate(_XOR_TABLES[key[lane]])
    return bytes(masked)


class MaskKeys:
    """Fresh four-byte keys, drawn from the system's random source in pages: one system call in 256 frames."""

    __slots__ = ("_page", "_used")

    _PAGE = 1024

    def __init__(self) -> None:
        self._page = b""
        self._used = self._PAGE

    def next(self) -> bytes:
        used = self._used
        if used == self._PAGE:
            self._page = os.urandom(self._PAGE)
            used = 0
        self._used = used + 4
        return self._page[used : used + 4]
