"""A worker as its parent sees it: a process, the line to it, and how far it has come."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import trio
from trio.lowlevel import wait_readable, wait_writable

from trio_ws.server.processes.control import BOOTSTRAP, READY, pack

if TYPE_CHECKING:
    from trio_ws.server.processes.control import WorkerConfig

__all__ = ["WorkerHandle"]

_REPORT_BYTES = 64 * 1024


class WorkerHandle:
    """One worker.

    Attributes:
        gone: set when its process has ended, seen by `watch`.
        ready_at: trio's time when it was ready; None before.
        report: why it is not, as it said itself; "" where it said nothing.
    """

    def __init__(self, process: trio.Process, line: socket.socket) -> None:
        self.process = process
        self.exited = trio.Event()
        self.ready_at: float | None = None
        self.startup_error = ""
        self._line = line
        self._listening = trio.CancelScope()

    @classmethod
    async def start(cls, config: WorkerConfig) -> Self:
        """Start a process; `begin` gives it its orders. A cancellation leaves none behind.

        Raises:
            OSError: there is no room for another process.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ours.setblocking(False)
                # The flags -W, -X and the like of this interpreter, as multiprocessing hands them on.
                flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
                process = await trio.lowlevel.open_process(
                    [sys.executable, *flags, "-c", BOOTSTRAP, str(theirs.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *config.listeners),
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    async def watch(self) -> None:
        """Wait for the end of the process."""
        await self.process.wait()
        self.exited.set()
        self._listening.cancel()

    async def begin(self, config: WorkerConfig, timeout: float) -> bool:  # noqa: ASYNC109 - a kill at its end
        """Give it its orders and wait until it is ready, or has ended. `watch` runs meanwhile.

        Args:
            orders: what it shall do.
            timeout: seconds, after which it is killed.

        Returns:
            Whether it is ready.
        """
        with trio.move_on_after(timeout) as timer:
            said = await self._exchange(pack(config))
            if said == READY:
                self.ready_at = trio.current_time()
                return True
            self.startup_error = said.decode(errors="replace").strip()
            await self.exited.wait()
        if timer.cancelled_caught:
            self.startup_error = f"was not ready after {timeout} seconds"
            self.process.kill()
            await self.exited.wait()
        return False

    async def _exchange(self, data: bytes) -> bytes:
        """Send, and receive a line; or what there is of one when the worker ends."""
        said = bytearray()
        try:
            with self._listening:
                while data:
                    await wait_writable(self._line)
                    data = data[self._line.send(data) :]
                while not said.endswith(b"\n"):
                    await wait_readable(self._line)
                    piece = self._line.recv(_REPORT_BYTES)
                    if not piece:
                        return bytes(said)
                    said += piece
            if not said.endswith(b"\n"):
                said += self._line.recv(_REPORT_BYTES)
        except OSError:
            pass  # it ended without a word, or in its middle
        return bytes(said)

    def signal(self, word: bytes) -> None:
        """Say a word and send SIGTERM, which ends one that has not come as far as to listen to words."""
        with suppress(OSError):
            self._line.send(word)
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Give up the line. A worker that still runs takes that for the parent's end."""
        self._line.close()

    @property
    def exit(self) -> str:
        """How it ended, for people."""
        code = self.process.returncode
        if code is not None and code < 0:
            return f"killed by {_signal_name(-code)}"
        return f"exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
