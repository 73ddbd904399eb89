"""LateScope: a scope around code that runs already, as if it had been entered before."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from trio_ws import _late_scope
from trio_ws._late_scope import LateScope

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@pytest.fixture(autouse=True, params=["made when cancelled", "made at once"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with an unchanged trio, and with one that lacks the attributes that are used."""
    assert _late_scope._AS_EXPECTED
    if request.param == "made at once":
        monkeypatch.setattr(_late_scope, "_AS_EXPECTED", False)


async def run(events: list[str]) -> None:
    """Wait in a task and in its child, each in its own scopes."""

    async def child() -> None:
        with trio.move_on_after(60):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                events.append("child")
                raise

    with trio.move_on_after(60) as timeout:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                events.append("task")
                raise
    assert not timeout.cancelled_caught
    events.append("went on")


class Served:
    """A task that serves something within a LateScope."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.scope: LateScope

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        self.scope = LateScope()
        try:
            await run(self.events)
        except BaseException as exc:
            if not self.scope.exit(exc):
                raise
            self.events.append("its own")
        else:
            self.scope.exit(None)
        await trio.lowlevel.checkpoint()
        self.events.append("end")


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Served, trio.CancelScope]]:
    """Serve for a second, and then, during the block, until a scope is cancelled."""
    served = Served()
    async with trio.open_nursery() as nursery:
        await nursery.start(served.serve)
        await trio.sleep(1)
        yield served, nursery.cancel_scope


async def test_cancels_child_tasks_and_inner_scopes(autojump_clock: MockClock) -> None:
    async with serving() as (served, _):
        served.scope.cancel()
        served.scope.cancel()
    assert sorted(served.events[:2]) == ["child", "task"]
    assert served.events[2:] == ["its own", "end"]
    assert trio.current_time() < 60


async def test_a_shield_inside_holds(autojump_clock: MockClock) -> None:
    scope = LateScope()
    with pytest.raises(trio.Cancelled) as caught:
        with trio.CancelScope(shield=True):
            scope.cancel()
            await trio.sleep(30)
        await trio.sleep(30)
    assert scope.exit(caught.value)
    assert trio.current_time() == 30


async def test_the_cancellation_of_the_task_passes_it(autojump_clock: MockClock) -> None:
    async with serving() as (served, outer):
        outer.cancel()
        served.scope.cancel()
    assert sorted(served.events) == ["child", "task"]
    assert outer.cancelled_caught


async def test_a_task_can_cancel_itself() -> None:
    scope = LateScope()
    inner = trio.CancelScope()
    with pytest.raises(trio.Cancelled) as caught, inner:
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.exit(caught.value)
    assert not inner.cancelled_caught
    await trio.lowlevel.checkpoint()


async def test_leaving_early() -> None:
    scope = LateScope()
    assert scope.leave()
    await trio.lowlevel.checkpoint()
    cancelled = LateScope()
    with trio.CancelScope(shield=True):
        cancelled.cancel()
        await trio.lowlevel.checkpoint()
        assert not cancelled.leave()
    assert cancelled.leave()
    await trio.lowlevel.checkpoint()
