"""What trio_ws does, in ten seconds: ``make demo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

import trio_ws

try:
    import websockets.trio.client as websockets_client
except ImportError:  # the demo tells of it
    websockets_client = None  # type: ignore[assignment]


if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Move(msgspec.Struct):
    player: str
    x: int
    y: int


def say(who: str, what: str) -> None:
    print(f"  {who:<12} {what}", flush=True)


async def game(ws: trio_ws.WebSocket) -> None:
    """The server's handler: one task for each client."""
    if ws.path == "/moves":
        move = await ws.receive_json(type=Move)
        say("server", f"got a {type(move).__name__}, checked by msgspec: {move}")
        await ws.send_json({"ok": True})
    elif ws.path == "/flood":
        sent = 0
        try:
            while True:
                await ws.send(b"x" * 65536)
                sent += 1
        finally:
            say(
                "server",
                f"sent {sent} x 64 KiB, then waited: a client that does not read holds up only itself",
            )
    else:
        async for message in ws:
            await ws.send(f"echo: {message.text}")


async def words() -> AsyncIterator[str]:
    for word in ("one ", "message ", "in ", "four ", "parts"):
        yield word


async def text_and_ping(url: str) -> None:
    async with trio_ws.connect(url) as ws:
        await ws.send("hello")
        say("client", f"sent 'hello', received {await ws.receive_text()!r}")
        await ws.send(words())
        say("client", f"streamed a message, received {await ws.receive_text()!r}")
        say("client", f"ping: {await ws.ping() * 1000:.2f} ms there and back")


async def typed(url: str) -> None:
    async with trio_ws.connect(f"{url}/moves") as ws:
        await ws.send_json({"player": "ada", "x": 3, "y": 4})
        say("client", f"answer: {await ws.receive_json()}")


async def other_library(url: str) -> None:
    if websockets_client is None:
        say("websockets", "is not installed: pip install websockets")
        return
    async with websockets_client.connect(url) as ws:
        await ws.send("hello from another library")
        say("websockets", f"received {await ws.recv()!r}")


async def cancelled(url: str) -> None:
    with trio.move_on_after(0.3):
        async with trio_ws.connect(f"{url}/flood"):
            await trio.sleep_forever()
    say("client", "its 0.3 s were over: cancelled, closed, nothing left behind")


async def main() -> None:
    async with trio_ws.WebSocketServer(game, 0, host="127.0.0.1") as server:
        say("server", f"listens on {server.url}, inside an 'async with' block")
        for client in (text_and_ping, typed, other_library, cancelled):
            await client(server.url)
        async with trio_ws.connect(server.url) as ws:
            report = await server.drain()
            say("server", f"drained: {report.finished} finished, {report.cancelled} cancelled")
            await ws.recv()
            say("client", f"was told {ws.close_code}: going away")
    say("all", "the block is left: no task, no socket remains")


if __name__ == "__main__":
    trio.run(main)
