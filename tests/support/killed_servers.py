"""Kill servers, and measure how long their clients remain present in other processes.

``python -m tests.support.killed_servers COUNT`` kills COUNT servers, eight at a time, and prints the result.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from tests.support.recovery_targets import LEASE, Rooms
from tests.support.redis import redis_server
from trio_ws import RedisBroker, WebSocketClient, WebSocketServer

ROOT = Path(__file__).parents[2]
AT_ONCE = 8


async def run_server(redis: str, name: str) -> None:
    """Run a server whose only client is present in a room, until this process is killed."""
    async with (
        WebSocketServer(Rooms, 0, host="127.0.0.1", broker=RedisBroker(redis)) as server,
        WebSocketClient(server.url) as client,
        client.stream("enter", "room.1", name) as stream,
    ):
        await stream.receive()
        sys.stdout.write("here\n")
        sys.stdout.flush()
        await trio.sleep_forever()


async def start(redis: str, name: str) -> trio.Process:
    """Start such a server as a process, and wait until it reports that its client is present."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.support.killed_servers", redis, name], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    assert await process.stdout.receive_some() == b"here\n"
    await process.stdout.aclose()
    return process


async def measure(count: int) -> list[float]:
    """Kill servers, and return for how many seconds each of their clients remained present."""
    seconds: list[float] = []
    handler = Rooms()
    async with (
        redis_server() as redis,
        WebSocketServer(handler, 0, host="127.0.0.1", broker=RedisBroker(redis.url)),
    ):
        presence = handler.channels.presence("room.1")
        for first in range(0, count, AT_ONCE):
            names = [str(number) for number in range(first, min(count, first + AT_ONCE))]
            processes: list[trio.Process] = []

            async def launch(name: str, into: list[trio.Process] = processes, url: str = redis.url) -> None:
                into.append(await start(url, name))

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(launch, name)
            while len(presence) < len(names):
                await trio.sleep(0.01)
            for process in processes:
                process.kill()
            killed = trio.current_time()
            for process in processes:
                await process.wait()
            left = len(names)
            while left:
                await trio.sleep(0.01)
                seconds += [trio.current_time() - killed] * (left - len(presence))
                left = len(presence)
    return seconds


if __name__ == "__main__":
    if len(sys.argv) > 2:
        trio.run(run_server, sys.argv[1], sys.argv[2])
    else:
        figures: list[float] = []
        while len(figures) < int(sys.argv[1]):
            figures = sorted(figures + trio.run(measure, AT_ONCE))
        sys.stdout.write(
            f"{len(figures)} killed, with a lease of {LEASE} s: gone after {figures[len(figures) // 2]:.2f} s"
            f" (median), {figures[-1]:.2f} s (longest)\n"
        )
