"""The first step of a coroutine, in C and in Python: the same result, trap, exception and context."""

from __future__ import annotations

import contextvars
import gc
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.masking import extension
from trio_ws.rpc.inline_call import python_first_step

if TYPE_CHECKING:
    from collections.abc import Generator

FirstStep = Callable[[contextvars.Context, Any], tuple[bool, object]]

C_FIRST_STEP = getattr(extension, "first_step", None)
IMPLEMENTATIONS = [python_first_step] + ([] if C_FIRST_STEP is None else [C_FIRST_STEP])

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")

pytestmark = pytest.mark.parametrize("first_step", IMPLEMENTATIONS)


@types.coroutine
def give(trap: object) -> Generator[object, object, object]:
    return (yield trap)


class Awaited:
    """An awaitable that is no coroutine of Python, such as those of extensions."""

    def __init__(self, ends: bool) -> None:
        self.ends = ends

    def send(self, value: None) -> str:
        VARIABLE.set("sent")
        if self.ends:
            raise StopIteration("the end")
        return "the trap"


values = st.none() | st.integers() | st.text() | st.tuples(st.booleans(), st.none()) | st.just(StopIteration)


@given(value=values, depth=st.integers(0, 3), end=st.sampled_from(["return", "raise", "wait"]))
def test_a_step_ends_fails_or_waits(first_step: FirstStep, value: object, depth: int, end: str) -> None:
    failure = KeyError(value)

    async def below(depth: int) -> object:
        if depth:
            return await below(depth - 1)
        VARIABLE.set("set")
        if end == "raise":
            raise failure
        return (await give(value)) if end == "wait" else value

    context = contextvars.copy_context()
    coroutine = below(depth)
    if end == "raise":
        with pytest.raises(KeyError) as caught:
            first_step(context, coroutine)
        assert caught.value is failure
    else:
        ended, found = first_step(context, coroutine)
        assert ended is (end == "return")
        assert found is value
    assert context[VARIABLE] == "set"
    assert VARIABLE.get() == "unset"
    if end == "wait":  # it goes on where it waits
        with pytest.raises(StopIteration) as stopped:
            context.run(coroutine.send, "answer")
        assert stopped.value.value == "answer"


@pytest.mark.parametrize(("ends", "expected"), [(True, (True, "the end")), (False, (False, "the trap"))])
def test_other_awaitables(first_step: FirstStep, ends: bool, expected: tuple[bool, str]) -> None:
    context = contextvars.copy_context()
    assert first_step(context, Awaited(ends)) == expected
    assert context[VARIABLE] == "sent"
    assert VARIABLE.get() == "unset"


async def nothing() -> None:
    pass


def test_a_context_in_use_is_refused_and_left_as_it_is(first_step: FirstStep) -> None:
    context = contextvars.copy_context()
    coroutine = nothing()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(first_step, context, coroutine)
    assert first_step(context, coroutine) == (True, None)


def test_a_coroutine_that_has_ended_is_refused(first_step: FirstStep) -> None:
    coroutine = nothing()
    context = contextvars.copy_context()
    assert first_step(context, coroutine) == (True, None)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        first_step(context, coroutine)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        first_step(context, coroutine)  # the context was left


def test_nothing_is_kept(first_step: FirstStep) -> None:
    class Kept:
        pass

    async def end(kept: Kept, fails: bool) -> Kept:
        if fails:
            raise ValueError(kept)
        return kept

    for fails in (False, True):
        kept = Kept()
        found = weakref.ref(kept)
        try:
            first_step(contextvars.copy_context(), end(kept, fails))
        except ValueError:
            pass
        del kept
        gc.collect()
        assert found() is None
