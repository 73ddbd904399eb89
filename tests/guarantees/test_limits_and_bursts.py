"""``max_concurrent_calls`` is never exceeded, and a burst of 20,000 items or calls loses none."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handlers' annotations are read
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Options, WebSocketClient, WebSocketHandler, rpc_method
from trio_ws.codecs.packets import TrioWSCodec
from trio_ws.protocol.frames import BINARY, FIN
from trio_ws.protocol.framing import masked_frame
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock

MANY = 20_000


class Handler(WebSocketHandler):
    def __init__(self) -> None:
        self.running = self.most = 0

    @rpc_method()
    async def echo(self, connection: ClientConnection, value: int) -> int:
        return value

    @rpc_method()
    def plain(self, connection: ClientConnection, value: int) -> int:
        return value

    @rpc_method()
    async def wait(self, connection: ClientConnection, value: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        await trio.sleep(0.001)
        self.running -= 1
        return value

    @rpc_method()
    async def count(self, connection: ClientConnection, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @rpc_method()
    async def total(self, connection: ClientConnection, items: AsyncIterator[int]) -> int:
        total = 0
        async for item in items:
            total += item
        return total


@pytest.mark.repeats
@pytest.mark.parametrize("method", ["echo", "plain", "wait"])
async def test_a_burst_of_calls_loses_none(method: str, autojump_clock: MockClock) -> None:
    """All requests are sent before any response is read."""
    handler = Handler()
    options = Options(max_concurrent_calls=50, ping_interval=None)
    dialect = TrioWSCodec()
    answers: dict[str, int] = {}
    async with serving_in_memory(handler, options=options) as memory:
        headers = [("Sec-WebSocket-Protocol", "trio-ws.v1")]
        peer = await RawPeer.connect(await memory.stream(), headers=headers)

        async def send() -> None:
            for start in range(0, MANY, 100):  # single frames would spend most of the time in the raw peer
                requests = [dialect.request(str(n), method, (n,)) for n in range(start, start + 100)]
                await peer.send_raw(b"".join(masked_frame(FIN | BINARY, request) for request in requests))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(1)
            while len(answers) < MANY:
                frame = await peer.receive_frame()
                assert frame is not None
                rpc = msgspec.msgpack.decode(frame.payload)["rpc"]
                assert rpc["call_id"] not in answers
                answers[rpc["call_id"]] = rpc["response"]
        assert answers == {str(number): number for number in range(MANY)}
        assert handler.most <= 50
        await peer.send_close()


@pytest.mark.repeats
@pytest.mark.parametrize("dialect", ["trio-ws.v1", "webshocket.v1"])
async def test_a_stream_of_many_items_loses_none(dialect: str, autojump_clock: MockClock) -> None:
    async with serving_in_memory(Handler()) as memory:
        stream = await memory.stream()
        async with WebSocketClient("ws://test/", stream=stream, dialect=dialect) as client:
            async with client.stream("count", MANY, items=int) as numbers:
                assert [number async for number in numbers] == list(range(MANY))


@pytest.mark.repeats
async def test_an_upload_of_many_items_loses_none(autojump_clock: MockClock) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(MANY):
            yield number

    async with serving_in_memory(Handler()) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:
            assert await client.call("total", numbers()) == sum(range(MANY))


@pytest.mark.repeats
async def test_our_own_callers_at_once(autojump_clock: MockClock) -> None:
    handler = Handler()
    done = 0
    async with serving_in_memory(handler, options=Options(max_concurrent_calls=7)) as memory:
        async with WebSocketClient("ws://test/", stream=await memory.stream()) as client:

            async def call(number: int) -> None:
                nonlocal done
                assert await client.call("wait", number) == number
                done += 1

            async with trio.open_nursery() as nursery:
                for number in range(2000):
                    nursery.start_soon(call, number)
    assert done == 2000
    assert handler.most == 7
