"""The standard streams and the arguments of this process.

Invariants: after `prepare`, stdin, stdout and stderr are open, even if the process was started without them.
Writing text never fails because of the encoding of the locale.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["arguments_of", "give_up_stdout", "prepare"]


def prepare() -> None:
    """Open closed standard streams on the null device, and escape characters that cannot be encoded."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # This opens the lowest free descriptor, which is this one. Otherwise a socket would get it.
            os.open(os.devnull, os.O_RDWR)
    # A stream is None if its descriptor was closed when Python started. A library that was loaded since, such
    # as libffi, may have opened a file with the same descriptor.
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
    """Discard further output, because the reader of the pipe has exited (such as ``head``).

    Otherwise Python would report an error at exit, when it flushes stdout.
    """
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def arguments_of(argv: list[str]) -> list[str]:
    """Decode the arguments as UTF-8 if the locale only has ASCII."""
    return [one if one.isascii() else os.fsencode(one).decode(errors="replace") for one in argv]
