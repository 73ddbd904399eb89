"""The code of docs/how-to/proxies.md, run with headers of a trusted proxy, and with forged ones."""

from __future__ import annotations

import trio

import trio_ws

OPTIONS = trio_ws.Options(
    hosts=["chat.example"],
    trusted_proxies=["127.0.0.1"],  # "unix" for a Unix socket
)


async def greet(ws: trio_ws.WebSocket) -> None:
    host, _ = ws.client_address
    await ws.send(f"you come from {host}")


async def main() -> None:
    async with trio_ws.WebSocketServer(greet, 0, options=OPTIONS) as server:
        headers = {"X-Forwarded-For": "the moon, 192.0.2.7"}
        async with trio_ws.connect(server.url, headers=headers) as ws:
            print(await ws.receive_text())


if __name__ == "__main__":
    trio.run(main)
