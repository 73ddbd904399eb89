"""The standard streams and the arguments of this process, made fit for use.

What always holds: after `prepare` there is a stdin, a stdout and a stderr, whatever the shell has closed, and
no text fails for want of a character in the encoding of a locale.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["arguments_of", "give_up_stdout", "prepare"]


def prepare() -> None:
    """Open what is closed, on nothing, and let no character fail to be written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so it is this one. Left free, it would be the next socket's.
            os.open(os.devnull, os.O_RDWR)
    # Each is None where it was closed when Python began. Its number may lead elsewhere by now: a library that
    # was loaded since then may have opened a file, as libffi does.
    if sys.stdin is None:
        # Open for as long as the process lives.
        sys.stdin = open(os.open(os.devnull, os.O_RDONLY), closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Whoever read the output has seen enough. At its end Python would complain about what is left."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def arguments_of(argv: list[str]) -> list[str]:
    """The arguments as text, also where the locale knows ASCII alone: they are UTF-8 then."""
    return [one if one.isascii() else os.fsencode(one).decode(errors="replace") for one in argv]
