"""A server that sends every message back: ``python examples/echo_server.py [port]``. Ctrl+C ends it."""

from __future__ import annotations

import sys

import trio

import trio_ws


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with trio_ws.WebSocketServer(echo, port, host="127.0.0.1") as server:
        print(f"listening on {server.url}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    except KeyboardInterrupt:
        print("drained")
