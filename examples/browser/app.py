"""Methods that a page calls: ``python examples/browser/app.py [port]``, then open what it prints."""

# No "from __future__ import annotations": the annotations of methods are read while the program runs.
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import trio

import trio_ws

HERE = Path(__file__).parent


class Shop(trio_ws.WebSocketHandler):
    channels_history = {"news": trio_ws.History(items=100)}
    channel_types = {"news": str}

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return name == "news"

    @trio_ws.rpc_method()
    async def price(self, connection: trio_ws.ClientConnection, item: str, count: int = 1) -> float:
        """What something costs."""
        prices = {"tea": 2.5, "cake": 4.0}
        if item not in prices:
            raise trio_ws.RPCError(f"there is no {item} today", data={"items": list(prices)})
        self.publish("news", f"somebody wants {count} of {item}")
        return prices[item] * count

    @trio_ws.rpc_method()
    async def countdown(self, connection: trio_ws.ClientConnection, start: int) -> AsyncIterator[int]:
        """The numbers from ``start`` down to 1."""
        for left in range(start, 0, -1):
            yield left
            await trio.sleep(0.1)

    @trio_ws.rpc_method()
    async def count_bytes(self, connection: trio_ws.ClientConnection, chunks: AsyncIterator[bytes]) -> int:
        total = 0
        async for chunk in chunks:
            total += len(chunk)
        return total


app = trio_ws.App()
app.mount("/rpc", Shop)
app.mount_client("/trio-ws.js")


@app.http("/")
def page(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    body = (HERE / "page.html").read_bytes()
    return trio_ws.HTTPResponse(headers={"Content-Type": "text/html; charset=utf-8"}, body=body)


@app.http("/shop.js")
def script(request: trio_ws.Request) -> trio_ws.HTTPResponse:
    body = (HERE / "shop.js").read_bytes()
    return trio_ws.HTTPResponse(headers={"Content-Type": "text/javascript; charset=utf-8"}, body=body)


async def main(port: int) -> None:
    async with trio_ws.WebSocketServer(app, port, host="127.0.0.1") as server:
        print(f"open {server.url.replace('ws', 'http', 1)}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    try:
        trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    except KeyboardInterrupt:
        print("stopped")
