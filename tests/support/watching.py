"""Observations from outside: Python's memory, a link's counters, and waiting until a condition is true.

Invariant: nothing here waits by the wall clock. A wait without success is ended by the test's time limit.
"""

from __future__ import annotations

import gc
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
#: The header with which a raw peer offers compression, and agrees to it.
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")


class Growth:
    """Bytes of Python's memory: what a block left behind, and the most it had at any moment."""

    left = 0
    peak = 0


@contextmanager
def growth() -> Iterator[Growth]:
    """Measure a block; the result is filled in at its end."""
    result = Growth()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield result
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
        result.left, result.peak = left - before, peak - before
    finally:
        tracemalloc.stop()


def taken(direction: Direction) -> int:
    """Bytes that the receiver took: what the link carried, without what still waits there."""
    return direction.carried - direction.pending


async def until(holds: Callable[[], object]) -> None:
    """Let all tasks run until this holds, where no event of trio's can tell."""
    while not holds():
        await trio.lowlevel.checkpoint()


def deflated(data: bytes) -> bytes:
    """One message's compressed payload (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def bomb(size: int, bits: int = 15) -> bytes:
    """The same for zeros, without ever having them in memory."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -bits)
    pieces = [deflater.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*pieces, deflater.flush(zlib.Z_SYNC_FLUSH)])[:-4]
