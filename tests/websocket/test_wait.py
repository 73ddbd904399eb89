"""`wait_task` of the extension: step by step what trio's own coroutine does."""

from __future__ import annotations

import collections.abc
import gc
import weakref
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from tests.fuzz.extension import load
from tests.support.waits import STEPS, drive, never_aborted, one_step
from trio_ws.protocol.masking import extension
from trio_ws.websocket import _wait
from trio_ws.websocket._wait import wait_task

if TYPE_CHECKING:
    from collections.abc import Callable

needs_extension = pytest.mark.skipif(
    extension is None, reason="the extension was not built, or TRIO_WS_PURE is set"
)
scripts = st.lists(
    st.tuples(st.sampled_from((*STEPS, "start", "start", "value")), st.integers(0, 2)), max_size=20
)


@needs_extension
def test_it_is_the_one_in_c() -> None:
    assert extension is not None
    assert wait_task is extension.wait_task


@given(script=scripts)
def test_it_agrees_with_trio(script: list[tuple[str, int]]) -> None:
    assert drive(wait_task, script) == drive(wait_task_rescheduled, script)


@pytest.mark.parametrize("wait", [wait_task, wait_task_rescheduled])
async def test_a_task_is_woken_or_cancelled(wait: Callable[[Any], Any]) -> None:
    aborted: list[RaiseCancelT] = []

    def abort(raise_cancel: RaiseCancelT) -> Abort:
        aborted.append(raise_cancel)
        return Abort.SUCCEEDED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reschedule, current_task(), outcome.Value(5))
        assert await wait(abort) == 5
        nursery.start_soon(_reschedule, current_task(), outcome.Error(KeyError("woken")))
        with pytest.raises(KeyError, match="woken"):
            await wait(abort)
        assert not aborted
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel, scope)
            await wait(abort)
        assert scope.cancelled_caught
        assert len(aborted) == 1
        nursery.start_soon(wait, abort)  # a task of its own
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(aborted) == 2


async def _reschedule(task: trio.lowlevel.Task, result: outcome.Outcome[int]) -> None:
    reschedule(task, result)


async def _cancel(scope: trio.CancelScope) -> None:
    scope.cancel()


@needs_extension
async def test_it_is_a_coroutine_to_others() -> None:
    waiting = wait_task(never_aborted)
    assert isinstance(waiting, collections.abc.Coroutine)
    assert waiting.send(None) is not None
    with pytest.raises(RuntimeError, match="awaited already"):
        await waiting
    waiting.close()


@needs_extension
def test_nothing_is_kept() -> None:
    class Abortable:
        def abort(self, _: RaiseCancelT) -> Abort:
            return Abort.SUCCEEDED

    freed: list[weakref.ref[Any]] = []
    for what in ("", "start", "value", "throw", "close"):
        abortable = Abortable()
        waiting: Any = wait_task(abortable.abort)
        freed.append(weakref.ref(abortable))
        if what == "value":
            waiting.send(None)
        if what:
            one_step(waiting, what)
        del waiting, abortable
    assert [ref() for ref in freed] == [None] * 5
    holder: Any = Abortable()
    holder.waiting = wait_task(holder.abort)
    freed = [weakref.ref(holder)]
    del holder
    gc.collect()
    assert freed[0]() is None


@needs_extension
@pytest.mark.parametrize("name", ["two_yields", "slots", "copy"])
def test_trio_waits_where_it_has_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slots:
        __slots__ = ("abort_func",)

        def __init__(self, abort: object) -> None:
            self.abort_func = abort

    class Copy:
        def __init__(self, abort: object) -> None:
            self.abort_func = abort
            self.number = 5

    class Waiting:
        def __init__(self, abort: object) -> None:
            self.trap = Slots(abort) if name == "slots" else Copy(abort)
            self.left = 2 if name == "two_yields" else 1

        def send(self, value: Any) -> object:
            self.left -= 1
            if self.left < 0:
                raise StopIteration(value.unwrap())
            return self.trap

    monkeypatch.setattr(_wait, "wait_task_rescheduled", Waiting)
    monkeypatch.setattr(_wait, "extension", load(str(extension.__file__)))  # type: ignore[union-attr]
    chosen: Any = _wait._choose()
    assert chosen is Waiting


@needs_extension
def test_a_module_that_knows_no_trap_does_not_wait() -> None:
    module: Any = load(str(extension.__file__))  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="watch_waits"):
        module.wait_task(never_aborted).send(None)
    for arguments in ((), (1, 2, 3, 4), (1, int, "name", int)):
        with pytest.raises(TypeError, match=r"watch_waits|slot"):
            module.watch_waits(*arguments)
