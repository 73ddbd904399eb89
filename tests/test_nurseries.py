"""Unwrapping the exception group of an internal nursery."""

from __future__ import annotations

import pytest
import trio

from trio_ws._nurseries import unwrap_exception_group


async def struck_by(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    """Return the exception of a cancelled nursery whose tasks raise these, each in a group."""

    async def fail(error: BaseException) -> None:
        raise BaseExceptionGroup("a nursery's own", [error])

    with trio.CancelScope() as scope, pytest.raises(BaseExceptionGroup) as caught:
        scope.cancel()
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            for error in errors:
                nursery.start_soon(fail, error)
            nursery.start_soon(trio.sleep_forever)
    group: BaseExceptionGroup[BaseException] = caught.value
    assert group.subgroup(trio.Cancelled) is not None
    return group


async def test_one_exception_comes_alone() -> None:
    error = KeyError("one")
    assert unwrap_exception_group(await struck_by(error)) is error


async def test_several_stay_together() -> None:
    first, second = KeyError("first"), KeyboardInterrupt()
    rest = unwrap_exception_group(await struck_by(first, second))
    assert isinstance(rest, BaseExceptionGroup)
    assert rest.subgroup(lambda exc: exc is first)
    assert rest.subgroup(lambda exc: exc is second)
    assert rest.subgroup(trio.Cancelled) is None


async def test_nothing_but_cancelled_stays_cancelled() -> None:
    rest = unwrap_exception_group(await struck_by())
    assert isinstance(rest, trio.Cancelled)
