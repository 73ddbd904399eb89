"""A program of its own that serves in several processes: ``python -m tests.kit.group_program TARGET WORKERS``.

It says on stdout, in one line of JSON, where it serves and by which processes. They all hold its stdout and
stderr, so that the end of those is the end of the last of them.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

import trio

import trio_ws

if TYPE_CHECKING:
    from trio_ws import ProcessGroup


class Announce(trio.TaskStatus["ProcessGroup"] if TYPE_CHECKING else object):
    """What `serve_processes` calls when all workers are ready."""

    def started(self, value: ProcessGroup) -> None:
        print(json.dumps({"url": value.url, "pids": [worker.pid for worker in value.workers]}), flush=True)


async def main(target: str, workers: int) -> None:
    await trio_ws.serve_processes(target, 0, host="127.0.0.1", workers=workers, task_status=Announce())


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    trio.run(main, sys.argv[1], int(sys.argv[2]))
