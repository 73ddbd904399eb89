"""Unwrap the exception group that an internal nursery raises."""

from __future__ import annotations

import trio

__all__ = ["first_of", "unwrap_exception_group"]


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
