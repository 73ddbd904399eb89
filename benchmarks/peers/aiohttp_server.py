"""A server on aiohttp; see benchmarks/servers.py."""

from __future__ import annotations

import asyncio
import sys

from aiohttp import WSMsgType, web

from benchmarks.peers.loops import run

subscribers: set[web.WebSocketResponse] = set()


async def opened(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False, max_msg_size=5 << 20)
    await ws.prepare(request)
    return ws


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = await opened(request)
    async for message in ws:
        if message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    ws = await opened(request)
    subscribers.add(ws)
    async for _ in ws:
        pass
    subscribers.discard(ws)
    return ws


async def publish(request: web.Request) -> web.WebSocketResponse:
    ws = await opened(request)
    async for message in ws:
        count, size = map(int, message.data.split())
        for _ in range(count):
            for subscriber in list(subscribers):
                await subscriber.send_bytes(b"x" * size)
            await asyncio.sleep(0)
        await ws.send_str("done")
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/sub", subscribe)
    app.router.add_get("/pub", publish)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


run(main())
