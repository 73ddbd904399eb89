"""serve --reload: a fresh server whenever a .py file below a folder has changed.

The server is a process of its own, so that nothing of the old code is left. What always holds: at most one
runs; it has ended when this ends. Where this is killed it sees the end of a pipe, and drains.
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

#: Seconds that a server may take to end, beyond what it needs to drain.
_MARGIN = 10.0
#: Milliseconds without a change after which a burst of changes counts as done, and the longest burst.
_STEP, _BURST = 50, 400
#: Milliseconds after which the watching thread says that it is still there.
_PULSE = 200


class Watcher:
    """Changes of Python files below a folder, seen by a thread.

    Args:
        folder: what is watched, and all below it, but for such as ``.git``, ``.venv`` and ``node_modules``.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._changed: set[str] = set()
        self._bell = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. It has started once no change can be missed any more."""
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
            with trio.CancelScope(shield=True):  # it ends within a step
                await trio.to_thread.run_sync(look)

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def changes(self) -> list[str]:
        """Wait for changes since this was last asked; the files."""
        await self._bell.wait()
        self._bell = trio.Event()
        changed, self._changed = self._changed, set()
        return sorted(changed)


async def reload_forever(arguments: Sequence[str], folder: str) -> int:
    """Run ``trio-ws`` with these arguments, the first a command, anew after each change, until a signal."""
    # The flags -W, -X and the like of this interpreter, as multiprocessing hands them on.
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
            nursery.start_soon(_say_when_it_ends, process)
            changed = await watcher.changes()
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            remark(f"{changed[0]}{more} changed: restarting")
            nursery.cancel_scope.cancel()
    finally:
        try:
            await _end(process)
        finally:
            os.close(ours)


async def _say_when_it_ends(process: trio.Process) -> None:
    code = await process.wait()
    remark(f"the server has ended with exit code {code}; it is started again at the next change")


async def _end(process: trio.Process) -> None:
    """Drain it, and kill it when its time is over. Ctrl+C at a terminal has reached it already."""
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
