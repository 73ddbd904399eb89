"""A server that only sends, and a client that leaves: ``python examples/ticker.py``.

The handler never receives, but pings are answered, and the end of the client is noticed: the next send raises
ConnectionClosedError, which is a normal end for a handler.
"""

from __future__ import annotations

import itertools

import trio

import trio_ws

left = trio.Event()


async def ticker(ws: trio_ws.WebSocket) -> None:
    try:
        for number in itertools.count(1):
            await ws.send_json({"tick": number})
            await trio.sleep(0.05)
    finally:
        print(f"the ticker ends, the client said {ws.close_code}")
        left.set()


async def main() -> None:
    async with trio_ws.WebSocketServer(ticker, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ws:
            async for message in ws:
                tick = message.json()["tick"]
                print("tick", tick)
                if tick == 3:
                    break
        await left.wait()


if __name__ == "__main__":
    trio.run(main)
