"""An application for other servers, which tests/interop/test_hosts.py runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator  # noqa: TC003 - msgspec reads the annotations
from contextlib import asynccontextmanager
from typing import Any

import trio

import trio_ws

__all__ = ["app", "mounted"]

app = trio_ws.App()
closed_with: list[int | None] = []
cancelled: list[str] = []


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@app.lifespan
async def life(_: trio_ws.App) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:  # a trio thread next to the host's asyncio
        nursery.start_soon(trio.sleep_forever)
        say("entered")
        yield
        await trio.lowlevel.checkpoint()
        say("left")
        nursery.cancel_scope.cancel()


class Calculator(trio_ws.WebSocketHandler):
    channels_may_subscribe = True

    @trio_ws.rpc_method()
    async def add(self, connection: trio_ws.ClientConnection, a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        return a + b

    @trio_ws.rpc_method()
    async def hang(self, connection: trio_ws.ClientConnection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append("hang")

    @trio_ws.rpc_method()
    async def count(self, connection: trio_ws.ClientConnection, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @trio_ws.rpc_method()
    def join(self, connection: trio_ws.ClientConnection) -> None:
        connection.subscribe("news")

    @trio_ws.rpc_method()
    async def announce(self, connection: trio_ws.ClientConnection, data: str) -> None:
        self.channels.publish("news", data)

    @trio_ws.rpc_method()
    async def sleep_in_asyncio(self, connection: trio_ws.ClientConnection) -> str:
        try:
            await asyncio.sleep(1)
        except (TypeError, RuntimeError) as exc:
            return f"no asyncio here: {exc}"
        return "slept"


app.mount("/rpc", Calculator)


@app.websocket("/echo")
async def echo(ws: trio_ws.WebSocket) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    except trio_ws.ConnectionClosedError:
        pass
    finally:
        closed_with.append(ws.close_code)


@app.websocket("/pour")
async def pour(ws: trio_ws.WebSocket) -> None:
    """Send until sending blocks, and record the number of sent bytes."""
    sent = 0
    while True:
        with trio.move_on_after(0.5) as scope:
            await ws.send(b"x" * 65536)
        if scope.cancelled_caught:
            break
        sent += 65536
        assert sent < 500_000_000, "nothing holds up a sender"
    poured.append(sent)


poured: list[int] = []


@app.websocket("/reject")
async def reject(ws: trio_ws.WebSocket) -> None:
    await ws.reject(401, headers=[("X-Why", "no badge")], body=b"show your badge")


@app.websocket("/close")
async def close(ws: trio_ws.WebSocket) -> None:
    await ws.accept()
    await ws.close(4001, "enough")


@app.http("/state", methods=["GET", "POST"])
async def state(request: trio_ws.Request) -> dict[str, Any]:
    return {
        "closed_with": closed_with,
        "cancelled": len(cancelled),
        "poured": poured,
        "body": len(request.body),
        "pid": os.getpid(),
    }


@asynccontextmanager
async def lifespan(_: Any) -> AsyncIterator[None]:
    async with app.run_lifespan():
        yield


def mounted() -> Any:
    """Return the application, mounted in a FastAPI application."""
    from fastapi import FastAPI  # noqa: PLC0415 - for one of the hosts

    api = FastAPI(lifespan=lifespan)

    @api.get("/api")
    async def own() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"from": "fastapi"}

    api.mount("/ws", app)
    return api


if os.environ.get("TRIO_WS_TEST_MOUNTED"):
    mounted_app = mounted()
