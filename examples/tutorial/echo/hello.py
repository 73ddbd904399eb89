import trio

import trio_ws


async def main() -> None:
    async with trio_ws.connect("ws://localhost:8000") as ws:
        await ws.send("hello")
        print(await ws.receive_text())


trio.run(main)
