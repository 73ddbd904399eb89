"""All calls of an application share one server, with and without a lifespan."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.asgi import hosting, websocket_scope
from tests.support.serving import all_tasks, echo
from trio_ws import ASGIApp, WebSocket, broadcast

if TYPE_CHECKING:
    from trio.testing import MockClock


def monitors() -> int:
    return sum(task.name == "trio_ws monitor" for task in all_tasks())


@pytest.mark.parametrize("lifespan", [True, False])
async def test_one_server_for_all(lifespan: bool, autojump_clock: MockClock) -> None:
    before = all_tasks()
    app = ASGIApp(echo)
    async with AsyncExitStack() as stack:
        if lifespan:
            life = await stack.enter_async_context(hosting(app, {"type": "lifespan"}))
            await life.send_event("lifespan.startup")
            await life.receive_event("lifespan.startup.complete")
            stack.push_async_callback(life.send_event, "lifespan.shutdown")
        hosts = [await stack.enter_async_context(hosting(app, websocket_scope())) for _ in range(10)]
        for host in hosts:
            await host.receive_event("websocket.accept")
        assert len(app.connections) == 10
        assert monitors() == 1
        # The connection of one client ends, and the others stay open.
        await hosts[0].send_event("websocket.disconnect", code=1000)
        await hosts[0].ended.wait()
        await hosts[1].send_event("websocket.receive", text="still here")
        assert (await hosts[1].receive_event("websocket.send"))["text"] == "still here"
        assert monitors() == 1
        for host in hosts[1:]:
            await host.send_event("websocket.disconnect", code=1000)
    assert all_tasks() <= before


async def test_a_cancelled_call_takes_no_other_with_it(autojump_clock: MockClock) -> None:
    app = ASGIApp(echo)
    async with hosting(app, websocket_scope()) as one, hosting(app, websocket_scope()) as two:
        for host in (one, two):
            await host.receive_event("websocket.accept")
        one.scope.cancel()
        assert (await one.receive_event("websocket.close"))["code"] == 1001
        await one.ended.wait()
        await two.send_event("websocket.receive", bytes=b"here")
        assert (await two.receive_event("websocket.send"))["bytes"] == b"here"
        await two.send_event("websocket.disconnect", code=1000)


async def test_broadcast_reaches_clients_of_a_host(autojump_clock: MockClock) -> None:
    open_ones: set[WebSocket] = set()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        open_ones.add(ws)
        async for message in ws:
            assert broadcast(open_ones, message) == 2

    async with (
        hosting(ASGIApp(handler), websocket_scope()) as one,
        hosting(ASGIApp(handler), websocket_scope()) as two,
    ):
        for host in (one, two):
            await host.receive_event("websocket.accept")
        await one.send_event("websocket.receive", text="to all")
        for host in (one, two):
            assert (await host.receive_event("websocket.send"))["text"] == "to all"
            await host.send_event("websocket.disconnect", code=1000)


async def test_messages_are_logged_where_that_is_wanted(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    with caplog.at_level(logging.DEBUG, "trio_ws.frames"):
        async with hosting(ASGIApp(echo), websocket_scope()) as host:
            await host.receive_event("websocket.accept")
            await host.send_event("websocket.receive", text="hä")
            await host.receive_event("websocket.send")
            await host.send_event("websocket.receive", bytes=bytes(100))
            await host.receive_event("websocket.send")
            await host.send_event("websocket.disconnect", code=1000)
    shown = [record.getMessage().partition("> ")[2] for record in caplog.records]
    assert [text.partition(":")[0] for text in shown] == [
        "< TEXT, 3 bytes",
        "> TEXT, 3 bytes",
        "< BINARY, 100 bytes",
        "> BINARY, 100 bytes",
    ]
