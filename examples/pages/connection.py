"""The code of docs/connection.md, run."""

from __future__ import annotations

import trio

import trio_ws


async def greet(ws: trio_ws.WebSocket) -> None:
    await ws.send(f"{ws.path} {ws.header('X-Mine')} {ws.header('Authorization')}")


async def greeting(host: str) -> None:
    async with trio_ws.connect(f"ws://user:password@{host}/rooms/7", headers={"X-Mine": "1"}) as ws:
        print(await ws.receive_text())


async def main() -> None:
    async with trio_ws.WebSocketServer(greet, 0, host="127.0.0.1") as server:
        await greeting(f"127.0.0.1:{server.port}")


if __name__ == "__main__":
    trio.run(main)
