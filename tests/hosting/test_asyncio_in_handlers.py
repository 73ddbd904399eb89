"""The errors of handlers that await asyncio functions, which trio cannot run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_ws
from tests.support.asgi import websocket_scope
from trio_ws import ASGIApp, WebSocketServer, connect, guest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOTE = "use: await trio_ws.guest.call_asyncio(function, ...)"


async def sleep() -> None:
    await asyncio.sleep(0.01)


async def wait_in_a_task() -> None:
    await asyncio.create_task(asyncio.sleep(0.01))


async def time_out() -> None:
    async with asyncio.timeout(1):
        await asyncio.sleep(0)


async def in_a_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)


@pytest.mark.parametrize("function", [sleep, wait_in_a_task, time_out, in_a_nursery])
def test_under_a_host_on_asyncio(
    function: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Any] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.accept()
        await function()

    async def send(event: Any) -> None:
        said.append(event)

    async def main() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        await ASGIApp(handler)(websocket_scope(), events.get, send)

    asyncio.run(main())
    assert said[-1]["code"] == 1011
    assert caplog.text.count(NOTE) == 1


def test_call_asyncio_works_in_handlers() -> None:
    said: list[Any] = []

    async def handler(ws: trio_ws.WebSocket) -> None:
        await guest.call_asyncio(sleep)
        await ws.send("slept")

    async def send(event: Any) -> None:
        said.append(event)

    async def main() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        events.put_nowait({"type": "websocket.connect"})
        await ASGIApp(handler)(websocket_scope(), events.get, send)

    asyncio.run(main())
    assert said[1]["text"] == "slept"


async def test_under_our_server(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.accept()
        await sleep()

    async with WebSocketServer(handler) as server, connect(server.url) as ws:
        assert await ws.recv(none_when_lost=True) is None
        assert ws.close_code == 1011
    assert caplog.text.count(NOTE) == 1
