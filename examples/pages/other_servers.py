"""The code of docs/how-to/other-servers.md, run against a server of the usual kind."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import trio_ws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = trio_ws.App()


@app.websocket("/feed")
async def exchange(ws: trio_ws.WebSocket) -> None:
    """Sends prices to clients that have logged in and subscribed, and then closes the connection."""
    await ws.accept()
    assert (await ws.receive_json())["op"] == "login"
    await ws.send_json({"event": "welcome"})
    assert (await ws.receive_json())["op"] == "subscribe"
    for price in (101, 102):
        await ws.send_json({"price": price})
    await ws.close(1001, "maintenance")


async def fresh_token() -> str:
    await trio.lowlevel.checkpoint()
    return "a-token"


async def follow(url: str) -> None:
    async def log_in_and_subscribe(ws: trio_ws.WebSocket) -> None:
        await ws.send_json({"op": "login", "token": await fresh_token()})
        answer = await ws.receive_json()
        if answer["event"] != "welcome":
            raise trio_ws.Reconnect(f"the server answered {answer}")
        await ws.send_json({"op": "subscribe", "channel": "prices"})

    async with trio_ws.session(url, on_connection=log_in_and_subscribe, silence=16) as feed:
        async for message in feed:  # continues over all connections, each of which is set up
            price = message.json()["price"]
            print(price)
            if price == 102:
                break


@asynccontextmanager
async def set_up(ws: trio_ws.WebSocket) -> AsyncIterator[None]:
    async def heartbeat() -> None:
        while True:
            await ws.send_json({"op": "ping"})
            await trio.sleep(20)

    await ws.send_json({"op": "login", "token": await fresh_token()})
    await ws.receive_json()
    await ws.send_json({"op": "subscribe", "channel": "prices"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat)
        yield  # from here on, messages are yielded; the nursery is cancelled when the connection ends


async def keep_awake(url: str) -> None:
    async with trio_ws.session(url, on_connection=set_up) as feed:
        message = await feed.recv()
        assert message is not None
        print(message.json()["price"])
        feed.reset("resync")  # end this connection; another one replaces it


async def by_rounds(url: str) -> None:
    got: list[Any] = []
    async with trio_ws.connections(url) as rounds:
        async for ws in rounds:  # each iteration has a new connection, with back-off in between
            await ws.send_json({"op": "login", "token": await fresh_token()})
            await ws.receive_json()
            await ws.send_json({"op": "subscribe", "channel": "prices"})
            async for message in ws:
                got.append(message.json())
            if len(got) > 3:
                break
    print(len(got), "prices")


async def main() -> None:
    async with trio_ws.WebSocketServer(app) as server:
        url = f"{server.url}/feed"
        await follow(url)
        await keep_awake(url)
        await by_rounds(url)


if __name__ == "__main__":
    trio.run(main)
