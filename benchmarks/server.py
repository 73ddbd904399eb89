"""Our server of plain messages, as servers.py describes it.

``python -m benchmarks.server PORT``, followed by ``compress`` for permessage-deflate, ``app`` for the same
functions as routes of an App, or ``listener`` for an App whose ``/echo`` is a message listener.
"""

from __future__ import annotations

import sys

import trio

import trio_ws

subscribers: set[trio_ws.WebSocket] = set()


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def subscribe(ws: trio_ws.WebSocket) -> None:
    await ws.accept()
    subscribers.add(ws)
    try:
        async for _ in ws:
            pass
    finally:
        subscribers.discard(ws)


async def publish(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        count, size = map(int, str(message.text).split())
        for _ in range(count):
            trio_ws.broadcast(subscribers, b"x" * size)
            await trio.lowlevel.checkpoint()
        await ws.send_text("done")


async def send_back(ws: trio_ws.WebSocket, data: str | bytes) -> str | bytes:
    return data


async def handler(ws: trio_ws.WebSocket) -> None:
    if ws.path == "/echo":
        async for message in ws:
            await ws.send(message)
    elif ws.path == "/sub":
        await subscribe(ws)
    else:
        await publish(ws)


def application(*, listener: bool) -> trio_ws.App:
    app = trio_ws.App()
    if listener:
        app.listener("/echo")(send_back)
    else:
        app.websocket("/echo")(echo)
    app.websocket("/sub")(subscribe)
    app.websocket("/pub")(publish)
    return app


if __name__ == "__main__":
    kind = sys.argv[2] if len(sys.argv) > 2 else ""
    options = trio_ws.Options(max_message_size=4 << 20, ping_interval=None, compression=kind == "compress")
    target = application(listener=kind == "listener") if kind in ("app", "listener") else handler
    trio.run(lambda: trio_ws.serve(target, int(sys.argv[1]), host="127.0.0.1", options=options))
