import sys

import trio

import trio_ws


async def main(room: str, text: str) -> None:
    async with trio_ws.WebSocketClient(f"ws://localhost:8000/{room}") as client:
        await client.send(text)
        async for packet in client:
            print(f"{packet.channel}: {packet.data}", flush=True)


room, text = sys.argv[1:]
trio.run(main, room, text)
