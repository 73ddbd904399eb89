"""The code of docs/how-to/proxies.md, run: what a proxy of ours adds, and what a client makes up."""

from __future__ import annotations

import trio

import trio_ws


def client_address(ws: trio_ws.WebSocket) -> str:
    return (ws.header("X-Forwarded-For") or "").rpartition(",")[2].strip()


async def greet(ws: trio_ws.WebSocket) -> None:
    await ws.send(f"you come from {client_address(ws)}")


async def main() -> None:
    async with trio_ws.WebSocketServer(greet, 0, host="127.0.0.1") as server:
        headers = {"X-Forwarded-For": "the moon, 192.0.2.7"}
        async with trio_ws.connect(server.url, headers=headers) as ws:
            print(await ws.receive_text())


if __name__ == "__main__":
    trio.run(main)
