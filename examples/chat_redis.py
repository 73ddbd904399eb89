"""The chat in two processes that share a Redis: ``python examples/chat_redis.py [port [redis URL]]``.

Requires ``pip install trio-ws[redis]`` and a Redis. chat.py is unchanged.
"""

from __future__ import annotations

import functools
import sys

import trio

import trio_ws


async def main(port: int, redis: str) -> None:
    serve = functools.partial(
        trio_ws.serve_processes, "chat:app", port, host="127.0.0.1", workers=2, broker=redis
    )
    async with trio.open_nursery() as nursery:
        group = await nursery.start(serve)
        print("listening on", group.url, flush=True)
        print("processes:", *(worker.pid for worker in group.workers), flush=True)
    print("drained")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    redis = sys.argv[2] if len(sys.argv) > 2 else "redis://127.0.0.1"
    trio.run(main, port, redis)
