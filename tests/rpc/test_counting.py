"""Reference counting frees a connection with calls after its end, without the cyclic garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import Any

import pytest
import trio

from tests.support.serving import serving
from tests.support.watching import until
from trio_ws import ClientConnection, Packet, WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.websocket import epoll_reader


class Remembering(WebSocketHandler):
    """It knows its connections without keeping them."""

    def __init__(self) -> None:
        self.known: list[weakref.ref[Any]] = []

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        self.known += map(weakref.ref, (connection, connection._session, connection._ws))

    @rpc_method()
    async def later(self, connection: ClientConnection) -> None:
        await trio.lowlevel.checkpoint()

    @rpc_method()
    async def count(self, connection: ClientConnection, end: int) -> AsyncIterator[int]:
        for number in range(end):
            yield number


async def use(url: str, known: list[weakref.ref[Any]]) -> None:
    async with WebSocketClient(url) as client:
        known += map(weakref.ref, (client, client._connections.session, client.websocket))
        await client.send("hello")
        await client.call("later")
        async with client.stream("count", 3) as numbers:
            assert [number async for number in numbers] == [0, 1, 2]
        async with client.subscribe("news"):
            pass


@pytest.mark.parametrize("few", [0, 100])
async def test_ended_connections_are_freed_at_once(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", few)
    handler = Remembering()
    clients: list[weakref.ref[Any]] = []
    gc.collect()
    gc.disable()
    try:
        async with serving(handler) as server:
            for _ in range(2):
                await use(server.url, clients)
            await until(lambda: not server.connections)
            known = [*handler.known, *clients]
            await until(lambda: not any(one() is not None for one in known))
    finally:
        gc.enable()
