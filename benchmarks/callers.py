"""Measure what a call costs the client: our client and that of webshocket, each in its own process.

``python -m benchmarks.callers [rounds]`` starts webshocket's server, and prints for 100 callers on one
connection the medians of the CPU time of either client's process per call, and their ratio.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time

import trio
import webshocket

import trio_ws
from benchmarks.servers import CALLERS, ROOT, running

__all__ = ["run_client"]

AT_ONCE = 100
CALLS = 20_000


def ours(port: int, callers: int, calls: int) -> None:
    async def main() -> None:
        async with trio_ws.WebSocketClient(f"ws://127.0.0.1:{port}/") as client:

            async def caller(count: int) -> None:
                for number in range(count):
                    assert await client.call("add", number, 1) == number + 1

            async def run(count: int) -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(callers):
                        nursery.start_soon(caller, count)

            await run(1)
            began, cpu = time.perf_counter(), time.process_time()
            await run(calls // callers)
            say(calls, time.process_time() - cpu, time.perf_counter() - began)

    trio.run(main)


def theirs(port: int, callers: int, calls: int) -> None:
    async def main() -> None:
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{port}/") as client:

            async def caller(count: int) -> None:
                for number in range(count):
                    assert (await client.send_rpc("add", number, 1)).response == number + 1

            async def run(count: int) -> None:
                await asyncio.gather(*(caller(count) for _ in range(callers)))

            await run(1)
            began, cpu = time.perf_counter(), time.process_time()
            await run(calls // callers)
            say(calls, time.process_time() - cpu, time.perf_counter() - began)

    asyncio.run(main())


def say(calls: int, cpu: float, wall: float) -> None:
    print(cpu / calls * 1e6, calls / wall)


def run_client(name: str, port: int, callers: int, calls: int) -> tuple[float, float]:
    """Return the CPU microseconds of the client's process per call, and the calls per second."""
    calls = max(calls, callers)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.callers", name, str(port), str(callers), str(calls)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=None if name == "trio_ws" else subprocess.DEVNULL,
        text=True,
        timeout=120,
        check=True,
    )
    cpu, rate = map(float, done.stdout.split())
    return cpu, rate


def measure(rounds: int) -> None:
    figures: dict[str, list[float]] = {"trio_ws": [], "webshocket": []}
    with running(CALLERS["webshocket"]) as server:
        for _ in range(rounds):
            for name, values in figures.items():
                values.append(run_client(name, server.port, AT_ONCE, CALLS)[0])
    ratios = [theirs / ours for ours, theirs in zip(*figures.values(), strict=True)]
    print(f"CPU of the client for a call, {AT_ONCE} callers, {rounds} rounds")
    for name, values in figures.items():
        print(f"  {name:<11} {statistics.median(values):6.1f} us")
    print(f"  ratio       {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["trio_ws"]:
        ours(*map(int, sys.argv[2:]))
    elif sys.argv[1:2] == ["webshocket"]:
        theirs(*map(int, sys.argv[2:]))
    else:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
