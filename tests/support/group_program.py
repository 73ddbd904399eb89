"""A program that serves in several processes: ``python -m tests.support.group_program TARGET WORKERS``.

It prints its URL and the ids of its processes as one line of JSON. All processes inherit its stdout and
stderr, so these end when the last process has exited.
"""

from __future__ import annotations

import functools
import json
import logging
import sys

import trio

import trio_ws


async def main(target: str, workers: int) -> None:
    async with trio.open_nursery() as nursery:
        group = await nursery.start(
            functools.partial(trio_ws.serve_processes, target, 0, host="127.0.0.1", workers=workers)
        )
        announcement = {"url": group.url, "pids": [worker.pid for worker in group.workers]}
        sys.stdout.write(json.dumps(announcement) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    trio.run(main, sys.argv[1], int(sys.argv[2]))
