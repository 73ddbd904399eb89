"""A chat with rooms and a page for the browser: ``python examples/chat.py [port]``. Ctrl+C ends it."""

# No "from __future__ import annotations": the annotations of methods are read while the program runs.
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio

import trio_ws

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Room = Annotated[str, msgspec.Meta(pattern=r"^[^*?\[]{1,40}$")]  # with a "*" it would be a glob
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
PAGE = Path(__file__).with_suffix(".html").read_bytes()


class Chat(trio_ws.WebSocketHandler):
    channels_history = {"room/*": trio_ws.History(items=100, seconds=86_400)}

    @trio_ws.rpc_method(requires=~trio_ws.Has("room"))
    async def join(self, connection: trio_ws.ClientConnection, name: Name, room: Room) -> dict[str, Any]:
        connection.name, connection.room = name, f"room/{room}"
        said = await self.recently(connection.room)
        connection.subscribe(connection.room)
        self.publish("roll call", (connection.room, connection.uid))
        return {"uid": connection.uid, "said": said}

    async def recently(self, room: str) -> list[Any]:
        """The stored messages of a room."""
        said: list[Any] = []
        async with self.channels.subscribe(room, last=100, max_items=100) as subscription:
            while True:
                try:
                    packet = subscription.receive_nowait()
                except trio.WouldBlock:
                    return said
                if "text" in packet.data:
                    said.append(packet.data)

    @trio_ws.rate_limit(limit=20, period="10s")
    @trio_ws.rpc_method(requires=trio_ws.Has("room"))
    def say(self, connection: trio_ws.ClientConnection, text: Text) -> str:
        message_id = secrets.token_hex(8)
        message = {"id": message_id, "uid": connection.uid, "name": connection.name, "text": text}
        self.publish(connection.room, message, exclude=[connection])
        return message_id

    async def on_disconnect(self, connection: trio_ws.ClientConnection) -> None:
        if "room" in connection:
            self.publish(connection.room, {"gone": connection.uid})

    async def answer(self, roll_calls: trio_ws.Subscription) -> None:
        """When a client joins a room, each process publishes the names of its clients in that room."""
        async for packet in roll_calls:
            room, came = packet.data
            here = {one.uid: one.name for one in self.clients if one.get("room") == room}
            if here:
                self.publish(room, {"here": here, "came": came})


app = trio_ws.App()
chat = Chat()
app.mount("/ws", chat)
app.mount_client("/trio-ws.js")


@app.http("/")
async def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    return trio_ws.HTTPResponse(headers={"Content-Type": "text/html; charset=utf-8"}, body=PAGE)


@app.lifespan
async def answering(app: trio_ws.App) -> AsyncIterator[None]:
    async with (
        chat.channels.subscribe("roll call", max_items=1000) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(chat.answer, subscription)
        yield
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    app.run(int(sys.argv[1]) if len(sys.argv) > 1 else 8000, host="127.0.0.1")
