"""The timelines of docs/topics/keepalive.md: a peer that vanishes, and an application that is busy."""

from __future__ import annotations

import trio
import trio.testing

import trio_ws
from trio_ws.testing import MemoryListener


def say(who: str, what: str) -> None:
    print(f"{trio.current_time():6.1f} s  {who:<7} {what}")


async def wait(ws: trio_ws.WebSocket) -> None:
    try:
        await ws.recv()
    except trio_ws.ConnectionClosedError as error:
        say("server", str(error))
        raise


async def busy(ws: trio_ws.WebSocket) -> None:
    await ws.receive_text()
    say("server", "is busy for ten minutes, and reads nothing")
    await trio.sleep(600)
    say("server", f"goes on, and is {'still connected' if ws.connected else 'alone'}")


async def main() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(wait, listeners=[listener]):
        print("-- a peer that vanishes")
        stream = await listener.connect()
        silent = trio_ws.Options(ping_interval=None)
        async with trio_ws.connect("ws://test/", stream=stream, options=silent):
            say("client", "loses its network")
            stream.link.partition()
            await trio.sleep(60)
            stream.link.cut()
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(busy, listeners=[listener]):
        print("-- an application that is busy")
        async with trio_ws.connect("ws://test/", stream=await listener.connect(latency=0.1)) as ws:
            await ws.send("a job")
            await ws.recv()
            say("client", f"was told {ws.close_code}")


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
