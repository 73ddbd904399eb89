"""Measurements: Python's memory, the counters of a link, and waiting until a condition is true.

Invariant: nothing here sleeps. The time limit of the test ends an unsuccessful wait.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_ws.testing import Direction

__all__ = ["DEFLATE", "MIB", "Growth", "bomb", "deflated", "growth", "taken", "until"]

MIB = 1024 * 1024
#: The header with which a raw peer offers or accepts compression.
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")


class Growth:
    """Bytes of Python's memory that a block added: at its end, and at most."""

    left = 0
    peak = 0


@contextmanager
def growth() -> Iterator[Growth]:
    """Measure a block. The result is set at its end. Coverage is off meanwhile, because it takes memory."""
    result = Growth()
    gc.collect()
    tracer = sys.gettrace()
    sys.settrace(None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield result
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
        result.left, result.peak = left - before, peak - before
    finally:
        tracemalloc.stop()
        sys.settrace(tracer)


def taken(direction: Direction) -> int:
    """Return the number of bytes that the receiver has read: those sent, without those still in the link."""
    return direction.carried - direction.pending


async def until(holds: Callable[[], object]) -> None:
    """Let other tasks run until a condition is true, if no trio event signals it."""
    while not holds():
        await trio.lowlevel.checkpoint()


def deflated(data: bytes) -> bytes:
    """Return the compressed payload of a message (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int, bits: int = 15) -> bytes:
    """Return the compressed payload of ``size`` zeros, without holding these in memory."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    pieces = [deflater.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, deflater.flush(zlib.Z_SYNC_FLUSH)])[:-4]
