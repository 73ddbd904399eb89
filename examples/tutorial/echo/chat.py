import trio

import trio_ws


async def chat(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


if __name__ == "__main__":
    trio.run(trio_ws.serve, chat, 8000)
