"""Workers: parked tasks that calls run on, shared by all connections of one server or one client.

A task and a cancel scope for each call would cost three times the call itself. A worker keeps both: its scope
is long-lived and is made anew only once it was cancelled. Most calls need no worker at all, see peer.py: only
one that waits takes the task that it began in, and then a worker takes over what that task was doing.

What always holds:

- All workers are children of the owner's nursery and end with it.
- A job starts in a copy of the context that the pool was made in, so that no context variable goes from one
  call into the next.
- A worker whose scope came to harm (a method left a cancel scope of its own open) ends, and takes no other
  with it.
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
    wait_task_rescheduled,
)

from trio_ws.logs import logger_for
from trio_ws.wall import close_nurseries, is_innermost
from trio_ws.websocket._notify import WAKE

__all__ = ["IN_CALL", "PooledTask", "TaskPool"]

logger = logger_for("trio_ws.rpc")

#: Set in calls and in all tasks that they start: what they ask of the other side is a nested call.
IN_CALL: contextvars.ContextVar[bool] = contextvars.ContextVar("IN_CALL", default=False)
#: Workers that are kept when there is nothing to do.
_MAX_IDLE = 512


class PooledTask:
    """One task that calls run on, and the scope that they run in."""

    __slots__ = ("job", "scope", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scope = trio.CancelScope()
        self.job: Job | None = None


Job = Callable[[PooledTask], Awaitable[None]]


class TaskPool:
    """See the module's text.

    Args:
        nursery: where the workers live.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[PooledTask] = []
        self.context = contextvars.copy_context()
        self.context.run(IN_CALL.set, True)

    @property
    def cancelled(self) -> bool:
        """Whether the owner has cancelled them all."""
        return self._nursery.cancel_scope.cancel_called

    def start(self, job: Job) -> None:
        """Run ``job`` on a worker, soon."""
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
            # A method left a cancel scope open, so that ours could not be closed. What it did is not known
            # here any more; the worker is lost and others go on.
            logger.exception("a worker was lost: did a method leave a cancel scope open?")

    async def _work_in_scope(self, worker: PooledTask) -> None:
        """Until the scope is used up, or came to harm, or there are idle workers enough."""
        while not worker.scope.cancel_called:
            if worker.job is None:
                if len(self._idle) >= _MAX_IDLE:
                    return
                await self._park(worker)
            job, worker.job = worker.job, None
            assert job is not None
            await job(worker)
            del job  # it holds a connection
            if worker.task.child_nurseries or not is_innermost(worker.scope):
                return  # what a method has left open must not strike another

    async def _park(self, worker: PooledTask) -> None:
        self._idle.append(worker)

        def abort(_: RaiseCancelT) -> Abort:
            self._idle.remove(worker)
            return Abort.SUCCEEDED

        await wait_task_rescheduled(abort)
