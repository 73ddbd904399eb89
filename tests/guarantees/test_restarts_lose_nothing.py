"""Real processes that are restarted, killed and stopped: clients that recover receive all messages once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.followers import ROOMS, Follower, followers, group, renew
from tests.support.killed_servers import measure
from tests.support.redis import redis_server
from tests.support.redis_cluster import redis_cluster
from trio_ws import ConnectionClosedError, WebSocketClient

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def usual_signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore SIGHUP, which the parent may have ignored, and let workers write no bytecode."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


def check(everyone: list[Follower], last: int) -> None:
    for each in everyone:
        assert each.gaps == []
        assert each.got == list(range(each.got[0], last + 1)), "missed, twice, or in another order"
        assert each.got[0] <= 5


async def test_a_rolling_restart() -> None:
    async with redis_server() as redis, group(redis.url) as workers:
        async with followers(workers.url, redis.url, 100) as (everyone, numbers):
            await renew(workers)
        check(everyone, numbers.last)
        assert sum(len(each.away) for each in everyone) >= 100


async def test_a_worker_that_is_killed() -> None:
    async with redis_server() as redis, group(redis.url) as workers:
        async with followers(workers.url, redis.url, 2 * ROOMS) as (everyone, numbers):
            for number in (0, 1):
                pid = workers.workers[number].pid
                os.kill(pid, signal.SIGKILL)
                while pid in [worker.pid for worker in workers.workers]:
                    await trio.sleep(0.05)
        check(everyone, numbers.last)


async def test_a_worker_that_is_stopped_and_goes_on() -> None:
    async with redis_server() as redis, group(redis.url) as workers:
        async with followers(workers.url, redis.url, 2 * ROOMS) as (everyone, numbers):
            pid = workers.workers[0].pid
            os.kill(pid, signal.SIGSTOP)
            try:
                # Close the connection of the process that does not read, as Redis does if its buffer is full.
                before = numbers.last
                while numbers.last < before + 20:
                    await trio.sleep(0.05)
                for line in [one for one in await redis.clients() if " sub=0 " not in one]:
                    address = next(word for word in line.split() if word.startswith("addr="))
                    await redis.do("CLIENT", "KILL", "ADDR", address.removeprefix("addr="))
            finally:
                os.kill(pid, signal.SIGCONT)
        check(everyone, numbers.last)


#: One Redis, and a cluster.
either_redis = pytest.mark.parametrize("serving", [redis_server, redis_cluster], ids=["one", "cluster"])


async def enter(url: str, name: str, *, task_status: trio.TaskStatus[tuple[int, WebSocketClient]]) -> None:
    """Be present in a room, and report the process that serves the client."""
    async with WebSocketClient(url) as client, client.stream("enter", "room.1", name) as stream:
        task_status.started((await stream.receive(), client))
        await trio.sleep_forever()


@either_redis
async def test_people_of_a_killed_worker_are_gone_and_those_of_a_stopped_one_come_back(serving: Any) -> None:
    async with (
        serving() as redis,
        group(redis.url) as workers,
        trio.open_nursery() as nursery,
    ):
        clients: dict[int, WebSocketClient] = {}
        names: dict[int, list[str]] = {worker.pid: [] for worker in workers.workers}
        while len(clients) < 2:
            name = f"{sum(map(len, names.values())):03}"
            pid, client = await nursery.start(enter, workers.url, name)
            clients.setdefault(pid, client)
            names[pid].append(name)
        first, second = clients

        async def members(pid: int) -> list[str]:
            found: list[str] = await clients[pid].call("members", "room.1")
            return found

        async def until_members(pid: int, wanted: list[str]) -> None:
            while await members(pid) != sorted(wanted):
                await trio.sleep(0.05)

        everybody = names[first] + names[second]
        for pid in clients:
            await until_members(pid, everybody)
        os.kill(first, signal.SIGSTOP)
        try:
            await until_members(second, names[second])
        finally:
            os.kill(first, signal.SIGCONT)
        for pid in clients:
            await until_members(pid, everybody)
        os.kill(first, signal.SIGKILL)
        await until_members(second, names[second])
        nursery.cancel_scope.cancel()


async def test_people_of_killed_processes_are_gone_after_the_lease() -> None:
    assert len(await measure(4)) == 4


async def be(
    url: str, user: str, *, task_status: trio.TaskStatus[tuple[int, WebSocketClient, list[Any]]]
) -> None:
    """Be a user, report the process, and record the received data and finally the end of the connection."""
    heard: list[Any] = []
    async with WebSocketClient(url) as client:
        task_status.started((await client.call("identify", user), client, heard))
        try:
            async for packet in client:
                heard.append(packet.data)
        except ConnectionClosedError as exc:
            heard.append((exc.code, exc.reason))


@either_redis
async def test_users_are_reached_in_all_processes(serving: Any) -> None:
    async with (
        serving() as redis,
        group(redis.url) as workers,
        trio.open_nursery() as nursery,
    ):
        devices: dict[int, list[Any]] = {}  # data that Ada received, by process
        while len(devices) < 2:
            pid, _, heard = await nursery.start(be, workers.url, "ada")
            devices.setdefault(pid, heard)
        _, bob, bobs = await nursery.start(be, workers.url, "bob")
        # When a message arrives in both processes, both have registered Ada at Redis.
        while not all(devices.values()):
            await bob.call("tell", "ada", "are you there?")
            await trio.sleep(0.05)
        assert await bob.call("tell", "nobody", "?") == 0
        await bob.call("tell", "ada", "hello")
        while not all("hello" in heard for heard in devices.values()):
            await trio.sleep(0.05)
        assert await bob.call("kick", "ada") >= 1
        while not all((4001, "kicked") in heard for heard in devices.values()):
            await trio.sleep(0.05)
        assert bobs == []
        nursery.cancel_scope.cancel()
