"""What runs on after the call that began it: in a nursery of the program's, or in a system task."""

from __future__ import annotations

import contextvars
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection, spawn_system_task

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.logs import logger_for
from trio_ws.wall import ends_program, judged, log_failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["Background", "open_block"]

logger = logger_for("trio_ws.compat.webshocket")


class Background:
    """One async function that runs on until it returns, or `stop` is called.

    Args:
        run: gets what it has to call once it has begun. It returns soon after `stopping` is set.

    Attributes:
        stopping: set by `stop`.
        done: set when it has ended.
    """

    def __init__(self, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._run = run
        self._begun = trio.Event()
        self._failure: BaseException | None = None  # before it had begun
        self._scope = trio.CancelScope()
        self.stopping = trio.Event()
        self.done = trio.Event()

    async def start(self, nursery: trio.Nursery | None) -> None:
        """Return once it has begun. Cancelled, it has ended.

        Args:
            nursery: where it runs, and where what it raises goes. None for a system task: it ends with the
                program's main task at the latest, and what it raises is logged.

        Raises:
            BaseException: what it raised before it had begun.
        """
        if nursery is None:
            context = contextvars.copy_context()
            spawn_system_task(self._run_in_system_task, name="trio_ws webshocket", context=context)
        else:
            nursery.start_soon(self._run_in_nursery, name="trio_ws webshocket")
        try:
            await self._begun.wait()
        except BaseException:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self.done.wait()
            raise
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None

    async def stop(self) -> None:
        """Let it end, and wait until it has. Cancelled, it ends all the same."""
        self.stopping.set()
        await self.done.wait()

    async def _run_to_end(self) -> None:
        try:
            with self._scope:
                await self._run(self._begun.set)
        except BaseException as exc:
            if self._begun.is_set() or not isinstance(exc, Exception):
                raise
            self._failure = exc
        finally:
            self._begun.set()
            self.stopping.set()
            self.done.set()

    @enable_ki_protection
    async def _run_in_nursery(self) -> None:
        await self._run_to_end()

    @enable_ki_protection
    async def _run_in_system_task(self) -> None:
        # What a system task raises would end the whole of trio as an internal error.
        try:
            await self._run_to_end()
        except BaseException as exc:  # noqa: BLE001 - judged there
            if ends_program(exc) and _interrupts(exc):
                signal.raise_signal(signal.SIGINT)  # for the program's main task
                return
            log_failure(logger, "a task in the background failed", exc=judged(exc))


def _interrupts(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return any(_interrupts(one) for one in exc.exceptions)
    return isinstance(exc, KeyboardInterrupt)


@asynccontextmanager
@enable_ki_protection
async def open_block(end: Callable[[], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """A nursery around a user's block; ``end`` is awaited when that is left, and brings its tasks to an end.

    An exception of the block leaves as it was raised, and so does a single one of the nursery's.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            await end()
    except BaseExceptionGroup as group:
        failure = unwrap_exception_group(group)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # it holds this frame, which would hold it
