from collections import deque
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
        room = connection.request.path.strip("/")
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
    def say(self, connection: trio_ws.ClientConnection, text: Text) -> int:
        """Say something to all in the room; returns how many they are."""
        line = Line(connection.name, text)
        self.lines[connection.room].append(line)
        return self.publish(connection.room, line)

    @trio_ws.rpc_method()
    def last(self, connection: trio_ws.ClientConnection, count: Count = 10) -> list[Line]:
        """The last lines of the room."""
        return list(self.lines[connection.room])[-count:]


if __name__ == "__main__":
    trio.run(trio_ws.serve, Chat, 8000)
