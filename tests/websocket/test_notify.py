"""Notification: all waiting tasks are woken, none is left, and one outcome serves every wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from outcome import Outcome

from trio_ws.websocket._notify import WAKE, Notification
from trio_ws.websocket._wait import ReusableOutcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


async def test_a_notification_wakes_all_waiting_tasks_and_no_cancelled_ones() -> None:
    bell = Notification()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await bell.wait()
        woken.append(number)

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number)
            with trio.CancelScope() as scope:
                scope.cancel()
                await bell.wait()
            await trio.testing.wait_all_tasks_blocked()
            assert bell.notify_all() == 3
    assert bell.notify_all() == 0
    assert sorted(woken) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("leaving", [[0], [1], [2], [0, 1], [2, 0], [0, 1, 2]], ids=str)
async def test_a_cancelled_task_is_not_woken_and_the_others_are(leaving: list[int]) -> None:
    bell = Notification()
    woken: list[int] = []
    scopes: dict[int, trio.CancelScope] = {}

    async def wait(number: int, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope() as scopes[number]:
            task_status.started()
            await bell.wait()
            woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            await nursery.start(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in leaving:
            scopes[number].cancel()
        await nursery.start(wait, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert bell.notify_all() == 4 - len(leaving)
    assert sorted(woken) == [number for number in range(4) if number not in leaving]


async def test_outcome_of_a_wait_can_be_reused() -> None:
    seen: list[int] = []

    def generator() -> Generator[None, int, None]:
        while True:
            seen.append((yield))

    async def async_generator() -> AsyncGenerator[None, int]:
        while True:
            seen.append((yield))

    gives: ReusableOutcome[int] = ReusableOutcome()
    gives.value = 5
    assert isinstance(gives, Outcome)
    assert [gives.unwrap(), gives.unwrap()] == [5, 5]
    assert WAKE.unwrap() is None
    one, other = generator(), async_generator()
    next(one)
    await anext(other)
    gives.send(one)
    await gives.asend(other)
    await other.aclose()
    assert seen == [5, 5]
