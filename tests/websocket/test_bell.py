"""Bell, and what it wakes tasks with: nobody is missed, nobody stays, and one outcome serves every wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing
from outcome import Outcome

from trio_ws.websocket.bell import WOKEN, Bell, Gives

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator


async def test_a_ring_wakes_all_who_wait_and_nobody_who_has_left() -> None:
    bell = Bell()
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
            assert bell.ring() == 3
    assert bell.ring() == 0
    assert sorted(woken) == [0, 0, 1, 1, 2, 2]


async def test_what_a_wait_gives_is_an_outcome_that_can_be_used_again() -> None:
    seen: list[int] = []

    def generator() -> Generator[None, int, None]:
        while True:
            seen.append((yield))

    async def async_generator() -> AsyncGenerator[None, int]:
        while True:
            seen.append((yield))

    gives: Gives[int] = Gives()
    gives.value = 5
    assert isinstance(gives, Outcome)
    assert [gives.unwrap(), gives.unwrap()] == [5, 5]
    assert WOKEN.unwrap() is None
    one, other = generator(), async_generator()
    next(one)
    await anext(other)
    gives.send(one)
    await gives.asend(other)
    await other.aclose()
    assert seen == [5, 5]
