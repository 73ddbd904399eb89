import trio

import trio_ws


class News(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.subscribe("news.*")


async def main() -> None:
    news = News()
    async with trio_ws.WebSocketServer(news, 0, host="127.0.0.1") as server:
        async with trio_ws.WebSocketClient(server.url) as client:
            print(news.publish("news.sport", "goal!"), "will hear it")
            async for packet in client:
                print(packet.channel, packet.data)
                break


trio.run(main)
