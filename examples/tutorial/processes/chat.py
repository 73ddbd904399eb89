from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import trio

import trio_ws

ROOMS = {"lobby", "cats", "dogs"}

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100)]


class Line(msgspec.Struct):
    name: str
    text: str


class Chat(trio_ws.WebSocketHandler):
    def __init__(self) -> None:
        self.lines = {room: deque[Line](maxlen=100) for room in ROOMS}

    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        room = connection.path_params["room"]
        name = connection.request.query_params.get("name", [""])[0]
        if room not in ROOMS:
            await connection.reject(404, "there is no such room\n")
        elif not 1 <= len(name) <= 20:
            await connection.reject(400, "say who you are: ?name=ada\n")
        else:
            connection.room = room
            connection.name = name
            connection.subscribe(room)

    @trio_ws.rate_limit(limit=5, period="10s")
    @trio_ws.rpc_method()
    def say(self, connection: trio_ws.ClientConnection, text: Text) -> None:
        """Say something to all in the room."""
        self.publish(connection.room, Line(connection.name, text))

    @trio_ws.rpc_method()
    def last(self, connection: trio_ws.ClientConnection, count: Count = 10) -> list[Line]:
        """The last lines of the room."""
        return list(self.lines[connection.room])[-count:]

    async def remember(self) -> None:
        """Keep what is said, in this process and in the others."""
        async with self.channels.subscribe("*") as subscription:
            async for packet in subscription:
                self.lines[str(packet.channel)].append(msgspec.convert(packet.data, Line))


app = trio_ws.App()
chat = Chat()
app.mount("/rooms/{room}", chat)
app.mount_client("/trio-ws.js")


@app.lifespan
async def lifespan(app: trio_ws.App) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat.remember)
        yield
        nursery.cancel_scope.cancel()


@app.http("/")
def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return trio_ws.HTTPResponse(200, {"Content-Type": "text/html; charset=utf-8"}, html)


if __name__ == "__main__":
    serve = partial(trio_ws.serve_processes, app, 8000, workers=2, broker="redis://localhost:6379")
    trio.run(serve)
