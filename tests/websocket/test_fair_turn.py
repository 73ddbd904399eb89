"""FairTurn: tasks that work for many get half of the time, and no more, however many of them there are."""

from __future__ import annotations

import pytest
import trio

from trio_ws.websocket import fair_turn
from trio_ws.websocket.fair_turn import FairTurn

MINIMUM = 0.0005


class Clock:
    """The time, which passes only while a task works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fair_turn, "perf_counter", clock)
    return clock


class Worker:
    """A task that always has more to do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.used = 0.0
        self.turns = 0

    async def run(self) -> None:
        turn = FairTurn()
        while True:
            began = self._clock.now
            self._clock.work(MINIMUM)
            while turn.may_continue():
                self._clock.work(MINIMUM)
            self.turns += 1
            self.used += self._clock.now - began
            await turn.let_others_run()


async def run_beside(clock: Clock, workers: list[Worker], count: int, share: float) -> None:
    """Run the workers for some rounds, in each of which other tasks use ``share`` seconds."""
    async with trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
        for _ in range(count):
            clock.work(share)
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_each_gets_as_much_as_all_other_tasks(clock: Clock, count: int) -> None:
    workers = [Worker(clock) for _ in range(count)]
    await run_beside(clock, workers, 100, 0.01)
    for worker in workers:
        assert 0.9 < worker.used < 1.2


async def test_no_turn_is_longer_than_the_maximum(clock: Clock) -> None:
    worker = Worker(clock)
    await run_beside(clock, [worker], 20, 10.0)
    assert worker.used <= worker.turns * (fair_turn.MAX_TURN + 2 * MINIMUM)


async def test_alone_it_does_its_minimum(clock: Clock) -> None:
    worker = Worker(clock)
    await run_beside(clock, [worker], 20, 0.0)
    assert worker.turns >= 19
    assert worker.used == pytest.approx(worker.turns * MINIMUM)


def test_after_a_wait_it_does_its_minimum(clock: Clock) -> None:
    turn = FairTurn()
    turn.begin()
    clock.work(10)  # the task waits, and others may work or not
    turn.begin()
    assert not turn.may_continue()
    turn.end()
    clock.work(0.01)
    turn.begin()
    assert turn.may_continue()
    clock.work(0.01)
    assert not turn.may_continue()
