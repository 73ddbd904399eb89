"""A handler without async, in a thread of its own, and a client of it."""

from __future__ import annotations

import time

import trio

import trio_ws


def shout(ws: trio_ws.BlockingWebSocket) -> None:
    while (message := ws.recv()) is not None:
        time.sleep(0.01)  # any blocking library may be called here
        ws.send_text(f"{message.text}!".upper())
    print("the client has gone")


async def main() -> None:
    async with trio_ws.WebSocketServer(shout, host="127.0.0.1") as server, trio_ws.connect(server.url) as ws:
        for word in ("hello", "threads"):
            await ws.send(word)
            print(await ws.receive_text())


if __name__ == "__main__":
    trio.run(main)
