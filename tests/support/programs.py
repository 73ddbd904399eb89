"""Programs of examples/tutorial, run as a reader runs them: in a folder of their own, by name.

What always holds: the text is the page's; port 8000 and Redis's are replaced by others, and nothing else. The
port is held for the program by a socket that does not listen, so no other program gets it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.support.serving import guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["TUTORIAL", "Folder"]

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "examples" / "tutorial"


class Folder:
    """The folder that a reader of the tutorial types into."""

    def __init__(self, path: Path, port: int, redis_port: int = 6379) -> None:
        self.path = path
        self.port = port
        self.redis_port = redis_port

    def type(self, *names: str) -> None:
        """Put these files of the tutorial there, as ``"page/chat.py"``."""
        for name in names:
            text = (TUTORIAL / name).read_text(encoding="utf-8")
            text = text.replace("8000", str(self.port)).replace("6379", str(self.redis_port))
            (self.path / Path(name).name).write_text(text, encoding="utf-8")

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-W", "error", *args]

    @property
    def environment(self) -> dict[str, str]:
        # A reader has installed trio_ws; here it may be found by PYTHONPATH alone.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            self.command(*args),
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[trio.Process]:
        """Run chat.py until the block ends: with Ctrl+C, on which it shall end in order."""
        process = await trio.lowlevel.open_process(
            self.command("chat.py"), cwd=self.path, env=self.environment, stderr=subprocess.PIPE
        )
        try:
            with trio.fail_after(guard()):
                await self.until_it_listens(process)
                yield process
                process.send_signal(signal.SIGINT)
                await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def until_it_listens(self, process: trio.Process) -> None:
        while process.poll() is None:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            except OSError:
                await trio.sleep(0.02)
                continue
            await stream.aclose()
            return
        assert process.stderr is not None
        raise AssertionError((await process.stderr.receive_some()).decode())


def folders(path: Path, redis_port: int = 6379) -> Iterator[Folder]:
    """A fixture's body: a folder, and a port that nobody else gets meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 0))
        yield Folder(path, holder.getsockname()[1], redis_port)
