"""``serve --reload`` with real changes of real files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from tests.support.commands import GUARD, environment, exchange, program
from trio_ws.cli.reloading import Watcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("measured")

SAYS = "async def serve(ws):\n    await ws.send('{}')\n"


@contextmanager
def reloading(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``trio-ws serve --reload`` with the module of a folder, and kill it at the end."""
    with subprocess.Popen(
        program("serve", "chat:serve", "--port", "0", "--reload", "--log-level", "warning", *more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    while line := process.stderr.readline():
        if text in line:
            return line
    raise AssertionError(f"{text!r} never came")


def test_a_change_brings_a_fresh_server(tmp_path: Path) -> None:
    module = tmp_path / "chat.py"
    module.write_text(SAYS.format("first"))
    with reloading(tmp_path) as process:
        assert process.stdout is not None

        announced = process.stdout

        def said() -> str | None:
            return exchange(announced.readline().split()[-1])

        assert said() == "first"
        page = read_until(process, "open http").split()[-1]
        assert "<h1" in httpx.get(page).text
        module.write_text(SAYS.format("second"))
        assert str(module) in read_until(process, "restarting")
        assert said() == "second"
        module.write_text("def serve(:")
        read_until(process, "has ended with exit code 2")
        module.write_text(SAYS.format("third"))
        assert said() == "third"
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0
        assert process.stdout.read() == ""  # the last server has gone, too


async def test_only_python_files_count(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "below").mkdir()
    with trio.fail_after(GUARD):
        async with trio.open_nursery() as nursery:
            watcher = Watcher(str(tmp_path))
            await nursery.start(watcher.run)
            for name in ("notes.txt", ".git/hook.py", "below/a.py"):
                (tmp_path / name).write_text("")
            assert await watcher.changes() == [str(tmp_path / "below" / "a.py")]
            nursery.cancel_scope.cancel()


def test_a_server_ends_with_its_watcher_however_that_dies(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(SAYS.format("hello"))
    with reloading(tmp_path, "--json") as process:
        server = 0
        try:
            assert process.stdout is not None
            announced = json.loads(process.stdout.readline())
            server = announced["pid"]
            assert exchange(announced["url"]) == "hello"
            process.kill()
            # The server has it, too: its end is the end of both.
            assert process.communicate(timeout=GUARD)[0] == ""
            server = 0
        finally:
            if server:
                with suppress(ProcessLookupError):
                    os.kill(server, signal.SIGKILL)
