"""One port, several processes: ``python examples/processes.py [port [workers]]``.

SIGTERM or Ctrl+C drains, SIGHUP replaces the workers one after another, and a killed worker is replaced.
"""

from __future__ import annotations

import functools
import os
import sys

import trio

import trio_ws


async def who(ws: trio_ws.WebSocket) -> None:
    await ws.send(f"process {os.getpid()} serves you")
    async for message in ws:
        await ws.send(message)


async def main(port: int, workers: int) -> None:
    # In one line: trio.run(trio_ws.serve_processes, who, port)
    serve = functools.partial(trio_ws.serve_processes, who, port, host="127.0.0.1", workers=workers)
    async with trio.open_nursery() as nursery:
        group = await nursery.start(serve)
        print("listening on", group.url, flush=True)
        print("processes:", *(worker.pid for worker in group.workers), flush=True)
    print("drained")


if __name__ == "__main__":  # the workers import this module too
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    trio.run(main, port, workers)
