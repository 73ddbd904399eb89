"""Receiving the fragments of a message: ``recv_streaming(fragments=True)``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trio_ws
from tests.support.serving import serving_in_memory
from tests.support.wire import frame
from trio_ws import ConnectionClosedError, MessageError, Options
from trio_ws.protocol.frames import FrameReader
from trio_ws.testing import RawPeer
from trio_ws.websocket.receive_buffer import ReceiveBuffer

if TYPE_CHECKING:
    from trio.testing import MockClock

TEXT, BINARY, CONTINUATION, PING = 1, 2, 0, 9


def message(kind: int, *pieces: bytes) -> bytes:
    """Return the frames of a message with these fragments."""
    if len(pieces) == 1:
        return frame(kind, pieces[0])
    first, *middle, last = pieces
    data = frame(kind, first, fin=False)
    data += b"".join(frame(CONTINUATION, piece, fin=False) for piece in middle)
    return data + frame(CONTINUATION, last)


def reading() -> ReceiveBuffer:
    buffer = ReceiveBuffer(Options(), client=False)
    buffer.ask_for_fragments()
    buffer.open(None)
    return buffer


def taken(buffer: ReceiveBuffer) -> list[str | bytes]:
    found = []
    while (fragment := buffer.next_fragment()) is not None:
        found.append(fragment)
    return found


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6), min_size=1, max_size=5),
    st.integers(1, 60),
    st.booleans(),
)
def test_each_fragment_is_as_it_was_sent(messages: list[list[bytes]], step: int, late: bool) -> None:
    """Whatever the reads are, and whether fragments are received immediately or at the end."""
    data = b"".join(message(BINARY, *pieces) for pieces in messages)
    buffer = reading()
    found: list[str | bytes] = []
    for start in range(0, len(data), step):
        buffer.feed(data[start : start + step])
        if not late:
            found += taken(buffer)
    found += taken(buffer)
    assert [piece for piece in found if piece] == [piece for pieces in messages for piece in pieces]
    assert not buffer.parts_open


@given(st.lists(st.text(min_size=1, max_size=10), min_size=2, max_size=6), st.integers(1, 40))
def test_characters_stay_whole(pieces: list[str], cut: int) -> None:
    whole = "".join(pieces)
    data = whole.encode()
    first, last = data[:cut], data[cut:]
    buffer = reading()
    buffer.feed(message(TEXT, first, last) if last else message(TEXT, first))
    begun = first.decode(errors="ignore")  # without the beginning of a character that is cut
    assert taken(buffer) == [piece for piece in (begun, whole[len(begun) :]) if piece]


def test_empty_fragments_are_left_out_and_pings_come_between() -> None:
    buffer = reading()
    buffer.feed(frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"a", fin=False) + frame(PING, b"!"))
    assert taken(buffer) == ["a"]
    assert buffer.parts_open
    buffer.feed(frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"b", fin=False))
    assert taken(buffer) == ["b"]
    buffer.feed(frame(CONTINUATION, b""))
    assert taken(buffer) == [""]
    assert not buffer.parts_open


def test_fragments_that_wait_are_bounded() -> None:
    buffer = reading()
    assert isinstance(buffer.frames, FrameReader)
    buffer.feed(message(BINARY, *[b"x"] * 3000))
    while buffer.pending_input:
        rest, buffer.pending_input = buffer.pending_input, b""
        buffer.feed(rest)
    found = taken(buffer)
    assert len(found) == 1025
    assert b"".join(piece for piece in found if isinstance(piece, bytes)) == b"x" * 3000


def test_messages_taken_in_another_way_do_not_matter() -> None:
    buffer = reading()
    for number in range(200):
        data = b"%d" % number
        buffer.feed(message(BINARY, data, b"-", data))
        if number % 3:
            assert buffer.messages.popleft() == data + b"-" + data
        else:
            assert taken(buffer) == [data, b"-", data]


async def test_on_a_connection(autojump_clock: MockClock) -> None:
    got: list[str | bytes] = []
    ended = trio.Event()

    async def handler(ws: trio_ws.WebSocket) -> None:
        async for fragment in ws.recv_streaming(fragments=True):
            got.append(fragment)
            await ws.send(f"{len(got)}")
        got.append("|")
        assert await ws.receive_text() == "whole"
        stream = ws.recv_streaming(fragments=True)
        got.append(await anext(stream))
        with pytest.raises(MessageError, match="half received"):
            await ws.recv()
        # Without fragments=True, it continues with the same message.
        got.append(b"".join([part async for part in ws.recv_streaming() if isinstance(part, bytes)]))
        got.append("|")
        with pytest.raises(ConnectionClosedError):
            async for fragment in ws.recv_streaming(fragments=True):
                got.append(fragment)
        ended.set()

    async with serving_in_memory(handler) as server:
        peer = await RawPeer.connect(await server.stream())
        for number, (opcode, piece, fin) in enumerate(
            [(TEXT, b"one", False), (CONTINUATION, b"two", False), (CONTINUATION, b"three", True)], 1
        ):
            await peer.send_frame(opcode, piece, fin=fin)
            answer = await peer.receive_frame()  # before the next one is sent
            assert answer is not None
            assert answer.payload == b"%d" % number
        await peer.send_frame(TEXT, b"whole")
        await peer.send_frame(BINARY, b"a", fin=False)
        await peer.send_frame(CONTINUATION, b"b", fin=False)
        await peer.send_frame(CONTINUATION, b"c")
        await peer.send_frame(BINARY, b"last", fin=False)
        await peer.send_frame(CONTINUATION, b"incompl", fin=False, length=100)
        await peer.stream.aclose()
        await ended.wait()
    assert got == ["one", "two", "three", "|", b"a", b"bc", "|", b"last"]


async def test_of_a_compressed_message(autojump_clock: MockClock) -> None:
    options = Options(compression=trio_ws.Compression(threshold=0))
    pieces = ["x" * 100, "y" * 100, "z" * 100]

    async def words() -> object:
        for piece in pieces:
            yield piece

    async def handler(ws: trio_ws.WebSocket) -> None:
        await ws.send(words())  # type: ignore[arg-type]

    async with serving_in_memory(handler, options=options) as server:
        async with trio_ws.connect("ws://test/", stream=await server.stream(), options=options) as ws:
            got = [str(fragment) async for fragment in ws.recv_streaming(fragments=True)]
    assert "".join(got) == "".join(pieces)
