"""Unwrap the exception group that an internal nursery raises."""

from __future__ import annotations

import trio

__all__ = ["first_of", "unwrap_exception_group"]


def unwrap_exception_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exceptions of a group without its Cancelled, if any remain; a single exception as itself.

    It is for nurseries around a user's block whose own exception bypasses them: what the block raised into
    the nursery is then the nursery's own Cancelled, which must not escape.
    """
    rest: BaseException = group.split(trio.Cancelled)[1] or group
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest


def first_of(exc: BaseException) -> BaseException:
    """Return the first exception in nested groups, or the exception itself: all Cancelled are alike."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
