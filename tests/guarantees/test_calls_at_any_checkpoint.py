"""For calls, cancelling at every checkpoint and stopping the network leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import Any

import pytest
import trio

from tests.guarantees.test_any_checkpoint_any_byte import closed_on_both_ends, stop_after
from tests.support.examples import every
from tests.support.serving import all_tasks
from trio_ws import (
    ClientConnection,
    ConnectionClosedError,
    ConnectionFailedError,
    Options,
    Packet,
    RPCTimeoutError,
    WebSocketClient,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)
from trio_ws.testing import Link, MemoryListener
from trio_ws.testing.exploring import cancelled_at

OPTIONS = Options(open_timeout=5, close_timeout=5, ping_interval=30, ping_timeout=5, stream_window=2)


class Methods(WebSocketHandler):
    """Methods that count how many of them have started and ended."""

    def __init__(self) -> None:
        self.begun = self.ended = self.disconnected = self.connected = 0

    async def on_connect(self, connection: ClientConnection) -> None:
        self.connected += 1
        await trio.lowlevel.checkpoint()

    async def on_disconnect(self, connection: ClientConnection) -> None:
        await trio.lowlevel.checkpoint()
        self.disconnected += 1

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: int) -> int:
        self.begun += 1
        try:
            await trio.sleep(0.5)
        finally:
            self.ended += 1
        return value

    @rpc_method()
    async def count(self, connection: ClientConnection, count: int) -> AsyncIterator[int]:
        self.begun += 1
        try:
            for number in range(count):
                yield number
        finally:
            self.ended += 1

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        self.begun += 1
        try:
            return sum([item async for item in items])
        finally:
            self.ended += 1

    @rpc_method()
    async def double(self, connection: ClientConnection, items: AsyncIterator[int]) -> AsyncIterator[int]:
        self.begun += 1
        try:
            async for item in items:
                yield 2 * item
        finally:
            self.ended += 1

    @rpc_method()
    async def echo_slowly(
        self, connection: ClientConnection, items: AsyncIterator[int]
    ) -> AsyncIterator[int]:
        self.begun += 1
        try:
            async for item in items:
                yield await connection.call("wait", item, returns=int)
        finally:
            self.ended += 1

    @rpc_method()
    async def ask_back(self, connection: ClientConnection, value: int) -> int:
        self.begun += 1
        try:
            return await connection.call("wait", value, returns=int)
        finally:
            self.ended += 1


class Handler(Methods):
    """The server's handler, which also echoes packets."""

    async def on_receive(self, connection: ClientConnection, packet: Packet) -> None:
        await connection.send(packet.data)


async def numbers() -> AsyncIterator[int]:
    for number in range(4):
        yield number


async def use(client: WebSocketClient) -> None:
    """Use all methods of a client."""
    assert await client.call("wait", 1) == 1
    async with client.stream("count", 5, items=int) as items:
        assert [item async for item in items] == [0, 1, 2, 3, 4]
    async with client.stream("count", 5, items=int) as items:
        assert await items.receive() == 0
    assert await client.call("total", numbers()) == 6
    async with client.stream("double", numbers(), items=int) as items:
        assert [item async for item in items] == [0, 2, 4, 6]
    async with client.stream("double", numbers(), items=int) as items:
        assert await items.receive() == 0
    with trio.fail_after(2) as scope:  # this deadline is changed, also in a nested call
        seen = []
        async with client.stream("echo_slowly", numbers(), items=int) as items:
            async for item in items:
                seen.append(item)
                scope.deadline = trio.current_time() + 2
        assert seen == [0, 1, 2, 3]
    assert await client.call("ask_back", 7) == 7
    assert [packet.data async for packet in client.stream_rpc("count", 3)] == [0, 1, 2]
    await client.send({"a": 1})
    packet = await client.recv()
    assert packet is not None
    assert packet.data == {"a": 1}


def quiet(handler: Methods, client: WebSocketClient | None) -> bool:
    if client is not None:
        peer = client._live
        assert not peer.outgoing.pending_calls
        assert not peer.outgoing.sinks
        assert not peer.outgoing.client_streams
        assert not peer.incoming.running
        assert peer.transport.read_demand.count == 0
        assert peer.outgoing._renewals is None or not list(peer.outgoing._renewals._leases())
    return handler.begun == handler.ended


async def test_a_client_cancelled_at_every_checkpoint(autojump_clock: Any) -> None:
    count = 0
    more = True
    while more:
        count += 1
        before = all_tasks()
        listener = MemoryListener()
        handler, mine = Handler(), Methods()
        async with WebSocketServer(handler, listeners=[listener], options=OPTIONS) as server:
            link = await listener.open_link(latency=0.125)

            async def script() -> None:
                async with WebSocketClient(
                    "ws://test/", stream=link.client, handler=mine, options=OPTIONS
                ) as client:
                    await use(client)

            more = await cancelled_at(count, script)
            with trio.fail_after(30):
                while server._clients:
                    await server._client_done.wait()
            assert quiet(handler, None)
            assert quiet(mine, None)
            assert handler.connected - 1 <= handler.disconnected <= handler.connected
        assert await closed_on_both_ends(link)
        assert all_tasks() == before
    assert count > 20


async def test_a_use_cancelled_at_every_checkpoint_leaves_a_client_that_works(autojump_clock: Any) -> None:
    count = 0
    more = True
    while more:
        count += 1
        listener = MemoryListener()
        handler, mine = Handler(), Methods()
        async with WebSocketServer(handler, listeners=[listener], options=OPTIONS):
            stream = await listener.connect(latency=0.125)
            async with WebSocketClient("ws://test/", stream=stream, handler=mine, options=OPTIONS) as client:
                more = await cancelled_at(count, lambda: use(client))
                await trio.sleep(1)
                assert quiet(handler, client)
                assert quiet(mine, None)
                while client._live.delivery.packets:
                    await client.recv()
                await use(client)


@pytest.mark.repeats
@pytest.mark.parametrize("fault", ["cut", "clean cut", "partition"])
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_the_network_stops_at_any_byte(fault: str, direction: Any, autojump_clock: Any) -> None:
    async def run(link: Link, listener: MemoryListener) -> tuple[Methods, Methods]:
        handler, mine = Handler(), Methods()
        async with WebSocketServer(handler, listeners=[listener], options=OPTIONS) as server:
            try:
                async with WebSocketClient(
                    "ws://test/", stream=link.client, handler=mine, options=OPTIONS
                ) as client:
                    await use(client)
            except (ConnectionClosedError, ConnectionFailedError, trio.TooSlowError, RPCTimeoutError):
                pass
            with trio.fail_after(100):
                while server._clients:
                    await server._client_done.wait()
        return handler, mine

    listener = MemoryListener()
    whole = await listener.open_link(max_read=None)
    await run(whole, listener)
    total = getattr(whole, direction).carried
    before = all_tasks()
    for count in range(0, total, every(23 if fault == "partition" else 11)):
        listener = MemoryListener()
        link = await listener.open_link(max_read=None)
        if fault == "partition":
            stop_after(link, getattr(link, direction), count)
        else:
            link.cut_after(count, direction=direction, clean=fault == "clean cut")
        handler, mine = await run(link, listener)
        assert quiet(handler, None)
        assert quiet(mine, None)
        assert await closed_on_both_ends(link)
        assert all_tasks() == before
