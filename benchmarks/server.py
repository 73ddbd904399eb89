"""The server that the benchmark measures: /echo, /sub and /pub on 127.0.0.1 at the port given.

No compression, messages up to 4 MiB, no keepalive pings: as the peers' servers are set up.
"""

from __future__ import annotations

import sys

import trio

import trio_ws

subscribers: set[trio_ws.WebSocket] = set()


async def handler(ws: trio_ws.WebSocket) -> None:
    if ws.path == "/echo":
        async for message in ws:
            await ws.send(message)
    elif ws.path == "/sub":
        await ws.accept()
        subscribers.add(ws)
        try:
            async for _ in ws:
                pass
        finally:
            subscribers.discard(ws)
    else:
        async for message in ws:
            count, size = map(int, str(message.text).split())
            for _ in range(count):
                trio_ws.broadcast(subscribers, b"x" * size)
                await trio.lowlevel.checkpoint()
            await ws.send_text("done")


if __name__ == "__main__":
    options = trio_ws.Options(max_message_size=4 << 20, ping_interval=None)
    trio.run(lambda: trio_ws.serve(handler, int(sys.argv[1]), host="127.0.0.1", options=options))
