"""`trio_ws.client.http_tunnel`: a CONNECT request, and all ways in which the response may arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.client.http_tunnel import Tunnel, TunnelError

GOOD = (
    b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 Connection established\r\nVia: 1.1 x\r\nContent-Length: 9\r\n\r\n"
)


def outcome(pieces: list[bytes], limit: int = 1000) -> bool | str:
    """Return whether the tunnel is established, or the error."""
    tunnel = Tunnel("h:80", None, limit)
    try:
        if any(map(tunnel.feed, pieces)):
            return True
    except TunnelError as exc:
        return str(exc)
    return False


def test_the_request() -> None:
    assert Tunnel("h:80", None, 1000).request == b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n"
    lines = Tunnel("[::1]:443", "Basic eA==", 1000).request.split(b"\r\n")
    assert lines[0] == b"CONNECT [::1]:443 HTTP/1.1"
    assert sorted(lines[1:]) == [b"", b"", b"Host: [::1]:443", b"Proxy-Authorization: Basic eA=="]


def test_every_cut_of_an_answer_gives_the_same() -> None:
    for at in range(len(GOOD)):
        assert outcome([GOOD[:at]]) is False
        assert outcome([GOOD[:at], GOOD[at:]]) is True
    assert outcome([bytes([byte]) for byte in GOOD]) is True
    refusal = GOOD.replace(b"200", b"407")
    for at in range(len(refusal)):
        assert outcome([refusal[:at], refusal[at:]]) == outcome([refusal])


def test_the_head_is_bounded_however_it_comes() -> None:
    assert outcome([GOOD], len(GOOD)) is True
    for pieces in ([GOOD], [bytes([byte]) for byte in GOOD]):
        assert outcome(pieces, len(GOOD) - 1) == f"sent a head of more than max_header_bytes={len(GOOD) - 1}"


def test_the_end() -> None:
    tunnel = Tunnel("h:80", None, 1000)
    with pytest.raises(TunnelError, match="without a response"):
        tunnel.eof()
    tunnel.feed(b"HTTP/1.1 2")
    with pytest.raises(TunnelError, match="in the middle"):
        tunnel.eof()


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n"]), st.integers(0, 60)
)
def test_no_other_error_leaves(data: bytes, start: bytes, at: int) -> None:
    whole = start + data + b"\r\n\r\n"
    assert outcome([whole[:at], whole[at:]]) is not None
