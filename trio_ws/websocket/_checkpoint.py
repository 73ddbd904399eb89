"""`passed_checkpoint`: the check for a cancellation without a coroutine, for what is done with each message.

Where one read brings many messages, the two calls of `trio.lowlevel.checkpoint_if_cancelled` for each of them
were a third of the cost of an echo. trio has no cheaper public way to ask whether the current task is
cancelled. If its attributes are not as expected, `passed_checkpoint` always returns False, and its callers
ask trio.

Invariant: ``passed_checkpoint() or await checkpoint_if_cancelled()`` does the same as its second half.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from trio._core import _run

from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["passed_checkpoint", "python_passed_checkpoint"]

_NEEDED = (
    ("Task", ("_cancel_points", "_cancel_status", "_runner")),
    ("CancelStatus", ("effectively_cancelled",)),
    ("Runner", ("ki_pending",)),
)


def python_passed_checkpoint() -> bool:
    """Do what `trio.lowlevel.checkpoint_if_cancelled` does in a task that is not cancelled.

    Returns:
        Whether the task is not cancelled. If False, nothing was done, and the caller asks trio: the task is
        cancelled, a Ctrl+C is to be delivered to some task, or this is no task of trio.
    """
    task: _run.Task | None = getattr(_run.GLOBAL_RUN_CONTEXT, "task", None)
    if task is None or task._cancel_status.effectively_cancelled or task._runner.ki_pending:
        return False
    task._cancel_points += 1
    return True


def _never() -> bool:
    return False


def _choose() -> Callable[[], bool]:
    if not isinstance(getattr(_run, "GLOBAL_RUN_CONTEXT", None), threading.local):
        return _never
    if not all(hasattr(getattr(_run, kind, None), name) for kind, names in _NEEDED for name in names):
        return _never
    if extension is not None and hasattr(extension, "watch_task"):
        in_c: Callable[[], bool] = extension.passed_checkpoint
        if extension.watch_task(_run.GLOBAL_RUN_CONTEXT, _run.Task, _run.CancelStatus, _run.Runner):
            return in_c
    return python_passed_checkpoint


passed_checkpoint = _choose()
