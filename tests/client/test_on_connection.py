"""WebSocketClient(on_connection=...): each connection is set up before the client uses it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.network import Network
from tests.support.serving import guard, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    CloseConnection,
    ConnectionClosedError,
    ConnectionFailedError,
    Options,
    Packet,
    Reconnect,
    RPCAccessDeniedError,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

STEADY = Backoff(initial=1, factor=1, jitter=False)
QUIET = Options(ping_interval=None, drain_timeout=0.01)


class Guarded(WebSocketHandler[Any]):
    """Serves clients that have logged in."""

    def __init__(self) -> None:
        self.logins: list[str] = []
        self.calls: list[bool] = []

    @rpc_method()
    async def login(self, connection: ClientConnection[Any], token: str) -> str:
        await trio.sleep(0.5)
        self.logins.append(token)
        if token != "valid":
            raise RPCAccessDeniedError("no")
        connection.known = True
        return "welcome"

    @rpc_method()
    def work(self, connection: ClientConnection[Any]) -> int:
        self.calls.append(connection.get("known", False))
        return len(self.calls)


@asynccontextmanager
async def network(handler: Any = Guarded) -> AsyncIterator[Network]:
    async with serving_in_memory(handler, options=QUIET) as server:
        yield Network(server.listener)


def client(net: Network, **settings: Any) -> WebSocketClient:
    settings.setdefault("options", QUIET)
    settings.setdefault("reconnect", STEADY)
    return WebSocketClient("ws://test", stream=net, **settings)


async def lose(net: Network) -> None:
    """Cut the connection, and let the client notice."""
    net.cut()
    await trio.sleep(0.1)


async def log_in(connection: ClientConnection[Any]) -> None:
    assert await connection.call("login", "valid") == "welcome"


@pytest.mark.parametrize("dialect", ["trio-ws.v1", "webshocket.v1", "jsonrpc", "json"])
async def test_each_connection_logs_in_before_anything_else(dialect: str, autojump_clock: MockClock) -> None:
    handler = Guarded()
    async with network(handler) as net, client(net, on_connection=log_in, dialect=dialect) as session:
        assert handler.logins == ["valid"]
        assert await session.call("work") == 1
        await lose(net)
        assert await session.call("work") == 2  # waits for the next connection, and for its login
    assert handler.logins == ["valid", "valid"]
    assert handler.calls == [True, True]


async def test_without_reconnecting_a_failure_is_raised_at_once(autojump_clock: MockClock) -> None:
    async def wrong(connection: ClientConnection[Any]) -> None:
        await connection.call("login", "invalid")

    async with network() as net:
        with pytest.raises(ConnectionFailedError, match="on_connection failed") as info:
            async with client(net, on_connection=wrong, reconnect=None):
                pytest.fail("it is not logged in")
        assert isinstance(info.value.__cause__, RPCAccessDeniedError)
    assert len(net.times) == 1


async def test_a_setup_that_asks_for_another_connection(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = iter(["expired", "expired", "valid"])

    async def set_up(connection: ClientConnection[Any]) -> None:
        try:
            await connection.call("login", next(tokens))
        except RPCAccessDeniedError as exc:
            raise Reconnect("the token has expired") from exc

    async with network() as net, client(net, on_connection=set_up) as session:
        assert await session.call("work") == 1
    assert net.times == [0, 1.5, 3]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("how", ["raises", "never ends", "ends the connection", "is lost"])
async def test_a_setup_that_fails_costs_that_connection(
    how: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def set_up(connection: ClientConnection[Any]) -> None:
        nonlocal tries
        tries += 1
        if tries > 2:
            return
        if how == "raises":
            raise ZeroDivisionError
        if how == "never ends":
            await trio.sleep_forever()
        elif how == "ends the connection":
            await connection.close()
        else:
            net.cut()
            await connection.call("login", "valid")

    options = Options(ping_interval=None, open_timeout=5)
    async with network() as net:
        async with client(net, on_connection=set_up, options=options) as session:
            assert await session.call("work") == 1
        for link in net.links[:-1]:
            assert link.client._closed
    assert tries == 3
    assert len(net.times) == 3
    errors = [record for record in caplog.records if record.levelno > logging.INFO]
    assert len(errors) == (2 if how == "raises" else 0)


async def test_a_setup_may_close_with_a_code(autojump_clock: MockClock) -> None:
    async def set_up(connection: ClientConnection[Any]) -> None:
        raise CloseConnection(4001, "wrong server")

    async with network() as net:
        with pytest.raises(ConnectionFailedError, match="wrong server"):
            async with client(net, on_connection=set_up, reconnect=None):
                pytest.fail("it is closed")


async def test_context_manager_ends_with_its_connection(
    autojump_clock: MockClock,
) -> None:
    beats: list[str] = []

    @asynccontextmanager
    async def set_up(connection: ClientConnection[Any]) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                beats.append(connection.uid)
                await connection.call("work")
                await trio.sleep(1)

        await log_in(connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            yield

    async with network() as net:
        async with client(net, on_connection=set_up) as session:
            await trio.sleep(2.7)
            await lose(net)
            await session.call("work")
            await trio.sleep(2.7)
            first, second = dict.fromkeys(beats)
            assert beats == [first] * 3 + [second] * 3
        count = len(beats)
        await trio.sleep(10)
        assert len(beats) == count


class Listening(WebSocketHandler[Any]):
    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def on_connect(self, connection: ClientConnection[Any]) -> None:
        await log_in(connection)
        self.hooks.append("connect")

    async def on_receive(self, connection: ClientConnection[Any], packet: Packet) -> None: ...

    async def on_disconnect(self, connection: ClientConnection[Any]) -> None:
        await trio.sleep(0.1)
        self.hooks.append("disconnect")


async def test_the_hooks_of_the_clients_handler_run_too(autojump_clock: MockClock) -> None:
    handler = Listening()

    async def set_up(connection: ClientConnection[Any]) -> None:
        handler.hooks.append("on_connection")

    async with network() as net:
        async with client(net, on_connection=set_up, handler=handler) as session:
            assert handler.hooks == ["connect", "on_connection"]
            await lose(net)
            await session.call("work")
        assert handler.hooks == ["connect", "on_connection", "disconnect"] * 2
        async with client(net, handler=handler, reconnect=None):
            assert handler.hooks[6:] == ["connect"]
        assert handler.hooks[6:] == ["connect", "disconnect"]


async def test_packets_that_come_meanwhile_are_kept_in_order(autojump_clock: MockClock) -> None:
    class Pushing(WebSocketHandler[Any]):
        count = 0

        async def on_connect(self, connection: ClientConnection[Any]) -> None:
            await connection.accept()
            for _ in range(2):
                Pushing.count += 1
                await connection.send(Pushing.count)

    async def set_up(connection: ClientConnection[Any]) -> None:
        await trio.sleep(1)

    async with network(Pushing) as net, client(net, on_connection=set_up) as session:
        net.cut()
        await trio.sleep(5)
        with trio.fail_after(guard()):
            found = [await session.recv() for _ in range(4)]
        assert [packet.data for packet in found if packet is not None] == [1, 2, 3, 4]


async def test_a_cancelled_entry_leaves_nothing(autojump_clock: MockClock) -> None:
    async def set_up(connection: ClientConnection[Any]) -> None:
        await trio.sleep_forever()

    async with network() as net:
        with trio.move_on_after(1) as scope:
            async with client(net, on_connection=set_up):
                pytest.fail("it is not set up")
        assert scope.cancelled_caught
        assert net.links[0].client._closed


async def test_leaving_the_block_during_a_setup(autojump_clock: MockClock) -> None:
    async def set_up(connection: ClientConnection[Any]) -> None:
        if len(net.times) > 1:
            await trio.sleep_forever()

    async with network() as net:
        async with client(net, on_connection=set_up) as session:
            net.cut()
            await trio.sleep(3)
            assert session.state == "connecting"
        with pytest.raises(ConnectionClosedError):
            await session.call("work")


@pytest.mark.parametrize("wrong", ["text", 5, ("a",)])
def test_invalid_on_connection(wrong: Any) -> None:
    with pytest.raises(TypeError, match="async function"):
        WebSocketClient("ws://test", on_connection=wrong)
