"""The code of docs/how-to/docker.md, run; its chat.py ends by itself."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import httpx
import trio

import trio_ws


class Chat(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.subscribe("chat")


app = trio_ws.App()
app.mount("/chat", Chat)


@app.http("/healthz")
async def healthz(request: trio_ws.Request) -> str:
    return "ok"


async def main() -> None:
    with trio_ws.cancel_on_signals():
        await trio_ws.serve(app, 8000, host="*", broker=os.environ.get("REDIS_URL"))


@app.lifespan
async def try_it(app: trio_ws.App) -> AsyncIterator[None]:
    yield
    print("drained")


async def run() -> None:
    async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server, httpx.AsyncClient() as http:
        print((await http.get(f"http://127.0.0.1:{server.port}/healthz")).text)
        assert callable(main)


if __name__ == "__main__":
    trio.run(run)
