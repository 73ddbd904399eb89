"""A server on websockets, its trio part; see benchmarks/servers.py."""

from __future__ import annotations

import sys

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


async def handler(ws: ServerConnection) -> None:
    assert ws.request is not None
    try:
        if ws.request.path == "/sub":
            subscribers.add(ws)
            try:
                async for _ in ws:
                    pass
            finally:
                subscribers.discard(ws)
        elif ws.request.path == "/pub":
            async for message in ws:
                count, size = map(int, message.split())
                for _ in range(count):
                    await broadcast(list(subscribers), b"x" * size)
                    await trio.lowlevel.checkpoint()
                await ws.send("done")
        else:
            async for message in ws:
                await ws.send(message)
    except ConnectionClosed:
        pass


async def main() -> None:
    await serve(
        handler, int(sys.argv[1]), host="127.0.0.1", compression=None, max_size=5 << 20, ping_interval=None
    )


trio.run(main)
