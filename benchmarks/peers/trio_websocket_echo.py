"""An echo server on trio-websocket."""

from __future__ import annotations

import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def echo(request: WebSocketRequest) -> None:
    ws = await request.accept()
    try:
        while True:
            await ws.send_message(await ws.get_message())
    except ConnectionClosed:
        pass


async def main() -> None:
    await serve_websocket(echo, "127.0.0.1", int(sys.argv[1]), None, max_message_size=4 << 20)


trio.run(main)
