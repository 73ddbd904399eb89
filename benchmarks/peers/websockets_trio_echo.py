"""An echo server on websockets.trio."""

from __future__ import annotations

import sys

import trio
from websockets.trio.server import ServerConnection, serve


async def echo(ws: ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    await serve(
        echo, int(sys.argv[1]), host="127.0.0.1", compression=None, max_size=4 << 20, ping_interval=None
    )


trio.run(main)
