"""A client that reconnects to a broken server under a jumping clock gives up, so that no test hangs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.network import Network, refusal
from trio_ws import (
    Backoff,
    ClientConnection,
    ConnectionFailedError,
    HandshakeRejectedError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    session,
)
from trio_ws.testing import MemoryListener

if TYPE_CHECKING:
    from trio.testing import MockClock


class Broken(WebSocketHandler):
    async def on_connect(self, connection: ClientConnection) -> None:
        raise LookupError("no such room")


class BrokenLater(WebSocketHandler):
    async def on_connect(self, connection: ClientConnection) -> None:
        await connection.accept()
        raise LookupError("no such room")


async def test_refused_with_500_again_and_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    listener = MemoryListener()
    async with WebSocketServer(Broken, listeners=[listener]):
        network = Network(listener)
        with pytest.raises(HandshakeRejectedError) as caught:
            async with WebSocketClient("ws://test/", stream=network, reconnect=Backoff()):
                pytest.fail("there is no connection")
    assert caught.value.status == 500
    assert len(network.times) == 20
    [note] = caught.value.__notes__
    assert "MockClock" in note
    assert "20 such errors in a row" in note


async def test_closed_with_1011_again_and_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    listener = MemoryListener()
    async with WebSocketServer(BrokenLater, listeners=[listener]):
        network = Network(listener)
        async with WebSocketClient("ws://test/", stream=network, reconnect=Backoff()) as client:
            with pytest.raises(ConnectionFailedError, match="1011") as caught:
                await client.recv()
    assert "MockClock" in caught.value.__notes__[0]
    assert len(network.times) == 20


async def test_a_session_does_the_same(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    listener = MemoryListener()
    async with WebSocketServer(Broken, listeners=[listener]):
        with pytest.raises(HandshakeRejectedError) as caught:
            async with session("ws://test/", stream=Network(listener), reconnect=Backoff()):
                pytest.fail("there is no connection")
    assert "MockClock" in caught.value.__notes__[0]


async def test_other_failures_may_last_for_days(autojump_clock: MockClock) -> None:
    listener = MemoryListener()
    async with WebSocketServer(WebSocketHandler, listeners=[listener]):
        network = Network(listener)
        network.plan += [refusal(503)] * 300
        network.plan += [OSError("unplugged")] * 300
        for _ in range(100):  # of internal errors only those in a row count
            network.plan += [refusal(500), refusal(500), OSError("unplugged")]
        async with WebSocketClient("ws://test/", stream=network, reconnect=Backoff()) as client:
            assert client.state == "connected"
    assert trio.current_time() > 3600


async def test_in_real_time_a_server_may_be_repaired() -> None:
    listener = MemoryListener()
    async with WebSocketServer(WebSocketHandler, listeners=[listener]):
        network = Network(listener)
        network.plan = [refusal(500)] * 50
        backoff = Backoff(initial=0, maximum=0)
        async with WebSocketClient("ws://test/", stream=network, reconnect=backoff) as client:
            assert client.state == "connected"
    assert len(network.times) == 51
