"""The program of docs/asgi.md that runs a server within asyncio, and a client that talks to it."""

from __future__ import annotations

import asyncio

import aiosqlite
import websockets

import trio_ws
from trio_ws import guest


async def talk(url: str) -> None:
    async with websockets.connect(url, proxy=None) as ws:
        await ws.send("hello")
        print(await ws.recv())


async def main(port: int = 0) -> None:
    async with aiosqlite.connect(":memory:") as db:  # an asyncio library
        await db.execute("create table said (text)")

        async def store(text: str) -> None:
            await db.execute("insert into said values (?)", (text,))

        async def handler(ws: trio_ws.WebSocket) -> None:  # runs in trio
            async for message in ws:
                await guest.call_asyncio(store, message.text)
                await ws.send("stored")

        async with guest.serve(handler, port) as server:
            await talk(server.url)


if __name__ == "__main__":
    asyncio.run(main())
