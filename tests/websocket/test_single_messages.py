"""A whole small message is received together with its frame while such messages arrive one at a time."""

from __future__ import annotations

import pytest

from trio_ws import Options
from trio_ws.websocket.receive_buffer import ReceiveBuffer

SMALL = b"\x82\x01a"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SMALL, True),
        (2 * SMALL, False),  # a burst, which one read brings as a whole
        (b"\x82\x7e\x20\x00" + bytes(0x2000), False),  # larger than the call receives at first
        (b"\x89\x00", True),  # a ping, which says nothing about messages
    ],
)
def test_the_next_read_is_like_the_last(data: bytes, expected: bool) -> None:
    buffer = ReceiveBuffer(Options(), client=True)
    buffer.open(None, direct=True)
    buffer.release()
    assert buffer.bypass_limit
    buffer.feed(data)
    assert not buffer.bypass_limit
    assert buffer.frames is not None
    buffer.frames.take_events()
    buffer.messages.clear()
    buffer.release()
    assert bool(buffer.bypass_limit) is expected
    buffer.feed(SMALL)
    buffer.messages.clear()
    buffer.release()
    assert buffer.bypass_limit


@pytest.mark.parametrize("before", [b"", SMALL, b"\x89\x00", b"\x82\x7e\x20\x00" + bytes(0x2000) + SMALL])
def test_an_idle_connection_keeps_no_parser(before: bytes) -> None:
    buffer = ReceiveBuffer(Options(), client=True)
    buffer.open(None, direct=True)
    buffer.release()
    assert buffer.frames is None
    if before:
        buffer.feed(before)
        assert buffer.frames is not None
        buffer.frames.take_events()
        buffer.messages.clear()
        buffer.release()
    buffer.keep("a")
    buffer.messages.clear()
    buffer.release()
    buffer.feed(SMALL)
    assert list(buffer.messages) == [b"a"]
    buffer.messages.clear()
    buffer.release()
    assert buffer.frames is None


@pytest.mark.parametrize("half", [SMALL[:1], SMALL[:2], b"\x02\x01a", b"\x88\x00"])
def test_what_was_begun_or_ended_is_not_forgotten(half: bytes) -> None:
    buffer = ReceiveBuffer(Options(), client=True)
    buffer.open(None, direct=True)
    buffer.release()
    buffer.feed(half)
    frames = buffer.frames
    assert frames is not None
    frames.take_events()
    buffer.release()
    assert buffer.frames is frames
    assert not buffer.bypass_limit
