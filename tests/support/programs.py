"""Programs of the tutorial, run as a reader runs them: in a folder of their own, by name.

Invariants: the text is that of the page, and equals the file in examples/tutorial. Only port 8000 and the
port of Redis are replaced. The port is reserved for the program by a socket that does not listen, so that no
other program gets it.
"""

from __future__ import annotations

import os
import re
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

__all__ = ["STEPS", "TUTORIAL", "Folder", "folders", "printed"]

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "examples" / "tutorial"
#: The pages in the order in which they are read, and the folder under examples/tutorial that has their files.
STEPS = {
    "echo": "echo",
    "rooms": "rooms",
    "calls": "calls",
    "client": "calls",
    "testing": "calls",
    "page": "page",
    "processes": "processes",
}


def printed(step: str) -> dict[str, str]:
    """Return the files on a page of the tutorial. The text before each ends with its name: "`chat.py`:"."""
    page = (ROOT / "docs" / "tutorial" / f"{step}.md").read_text(encoding="utf-8")
    pieces = re.split(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    files = {}
    for before, kind, body in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=False):
        if kind not in ("", "console"):
            names = re.findall(r"`(\w+\.\w+)`", before)
            assert names, f"{step}: no name before {body[:60]!r}"
            files[names[-1]] = body
    return files


class Folder:
    """The folder in which a reader of the tutorial works."""

    def __init__(self, path: Path, port: int, redis_port: int = 6379) -> None:
        self.path = path
        self.port = port
        self.redis_port = redis_port

    def type(self, *names: str) -> None:
        """Copy files of the tutorial, such as ``"page/chat.py"``, into the folder."""
        for name in names:
            self.write(Path(name).name, (TUTORIAL / name).read_text(encoding="utf-8"))

    def type_page(self, step: str, *only: str) -> None:
        """Write the files of a page, or only some of them, into the folder."""
        for name, text in printed(step).items():
            if not only or name in only:
                self.write(name, text)

    def write(self, name: str, text: str) -> None:
        text = text.replace("8000", str(self.port)).replace("6379", str(self.redis_port))
        (self.path / name).write_text(text, encoding="utf-8")

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-W", "error", *args]

    @property
    def environment(self) -> dict[str, str]:
        # A reader has installed trio_ws; here it may be only in PYTHONPATH.
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
        """Run chat.py until the block ends; then send Ctrl+C, after which it must exit normally."""
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
    """The body of a fixture: yield a folder with a reserved port."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("0.0.0.0", 0))
        yield Folder(path, holder.getsockname()[1], redis_port)
