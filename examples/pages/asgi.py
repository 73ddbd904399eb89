"""The code of docs/asgi.md, run: an App mounted in Starlette, and an App and Quart-Trio under hypercorn."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypercorn.config
import hypercorn.trio
import trio
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Mount

import trio_ws

app = trio_ws.App()


@app.lifespan
async def count(app: trio_ws.App) -> AsyncIterator[None]:
    app.state.greeting = "hello"
    yield


@app.websocket("/greet")
async def greet(ws: trio_ws.WebSocket) -> None:
    await ws.send(app.state.greeting)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with app.run_lifespan():
        yield


starlette = Starlette(routes=[Mount("/ws", app)], lifespan=lifespan)

quart_app = QuartTrio(__name__)

both = TrioDispatcherMiddleware({"/ws": app, "": quart_app})


async def main(host: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = hypercorn.config.Config()
        config.bind = [f"unix:{folder}/socket"]
        config.accesslog = config.errorlog = None
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await hypercorn.trio.serve(host, config, shutdown_trigger=stop.wait)

            nursery.start_soon(run)
            while not Path(folder, "socket").exists():  # noqa: ASYNC240 - it tells nobody
                await trio.sleep(0.01)
            async with trio_ws.connect("ws://test/ws/greet", unix_path=f"{folder}/socket") as ws:
                print(await ws.receive_text())
            stop.set()


if __name__ == "__main__":
    trio.run(main, starlette)
    trio.run(main, both)
