"""The members of a channel, as a client sees them, take no more memory than the client allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.adversary.hostile import BINARY, frame, packet
from tests.support.simulated_server import simulated_server
from trio_ws import PacketError, WebSocketClient

if TYPE_CHECKING:
    from trio.testing import MockClock

LIMIT = 100_000


def update(**fields: Any) -> bytes:
    """An item of the first stream that the client asks for."""
    rpc = {"type": "response", "call_id": "1", "response": fields, "is_stream": True}
    return frame(BINARY, packet(5, rpc=rpc), masked=False)


async def test_a_set_of_members_that_never_ends(autojump_clock: MockClock) -> None:
    async with simulated_server("trio-ws.v1") as (client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            request = await server.peer.receive_frame()
            assert request is not None
            assert b"__presence__" in request.payload
            await server.peer.send_raw(update(reset=True, more=True))
            for number in range(10_000):
                await server.peer.send_raw(update(joined={f"{number}": ["x" * 100] * 10}, more=True))

        nursery.start_soon(send)
        with pytest.raises(
            PacketError, match=r"'room' take 1\d\d,\d\d\d bytes, more than max_bytes \(100,000\)"
        ):
            async with client.presence("room", max_bytes=LIMIT):
                pass
        nursery.cancel_scope.cancel()


async def test_members_who_come_later(autojump_clock: MockClock) -> None:
    async with simulated_server("trio-ws.v1") as (client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            await server.peer.receive_frame()
            await server.peer.send_raw(update(reset=True, joined={"ada": None}))
            for number in range(500):  # one after the other, so that they never exceed the limit
                await server.peer.send_raw(update(joined={"bob": f"{number}" * 1000}))
                await server.peer.send_raw(update(left=["bob"]))
            for number in range(500):
                await server.peer.send_raw(update(joined={f"{number}": "x" * 1000}))

        nursery.start_soon(send)
        came = await came_until_it_is_too_much(client)
        assert came[:1000] == ["+bob", "-bob"] * 500
        assert 60 <= len(came) - 1000 <= 80, "each takes about 1,400 bytes"
        nursery.cancel_scope.cancel()


async def came_until_it_is_too_much(client: WebSocketClient) -> list[str]:
    came: list[str] = []
    with pytest.raises(PacketError, match="max_bytes"):
        async with client.presence("room", max_bytes=LIMIT) as presence:
            assert list(presence) == ["ada"]
            async for change in presence:
                came.append("-+"[change.joined] + change.uid)
    return came
