"""Clients that receive numbers from channels while the servers are restarted, and record what they missed.

``python -m tests.support.followers CLIENTS`` restarts two processes one after the other, and prints the
result.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

import trio_ws
from tests.support.redis import redis_server
from tests.support.watching import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Follower", "Numbers", "followers", "group", "renew"]

TARGET = "tests.support.recovery_targets:Rooms"
ROOMS = 10


class Follower:
    """One client.

    Attributes:
        got: the received numbers, in order.
        gaps: the number of reported gaps.
        away: the durations without a connection, in seconds.
    """

    def __init__(self, url: str, room: str) -> None:
        backoff = trio_ws.Backoff(initial=0.2, maximum=2)
        self.client = trio_ws.WebSocketClient(url, reconnect=backoff)
        self.room = room
        self.got: list[int] = []
        self.gaps: list[trio_ws.Gap] = []
        self.away: list[float] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with (
            self.client,
            self.client.subscribe(self.room, recover=True, max_items=10_000) as subscription,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._watch)
            task_status.started()
            async for packet in subscription:
                if isinstance(packet, trio_ws.Gap):
                    self.gaps.append(packet)
                else:
                    self.got.append(packet.data)

    async def _watch(self) -> None:
        lost: float | None = None
        async for state in self.client.watch_state():
            if state == "connected":
                if lost is not None:
                    self.away.append(trio.current_time() - lost)
                lost = None
            elif lost is None:
                lost = trio.current_time()


class Numbers:
    """Publishes numbers, starting with 1, to all rooms, from outside of the servers.

    Attributes:
        last: the last number that was published to all rooms.
    """

    def __init__(self, redis: str) -> None:
        self._redis = redis
        self.last = 0
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio_ws.Publisher(self._redis) as publisher:
            task_status.started()
            with self._scope:
                while True:
                    with trio.CancelScope(shield=True):
                        for room in range(ROOMS):
                            await publisher.publish(f"room.{room}", self.last + 1)
                        self.last += 1
                    await trio.sleep(0.02)
        self._stopped.set()

    async def stop(self) -> None:
        """Stop publishing, after the current number was published to all rooms."""
        self._scope.cancel()
        await self._stopped.wait()


@asynccontextmanager
async def group(redis: str, workers: int = 2) -> AsyncIterator[trio_ws.ProcessGroup]:
    """Run a group of workers for the duration of a block."""
    serve = functools.partial(
        trio_ws.serve_processes, TARGET, 0, host="127.0.0.1", workers=workers, broker=redis
    )
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def followers(url: str, redis: str, count: int) -> AsyncIterator[tuple[list[Follower], Numbers]]:
    """Run ``count`` clients, and publish numbers, for the duration of a block.

    When the block ends, publishing stops. Then all clients receive the last number, or a gap in its place.
    """
    everyone = [Follower(url, f"room.{number % ROOMS}") for number in range(count)]
    numbers = Numbers(redis)
    async with trio.open_nursery() as nursery:
        for each in everyone:
            await nursery.start(each.run)
        await nursery.start(numbers.run)
        await until_published(numbers, 5)
        yield everyone, numbers
        await until_published(numbers, numbers.last + 5)
        await numbers.stop()
        while any(not each.got or each.got[-1] < numbers.last for each in everyone):
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def until_published(numbers: Numbers, last: int) -> None:
    while numbers.last < last:
        await trio.sleep(0.02)


async def renew(workers: trio_ws.ProcessGroup) -> None:
    """Replace all workers, one after the other, and wait until the old ones are gone."""
    old = {worker.pid for worker in workers.workers}
    os.kill(os.getpid(), signal.SIGHUP)
    while any(_runs(pid) for pid in old):
        await trio.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def main(count: int) -> None:
    async with redis_server() as redis, group(redis.url) as workers:
        async with followers(workers.url, redis.url, count) as (everyone, numbers):
            await renew(workers)
            await until(lambda: all(each.client.connected for each in everyone))
        missed = sum(len(set(range(each.got[0], numbers.last + 1)) - set(each.got)) for each in everyone)
        twice = sum(len(each.got) - len(set(each.got)) for each in everyone)
        away = sorted(seconds for each in everyone for seconds in each.away)
        gaps = sum(len(each.gaps) for each in everyone)
        sys.stdout.write(
            f"{count} clients, {numbers.last} messages in each of {ROOMS} rooms, "
            f"{len(away)} lost connections: missed {missed}, twice {twice}, gaps {gaps}; "
            f"back after {away[len(away) // 2]:.2f} s (median), {away[-1]:.2f} s (last)\n"
        )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
