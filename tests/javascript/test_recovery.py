"""Channels of the JavaScript client over lost connections: all messages in order and once, or a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from tests.support.node import node_command, run_program
from tests.support.redis import redis_server
from tests.support.serving import guard, serving
from trio_ws import (
    ClientConnection,
    History,
    Publisher,
    RedisBroker,
    WebSocketHandler,
    WebSocketServer,
    rpc_method,
)

PROGRAMS = Path(__file__).parent / "programs"
COUNT = 3000


class Rooms(WebSocketHandler):
    """Publishes numbers, and hangs up again and again meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = trio.Event()
        self.hung_up = 0

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method()
    def start(self, connection: ClientConnection) -> int:
        self.wanted.set()
        return COUNT - 1

    async def play(self) -> None:
        await self.wanted.wait()
        for number in range(COUNT):
            self.publish("room", number)
            if number % 7 == 0:
                await trio.sleep(0)
            if number % 300 == 150:
                while not self.clients:
                    await trio.sleep(0.001)
                for client in self.clients:
                    self.hung_up += 1
                    await client.close(1012, "again")
        while not self.channels_history:  # the last may be missed, too
            await trio.sleep(0.01)
            self.publish("room", COUNT - 1)


class LongRooms(Rooms):
    channels_history: ClassVar = {"room": History(items=COUNT)}


class ShortRooms(Rooms):
    channels_history: ClassVar = {"room": History(items=5)}


async def play(handler: Rooms, folder: Path) -> list[Any]:
    node_command()
    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(handler.play)
        taken: list[Any] = await run_program(folder, PROGRAMS / "recovery.mjs", server.url)
        nursery.cancel_scope.cancel()
    assert handler.hung_up >= COUNT // 300 - 1
    return taken


async def test_nothing_is_missed_or_comes_twice(tmp_path: Path) -> None:
    assert await play(LongRooms(), tmp_path) == list(range(COUNT))


@pytest.mark.parametrize("handler", [ShortRooms, Rooms])
async def test_a_gap_marks_missing_messages(handler: type[Rooms], tmp_path: Path) -> None:
    """And nowhere else; with a history it says how many they are."""
    expected = missing = gaps = 0
    for one in await play(handler(), tmp_path):
        if isinstance(one, dict):
            gaps += 1
            missing += one["missing"] or 0
            continue
        if not gaps:
            assert one == expected
        elif handler is ShortRooms:
            assert one == expected + missing > expected
        else:
            assert one >= expected
            assert not missing
        expected, missing, gaps = one + 1, 0, 0
    assert expected == COUNT


class Restarted(WebSocketHandler):
    """One of several servers on the same port, one after the other."""

    channels_history: ClassVar = {"room": History(items=COUNT)}
    started = 0

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method()
    def start(self, connection: ClientConnection) -> int:
        Restarted.started += 1
        return COUNT - 1


async def test_nothing_is_missed_over_restarts_of_the_server(tmp_path: Path) -> None:
    """Messages are published from outside, through Redis, whether or not there is a server."""
    node_command()
    Restarted.started = 0
    restarts = 0
    over = trio.Event()
    async with redis_server() as redis, trio.open_nursery() as nursery:

        async def publish() -> None:
            async with Publisher(redis.url) as publisher:
                for number in range(COUNT):
                    while restarts < number // 500:
                        await trio.sleep(0.001)
                    await publisher.publish("room", number)
            over.set()

        port = 0
        taken: list[Any] | None = None

        async def listen(url: str) -> None:
            nonlocal taken
            taken = await run_program(tmp_path, PROGRAMS / "recovery.mjs", url)

        with trio.fail_after(guard()):
            while taken is None:
                handler = Restarted()
                async with WebSocketServer(
                    handler, port, host="127.0.0.1", broker=RedisBroker(redis.url)
                ) as server:
                    if not port:
                        port = server.port
                        nursery.start_soon(listen, server.url)
                        while not Restarted.started:
                            await trio.sleep(0.001)
                        nursery.start_soon(publish)
                    else:
                        restarts += 1
                        while not handler.clients and taken is None:
                            await trio.sleep(0.001)
                    if over.is_set():
                        while taken is None:
                            await trio.sleep(0.001)
    assert restarts >= 5
    assert taken == list(range(COUNT))
