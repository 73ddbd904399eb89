"""A stalled subscriber delays no other, and its policy limits its backlog."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.serving import request, serving, serving_in_memory
from tests.support.watching import MIB, growth
from trio_ws import Options, WebSocket, broadcast

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws.channels.subscription import Policy

SIZE = 64 * 1024
#: The maximum of messages that wait for a connection: its backlog, its write buffer, and one message.
BOUND = Options().channel_max_bytes + Options().send_high_water + 2 * SIZE


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "drop_newest"])
async def test_a_stalled_subscriber_delays_no_other(policy: Policy, autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(channel_max_items=10, send_high_water=1000)
    async with serving_in_memory(handler, options=options) as memory, trio.open_nursery() as nursery:
        stalled = await Listener.join(nursery, memory, "stalled", capacity=1000)
        live = await Listener.join(nursery, memory, "live", "x")
        connection_of(handler, "stalled").subscribe("x", policy=policy)
        stalled.read(False)
        began = trio.current_time()
        for number in range(500):
            handler.publish("x", number)
            await wait_all_tasks_blocked()
            assert live.got[-1] == number, "it is there before anything else happens"
        assert trio.current_time() == began
        assert live.got == list(range(500))
        stalled.read(True)
        await wait_all_tasks_blocked()
        if policy == "disconnect":
            assert stalled.closed == 1013
            assert stalled.got == list(range(len(stalled.got)))
            assert handler.channels.statistics().channels["x"].subscribers == 1
        elif policy == "drop_oldest":
            assert stalled.closed is None
            assert stalled.got[-10:] == list(range(490, 500))
        else:
            assert stalled.closed is None
            assert stalled.got == list(range(len(stalled.got)))
            handler.publish("x", "again")
            await wait_all_tasks_blocked()
            assert stalled.got[-1] == "again"
        nursery.cancel_scope.cancel()


@pytest.mark.repeats
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_a_hundred_megabytes_to_a_stalled_reader_stay_within_its_bound(
    policy: Policy, autojump_clock: MockClock
) -> None:
    class Policed(Rooms):
        channel_policy = policy

    handler = Policed()
    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        stalled = await Listener.join(nursery, memory, "stalled", "x", capacity=1000)
        stalled.read(False)
        with growth() as memory_growth:
            for number in range(100 * MIB // SIZE):
                handler.broadcast(bytes([number % 256]) * SIZE)
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
        # In addition, one message is being encoded, and one is being dropped.
        assert MIB < memory_growth.peak < 3 * BOUND
        assert handler.channels.statistics().dropped > 1000
        nursery.cancel_scope.cancel()


async def test_a_stalled_plain_websocket_is_closed_at_its_bound(
    autojump_clock: MockClock,
) -> None:
    opened: list[WebSocket] = []

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        opened.append(ws)
        async for _ in ws:
            pass

    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        stalled = await Listener.join(nursery, memory, "stalled", capacity=1000)
        stalled.read(False)
        live = await Listener.join(nursery, memory, "live", capacity=2 * MIB)
        taken = 0
        with growth() as memory_growth:
            for number in range(30):
                taken += broadcast(opened, f"[{' ' * MIB}{number}]")
                await wait_all_tasks_blocked()
        assert memory_growth.peak < 8 * MIB, "one or two wait, and the rest is the reader's own"
        assert live.got == [[number] for number in range(30)]
        assert not opened[0].connected
        assert 30 < taken <= 33
        nursery.cancel_scope.cancel()


@pytest.mark.repeats
async def test_a_thousand_subscribers_and_one_of_them_stalled() -> None:
    """Over sockets with small buffers. All other subscribers receive each message immediately."""
    handler = Rooms()
    subscribers, size, count = 1000, 16 * 1024, 30
    listening = trio.socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    await listening.bind(("127.0.0.1", 0))
    listening.listen(subscribers)
    listeners = [trio.SocketListener(listening)]
    async with serving(
        handler, listeners=listeners, host=None, options=Options(ping_interval=None)
    ) as server:
        async with trio.open_nursery() as nursery:
            stalled, *live = [await Reader.connect(server.port, number) for number in range(subscribers)]
            while len(handler.clients) < subscribers:
                await trio.lowlevel.checkpoint()
            with growth() as memory_growth:
                for number in range(1, count + 1):
                    assert handler.publish("x", "x" * size) == subscribers
                    for reader in live:
                        await reader.receive_until(number * size)
                found = handler.channels.statistics()
                assert (found.stalled, found.dropped) == (1, 0)
                assert found.backlog > count // 4
            assert found.backlog * size < memory_growth.left < BOUND
            assert memory_growth.peak < 2 * BOUND
            for reader in (stalled, *live):
                reader.sock.close()
            nursery.cancel_scope.cancel()


class Reader:
    """A subscriber that only counts bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = 0

    @classmethod
    async def connect(cls, port: int, number: int) -> Reader:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        sock.send(request(target=f"/{number}/x"))
        await trio.lowlevel.checkpoint()
        return cls(sock)

    async def receive_until(self, total: int) -> None:
        while self.received < total:
            try:
                self.received += len(self.sock.recv(65536))
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.sock)
