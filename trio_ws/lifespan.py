"""Lifespan: context managers of a user's, held open around the work of a server.

What always holds: they are entered before the work begins and left when it is over, also where it was
cancelled or failed; leaving them is shielded, and bounded.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.groups import unwrapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = ["hosted"]

logger = logging.getLogger("trio_ws.app")


@asynccontextmanager
@enable_ki_protection
async def hosted(
    managers: Sequence[Callable[[], AbstractAsyncContextManager[object]]], grace: float
) -> AsyncIterator[None]:
    """Run a block within context managers that live in a task of their own.

    An exception of the block, or one of theirs, leaves as it was raised: it is carried around the nursery,
    which would wrap it in an ExceptionGroup.
    """
    failure: BaseException | None = None
    theirs: list[BaseException] = []
    stop = trio.Event()

    @enable_ki_protection
    async def host(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        started = False
        try:
            with trio.CancelScope() as scope:
                async with AsyncExitStack() as stack:
                    for manager in managers:
                        await stack.enter_async_context(manager())
                    task_status.started(scope)
                    started = True
                    # Where the caller was cancelled before this, nobody will come to end us.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    scope.shield = True
                    await stop.wait()
            if scope.cancelled_caught:
                logger.warning("the lifespan did not end within close_timeout (%s seconds)", grace)
        except (Exception, BaseExceptionGroup) as exc:
            real = exc.split(trio.Cancelled)[1] if isinstance(exc, BaseExceptionGroup) else exc
            if not started or real is None:
                raise
            theirs.append(real)
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            try:
                scope = await nursery.start(host)
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            else:
                try:
                    yield
                except BaseException as exc:  # noqa: BLE001 - raised again below
                    failure = exc
                stop.set()
                scope.deadline = trio.current_time() + grace
    except BaseExceptionGroup as group:
        # Only what may strike any task, such as a KeyboardInterrupt, comes out of host() that way.
        failure = unwrapped(group)
    if theirs:
        # The block was cancelled for it, or had failed before: then that stays to be seen.
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
            del failure  # it holds this frame, which would hold it
