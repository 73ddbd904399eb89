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
        (b"\x89\x00", False),
    ],
)
def test_the_next_read_is_like_the_last(data: bytes, expected: bool) -> None:
    buffer = ReceiveBuffer(Options(), client=True)
    buffer.open(None, direct=True)
    buffer.release()
    assert buffer.bypass_limit
    buffer.feed(data)
    assert not buffer.bypass_limit
    buffer.messages.clear()
    buffer.release()
    assert bool(buffer.bypass_limit) is expected
    buffer.feed(SMALL)
    buffer.messages.clear()
    buffer.release()
    assert buffer.bypass_limit
