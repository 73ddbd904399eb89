"""Channels of the JavaScript client over lost connections: all messages in order and once, or a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio

from tests.support.node import node_command, run_program
from tests.support.serving import serving
from trio_ws import ClientConnection, History, WebSocketHandler, rpc_method

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
async def test_a_gap_stands_where_messages_are_missing(handler: type[Rooms], tmp_path: Path) -> None:
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
