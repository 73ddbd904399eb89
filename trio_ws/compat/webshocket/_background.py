"""Background tasks that outlive the call that started them, in a nursery or as a system task of trio."""

from __future__ import annotations

import contextvars
import signal
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection, spawn_system_task

from trio_ws._nurseries import open_block
from trio_ws.logs import logger_for
from trio_ws.wall import ends_program, judged, leaves, log_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

__all__ = ["Background", "UserBlock"]

logger = logger_for("trio_ws.compat.webshocket")


class Background:
    """An async function that runs in a background task until it returns, or until `stop` is called.

    Args:
        run: the function. It gets a callback, which it calls when it has started. It must return soon after
            `stopping` is set.

    Attributes:
        stopping: set by `stop`.
        done: set when the function has ended.
    """

    def __init__(self, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        self._run = run
        self._begun = trio.Event()
        self._failure: BaseException | None = None  # raised before the function had started
        self._scope = trio.CancelScope()
        self.stopping = trio.Event()
        self.done = trio.Event()

    async def start(self, nursery: trio.Nursery | None) -> None:
        """Start the function, and return when it has started. A cancellation ends it.

        Args:
            nursery: the nursery in which it runs, and in which its exceptions are raised. None for a system
                task, which ends with the program's main task at the latest. Its exceptions are logged.

        Raises:
            BaseException: the function raised it before it had started.
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
        """Stop the function, and wait until it has ended. A cancellation ends only the wait."""
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
        # An exception in a system task would end trio with TrioInternalError.
        try:
            await self._run_to_end()
        except BaseException as exc:  # noqa: BLE001 - judged there
            if ends_program(exc) and any(isinstance(one, KeyboardInterrupt) for one in leaves(exc)):
                signal.raise_signal(signal.SIGINT)  # for the program's main task
                return
            log_failure(logger, "a task in the background failed", exc=judged(exc))


class UserBlock:
    """The ``async with`` block of a server or a client.

    Args:
        close: ends the tasks of its nursery.

    Attributes:
        nursery: the nursery that is open in the block; None outside of it.
    """

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self.nursery: trio.Nursery | None = None

    @enable_ki_protection
    async def enter(self, start: Callable[[], Awaitable[object]]) -> None:
        """Enter the block, and start what runs in it. If that fails, the block is left again."""
        manager = open_block(self._close)
        self.nursery = await manager.__aenter__()
        self._manager = manager
        try:
            await start()
        except BaseException as exc:
            await self.leave(type(exc), exc, exc.__traceback__)
            raise

    @enable_ki_protection
    async def leave(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block. Without one, do nothing."""
        manager, self._manager, self.nursery = self._manager, None, None
        if manager is not None:
            await manager.__aexit__(kind, exc, trace)
