"""An order book that is kept correct by a snapshot and changes: ``python examples/order_book.py``.

The exchange publishes each change with a number, and returns the whole book on request. A client subscribes
first, and then requests the book. It skips the changes that the book already contains. As long
as nothing is missing, it does not request the book again, even after a lost connection. After a gap, because
the history of the exchange does not reach back far enough, it requests the book again.
"""

# No "from __future__ import annotations": the annotations of methods are read while the program runs.
import random
from typing import Any

import msgspec
import trio

import trio_ws


class Change(msgspec.Struct):
    """The new quantity that is offered at a price; 0 for none."""

    number: int
    side: str
    price: int
    quantity: int


class Book(msgspec.Struct):
    """All offers. Attributes: the number of the last change, and the quantities by price."""

    number: int = 0
    bids: dict[int, int] = {}
    asks: dict[int, int] = {}

    def apply(self, change: Change) -> None:
        """Apply the next change; a known one has no effect."""
        if change.number <= self.number:
            return
        if change.number != self.number + 1:
            raise ValueError(f"change {change.number} does not follow {self.number}")
        self.number = change.number
        side = self.bids if change.side == "bid" else self.asks
        side[change.price] = change.quantity
        if not change.quantity:
            del side[change.price]


class Exchange(trio_ws.WebSocketHandler):
    channels_history = {"book": trio_ws.History(items=200, seconds=60)}

    def __init__(self) -> None:
        self.current = Book()
        self.snapshots = 0

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name == "book"

    @trio_ws.rpc_method()
    def snapshot(self, connection: trio_ws.ClientConnection) -> Book:
        """Return the current book."""
        self.snapshots += 1
        return self.current

    def change(self, side: str, price: int, quantity: int) -> None:
        """Change an offer."""
        change = Change(self.current.number + 1, side, price, quantity)
        self.current.apply(change)
        self.publish("book", change)

    def change_at_random(self) -> None:
        side = random.choice(["bid", "ask"])
        price = random.randint(90, 99) if side == "bid" else random.randint(101, 110)
        self.change(side, price, random.randint(1, 50))


class Follower:
    """A client's book.

    Attributes:
        book: as it is known now.
        resyncs: how often the whole book was asked for.
        changed: set at the next change, and replaced.
    """

    def __init__(self, client: trio_ws.WebSocketClient) -> None:
        self.client = client
        self.book = Book()
        self.resyncs = 0
        self.changed = trio.Event()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the book up to date, until cancelled."""
        async with self.client.subscribe("book", recover=True, max_items=10_000) as subscription:
            await self.resync()
            task_status.started()
            async for packet in subscription:
                if isinstance(packet, trio_ws.Gap):
                    await self.resync()
                else:
                    self.book.apply(msgspec.convert(packet.data, Change))
                self.changed.set()
                self.changed = trio.Event()

    async def resync(self) -> None:
        """Request the whole book. The subscription has already started, so no change is missed in between."""
        while True:
            try:
                self.book = await self.client.call("snapshot", returns=Book)
                self.resyncs += 1
                return
            except trio_ws.ConnectionClosedError:
                pass  # the connection was lost; the next call waits for another one


async def main() -> None:
    exchange = Exchange()
    async with (
        trio_ws.WebSocketServer(exchange, 0, host="127.0.0.1") as server,
        trio_ws.WebSocketClient(server.url, reconnect=trio_ws.Backoff(initial=0.1)) as client,
        trio.open_nursery() as nursery,
    ):
        follower = Follower(client)
        await nursery.start(follower.run)
        for changes in (100, 1000):  # less than the history holds, and more
            (connection,) = exchange.clients
            await connection.close(1001, "try again")
            for _ in range(changes):
                exchange.change_at_random()
            while follower.book != exchange.current:
                await follower.changed.wait()
            print(f"{changes} changes while it was away: asked {follower.resyncs} times for the book")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
