"""Client counts: how many clients each worker has, so that none takes many more than the others.

All workers accept from the same sockets, and the kernel wakes all of them for each client. Which one is
quickest is no matter of chance: on an idle machine it is mostly the same. As connections stay with their
worker, one processor would do nearly all of the work. So the workers count their clients in memory that they
share, and one that has more than another leaves the next client to it for a moment (see `accept_forever`). No
client depends on that: if the other worker is busy, or stuck, the first one accepts after the pause.

Invariants:

- Each number is written by the worker of its slot. When that worker has exited, the parent sets it to
  `_ABSENT`.
- A number may be late. Nothing but the choice of a worker follows from it.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from typing import Self

__all__ = ["SharedCounts", "WorkerCount", "new_memory"]

_SIZE = 8  # of a number, in bytes
_ABSENT = -1  # no worker serves in this slot
#: A worker may have this many more clients than another one, and a sixteenth of the other one's clients.
_MORE = 4


def new_memory(slots: int) -> int:
    """Make memory for this many slots, all without a worker. Return its descriptor.

    Raises:
        OSError: there is no memory or no descriptor left.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("trio_ws")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.pwrite(fd, _ABSENT.to_bytes(_SIZE, sys.byteorder, signed=True) * slots, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


class SharedCounts:
    """The numbers of clients of all workers, as the parent sees them.

    Args:
        fd: what `new_memory` has returned. It is closed at the end of the block.

    Attributes:
        fd: the same, for workers to inherit.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self._numbers = memoryview(self._memory).cast("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._numbers.release()
        self._memory.close()
        os.close(self.fd)

    def worker_gone(self, slot: int) -> None:
        """Record that no worker serves in a slot."""
        self._numbers[slot] = _ABSENT


class WorkerCount(SharedCounts):
    """The same, as the worker of a slot sees them: `ClientCounts` of its server.

    Args:
        fd: as for `SharedCounts`.
        slot: the slot of the worker.
    """

    def __init__(self, fd: int, slot: int) -> None:
        super().__init__(fd)
        self._slot = slot
        self.clients_changed(0)

    def clients_changed(self, number: int) -> None:
        """This worker has so many clients now."""
        self._numbers[self._slot] = number

    def exceeds_others(self) -> bool:
        """Whether this worker has so many clients that another one should accept the next."""
        least = min((number for number in self._numbers if number != _ABSENT), default=0)
        return self._numbers[self._slot] > least + least // 16 + _MORE
