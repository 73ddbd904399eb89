"""What servers in several threads cost each other: ``python -m benchmarks.threads``.

Each thread has a trio run with a server and a client of its own, on a stream in memory, and makes calls. One
thread and several take turns. The CPU time of a call shows what threads share; calls a second show how many
of them ran at once, if the machine was idle.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from typing import Any

import trio

import trio_ws
from trio_ws.testing import MemoryListener

__all__ = ["main"]


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b


async def talk(start: threading.Barrier, calls: int, spent: list[float]) -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(Calculator, listeners=[listener]):
        client: Any
        async with trio_ws.WebSocketClient("ws://memory/", stream=listener.connect) as client:
            for number in range(200):
                await client.call("add", number, 1)
            start.wait()
            began = time.thread_time()
            for number in range(calls):
                await client.call("add", number, 1)
            spent.append(time.thread_time() - began)


def measure(count: int, calls: int) -> tuple[float, float]:
    """Return the CPU time of a call in microseconds, and the calls a second of all threads."""
    spent: list[float] = []
    start = threading.Barrier(count + 1, timeout=60)
    threads = [threading.Thread(target=trio.run, args=(talk, start, calls, spent)) for _ in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return sum(spent) / (count * calls) * 1e6, count * calls / took


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=2000, help="of each thread in each round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    gil: Any = getattr(sys, "_is_gil_enabled", lambda: True)
    print(f"CPython {sys.version.split()[0]}, {'with' if gil() else 'without'} a GIL")
    rounds = [
        (measure(1, arguments.calls), measure(arguments.threads, arguments.calls))
        for _ in range(arguments.rounds)
    ]
    print("| threads | CPU us a call | calls a second |")
    print("| --- | --- | --- |")
    for index, threads in enumerate((1, arguments.threads)):
        cpu, rate = (statistics.median(each[index][part] for each in rounds) for part in (0, 1))
        print(f"| {threads} | {cpu:.0f} | {rate:.0f} |")
    for part, what in ((0, "CPU time of a call"), (1, "calls a second")):
        ratio = statistics.median(several[part] / one[part] for one, several in rounds)
        print(f"{what}: {ratio:.2f} times as with one thread")


if __name__ == "__main__":
    main()
