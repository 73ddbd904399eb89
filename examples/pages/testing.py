"""The code of docs/testing.md, run."""

from __future__ import annotations

import tempfile

import trio
import trio.testing

import trio_ws
from trio_ws.testing import MemoryListener, RawPeer, explore, record, replay

ended: list[float] = []


async def observed(ws: trio_ws.WebSocket) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    finally:
        ended.append(trio.current_time())


async def a_lost_network() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(observed, listeners=[listener]):
        stream = await listener.connect(latency=0.25)
        async with trio_ws.connect("ws://test/", stream=stream) as ws:
            await ws.send("hello")
            assert await ws.receive_text() == "hello"
            assert trio.current_time() == 1.0  # the handshake, and the message: twice there and back
            stream.link.partition()
            await trio.sleep(3600)
            assert ended == [60.25]  # keepalive has closed the connection
            stream.link.cut()


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def an_illegal_frame() -> None:
    listener = MemoryListener()
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):
        peer = await RawPeer.connect(await listener.connect())
        await peer.send_frame(opcode=3, payload=b"there is no such opcode")
        answer = await peer.receive_frame()
        assert answer is not None
        print(answer.payload)


async def order(listener: MemoryListener) -> None:
    """Serves and connects on a listener that is new in each run."""
    async with trio_ws.WebSocketServer(echo, listeners=[listener]):
        async with trio_ws.connect("ws://test/", stream=listener.connect) as ws:
            await ws.send("one pizza")
            assert await ws.receive_text() == "one pizza"


async def nothing_is_left_behind() -> None:
    explored = await explore(order)
    assert explored.cases == 1 + explored.checkpoints + explored.carried


async def log_in(ws: trio_ws.WebSocket) -> None:
    await ws.send_json({"op": "login", "token": "secret"})


async def record_it(url: str, path: str) -> None:
    async with record(url, path) as stream:  # each call of stream() opens a connection that is recorded
        async with trio_ws.session(url, stream=stream, on_connection=log_in) as feed:
            print("recorded:", (await feed.recv()))


async def replay_it(path: str) -> None:
    async with replay(path) as server:
        async with trio_ws.session(server.url, stream=server.stream, on_connection=log_in) as feed:
            print("replayed:", (await feed.recv()))


async def greet(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send("welcome" if message.json()["op"] == "login" else "who are you")


async def a_recorded_session(path: str) -> None:
    async with trio_ws.WebSocketServer(greet, 0) as server:
        await record_it(server.url, path)


if __name__ == "__main__":
    trio.run(a_lost_network, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(an_illegal_frame, clock=trio.testing.MockClock(autojump_threshold=0))
    trio.run(nothing_is_left_behind, clock=trio.testing.MockClock(autojump_threshold=0))
    with tempfile.TemporaryDirectory() as folder:
        trio.run(a_recorded_session, f"{folder}/session.jsonl")
        trio.run(replay_it, f"{folder}/session.jsonl", clock=trio.testing.MockClock(autojump_threshold=0))
