"""An App under an ASGI server on trio, which also supports HTTP/2.

hypercorn --worker-class trio examples/asgi_app:app
python examples/asgi_app.py                            # the same App under our own server
"""

from __future__ import annotations

from collections.abc import AsyncIterator  # annotations of methods are read while the program runs
from typing import Any

import trio

import trio_ws

app = trio_ws.App()


@app.lifespan
async def count_seconds(app: trio_ws.App) -> AsyncIterator[None]:
    async def count() -> None:
        while True:
            await trio.sleep(1)
            app.state.seconds += 1

    app.state.seconds = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        yield
        nursery.cancel_scope.cancel()


@app.websocket("/echo/{name}")
async def echo(ws: trio_ws.WebSocket, name: str) -> None:
    async for message in ws:
        await ws.send(f"{name}: {message.text}")


class Calculator(trio_ws.WebSocketHandler):
    @trio_ws.rpc_method()
    def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        return a + b

    @trio_ws.rpc_method()
    async def count_to(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for number in range(1, n + 1):
            yield number


app.mount("/rpc", Calculator)


@app.http("/healthz")
async def health(_request: trio_ws.Request) -> dict[str, Any]:
    return {"ok": True, "seconds": app.state.seconds}


if __name__ == "__main__":
    app.run(8000, host="127.0.0.1")
