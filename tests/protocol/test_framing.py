"""Serialized frames, as wsproto parses them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import by_wsproto, frame
from trio_ws.protocol._accel import frame_head
from trio_ws.protocol.frames import BINARY, CONTINUATION, FIN, PING, RSV1, TEXT
from trio_ws.protocol.framing import close_payload, masked_frame, server_frame


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x82\x00"),
        (125, b"\x82\x7d"),
        (126, b"\x82\x7e\x00\x7e"),
        (65535, b"\x82\x7e\xff\xff"),
        (65536, b"\x82\x7f" + (65536).to_bytes(8, "big")),
        (1 << 40, b"\x82\x7f" + (1 << 40).to_bytes(8, "big")),
    ],
)
def test_the_header_has_the_shortest_form(size: int, head: bytes) -> None:
    assert frame_head(FIN | BINARY, size) == head
    assert frame_head(FIN | BINARY, size, 0x80) == head[:1] + bytes([head[1] | 0x80]) + head[2:]


@pytest.mark.parametrize(
    "first", [FIN | TEXT, FIN | BINARY, FIN | TEXT | RSV1, BINARY, FIN | PING, CONTINUATION]
)
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_servers_frame_is_head_and_payload(first: int, size: int) -> None:
    payload = b"p" * size
    expected = frame(first & 15, payload, fin=bool(first & FIN), rsv=first >> 4 & 7, masked=False)
    assert server_frame(first, payload) == expected
    assert server_frame(first, bytearray(payload)) == expected
    assert server_frame(first, memoryview(payload)) == expected


@given(st.binary(max_size=300) | st.sampled_from([b"x" * 65535, b"x" * 65536]))
def test_a_masked_frame_is_read_back_by_wsproto(payload: bytes) -> None:
    assert by_wsproto(masked_frame(FIN | BINARY, payload), client=False).messages == [payload]
    assert by_wsproto(masked_frame(FIN | PING, payload[:125]), client=False).controls[0][1] == payload[:125]


def test_every_masked_frame_has_a_key_of_its_own() -> None:
    keys = {masked_frame(FIN | BINARY, b"\0\0\0\0")[2:6] for _ in range(50)}
    assert len(keys) > 45


def test_a_close_payload() -> None:
    assert close_payload(1000) == b"\x03\xe8"
    assert close_payload(4000, "tschüß") == b"\x0f\xa0" + "tschüß".encode()
    assert close_payload(1005) == b""
