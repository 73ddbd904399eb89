"""The code of docs/testing.md, run."""

from __future__ import annotations

import trio
import trio.testing

import trio_ws
from trio_ws.testing import MemoryListener, RawPeer

ended: list[float] = []


async def echo(ws: trio_ws.WebSocket) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        ended.append(trio.current_time())


async def a_lost_network() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):
        stream = await listener.connect(latency=0.25)
        async with trio_ws.connect("ws://test/", stream=stream) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"
            assert trio.current_time() == 1.0  # the handshake, and the message: twice there and back
            stream.link.partition()
            await trio.sleep(3600)
            assert ended == [60.25]  # keepalive gave it up
            stream.link.cut()


async def an_illegal_frame() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):
        peer = await RawPeer.connect(await listener.connect())
        await peer.send_frame(opcode=3, payload=b"there is no such opcode")
        answer = await peer.receive_frame()
        assert answer is not None
        print(answer.payload)


if __name__ == "__main__":
    trio.run(a_lost_network, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(an_illegal_frame, clock=trio.testing.MockClock(autojump_threshold=0))
