"""The program of docs/how-to/webshocket.md."""

import trio

from trio_ws.compat import webshocket


class ChatHandler(webshocket.WebSocketHandler):
    @webshocket.rpc_method()
    async def join(self, connection: webshocket.ClientConnection, room: str) -> str:
        connection.subscribe(room)
        return f"Joined {room}"

    @webshocket.rate_limit(limit=5, period="1m")
    @webshocket.rpc_method()
    async def say(self, connection: webshocket.ClientConnection, room: str, text: str) -> None:
        self.publish(room, {"text": text})


async def main() -> None:
    server = webshocket.WebSocketServer("127.0.0.1", 0, clientHandler=ChatHandler)
    await server.start()

    async with webshocket.WebSocketClient(f"ws://127.0.0.1:{server.port}") as client:
        response = await client.send_rpc("join", "lobby")
        print(response.data)
        await client.send_rpc("say", "lobby", "hello")
        packet = await client.recv()
        print(packet.source.name, packet.channel, packet.data)

    await server.close()


trio.run(main)
