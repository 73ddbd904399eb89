import trio

import trio_ws

ROOMS = {"lobby", "cats", "dogs"}


class Chat(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        room = connection.request.path.strip("/")
        if room not in ROOMS:
            await connection.reject(404, "there is no such room\n")
            return
        connection.room = room
        connection.subscribe(room)

    async def on_receive(self, connection: trio_ws.ClientConnection, packet: trio_ws.Packet) -> None:
        self.publish(connection.room, packet.data)


if __name__ == "__main__":
    trio.run(trio_ws.serve, Chat, 8000)
