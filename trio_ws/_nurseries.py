"""Nurseries of this package around a block of the user, whose exception groups the user must not see."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["first_of", "open_block", "unwrap_exception_group"]


@asynccontextmanager
@enable_ki_protection
async def open_block(end: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[trio.Nursery]:
    """Open a nursery around a user's block.

    An exception of the block, or a single one of the nursery's tasks, is raised without an exception group.

    Args:
        end: awaited at the end of the block, to end the tasks. By default they are cancelled.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            if end is None:
                nursery.cancel_scope.cancel()
            else:
                await end()
    except BaseExceptionGroup as group:
        failure = unwrap_exception_group(group)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # break the traceback/frame reference cycle


def unwrap_exception_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exceptions of a group without its Cancelled, if any remain; a single exception as itself.

    This is for nurseries around a block of the user. If a background task fails, the nursery cancels the
    block. The Cancelled that the block then raises belongs to the nursery, and must not propagate.
    """
    rest: BaseException = group.split(trio.Cancelled)[1] or group
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest


def first_of(exc: BaseException) -> BaseException:
    """Return the first exception in nested groups, or the exception itself, for groups of only Cancelled."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
