"""A server on trio-websocket; see benchmarks/servers.py."""

from __future__ import annotations

import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

subscribers: set[WebSocketConnection] = set()


async def handler(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        if request.path == "/sub":
            subscribers.add(ws)
            try:
                while True:
                    await ws.get_message()
            finally:
                subscribers.discard(ws)
        elif request.path == "/pub":
            while True:
                count, size = map(int, (await ws.get_message()).split())
                for _ in range(count):
                    for subscriber in list(subscribers):
                        await subscriber.send_message(b"x" * size)
                await ws.send_message("done")
        else:
            while True:
                await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def main() -> None:
    await serve_websocket(handler, "127.0.0.1", int(sys.argv[1]), None, max_message_size=5 << 20)


trio.run(main)
