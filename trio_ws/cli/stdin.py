"""Lines from a pipe or a file."""

from __future__ import annotations

import os
from collections import deque

import trio

from trio_ws.cli.errors import USAGE, Failure

__all__ = ["PipedLines"]

_PIECE = 64 * 1024


class PipedLines:
    """The lines of a file descriptor. A cancelled wait loses no line.

    It uses neither a thread, which would block the end of the program, nor O_NONBLOCK, which other processes
    with the same descriptor would see too.

    Args:
        fd: the file descriptor, such as that of stdin.
        limit: the maximum number of bytes in a line.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    async def next(self) -> str | None:
        """Return the next line without the line end; None after the last one.

        Raises:
            Failure: the line is longer than the limit.
        """
        await trio.lowlevel.checkpoint()
        while not self._lines:
            if self._ended:
                return None
            await self._read()
        return self._lines.popleft().decode(errors="replace").rstrip("\r")

    async def _read(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except OSError:
            pass  # a file, which is always readable
        piece = os.read(self._fd, _PIECE)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        self._lines += lines
        if not piece:
            self._ended = True
            if self._rest:
                self._lines.append(self._rest)
        elif len(self._rest) > self._limit:
            raise Failure(f"a line of stdin has more than {self._limit} bytes", USAGE)
