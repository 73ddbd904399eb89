"""`trio_ws.protocol.proxy_protocol`: headers of both versions, read up to their last byte."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.proxy_protocol import ProxyHeader, ProxyHeaderError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(
    command: int, family: int, body: bytes, *, version: int = 2, length: int | None = None
) -> bytes:
    head = bytes([version << 4 | command, family])
    return SIGNATURE + head + struct.pack("!H", len(body) if length is None else length) + body


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 4711, 443)
V6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 4711, 443)
)
MAPPED = (
    socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1")
    + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.2")
    + struct.pack("!HH", 1, 2)
)
TLVS = b"\x20\0\x03abc" * 20


def read(data: bytes, step: int = 100_000, limit: int = 16384) -> tuple[str, int] | None:
    """Read a header that arrives in pieces, and check that the data after it remains."""
    header, rest = ProxyHeader(limit), data + b"GET / HTTP/1.1\r\n"
    while size := header.needed():
        size = min(size, step)
        header.feed(rest[:size])
        rest = rest[size:]
    assert rest == b"GET / HTTP/1.1\r\n"
    return header.source


@pytest.mark.parametrize("step", [1, 3, 100_000])
@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n", ("192.0.2.1", 4711)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", ("2001:db8::1", 4711)),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", ("192.0.2.1", 4711)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", None),
        (
            b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n",
            ("ffff:" * 7 + "ffff", 65535),
        ),
        (version_2(1, 0x11, V4), ("192.0.2.1", 4711)),
        (version_2(1, 0x11, V4 + TLVS), ("192.0.2.1", 4711)),
        (version_2(1, 0x21, V6), ("2001:db8::1", 4711)),
        (version_2(1, 0x21, MAPPED), ("192.0.2.1", 1)),
        (version_2(0, 0x11, V4), None),  # LOCAL: a connection of the proxy itself, such as a health check
        (version_2(0, 0, b""), None),
        (version_2(1, 0, b""), None),
        (version_2(1, 0x31, b"\0" * 216), None),  # Unix sockets
        (version_2(1, 0x71, b"anything"), None),
    ],
)
def test_headers(data: bytes, source: tuple[str, int] | None, step: int) -> None:
    assert read(data, step) == source


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not begin with"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03xxx", "does not begin with"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n", "is malformed"),
        (b"PROXY TCP4  192.0.2.1 198.51.100.1 4711 443\r\n", "is malformed"),
        (b"PROXY UDP4 192.0.2.1 198.51.100.1 4711 443\r\n", "is malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n", "is malformed"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", "malformed port"),
        (b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n", "malformed address"),
        (b"PROXY TCP4 evil.example 198.51.100.1 4711 443\r\n", "malformed address"),
        (b"PROXY TCP4 192.0.2.1 \xff 4711 443\r\n", "malformed address"),
        (b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", "exceeds 107 bytes"),
        (version_2(1, 0x11, V4, version=3), "unknown version or command"),
        (version_2(2, 0x11, V4), "unknown version or command"),
        (version_2(1, 0x11, V4[:-1]), "too short"),
        (version_2(1, 0x21, V4), "too short"),
        (version_2(1, 0x11, b"", length=65535), r"exceeds max_header_bytes \(16384\)"),
    ],
)
@pytest.mark.parametrize("step", [1, 100_000])
def test_invalid_headers(data: bytes, text: str, step: int) -> None:
    with pytest.raises(ProxyHeaderError, match=text):
        read(data, step)


@given(
    st.binary(max_size=120), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"])
)
def test_any_bytes_end_or_are_refused(data: bytes, start: bytes) -> None:
    header, rest = ProxyHeader(300), start + data
    try:
        while (size := header.needed()) and rest:
            assert 0 < size <= 300
            header.feed(rest[:size])
            rest = rest[size:]
    except ProxyHeaderError:
        pass
