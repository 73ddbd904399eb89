"""LateScope: a cancel scope that is only made when it is cancelled.

Entering and leaving a scope takes seven microseconds, a sixteenth of what opening and closing a connection
takes. The one around the code that serves a client which is not accepted yet is hardly ever cancelled.

trio has no public way to put a scope around code that already runs. It moves scopes itself in the same way in
`trio.TaskStatus.started`. If its attributes are not as expected, each scope is made and entered at once.
"""

from __future__ import annotations

from typing import Any

import trio
from trio.lowlevel import Task, current_task

from trio_ws.wall import is_innermost

try:
    from trio._core._run import CancelStatus
except ImportError:
    CancelStatus: Any = None  # type: ignore[no-redef]

__all__ = ["LateScope"]

_AS_EXPECTED = all(
    hasattr(kind, name)
    for kind, names in (
        (Task, ("_cancel_status", "_activate_cancel_status")),
        (trio.CancelScope, ("_cancel_status", "_has_been_entered")),
        (CancelStatus, ("parent",)),
    )
    for name in names
)


class LateScope:
    """A cancel scope around what the current task does from now on, until `exit`."""

    __slots__ = ("_outer", "_scope", "_task")

    def __init__(self) -> None:
        self._task: Any = current_task()
        self._scope: trio.CancelScope | None = None
        if _AS_EXPECTED:
            self._outer = self._task._cancel_status
        else:
            self._scope = trio.CancelScope()
            self._scope.__enter__()

    def cancel(self) -> None:
        """Cancel the code inside, with the scopes that it has opened itself. Any task may call this."""
        if self._scope is None:
            self._scope = self._surround()
        if self._scope is not None:
            self._scope.cancel()

    def leave(self) -> bool:
        """Leave the scope before `exit`, unless a scope was opened inside that the current task has not left.

        Returns:
            Whether it was left, so that `exit` need not be called.
        """
        if self._scope is None:
            return self._task._cancel_status is self._outer
        if not is_innermost(self._scope):
            return False
        self._scope.__exit__(None, None, None)
        return True

    def exit(self, exc: BaseException | None) -> bool:
        """Leave the scope, in its own task. Returns whether the exception was its cancellation.

        Raises:
            RuntimeError: the code inside has not left all of its scopes. The task is not in them any more.
        """
        if self._scope is None and self._task._cancel_status is not self._outer:
            self._scope = self._surround()
        if self._scope is None:
            return False
        return bool(self._scope.__exit__(type(exc) if exc else None, exc, None))

    def _surround(self) -> trio.CancelScope | None:
        """Enter a scope that surrounds those inside. None if the code has left one of ours by mistake."""
        task, outer = self._task, self._outer
        inner = task._cancel_status
        while inner is not outer and inner.parent is not outer:
            inner = inner.parent
            if inner is None:
                return None
        scope: Any = trio.CancelScope()
        scope._has_been_entered = True
        scope._cancel_status = CancelStatus(scope=scope, parent=outer)
        if inner is outer:
            task._activate_cancel_status(scope._cancel_status)
        else:
            inner.parent = scope._cancel_status
        result: trio.CancelScope = scope
        return result
