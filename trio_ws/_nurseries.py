"""What struck a nursery of ours, out of the group that trio makes of it."""

from __future__ import annotations

import trio

__all__ = ["first_of", "unwrap_exception_group"]


def unwrap_exception_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is in a group without its Cancelled, where that leaves anything; one exception alone, as itself.

    It is for nurseries around a block of a user's whose own exception is carried past them: what the block
    raised then is the Cancelled of the nursery, which must not leave it.
    """
    rest: BaseException = group.split(trio.Cancelled)[1] or group
    while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
        rest = rest.exceptions[0]
    return rest


def first_of(exc: BaseException) -> BaseException:
    """The first exception in a group, however deep, or the one that is no group: Cancelled are all alike."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc
