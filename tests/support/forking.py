"""Child processes that a test forks.

Invariants: a child runs the given function and nothing else. It ends with the block, or with the test's
process.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["forked_child", "said_in_a_child"]


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn about other threads. trio keeps idle threads, whose locks the children
        # here do not need.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def forked_child() -> Generator[None, None, None]:
    """Fork a child for the duration of a block. It does nothing, but has copies of all descriptors."""
    theirs, ours = os.pipe()
    pid = _fork()
    if pid == 0:
        os.close(ours)
        os.read(theirs, 1)
        os._exit(0)
    os.close(theirs)
    try:
        yield
    finally:
        os.close(ours)
        os.waitpid(pid, 0)


def said_in_a_child(say: Callable[[], str]) -> str:
    """Return the result of ``say``, called in a forked child."""
    ours, theirs = os.pipe()
    pid = _fork()
    if pid == 0:
        try:
            os.write(theirs, say().encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said
