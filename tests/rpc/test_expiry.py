"""Connections that expire, and clients that ask to stay connected longer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.network import Network
from tests.support.serving import serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionClosedError,
    RPCAccessDeniedError,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.rpc.expiry import _TIMETABLE

if TYPE_CHECKING:
    from trio.testing import MockClock


class Guarded(WebSocketHandler):
    def __init__(self) -> None:
        self.first: float | None = 10
        self.tokens: list[Any] = []

    async def on_connect(self, connection: ClientConnection) -> None:
        if self.first is not None:
            connection.expires_at = trio.current_time() + self.first

    async def may_refresh(self, connection: ClientConnection, token: Any) -> Any:
        self.tokens.append(token)
        return token


async def test_a_connection_that_expires(autojump_clock: MockClock) -> None:
    handler = Guarded()
    async with serving_in_memory(handler) as memory:
        began = trio.current_time()
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            (connection,) = handler.clients
            assert connection.expires_at == began + 10
            with pytest.raises(ConnectionClosedError) as caught:
                async for _ in client:
                    pass
        assert (caught.value.code, caught.value.reason) == (1008, "expired")
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
        await wait_all_tasks_blocked()
        assert not _TIMETABLE.running


async def test_a_client_that_stays(autojump_clock: MockClock) -> None:
    handler = Guarded()
    async with (
        serving_in_memory(handler) as memory,
        WebSocketClient("ws://test/", stream=await memory.stream()) as client,
    ):
        (connection,) = handler.clients
        for _ in range(5):
            await trio.sleep(8)
            assert await client.refresh(10) == 10
        with pytest.raises(RPCAccessDeniedError, match="may not stay"):
            await client.refresh(False)
        for no in (0, -1, None, "yes"):
            with pytest.raises(RPCAccessDeniedError):
                await client.refresh(no)
        assert connection.expires_at == trio.current_time() + 10
        assert await client.refresh(True) is None
        assert connection.expires_at is None
        await trio.sleep(100)
        assert client.connected
        assert handler.tokens[:5] == [10] * 5
        connection.expires_at = trio.current_time() - 1
        with pytest.raises(ConnectionClosedError):
            await client.recv()
            await client.refresh(1)


async def test_a_client_that_comes_back_begins_anew(autojump_clock: MockClock) -> None:
    handler = Guarded()
    async with serving_in_memory(handler) as memory:
        network = Network(memory.listener)
        backoff = Backoff(initial=1, maximum=1)
        async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
            await trio.sleep(35)
            assert len(network.links) in (3, 4)
            assert await client.refresh(5) == 5


async def test_by_default_no_connection_expires(autojump_clock: MockClock) -> None:
    handler = WebSocketHandler()
    async with (
        serving_in_memory(handler) as memory,
        WebSocketClient("ws://test/", stream=await memory.stream()) as client,
    ):
        (connection,) = handler.clients
        assert connection.expires_at is None
        with pytest.raises(RPCAccessDeniedError):
            await client.refresh("token")
        connection.expires_at = math.inf
        assert connection.expires_at is None
        assert not _TIMETABLE.running


@pytest.mark.parametrize(("value", "error"), [("soon", TypeError), (True, TypeError), (math.nan, ValueError)])
async def test_bad_input_times_that_cannot_be(value: Any, error: type[Exception]) -> None:
    handler = WebSocketHandler()
    async with (
        serving_in_memory(handler) as memory,
        WebSocketClient("ws://test/", stream=await memory.stream()),
    ):
        (connection,) = handler.clients
        with pytest.raises(error, match="expires_at must"):
            connection.expires_at = value
        assert connection.expires_at is None


async def test_connections_that_are_closed_before_are_forgotten(autojump_clock: MockClock) -> None:
    handler = Guarded()
    handler.first = 3600
    async with serving_in_memory(handler) as memory:
        for _ in range(200):
            async with WebSocketClient("ws://test/", stream=await memory.stream()):
                pass
        assert len(_TIMETABLE) < 150
        assert _TIMETABLE.running
