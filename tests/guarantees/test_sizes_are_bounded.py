"""The memory of a connection has stated limits: fragments, inflated bytes, and text.

Messages that wait for a reader, and headers, are tested in test_memory_is_bounded.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.inspect import deflate_of, inflated_bytes
from tests.support.serving import guard, serving_in_memory
from tests.support.watching import DEFLATE, MIB, bomb, deflated, growth, taken
from tests.support.wire import frame
from trio_ws import Compression, ConnectionClosedError, Options, WebSocket, connect
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate
from trio_ws.protocol.frames import FrameReader, ProtocolViolation
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from trio.testing import MockClock


# -- an overhead charged per fragment ---------------------------------------------------------------


def reader(limit: int | None = MIB) -> tuple[list[Any], FrameReader]:
    messages: list[Any] = []
    return messages, FrameReader(messages, client=False, max_message_size=limit)


@pytest.mark.parametrize("opcode", [1, 2])
@pytest.mark.parametrize("between", [b"", frame(9, b"still there")], ids=["alone", "with pings"])
def test_empty_fragments_grow_nothing(opcode: int, between: bytes) -> None:
    """Five hundred of them add no bytes, so two million add none either."""
    messages, frames = reader()
    some = (frame(0, fin=False) + between) * 500
    frames.feed(frame(opcode, b"", fin=False) + some)
    frames.events.clear()
    with growth() as grown:
        for _ in range(10):
            frames.feed(some)
            frames.events.clear()
    assert grown.left < 600  # a counter, and the measurement itself
    frames.feed(frame(0, b"end"))
    assert messages == ["end" if opcode == 1 else b"end"]


def test_fragments_of_one_byte_cost_what_they_carry() -> None:
    count = 3000
    messages, frames = reader()
    frames.feed(frame(2, b"", fin=False))
    some = frame(0, b"x", fin=False) * 1000
    with growth() as grown:
        for _ in range(count // 1000):
            frames.feed(some)
    assert frames.held == count
    assert grown.left < 2 * count + 2000
    frames.feed(frame(0))
    assert messages == [b"x" * count]


@pytest.mark.parametrize("chunk", [1, 1000, 4095, 4096, 16_384])
def test_an_unfinished_frame_costs_what_it_carries_however_it_arrives(chunk: int) -> None:
    count = 200_000 if chunk > 1 else 5000
    data = frame(2, bytes(count))
    messages, frames = reader()
    with growth() as grown:
        for i in range(0, len(data) - 1, chunk):
            frames.feed(data[i : min(i + chunk, len(data) - 1)])
    assert frames.held == count - 1
    assert grown.left < 1.3 * count + 2000
    frames.feed(data[-1:])
    assert messages == [bytes(count)]


@pytest.mark.parametrize("size", [1, 7])
def test_fragments_end_at_the_limit_to_the_byte(size: int) -> None:
    for limit, closes in ((7 * 40, False), (7 * 40 - 1, True)):
        _, frames = reader(limit)
        frames.feed(frame(2, b"", fin=False) + frame(0, bytes(size), fin=False) * (280 // size))
        codes = [event.code for event in frames.events if isinstance(event, ProtocolViolation)]
        assert codes == [1009] * closes
        assert frames.held == (0 if closes else 280)  # a refused message is not stored


async def test_many_empty_fragments_reach_a_waiting_receiver(autojump_clock: MockClock) -> None:
    """They are charged to the ledger, which must not block a message that a task waits for."""
    got: list[str] = []

    async def handler(ws: WebSocket) -> None:
        got.append(await ws.receive_text())

    async with serving_in_memory(handler, options=Options(max_queue_bytes=1000)) as memory:
        peer = await RawPeer.connect(await memory.stream())
        await peer.send_frame(1, b"", fin=False)

        async def more() -> None:
            for _ in range(30):
                await peer.send_raw(frame(0, fin=False) * 100)
                await trio.testing.wait_all_tasks_blocked()

        with growth() as grown:
            await more()
        assert grown.left < 12_000  # half a pointer per fragment
        await peer.send_frame(0, b"end")
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()
    assert got == ["end"]


async def test_empty_fragments_stop_the_reading_without_a_receiver(autojump_clock: MockClock) -> None:
    go_on = trio.Event()

    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await go_on.wait()
        assert await ws.receive_text() == "end"

    async with serving_in_memory(handler, options=Options(max_queue_bytes=1000)) as memory:
        async with trio.open_nursery() as nursery:
            link = await memory.listener.open_link(capacity=100)
            peer = await RawPeer.connect(link.client)
            some = frame(1, fin=False) + frame(0, fin=False) * 2000
            nursery.start_soon(peer.send_raw, some + frame(0, b"end"))
            await trio.sleep(1)
            assert taken(link.to_server) < 2000
            go_on.set()
        assert await peer.receive_until_close() == (1000, "")
        await peer.send_close()


# -- inflated bytes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fragments", [1, 7, 1000])
async def test_a_deflate_bomb_closes_with_1009_having_inflated_no_more_than_the_limit(
    fragments: int, autojump_clock: MockClock
) -> None:
    payload = bomb(30 * MIB)
    assert len(payload) < 40_000
    handlers: list[WebSocket] = []
    codes: list[int] = []

    async def handler(ws: WebSocket) -> None:
        handlers.append(ws)
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        codes.append(info.value.code)

    options = Options(compression=True, max_message_size=MIB)
    async with serving_in_memory(handler, options=options) as memory:
        peer = await RawPeer.connect(await memory.stream(), headers=[DEFLATE])
        size = math.ceil(len(payload) / fragments)

        async def explode() -> None:
            for i in range(0, len(payload), size):
                piece = payload[i : i + size]
                await peer.send_frame(0 if i else 2, piece, rsv1=not i, fin=i + size >= len(payload))

        with growth() as grown:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(explode)
                closing = await peer.receive_until_close()
                nursery.cancel_scope.cancel()
        assert closing is not None
        assert closing[0] == 1009
        deflate = deflate_of(handlers[0])
        assert deflate is not None
        assert deflate._inflated <= MIB + 1
        assert grown.peak < 4 * MIB
        await peer.aclose()
    assert codes == [1009]


async def test_a_client_is_safe_from_bombs_too(autojump_clock: MockClock) -> None:
    link = Link()
    payload = bomb(20 * MIB, 12)
    answer = (DEFLATE[0], DEFLATE[1] + "; server_max_window_bits=12")

    async def server() -> None:
        peer = await RawPeer.accept(link.server, headers=[answer])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send_raw, frame(2, payload, rsv=4, masked=False))
            closing = await peer.receive_until_close()
            nursery.cancel_scope.cancel()
        assert closing is not None
        assert closing[0] == 1009
        await peer.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        options = Options(compression=True, max_message_size=100_000)
        with growth() as grown:
            async with connect("ws://test/", stream=link.client, options=options) as ws:
                with pytest.raises(ConnectionClosedError) as info:
                    await ws.recv()
                assert info.value.code == 1009
                assert inflated_bytes(ws) <= 100_001
        assert grown.peak < 2 * MIB


# -- text limits count bytes ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["one read", "byte by byte", "fragments", "compressed", "streamed"])
@pytest.mark.parametrize("char", ["x", "é", "€", "𝄞"])
async def test_text_limits_count_bytes(form: str, char: str, autojump_clock: MockClock) -> None:
    limit = 120  # bytes; a multiple of the size of each character
    fitting = char * (limit // len(char.encode()))
    got: list[str] = []
    codes: list[int] = []

    async def handler(ws: WebSocket) -> None:
        try:
            while True:
                if form == "streamed":
                    got.append("".join([str(part) async for part in ws.recv_streaming()]))
                else:
                    got.append(await ws.receive_text())
        except ConnectionClosedError as exc:
            codes.append(exc.code)

    options = Options(max_message_size=limit, compression=form == "compressed")
    with trio.fail_after(guard()):
        async with serving_in_memory(handler, options=options) as memory:
            stream = await memory.stream(max_read=1 if form == "byte by byte" else None)
            peer = await RawPeer.connect(stream, headers=[DEFLATE] if form == "compressed" else [])
            for text in (fitting, fitting + char):
                data = text.encode()
                if form == "fragments":
                    for i, byte in enumerate(data):
                        await peer.send_frame(0 if i else 1, bytes([byte]), fin=i == len(data) - 1)
                elif form == "compressed":
                    await peer.send_frame(1, deflated(data), rsv1=True)
                else:
                    await peer.send_frame(1, data)
            closing = await peer.receive_until_close()
            assert closing is not None
            assert closing[0] == 1009
            await peer.aclose()
    assert got == [fitting]
    assert codes == [1009]


def test_a_bomb_in_utf_8_is_measured_in_bytes() -> None:
    """Inflated text is checked while it is inflated."""
    for chars, closes in ((100, False), (101, True)):
        deflate = PerMessageDeflate(
            client=False,
            params=DeflateParams(15, 15, False, False),
            compression=Compression(),
            max_message_size=300,
        )
        messages: list[Any] = []
        frames = FrameReader(messages, client=False, max_message_size=300, deflate=deflate)
        frames.feed(frame(1, deflated(("€" * chars).encode()), rsv=4))
        assert [getattr(event, "code", None) for event in frames.events] == [1009] * closes
        assert messages == ([] if closes else ["€" * chars])
