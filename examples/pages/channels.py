"""The code of docs/channels.md, run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
import trio.testing

import trio_ws


class News(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.region = connection.request.query_params.get("region", ["eu"])[0]
        connection.subscribe("alerts")  # True, or False at max_subscribed_channels

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith("news.")  # channels that clients may subscribe to

    @trio_ws.rpc_method()
    def report(self, connection: trio_ws.ClientConnection, topic: str, text: str) -> int:
        return self.publish(f"news.{topic}", text, exclude=[connection])


async def archive(news: trio_ws.WebSocketHandler, lines: list[str]) -> None:
    """A task of the server: it receives everything. A publisher that is too fast waits or gets an error."""
    async with news.channels.subscribe("news.*", policy="block", max_items=1000) as subscription:
        async for packet in subscription:
            lines.append(f"{packet.channel}: {packet.data}")


async def read(url: str) -> str:
    """A client that subscribes."""
    async with trio_ws.WebSocketClient(url) as client, client.subscribe("news.tech") as subscription:
        packet = await subscription.receive()
        return str(packet.data)


async def tell(news: trio_ws.WebSocketHandler, connection: trio_ws.ClientConnection) -> None:
    news.publish("news.tech", {"title": "trio 1.0"})  # returns the number of receivers
    news.publish("alerts", "to all but one", exclude=[connection])
    news.publish("alerts", "to some", predicate=trio_ws.IsEqual("region", "eu"))
    news.broadcast("to every connection, subscribed or not")
    await news.channels.publish_wait("news.tech", "waits for subscriptions that block")


class Prices(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    async def prices(self, connection: trio_ws.ClientConnection, symbol: str) -> AsyncIterator[float]:
        async with self.channels.subscribe(f"prices.{symbol}", max_items=1) as subscription:
            async for packet in subscription:
                yield packet.data


class Rooms(trio_ws.WebSocketHandler):
    channels_history = {
        "room.*": trio_ws.History(items=1000, bytes=1_000_000, seconds=300),
        "price.*": trio_ws.History(latest=True),
    }

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name.startswith(("room.", "price."))


async def follow(client: trio_ws.WebSocketClient, stored: trio_ws.Position | None = None) -> None:
    async with client.subscribe("room.7", recover=True, after=stored) as subscription:
        async for packet in subscription:
            if isinstance(packet, trio_ws.Gap):
                print("messages are missing here:", packet.missing or "an unknown number")
            else:
                print(packet.offset, packet.data)
                stored = packet.position  # store it for the next start of the program


class Desk(trio_ws.WebSocketHandler):
    async def on_connect(self, connection: trio_ws.ClientConnection) -> None:
        connection.subscribe("desk")
        connection.identify(connection.request.query_params["user"][0])

    @trio_ws.rpc_method()
    async def work(self, connection: trio_ws.ClientConnection, task: str) -> AsyncIterator[str]:
        async with connection.present("desk", {"task": task}):  # while the client consumes the stream
            yield f"{len(self.channels.presence('desk'))} at work"
            await trio.sleep_forever()


async def watch(client: trio_ws.WebSocketClient) -> None:
    async with client.presence("desk") as presence:
        print("at work now:", len(presence))
        async for change in presence:
            print("came" if change.joined else "left", change.info)


async def announce(redis: str, text: str) -> None:
    async with trio_ws.Publisher(redis, path="/ws") as publisher:  # the path of the handler in its App
        print("processes that received it:", await publisher.publish("room.7", text))


def announce_from_django(redis: str, text: str) -> int:
    return trio_ws.BlockingPublisher(redis, path="/ws").publish("room.7", text)


def board(handler: trio_ws.WebSocketHandler) -> list[str]:
    _, published, delivered, dropped, backlog, stalled = handler.channels.statistics()
    lines = [f"{published=} {delivered=} {dropped=}; {backlog} messages wait for {stalled} connections"]
    for name, channel in handler.channels.statistics().channels.items():
        lines.append(
            f"{name}: {channel.subscribers} in it, {channel.delivered} to them, {channel.dropped} dropped"
        )
    return lines


readers: set[trio_ws.WebSocket] = set()


async def shout(ws: trio_ws.WebSocket) -> None:
    await ws.accept()
    readers.add(ws)
    try:
        async for message in ws:
            trio_ws.broadcast(readers, message, exclude=[ws])  # returns the number of receivers
    finally:
        readers.discard(ws)


async def main() -> None:
    news = News()
    lines: list[str] = []
    async with trio_ws.WebSocketServer(news, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:

        async def read_one() -> None:
            print("read:", await read(server.url))

        nursery.start_soon(archive, news, lines)
        nursery.start_soon(read_one)
        while "news.tech" not in news.channels.statistics().channels:
            await trio.sleep(0.01)
        async with trio_ws.WebSocketClient(server.url) as reporter:
            print("reached:", await reporter.call("report", "tech", "trio 1.0"))
            await tell(news, next(iter(news.clients)))
            print("on the board:", [line.partition(":")[0] for line in board(news)[1:]])
        await trio.testing.wait_all_tasks_blocked(0.05)
        print(lines)
        nursery.cancel_scope.cancel()
    await show_prices()
    await show_broadcast()
    await show_history()
    await show_presence()


async def show_presence() -> None:
    desk = Desk()
    async with trio_ws.WebSocketServer(desk, 0, host="127.0.0.1") as server, trio.open_nursery() as nursery:
        async with (
            trio_ws.WebSocketClient(f"{server.url}?user=ada") as ada,
            trio_ws.WebSocketClient(f"{server.url}?user=bob") as bob,
        ):
            nursery.start_soon(watch, bob)
            await trio.testing.wait_all_tasks_blocked(0.2)
            async with ada.stream("work", "sorting mail", items=str) as stream:
                await stream.receive()
                await trio.testing.wait_all_tasks_blocked(0.2)
            await trio.testing.wait_all_tasks_blocked(0.2)
            print("devices:", desk.channels.send_to_user("ada", "mail"))
            nursery.cancel_scope.cancel()


async def show_history() -> None:
    handler = Rooms()
    async with (
        trio_ws.WebSocketServer(handler, 0, host="127.0.0.1") as server,
        trio.open_nursery() as nursery,
    ):
        async with trio_ws.WebSocketClient(server.url, reconnect=trio_ws.Backoff(initial=0.01)) as client:
            nursery.start_soon(follow, client)
            while "room.7" not in handler.channels.statistics().channels:
                await trio.sleep(0.01)
            handler.publish("room.7", "hello")
            for connection in handler.clients:
                await connection.close()
            while handler.clients:
                await trio.sleep(0.001)
            handler.publish("room.7", "are you there?")
            while "room.7" not in handler.channels.statistics().channels:
                await trio.sleep(0.01)
            await trio.testing.wait_all_tasks_blocked(0.2)
            nursery.cancel_scope.cancel()


async def show_prices() -> None:
    handler = Prices()
    async with (
        trio_ws.WebSocketServer(handler, 0, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url) as client,
        client.stream("prices", "TRIO", items=float) as prices,
    ):
        while not handler.publish("prices.TRIO", 1.5):
            await trio.sleep(0.01)
        print("price:", await prices.receive())


async def show_broadcast() -> None:
    async with trio_ws.WebSocketServer(shout, 0, host="127.0.0.1") as server:
        async with trio_ws.connect(server.url) as ada, trio_ws.connect(server.url) as bob:
            await ada.send("hello")
            print("heard:", await bob.receive_text())


if __name__ == "__main__":
    trio.run(main)
