"""What trio_ws does, in ten seconds: ``make demo``."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import trio

import trio_ws

try:
    import websockets.trio.client as websockets_client
except ImportError:  # it is not needed
    websockets_client = None  # type: ignore[assignment]

NEXT = """
What to try next:
  the tutorial      docs/tutorial/index.md: a chat from nothing, in half an hour
  this program      examples/demo.py, and the others in that folder
  the command line  {pip} install -e '.[cli]', then in two terminals:
                      {bin}/trio-ws serve examples.demo:app     # prints a page to open
                      {bin}/trio-ws connect --rpc ws://127.0.0.1:8000/game
  your own program  pip install {here}
  the tests         make test
"""


class Move(msgspec.Struct):
    player: str
    x: int
    y: int


def say(who: str, what: str) -> None:
    print(f"  {who:<10} {what}", flush=True)


def title(text: str) -> None:
    print(f"\n{text}", flush=True)


app = trio_ws.App()


@app.websocket("/echo")
async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(f"echo: {message.text}")


@app.websocket("/moves")
async def moves(ws: trio_ws.WebSocket) -> None:
    move = await ws.receive_json(type=Move)
    say("server", f"got a {type(move).__name__}, checked by msgspec: {move}")
    await ws.send_json({"ok": True})


@app.websocket("/flood")
async def flood(ws: trio_ws.WebSocket) -> None:
    sent = 0
    try:
        while True:
            await ws.send(b"x" * 65536)
            sent += 1
    finally:
        say("server", f"sent {sent} x 64 KiB, and waits for a client that does not read")


class Game(trio_ws.WebSocketHandler):
    """Methods that clients call, and a channel that they subscribe to."""

    list_methods = True

    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count(self, connection: trio_ws.ClientConnection, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @trio_ws.rpc_method()
    async def think(self, connection: trio_ws.ClientConnection) -> str:
        try:
            await trio.sleep(3600)
        finally:
            say("server", "think() was cancelled in its sleep by the caller's deadline")
        return "42"

    @trio_ws.rpc_method()
    async def shout(self, connection: trio_ws.ClientConnection, text: str) -> int:
        return self.publish("news", text)

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name == "news"


app.mount("/game", Game)


async def words() -> AsyncIterator[str]:
    for word in ("one ", "message ", "in ", "four ", "parts"):
        yield word


async def messages(url: str) -> None:
    title("Messages")
    async with trio_ws.connect(f"{url}/echo") as ws:
        await ws.send("hello")
        say("client", f"sent 'hello', received {await ws.receive_text()!r}")
        await ws.send(words())
        say("client", f"streamed a message, received {await ws.receive_text()!r}")
        say("client", f"ping: {await ws.ping() * 1000:.2f} ms there and back")
    async with trio_ws.connect(f"{url}/moves") as ws:
        await ws.send_json({"player": "ada", "x": 3, "y": 4})
        say("client", f"answer: {await ws.receive_json()}")
    if websockets_client is not None:
        async with websockets_client.connect(f"{url}/echo") as other:
            await other.send("hello from another library")
            say("websockets", f"received {await other.recv()!r}")


async def calls(url: str) -> None:
    title("Calls")
    async with trio_ws.WebSocketClient(f"{url}/game") as client:
        say("client", f"add(20, 22) is {await client.call('add', 20, 22, returns=int)}")
        async with client.stream("count", 1_000_000, items=int) as numbers:
            first = [await anext(numbers) for _ in range(3)]
        say("client", f"took {first} of a stream of a million; the server made few more")
        try:
            await client.call("add", 20, "many")
        except trio_ws.RPCInvalidParamsError as error:
            say("client", f"add(20, 'many') is refused: {error}")


async def cancellation(url: str) -> None:
    title("Cancellation")
    async with trio_ws.WebSocketClient(f"{url}/game") as client:
        with trio.move_on_after(0.2):
            await client.call("think")
        say("client", "think() did not return in 0.2 s")
    with trio.move_on_after(0.3):
        async with trio_ws.connect(f"{url}/flood"):
            await trio.sleep_forever()
    say("client", "cancelled after 0.3 s: closed, with nothing left behind")


async def channel(url: str) -> None:
    title("A channel")
    async with (
        trio_ws.WebSocketClient(f"{url}/game") as ada,
        trio_ws.WebSocketClient(f"{url}/game") as bob,
        ada.subscribe("news") as to_ada,
        bob.subscribe("news") as to_bob,
    ):
        reached = await bob.call("shout", "it snows")
        say("bob", f"published to 'news', for {reached} subscribers")
        for name, subscription in (("ada", to_ada), ("bob", to_bob)):
            packet = await anext(subscription)
            say(name, f"received {packet.data!r} on {packet.channel!r}")


async def the_end(server: trio_ws.WebSocketServer, url: str) -> None:
    title("The end")
    async with trio_ws.connect(f"{url}/echo") as ws:
        report = await server.drain()
        say("server", f"drained: {report.finished} finished, {report.cancelled} cancelled")
        await ws.recv()
        say("client", f"was told {ws.close_code}: going away")


async def main() -> None:
    async with trio_ws.WebSocketServer(app, 0, host="127.0.0.1") as server:
        say("server", f"listens on {server.url}, inside an 'async with' block")
        for part in (messages, calls, cancellation, channel):
            await part(server.url.rstrip("/"))
        await the_end(server, server.url.rstrip("/"))
    say("all", "the block is left: no task, no socket remains")


if __name__ == "__main__":
    trio.run(main)
    folder = os.path.relpath(Path(sys.executable).parent)
    print(NEXT.format(here=Path(__file__).parents[1], bin=folder, pip=f"{folder}/pip"))
