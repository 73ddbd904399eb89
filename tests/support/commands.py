"""``trio-ws`` as a process, at a terminal or with pipes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import trio_ws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = [
    "GUARD",
    "ROOT",
    "Terminal",
    "at_a_terminal",
    "environment",
    "exchange",
    "program",
    "run_program",
    "serving_process",
]

ROOT = Path(__file__).parents[2]
#: Seconds after which a test counts as hung. Starting interpreters takes long on a busy machine.
GUARD = 60


def program(*arguments: str) -> list[str]:
    """Return the command line of ``trio-ws`` with these arguments."""
    return [sys.executable, "-W", "error", "-m", "trio_ws", *arguments]


def run_program(*arguments: str, lines: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with these lines as its stdin."""
    return subprocess.run(
        program(*arguments),
        input=lines,
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
        cwd=cwd,
        env=environment(),
    )


def environment(**more: str) -> dict[str, str]:
    """Return the environment of the tests, with this package in PYTHONPATH, and colours by default."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


@contextmanager
def serving_process(*arguments: str, cwd: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``trio-ws serve`` on a free port for the duration of a block, and yield it with its URL."""
    with subprocess.Popen(
        program("serve", *arguments, "--port", "0"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, line.split()[-1]
        finally:
            process.kill()


def exchange(url: str, *messages: str, **more: Any) -> str | None:
    """Send messages to a server, and return its last answer, or its first message if none are given."""

    async def talk() -> str | None:
        with trio.fail_after(GUARD):
            async with trio_ws.connect(url, **more) as ws:
                for message in messages:
                    await ws.send(message)
                received = [await ws.recv() for _ in messages or ("",)]
                return str(received[-1].text) if received[-1] is not None else None

    return trio.run(talk)


class Terminal:
    """A terminal, from the user's side."""

    def __init__(self, fd: int, process: trio.Process) -> None:
        self.fd = fd
        self.process = process
        self.screen = ""
        self._seen = 0

    def type(self, text: str) -> None:
        """Type text."""
        os.write(self.fd, text.encode())

    async def shows(self, text: str) -> None:
        """Wait until this text is shown, after the text of the previous call."""
        while (place := self.screen.find(text, self._seen)) < 0:
            await trio.lowlevel.wait_readable(self.fd)
            try:
                piece = os.read(self.fd, 65536)
            except OSError:  # the program has closed the last descriptor
                piece = b""
            assert piece, f"{text!r} never came: {self.screen!r}"
            self.screen += piece.decode(errors="replace")
        self._seen = place + len(text)

    async def end(self) -> int:
        """Wait for the end of the program, and return its exit code."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_on)
            code = await self.process.wait()
            nursery.cancel_scope.cancel()
        return code

    async def _read_on(self) -> None:
        """Read the rest of the output, because unread output would block the program."""
        while True:
            await trio.lowlevel.wait_readable(self.fd)
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                return
            if not piece:
                return
            self.screen += piece.decode(errors="replace")


# Make the terminal the controlling one of the program's process, so that Ctrl+C reaches it. preexec_fn is not
# used for this, because it is unsafe if threads are running.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@asynccontextmanager
async def at_a_terminal(*arguments: str, **environ: str) -> AsyncIterator[Terminal]:
    """Run a command in a pseudo-terminal for the duration of a block."""
    ours, theirs = pty.openpty()
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", _TAKE_TERMINAL, *program(*arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            start_new_session=True,
            env=environment(TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1", COLUMNS="100", LINES="30", **environ),
        )
        os.close(theirs)
        try:
            terminal = Terminal(ours, process)
            with trio.move_on_after(GUARD) as timer:
                yield terminal
            assert not timer.cancelled_caught, f"it hung: {terminal.screen!r}"
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    finally:
        os.close(ours)
