"""Lines from what is no terminal: a pipe, a file."""

from __future__ import annotations

import os
from collections import deque

import trio

from trio_ws.cli.errors import USAGE, Failure

__all__ = ["PipedLines"]

_PIECE = 64 * 1024


class PipedLines:
    """The lines of a file descriptor. Waiting for one can be cancelled, and loses nothing.

    Neither a thread, which would hang at the program's end, nor O_NONBLOCK, which the descriptor's other
    owners would see too.

    Args:
        fd: of stdin, say.
        limit: bytes that one line may have.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False

    async def next(self) -> str | None:
        """The next line without its end; None after the last.

        Raises:
            Failure: it is longer than the limit.
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
