"""``serve --reload``: restart the server when a .py file below a folder has changed.

The server runs in a child process, so that no old code remains loaded.

Invariants:

- At most one server runs, and it has ended when `reload_forever` returns.
- If this process is killed, the server notices the end of a pipe and drains.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import trio
from watchfiles import PythonFilter, watch

import trio_ws
from trio_ws.cli.errors import OK
from trio_ws.cli.output import remark

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Watcher", "reload_forever"]

#: Seconds that a server may take to end, in addition to the time that it needs to drain.
_MARGIN = 10.0
#: Milliseconds without a change that end a burst of changes, and the maximum length of a burst.
_STEP, _BURST = 50, 400
#: Milliseconds after which the watching thread reports, even without changes.
_PULSE = 200


class Watcher:
    """Watches Python files below a folder, in a thread.

    Args:
        folder: the folder to watch, with all folders below it except for those such as ``.git``, ``.venv``
            and ``node_modules``.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._changed: set[str] = set()
        self._bell = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. ``task_status`` is started when no change can be missed any more."""
        token = trio.lowlevel.current_trio_token()

        def tell(paths: set[str]) -> None:
            if not started:
                started.append(True)
                task_status.started()
            if paths:
                self._changed |= paths
                self._bell.set()

        def look() -> None:
            changes = watch(
                self._folder,
                watch_filter=PythonFilter(),
                stop_event=self._stop,
                debounce=_BURST,
                step=_STEP,
                rust_timeout=_PULSE,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            )
            for found in changes:
                token.run_sync_soon(tell, {path for _, path in found})

        started: list[bool] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_cancelled)
            with trio.CancelScope(shield=True):  # the thread ends within _STEP
                await trio.to_thread.run_sync(look)

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def changes(self) -> list[str]:
        """Wait for changes since the previous call; return the paths of the files."""
        await self._bell.wait()
        self._bell = trio.Event()
        changed, self._changed = self._changed, set()
        return sorted(changed)


async def reload_forever(arguments: Sequence[str], folder: str) -> int:
    """Run ``trio-ws`` with these arguments, and restart it after each change, until a signal.

    Args:
        arguments: the command and its arguments.
        folder: the folder to watch.
    """
    # The interpreter flags of this process, such as -W and -X, which multiprocessing passes on too.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-m", "trio_ws"]
    with trio_ws.cancel_on_signals():
        async with trio.open_nursery() as nursery:
            watcher = Watcher(folder)
            await nursery.start(watcher.run)
            remark(f"watching the .py files below {folder}")
            while True:
                await _run_until_changed(command, arguments, watcher)
    return OK


async def _run_until_changed(command: list[str], arguments: Sequence[str], watcher: Watcher) -> None:
    theirs, ours = os.pipe()
    try:
        process = await trio.lowlevel.open_process(
            [*command, arguments[0], f"--line={theirs}", *arguments[1:]],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs,),
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report_exit, process)
            changed = await watcher.changes()
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            remark(f"{changed[0]}{more} changed: restarting")
            nursery.cancel_scope.cancel()
    finally:
        try:
            await _end(process)
        finally:
            os.close(ours)


async def _report_exit(process: trio.Process) -> None:
    code = await process.wait()
    remark(f"the server has ended with exit code {code}; it is started again at the next change")


async def _end(process: trio.Process) -> None:
    """Let a server drain, and kill it after a timeout. Ctrl+C at a terminal has reached it already."""
    if process.returncode is not None:
        return
    process.terminate()
    options = trio_ws.Options()
    with trio.move_on_after(options.drain_timeout + options.close_timeout + _MARGIN, shield=True):
        await process.wait()
        return
    process.kill()
    with trio.CancelScope(shield=True):
        await process.wait()
