"""A market-data feed whose order book is rebuilt whenever an update is missing."""

import sys

import msgspec
import trio

import trio_ws


class Update(msgspec.Struct):
    number: int
    bids: dict[str, float]  # by price; 0 removes one
    snapshot: bool = False


async def subscribe(ws: trio_ws.WebSocket) -> None:
    await ws.send_json({"op": "subscribe", "channel": "book.BTC-EUR"})


async def main(url: str) -> None:
    book: dict[str, float] = {}
    last = 0
    async with trio_ws.session(
        url, on_connection=subscribe, silence=30, reconnect=trio_ws.Backoff(initial=0.1)
    ) as feed:
        async for message in feed:
            update = message.json(Update)
            if update.snapshot:
                book.clear()
            elif update.number != last + 1:
                feed.reset(f"update {last + 1} is missing")  # the next connection begins with a snapshot
                continue
            last = update.number
            book.update(update.bids)
            best = max((float(price) for price, amount in book.items() if amount), default=0)
            print(last, best, flush=True)
            if last == 10:
                break


trio.run(main, sys.argv[1])
