"""CPU that a client takes for a call: 100 callers on one connection, ours beside webshocket's.

``python -m benchmarks.callers [rounds]`` starts webshocket's server, and for each round one process of either
client. It prints the medians of the CPU time of the client's process per call, and their ratio.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import trio
import webshocket

import trio_ws

CALLERS = 100
CALLS = 20_000
SERVER = """
import asyncio, sys, webshocket
class Handler(webshocket.WebSocketHandler):
    @webshocket.rpc_method()
    async def add(self, connection, a: int, b: int): return a + b
async def main():
    async with webshocket.WebSocketServer("127.0.0.1", int(sys.argv[1]), clientHandler=Handler) as server:
        print("ready", flush=True)
        await server.serve_forever()
asyncio.run(main())
"""


def ours(port: int) -> None:
    async def main() -> None:
        async with trio_ws.WebSocketClient(f"ws://127.0.0.1:{port}/") as client:

            async def caller(count: int) -> None:
                for number in range(count):
                    assert await client.call("add", number, 1) == number + 1

            async def run(count: int) -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(CALLERS):
                        nursery.start_soon(caller, count)

            await run(20)
            began = time.process_time()
            await run(CALLS // CALLERS)
            print((time.process_time() - began) / CALLS * 1e6)

    trio.run(main)


def theirs(port: int) -> None:
    async def main() -> None:
        async with webshocket.WebSocketClient(f"ws://127.0.0.1:{port}/") as client:

            async def caller(count: int) -> None:
                for number in range(count):
                    assert (await client.send_rpc("add", number, 1)).response == number + 1

            async def run(count: int) -> None:
                await asyncio.gather(*(caller(count) for _ in range(CALLERS)))

            await run(20)
            began = time.process_time()
            await run(CALLS // CALLERS)
            print((time.process_time() - began) / CALLS * 1e6)

    asyncio.run(main())


def measure(rounds: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        figures: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(rounds):
            for name, values in figures.items():
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.callers", name, str(port)],
                    cwd=Path(__file__).parents[1],
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=60,
                    check=True,
                )
                values.append(float(done.stdout))
    finally:
        server.kill()
        server.wait()
    ratios = [theirs / ours for ours, theirs in zip(figures["ours"], figures["theirs"], strict=True)]
    print(f"CPU of the client for a call, {CALLERS} callers, {rounds} rounds")
    print(f"  trio_ws     {statistics.median(figures['ours']):6.1f} us")
    print(f"  webshocket  {statistics.median(figures['theirs']):6.1f} us")
    print(f"  ratio       {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        ours(int(sys.argv[2]))
    elif sys.argv[1:2] == ["theirs"]:
        theirs(int(sys.argv[2]))
    else:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
