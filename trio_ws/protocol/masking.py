"""Mask payloads (RFC 6455 section 5.3), in C if the extension was built and otherwise in Python.

This module decides at import time whether the extension is used, here and in `_accel`. The environment
variable ``TRIO_WS_PURE=1`` selects Python. Both return the same results. In Python, masking takes several
times as long for large messages.

Invariants: `mask` is its own inverse, never modifies its argument, and returns ``bytes``. Keys come from the
operating system's random source, and each frame gets a fresh one.
"""

from __future__ import annotations

import os
import struct
import warnings
from contextlib import suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    Mask = Callable[[bytes | bytearray | memoryview, bytes], bytes]

__all__ = ["IMPLEMENTATION", "extension", "mask", "mask_keys", "python_mask"]

_from_bytes = int.from_bytes

#: Up to this many bytes, one big-integer xor is faster; above, a table look-up of every fourth byte for each
#: byte of the key. From 16 KiB on the latter is three times as fast.
_INTEGER_MAX = 384

# Precomputed and unrolled, which saves a seventh of the time for 1 KiB.
_OFFSET_0, _OFFSET_1, _OFFSET_2, _OFFSET_3 = (slice(offset, None, 4) for offset in range(4))
_XOR_TABLES = tuple(bytes(byte ^ key for byte in range(256)) for key in range(256))


def python_mask(data: bytes | bytearray | memoryview, key: bytes) -> bytes:
    """Xor ``data`` with the four bytes of ``key``, repeated."""
    size = len(data)
    if size <= _INTEGER_MAX:
        repeated = (key * ((size + 3) >> 2))[:size]
        return (_from_bytes(data, "little") ^ _from_bytes(repeated, "little")).to_bytes(size, "little")
    masked = bytearray(data)
    key_0, key_1, key_2, key_3 = key
    masked[_OFFSET_0] = masked[_OFFSET_0].translate(_XOR_TABLES[key_0])
    masked[_OFFSET_1] = masked[_OFFSET_1].translate(_XOR_TABLES[key_1])
    masked[_OFFSET_2] = masked[_OFFSET_2].translate(_XOR_TABLES[key_2])
    masked[_OFFSET_3] = masked[_OFFSET_3].translate(_XOR_TABLES[key_3])
    return bytes(masked)


#: What this version of the package calls in the extension; the extension has the same number.
_INTERFACE = 20
#: The extension, or None if it is missing, disabled, or was built from another version of its source.
extension: ModuleType | None = None
if os.environ.get("TRIO_WS_PURE", "0") in ("", "0"):
    with suppress(ImportError):
        from trio_ws.protocol import _speedups as extension
if extension is not None and getattr(extension, "INTERFACE", None) != _INTERFACE:
    warnings.warn(
        f"{extension.__file__} was built from another version of trio_ws and is not used; "
        "install trio_ws again",
        RuntimeWarning,
        stacklevel=2,
    )
    extension = None

#: The implementation in use: "c" or "python".
IMPLEMENTATION = "python" if extension is None else "c"
mask: Mask = python_mask if extension is None else extension.mask


_PAGE = struct.Struct("4s" * 256)


def mask_keys() -> Iterator[bytes]:
    """Yield fresh four-byte keys, drawn from the system's random source in pages: one system call per 256
    frames.

    Built-in iterators only: a step costs a quarter of the same in Python.
    """
    return chain.from_iterable(map(_PAGE.unpack, map(os.urandom, repeat(_PAGE.size))))


def __getattr__(name: str) -> object:
    if name != "LANE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = "trio_ws.protocol.masking.LANE is deprecated, use trio_ws.protocol.masking.IMPLEMENTATION"
    warnings.warn(text, DeprecationWarning, stacklevel=2)
    return IMPLEMENTATION
