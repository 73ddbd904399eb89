"""The code of docs/channels.md, run."""

from __future__ import annotations

import trio
import trio.testing

import trio_ws


class News(trio_ws.WebSocketHandler):
    client_globs = True  # clients may ask for globs of their own

    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.region = connection.request.query_params.get("region", ["eu"])[0]
        connection.subscribe(["alerts", "news.*"])

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith("sport.")

    @trio_ws.rpc_method()
    def post(self, connection: trio_ws.ClientConnection, topic: str, text: str) -> int:
        return self.publish(f"news.{topic}", text, exclude=[connection])


async def keep_log(news: News) -> None:
    async with news.channels.subscribe("news.*", policy="drop_oldest", max_items=64) as inbox:
        async for packet in inbox:
            print("log:", packet.channel, packet.data)


async def listen(client: trio_ws.WebSocketClient) -> None:
    async with client.subscribe("sport.*") as inbox:
        async for packet in inbox:
            print("sport:", packet.channel, packet.data)
            break


async def main() -> None:
    news = News()
    async with (
        trio_ws.WebSocketServer(news, 0, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url) as ada,
        trio_ws.WebSocketClient(f"{server.url}/?region=us") as bob,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(keep_log, news)
        await trio.testing.wait_all_tasks_blocked(0.05)
        print("reached:", await ada.call("post", "tech", "a new one"))
        await show(bob)
        news.publish("alerts", "rain", predicate=trio_ws.IsEqual("region", "us"))
        await show(bob)
        nursery.start_soon(listen, ada)
        await trio.testing.wait_all_tasks_blocked(0.05)
        print("reached:", news.publish("sport.chess", "draw"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()


async def show(client: trio_ws.WebSocketClient) -> None:
    packet = await client.recv()
    if packet is not None:
        print("got:", packet.channel, packet.data)


if __name__ == "__main__":
    trio.run(main)
