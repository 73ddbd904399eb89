"""`trio_ws.protocol.forwarded`: the headers that proxies write, the nearest proxy's entry first."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.forwarded import (
    Hop,
    MalformedForwardedError,
    forwarded_hops,
    parse_node,
    x_forwarded_hops,
)
from trio_ws.protocol.http import Request


def asking(*lines: str) -> Request:
    return Request("\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:4711", ("192.0.2.1", 4711)),
        ("2001:DB8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:4711", ("2001:db8::1", 4711)),
        ("::ffff:192.0.2.1", ("192.0.2.1", 0)),
        ("[::ffff:192.0.2.1]:80", ("192.0.2.1", 80)),
        ("192.0.2.1:65536", None),
        ("192.0.2.256", None),
        ("192.0.2.1:x", None),
        ("192.0.2.1:_port", None),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
        ("1", None),
        ("9" * 5000, None),
        ("[192.0.2.1", None),
        ("fe80::1%eth0", None),
        ("fe80::1%\x1b[31m", None),
        ("evil.example", None),
        ("192.0.2.1 ", None),
        ("٣.0.2.1", None),
    ],
)
def test_nodes(text: str, address: tuple[str, int] | None) -> None:
    assert parse_node(text) == address


@pytest.mark.parametrize(
    ("lines", "hops"),
    [
        (["Forwarded: for=192.0.2.1"], [Hop(("192.0.2.1", 0), None, None)]),
        (
            ['Forwarded: For="[2001:db8::17]:4711";proto=https;by=203.0.113.43;host=chat.example'],
            [Hop(("2001:db8::17", 4711), "https", "chat.example")],
        ),
        (
            ["Forwarded: for=192.0.2.1, for=192.0.2.2;proto=http", "Forwarded: for=192.0.2.3"],
            [
                Hop(("192.0.2.3", 0), None, None),
                Hop(("192.0.2.2", 0), "http", None),
                Hop(("192.0.2.1", 0), None, None),
            ],
        ),
        (["Forwarded: for=_hidden;proto=wss"], [Hop(None, "https", None)]),
        (["Forwarded: proto=gopher;host=no/host"], [Hop(None, None, None)]),
        (['Forwarded: for="192\\.0.2.1" ; secret="a;b,c\\"d"'], [Hop(("192.0.2.1", 0), None, None)]),
        (
            ["Forwarded: for=192.0.2.1:80,, ,for=[::1]:1"],
            [Hop(("::1", 1), None, None), Hop(("192.0.2.1", 80), None, None)],
        ),
        (["Forwarded: "], []),
        ([], []),
    ],
)
def test_forwarded(lines: list[str], hops: list[Hop]) -> None:
    assert list(forwarded_hops(asking(*lines))) == hops


@pytest.mark.parametrize(
    "value",
    [
        'for="192.0.2.1',
        "for=192.0.2.1;for=192.0.2.2",
        "for",
        "=192.0.2.1",
        "for = 192.0.2.1",
        "for=192.0.2.1 proto=https",
        'for="a"b',
        "for=192.0.2.1," * 65,
    ],
)
def test_malformed_forwarded(value: str) -> None:
    with pytest.raises(MalformedForwardedError):
        list(forwarded_hops(asking(f"Forwarded: {value}")))
    # An invalid line from a client does not hide the line that the proxy added.
    assert next(forwarded_hops(asking(f"Forwarded: {value}", "Forwarded: for=192.0.2.9"))).address == (
        "192.0.2.9",
        0,
    )


@pytest.mark.parametrize(
    ("lines", "hops"),
    [
        ([], [Hop(None, None, None)]),
        (["X-Forwarded-For: 192.0.2.1"], [Hop(("192.0.2.1", 0), None, None)]),
        (
            ["X-Forwarded-For: junk, 192.0.2.1", "x-forwarded-for: 192.0.2.2:80"],
            [Hop(("192.0.2.2", 80), None, None), Hop(("192.0.2.1", 0), None, None), Hop(None, None, None)],
        ),
        (
            [
                "X-Forwarded-For: 192.0.2.1, 192.0.2.2",
                "X-Forwarded-Proto: https, http",
                "X-Forwarded-Host: chat.example",
            ],
            [
                Hop(("192.0.2.2", 0), "http", "chat.example"),
                Hop(("192.0.2.1", 0), "https", "chat.example"),
            ],
        ),
        (
            ["X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: chat.example:8443"],
            [Hop(None, "https", "chat.example:8443")],
        ),
        (["X-Forwarded-Proto: x", "X-Forwarded-Host: a b"], [Hop(None, None, None)]),
    ],
)
def test_x_forwarded(lines: list[str], hops: list[Hop]) -> None:
    assert list(x_forwarded_hops(asking(*lines))) == hops


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60))
def test_any_value_is_read_or_refused(value: str) -> None:
    lines: list[Any] = [f"{name}: {value}" for name in ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host")]
    list(x_forwarded_hops(asking(*lines)))
    try:
        list(forwarded_hops(asking(*lines)))
    except MalformedForwardedError:
        pass
