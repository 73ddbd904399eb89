"""Lifespan: context managers of a user that are open while a server runs.

Invariants: they are entered before the server starts and left when it has stopped, even if it was cancelled
or failed. Leaving them is shielded, with a time limit. A cancellation while they are entered interrupts them
once; those that were already entered may wait again while they are left.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.logs import logger_for
from trio_ws.wall import only_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = ["run_lifespans"]

logger = logger_for("trio_ws.app")


@asynccontextmanager
@enable_ki_protection
async def run_lifespans(
    managers: Sequence[Callable[[], AbstractAsyncContextManager[object]]], grace: float
) -> AsyncIterator[None]:
    """Run a block within context managers that live in a task of their own.

    An exception of the block, or one of theirs, is raised unchanged: it bypasses the nursery, which would
    wrap it in an ExceptionGroup.
    """
    failure: BaseException | None = None
    theirs: list[BaseException] = []
    entered, stop = trio.Event(), trio.Event()
    # The first shields from the outside. The second interrupts entering. The third shields what follows, and
    # bounds leaving.
    outside, entering, leaving = trio.CancelScope(shield=True), trio.CancelScope(), trio.CancelScope()

    @enable_ki_protection
    async def host() -> None:
        try:
            with outside, entering, leaving:
                async with AsyncExitStack() as stack:
                    try:
                        for manager in managers:
                            await stack.enter_async_context(manager())
                        entered.set()
                    except (trio.Cancelled, BaseExceptionGroup) as exc:
                        if not entering.cancel_called or not only_cancelled(exc):
                            raise
                        # The interruption is complete; the others end as they do after serving.
                    await stop.wait()
            if leaving.cancelled_caught:
                logger.warning("the lifespan did not end within close_timeout (%s seconds)", grace)
        except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - raised again below
            theirs.append(exc)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host)
            try:
                await entered.wait()
                yield
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            if not entered.is_set():
                # This wakes a waiting task immediately. The shield, set before it runs, lets it wait again.
                entering.cancel()
                leaving.shield = True
            leaving.deadline = trio.current_time() + grace
            stop.set()
    except BaseExceptionGroup as group:
        # Only exceptions that may be raised in any task, such as KeyboardInterrupt, leave host() this way.
        failure = unwrap_exception_group(group)
    if theirs:
        # The block was cancelled because of it, or had failed before: then raise that.
        if failure is not None and not isinstance(failure, trio.Cancelled) and failure is not theirs[0]:
            first = theirs[0]
            while first.__context__ is not None:
                first = first.__context__
            first.__context__ = failure
        failure = theirs[0]
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # break the traceback/frame reference cycle
