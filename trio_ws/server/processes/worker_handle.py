"""A worker as its parent sees it: a process, its control channel and its state."""

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
        exited: set by `watch` when the process has exited.
        ready_at: trio's time when it became ready, or None.
        startup_error: the reason that the worker reported for not starting, or "".
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
        """Start a process, which `begin` then configures. A cancellation leaves no process behind.

        Raises:
            OSError: the system cannot start another process.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                ours.setblocking(False)
                # Pass on flags such as -W and -X of this interpreter, as multiprocessing does.
                flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
                process = await trio.lowlevel.open_process(
                    [sys.executable, *flags, "-c", BOOTSTRAP, str(theirs.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), config.client_counts, *config.listeners),
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    async def watch(self) -> None:
        """Wait until the process exits."""
        await self.process.wait()
        self.exited.set()
        self._listening.cancel()

    async def begin(self, config: WorkerConfig, timeout: float) -> bool:  # noqa: ASYNC109 - a kill at its end
        """Send the configuration and wait until the worker is ready or has exited. `watch` must be running.

        Args:
            config: the configuration.
            timeout: seconds after which the worker is killed.

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
        """Send data and receive a line, or the beginning of one if the worker exits."""
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
            pass  # it exited without a reply, or in the middle of one
        return bytes(said)

    def signal(self, word: bytes) -> None:
        """Send a command byte and SIGTERM, which ends a worker that does not read commands yet."""
        with suppress(OSError):
            self._line.send(word)
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Close the control channel. A worker that still runs takes this for the end of its parent."""
        self._line.close()

    @property
    def exit(self) -> str:
        """How the process exited, for messages."""
        code = self.process.returncode
        if code is not None and code < 0:
            return f"killed by {_signal_name(-code)}"
        return f"exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
