"""A price feed with two readers: a fast one, and a phone that loses its connection for a while.

The backlog of the phone is bounded, so it misses prices. They are counted, and the newest ones are kept.
"""

from __future__ import annotations

import random
import socket

import trio

import trio_ws

LAST = 20_000


class Feed(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def watch(self, connection: trio_ws.ClientConnection, symbol: str) -> bool:
        return connection.subscribe(f"prices.{symbol}", policy="drop_oldest")

    async def produce(self, light: trio.Event) -> None:
        price = 100.0
        for number in range(1, LAST + 1):
            price += random.gauss(0, 0.01)
            self.publish("prices.ACME", {"number": number, "price": round(price, 2)})
            if number % 100 == 0:
                await trio.sleep(0.004)  # some 20,000 prices a second
            if number % 4000 == 0:
                _, published, delivered, dropped, backlog, _ = self.channels.statistics()
                print(f"{published=:6} {delivered=:6} {dropped=:6} {backlog=:4}")
            if number == 0.8 * LAST:
                light.set()


async def watch(client: trio_ws.WebSocketClient, who: str, tunnel: trio.Event | None = None) -> None:
    numbers = []
    async for packet in client:
        numbers.append(packet.data["number"])
        if tunnel is not None:
            await tunnel.wait()
        if numbers[-1] == LAST:
            break
    print(f"the {who} saw {len(numbers)} prices, the last of them was number {numbers[-1]}")


async def main() -> None:
    feed = Feed()
    bounds = trio_ws.Options(channel_max_items=100)
    small = trio_ws.Options(max_queue_bytes=4096)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    for listener in listeners:
        # Otherwise the kernel would buffer megabytes for a slow reader, before anything is dropped here.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
    async with trio_ws.WebSocketServer(feed, listeners=listeners, options=bounds) as server:
        async with (
            trio_ws.WebSocketClient(server.url) as screen,
            trio_ws.WebSocketClient(server.url, options=small) as phone,
            trio.open_nursery() as nursery,
        ):
            await screen.call("watch", "ACME")
            await phone.call("watch", "*")  # a glob: all symbols
            light = trio.Event()
            nursery.start_soon(watch, screen, "screen")
            nursery.start_soon(watch, phone, "phone", light)
            await feed.produce(light)
        print("dropped:", feed.channels.statistics().dropped)


if __name__ == "__main__":
    trio.run(main)
