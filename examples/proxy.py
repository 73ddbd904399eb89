"""A proxy that bridges two WebSockets: ``python examples/proxy.py``.

Each direction is a task. A slow side slows the other one down through TCP, and nothing accumulates in
between. When one side closes, the other is closed with the same code.
"""

from __future__ import annotations

import functools

import trio

import trio_ws


async def shout(ws: trio_ws.WebSocket) -> None:
    """The server behind the proxy."""
    async for message in ws:
        if message.text == "bye":
            raise trio_ws.CloseConnection(4001, "as you wish")
        await ws.send(str(message.text).upper())


async def bridge(upstream_uri: str, ws: trio_ws.WebSocket) -> None:
    """The handler of the proxy."""
    async with trio_ws.connect(upstream_uri) as upstream, trio.open_nursery() as nursery:
        nursery.start_soon(pump, ws, upstream)
        nursery.start_soon(pump, upstream, ws)


async def pump(source: trio_ws.WebSocket, sink: trio_ws.WebSocket) -> None:
    try:
        async for message in source:
            await sink.send(message)
        code, reason = 1000, ""
    except trio_ws.ConnectionClosedError as exc:
        code, reason = exc.code, exc.reason
    await sink.close(code if 3000 <= code <= 4999 else 1000, reason)


async def main() -> None:
    async with trio_ws.WebSocketServer(shout, 0, host="127.0.0.1") as behind:
        through = functools.partial(bridge, behind.url)
        proxy = trio_ws.WebSocketServer(through, 0, host="127.0.0.1")
        async with proxy, trio_ws.connect(proxy.url) as ws:
            await ws.send("hello")
            print(await ws.receive_text())
            await ws.send("bye")
            try:
                await ws.recv()
            except trio_ws.ConnectionClosedError as exc:
                print(f"closed with {exc.code}: {exc.reason}")


if __name__ == "__main__":
    trio.run(main)
