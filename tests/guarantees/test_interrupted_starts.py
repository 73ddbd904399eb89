"""A signal or cancellation while an App's lifespan starts: everything that was opened is closed in order."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import all_tasks
from trio_ws import App, Options, serve
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

#: Two lifespans. The second one never becomes ready, and both take some time to close.
SLOW = """
import os
import trio, trio_ws

app = trio_ws.App()

@app.lifespan
async def first(app):
    try:
        yield
    finally:
        await trio.sleep(0.05)
        os.write(1, b"first closed\\n")

@app.lifespan
async def second(app):
    try:
        os.write(1, b"opened\\n")
        await trio.sleep_forever()
        yield
    finally:
        await trio.sleep(0.05)
        os.write(1, b"second closed\\n")
"""
RUN = (
    SLOW
    + """
app.run(port=0)
print("end", flush=True)
"""
)
PROCESSES = """
import functools
import trio, trio_ws

if __name__ == "__main__":
    trio.run(functools.partial(trio_ws.serve_processes, "slow:app", 0, workers=1))
    print("end", flush=True)
"""


def interrupted(arguments: list[str], sign: signal.Signals, folder: Path) -> list[str]:
    """Run a program, interrupt it after it has printed "opened", and return the lines that it prints then."""
    (folder / "slow.py").write_text(SLOW)
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        process.send_signal(sign)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in err
    assert process.returncode == 0
    return out.splitlines()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_run(sign: signal.Signals, tmp_path: Path) -> None:
    assert interrupted(["-c", RUN], sign, tmp_path) == ["second closed", "first closed", "end"]


def test_serve_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROCESSES)
    assert interrupted(["program.py"], signal.SIGTERM, tmp_path) == ["second closed", "first closed", "end"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_command(workers: str, tmp_path: Path) -> None:
    command = ["-m", "trio_ws", "serve", "slow:app", "--port", "0", "--workers", workers]
    said = interrupted(command, signal.SIGTERM, tmp_path)
    # A second worker may or may not have printed "opened".
    assert said.count("second closed") == said.count("first closed") >= 1


async def test_cleanup_of_a_lifespan_may_wait(autojump_clock: MockClock) -> None:
    app, events = App(), []

    @app.lifespan
    async def first(app: App) -> AsyncIterator[None]:
        yield
        await trio.sleep(3)
        events.append("first")

    @app.lifespan
    async def second(app: App) -> AsyncIterator[None]:
        try:
            await trio.sleep(10)
            yield
        finally:
            await trio.sleep(4)
            events.append("second")

    before = all_tasks()
    with trio.move_on_after(1) as scope:
        await serve(app, 0, listeners=[MemoryListener()])
    assert scope.cancelled_caught
    assert events == ["second", "first"]
    assert trio.current_time() == 8
    assert all_tasks() == before


async def test_closing_has_an_end(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.lifespan
    async def stuck(app: App) -> AsyncIterator[None]:
        try:
            await trio.sleep(10)
            yield
        finally:
            await trio.sleep_forever()

    before = all_tasks()
    with trio.move_on_after(1):
        await serve(app, 0, listeners=[MemoryListener()], options=Options(close_timeout=5))
    assert trio.current_time() == 6
    assert [record.getMessage() for record in caplog.records] == [
        "the lifespan did not end within close_timeout (5 seconds)"
    ]
    assert all_tasks() == before


async def test_a_start_that_fails_closes_what_is_open_and_raises_as_it_was_raised(
    autojump_clock: MockClock,
) -> None:
    app, events = App(), []
    error = ValueError("no database")

    @app.lifespan
    async def first(app: App) -> AsyncIterator[None]:
        yield
        await trio.sleep(3)
        events.append("first")

    @app.lifespan
    async def second(app: App) -> AsyncIterator[None]:
        await trio.sleep(1)
        raise error
        yield

    with pytest.raises(ValueError, match="no database") as info:
        await serve(app, 0, listeners=[MemoryListener()])
    assert info.value is error
    assert events == []  # it got the error thrown in at its yield
    assert trio.current_time() == 1
