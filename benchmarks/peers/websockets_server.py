"""A server on websockets, its asyncio part; see benchmarks/servers.py."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers.loops import run

subscribers: set[ServerConnection] = set()


async def handler(ws: ServerConnection) -> None:
    assert ws.request is not None
    if ws.request.path == "/sub":
        subscribers.add(ws)
        try:
            await ws.wait_closed()
        finally:
            subscribers.discard(ws)
    elif ws.request.path == "/pub":
        async for message in ws:
            count, size = map(int, message.split())
            for _ in range(count):
                broadcast(subscribers, b"x" * size)
                await asyncio.sleep(0)
            await ws.send("done")
    else:
        async for message in ws:
            await ws.send(message)


async def main() -> None:
    async with serve(
        handler, "127.0.0.1", int(sys.argv[1]), compression=None, max_size=5 << 20, ping_interval=None
    ) as server:
        await server.serve_forever()


run(main())
