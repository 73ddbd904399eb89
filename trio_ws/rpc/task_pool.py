"""Pooled tasks: reusable tasks that calls run in, shared by all connections of one server or one client.

Starting a task and opening a cancel scope for each call would cost three times the call itself. A pooled task
keeps both, and replaces its scope only after it was cancelled. Most calls need no pooled task, because they
finish in the task that reads the connection. A call that waits keeps that task, and a pooled task continues
to read in its place; see inline_call.py.

Invariants:

- All pooled tasks are children of the owner's nursery and end with it.
- A new pooled task starts in a copy of the context that the pool was created in.
- A pooled task ends if a method has left a cancel scope open in it. Other tasks are not affected.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable

import trio
from trio.lowlevel import (
    Abort,
    RaiseCancelT,
    Task,
    current_task,
    enable_ki_protection,
    reschedule,
)

from trio_ws.logs import logger_for
from trio_ws.wall import close_nurseries, is_innermost
from trio_ws.websocket._notify import WAKE
from trio_ws.websocket._wait import wait_task

__all__ = ["IN_CALL", "PooledTask", "TaskPool"]

logger = logger_for("trio_ws.rpc")

#: True in calls and in all tasks that they start, where every call to the other side is a nested call.
IN_CALL: contextvars.ContextVar[bool] = contextvars.ContextVar("IN_CALL", default=False)
#: The maximum number of idle tasks that are kept.
_MAX_IDLE = 512


class PooledTask:
    """A task that calls run in, and the cancel scope around them."""

    __slots__ = ("job", "scope", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scope = trio.CancelScope()
        self.job: Job | None = None


Job = Callable[[PooledTask], Awaitable[None]]


class TaskPool:
    """See the module docstring.

    Args:
        nursery: the parent of the pooled tasks.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[PooledTask] = []
        self.context = contextvars.copy_context()
        self.context.run(IN_CALL.set, True)

    @property
    def cancelled(self) -> bool:
        """Whether the owner has cancelled all pooled tasks."""
        return self._nursery.cancel_scope.cancel_called

    def start(self, job: Job) -> None:
        """Schedule ``job`` to run in an idle task, or in a new one."""
        if self._idle:
            worker = self._idle.pop()
            worker.job = job
            reschedule(worker.task, WAKE)
        else:
            self.context.copy().run(self._nursery.start_soon, self._work, job)

    @enable_ki_protection
    async def _work(self, first: Job) -> None:
        worker = PooledTask(current_task())
        worker.job = first
        del first  # as in _work_in_scope
        try:
            while len(self._idle) < _MAX_IDLE or worker.job is not None:
                with trio.CancelScope() as worker.scope:
                    try:
                        await self._work_in_scope(worker)
                    finally:
                        await close_nurseries("a method")
        except Exception:
            # A method left a cancel scope open, so ours could not be closed. Only this task ends.
            logger.exception("a worker was lost: did a method leave a cancel scope open?")

    async def _work_in_scope(self, worker: PooledTask) -> None:
        """Run jobs until the scope cannot be reused, or until there are enough idle tasks."""
        while not worker.scope.cancel_called:
            if worker.job is None:
                if len(self._idle) >= _MAX_IDLE:
                    return
                await self._park(worker)
            job, worker.job = worker.job, None
            assert job is not None
            await job(worker)
            del job  # which refers to a connection
            if worker.task.child_nurseries or not is_innermost(worker.scope):
                return  # a scope or nursery that a method left open must not affect the next job

    async def _park(self, worker: PooledTask) -> None:
        self._idle.append(worker)

        def abort(_: RaiseCancelT) -> Abort:
            self._idle.remove(worker)
            return Abort.SUCCEEDED

        await wait_task(abort)
