"""A nursery or cancel scope that user code leaves open costs its own connection and no other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import exchange, serving_in_memory
from trio_ws import (
    App,
    ClientConnection,
    ConnectionClosedError,
    HandshakeRejectedError,
    RPCError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_ws import Packet, Request, WebSocket


async def numbers_in_a_nursery() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield 1
        yield 2


async def numbers_in_a_scope() -> AsyncIterator[int]:
    with trio.move_on_after(0.2):
        yield 1
        yield 2


class Leaver:
    """Leaves nurseries and scopes open, and keeps references so that they are not garbage-collected."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def nursery_of_a_generator(self) -> None:
        self.kept.append(numbers_in_a_nursery())
        async for _ in self.kept[-1]:
            break

    async def scope_of_a_generator(self) -> None:
        self.kept.append(numbers_in_a_scope())
        async for _ in self.kept[-1]:
            break

    async def cancelled_scope(self) -> None:
        self.kept.append(trio.CancelScope())
        self.kept[-1].__enter__()
        self.kept[-1].cancel()

    async def nursery_that_fails(self) -> None:
        async def fail() -> None:
            await trio.sleep(0.1)
            raise KeyError("in a child")

        self.kept.append(trio.open_nursery())
        nursery = await self.kept[-1].__aenter__()
        nursery.start_soon(fail)


def app_of(leave: Callable[[], Awaitable[None]]) -> App:
    app = App()

    class Leaving(WebSocketHandler):
        async def on_connect(self, connection: ClientConnection) -> None:
            if connection.request.query_string == "on_connect":
                await leave()

        async def on_disconnect(self, connection: ClientConnection) -> None:
            if connection.request.query_string == "on_disconnect":
                await leave()

        async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
            await leave()

        @rpc_method()
        async def at_once(self, connection: ClientConnection) -> None:
            await leave()

        @rpc_method()
        async def later(self, connection: ClientConnection) -> None:
            await trio.sleep(0.1)
            await leave()

        @rpc_method()
        async def fine(self, connection: ClientConnection) -> int:
            return 1

    app.mount("/calls", Leaving)

    @app.websocket("/before_accept")
    async def before_accept(ws: WebSocket) -> None:
        await leave()

    @app.websocket("/after_accept")
    async def after_accept(ws: WebSocket) -> None:
        await ws.accept()
        await leave()

    @app.http("/page")
    async def page(request: Request) -> str:
        await leave()
        return "page"

    return app


WAYS = ["nursery_of_a_generator", "scope_of_a_generator", "cancelled_scope", "nursery_that_fails"]
PLACES = [
    "before_accept",
    "after_accept",
    "page",
    "on_connect",
    "on_disconnect",
    "on_receive",
    "at_once",
    "later",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", PLACES)
async def test_open_scopes_end_one_connection(
    place: str, way: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    leaver = Leaver()
    async with (
        serving_in_memory(app_of(getattr(leaver, way))) as memory,
        WebSocketClient("ws://test/calls", stream=await memory.stream()) as innocent,
    ):
        for _ in range(3):
            with contextlib.suppress(ConnectionClosedError, HandshakeRejectedError, RPCError):
                await be_served(memory, place)
            await trio.sleep(1)
            with trio.fail_after(2):
                assert await innocent.call("fine") == 1
        await trio.sleep(30)
        assert len(memory.server.connections) == 1
        with trio.fail_after(2):
            assert await innocent.call("fine") == 1


async def be_served(memory: Any, place: str) -> None:
    with trio.fail_after(3):
        if place == "page":
            await exchange(await memory.stream(), b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
        elif place.endswith("accept"):
            async with memory.connect(f"/{place}") as ws:
                await ws.recv()
        else:
            async with WebSocketClient(f"ws://test/calls?{place}", stream=await memory.stream()) as client:
                if place == "on_receive":
                    await client.send("packet")
                elif place in ("at_once", "later"):
                    await client.call(place)
                for _ in range(5):
                    await client.call("fine")
                    await trio.sleep(0.1)
