"""A whole small message is received together with its frame while such messages arrive one at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws import Options
from trio_ws.errors import CloseFrame
from trio_ws.protocol.frames import FrameReader, whole_control
from trio_ws.protocol.framing import make_frame
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


CLOSE_BODIES = st.sampled_from(
    [b"", b"\x03", b"\x03\xe8", b"\x03\xe9why", b"\x03\xe8\xff", b"\x03\xed", b"\x13\x88"]
)


@given(
    first=st.sampled_from([0x88, 0x89, 0x8A, 0x8B, 0x09, 0xC9, 0x82, 0x02]),
    payload=CLOSE_BODIES | st.binary(max_size=130),
    rest=st.integers(-3, -1) | st.binary(max_size=3),
    masked=st.booleans(),
    as_view=st.booleans(),
)
def test_a_lone_control_frame_is_what_a_parser_finds(
    first: int, payload: bytes, rest: int | bytes, masked: bool, as_view: bool
) -> None:
    frame = make_frame(first, payload, masked=masked)
    data = frame[:rest] if isinstance(rest, int) else frame + rest
    found = whole_control(memoryview(data) if as_view else data, masked=masked)
    reader = FrameReader([], client=not masked, max_message_size=None)
    assert reader.feed(data) == len(data)
    if found is not None:
        assert reader.events == [found]
        assert reader.messages == []
        assert reader.done is isinstance(found, CloseFrame)
        assert reader.between is not reader.done
    elif data == frame and len(payload) < 126:
        assert first not in (0x89, 0x8A)
    assert whole_control(data, masked=not masked) is None


def test_nothing_follows_a_close_frame() -> None:
    buffer = ReceiveBuffer(Options(), client=True)
    buffer.open(None, direct=True)
    buffer.release()
    assert buffer.take_control(b"\x88\x02\x03\xe8") == CloseFrame(1000, "")
    assert buffer.done
    assert buffer.frames is None
    buffer.release()
    assert not buffer.bypass_limit
    assert buffer.feed(SMALL) == 0
    assert not buffer.messages
    assert buffer.finished
