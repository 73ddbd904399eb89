import trio

import trio_ws


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    async with trio_ws.WebSocketServer(echo, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ws:
            await ws.send("hello")
            print(await ws.receive_text())


trio.run(main)
