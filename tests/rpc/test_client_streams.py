"""Arguments that are streams, end to end: at all positions, and after errors."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.support.serving import serving_in_memory
from trio_ws import WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import ClientConnection


class Adder(WebSocketHandler):
    """Adds up the items of a stream."""

    @rpc_method()
    async def add_up(self, connection: ClientConnection, start: int, items: AsyncIterator[int]) -> int:
        async for item in items:
            start += item
        return start


async def one_two_three() -> AsyncIterator[int]:
    for number in (1, 2, 3):
        yield number


async def test_a_stream_by_position_and_by_name(autojump_clock: MockClock) -> None:
    async with serving_in_memory(Adder()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("add_up", 10, one_two_three()) == 16
            assert await client.call("add_up", 10, items=one_two_three()) == 16
            assert await client.call("add_up", start=10, items=one_two_three()) == 16


@pytest.mark.parametrize(
    ("args", "streams", "text"),
    [
        ((1, None), {"1": "1/0", "items": "1/1"}, "items takes one stream"),
        ((1, None), {"1": "1/0", "0": "1/1"}, "start takes no stream"),
        ((1, None), {"1": "1/0", "bogus": "1/1"}, "add_up has no parameter bogus"),
        ((1, None), {"1": "1/0", "items": "no slash"}, "bad stream id"),
        ((1, None), {}, "items takes a stream, and none was given"),
        ((1, [1]), {"1": "1/0"}, "items takes a stream"),
    ],
)
async def test_a_wrong_stream_is_answered_and_leaves_nothing(
    args: tuple[Any, ...], streams: dict[str, str], text: str, autojump_clock: MockClock
) -> None:
    handler = Adder()
    async with serving_in_memory(handler) as memory:
        peer = await RawPeer.connect(
            await memory.stream(), headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]
        )
        await peer.send_frame(2, TrioWSCodec().request("1", "add_up", args, streams=streams))
        while True:
            frame = await peer.receive_frame()
            assert frame is not None
            rpc = msgspec.msgpack.decode(frame.payload)["rpc"]
            if rpc["type"] == "response":
                break
        assert rpc["error"] == -32602
        assert text in rpc["response"]
        (connection,) = handler.clients
        assert (connection._live.outgoing.pending_calls, connection._live.outgoing.sinks) == ({}, {})
        await peer.send_close()
