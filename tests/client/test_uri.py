"""`trio_ws.client.uri`: WebSocket URIs, and errors that say how to correct one (RFC 6455 section 3)."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws import ConnectionFailedError, InvalidURIError
from trio_ws.client.uri import WebSocketURI, parse_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ws://example.com", WebSocketURI(False, "example.com", 80, "/")),
        ("ws://example.com/", WebSocketURI(False, "example.com", 80, "/")),
        ("wss://example.com/a/b", WebSocketURI(True, "example.com", 443, "/a/b")),
        ("WS://EXAMPLE.com:8080/A", WebSocketURI(False, "example.com", 8080, "/A")),
        ("ws://example.com?x=1&x=2", WebSocketURI(False, "example.com", 80, "/?x=1&x=2")),
        ("ws://[::1]:9000/x", WebSocketURI(False, "::1", 9000, "/x")),
        ("ws://192.0.2.1:443/", WebSocketURI(False, "192.0.2.1", 443, "/")),
        ("ws://bücher.example/", WebSocketURI(False, "xn--bcher-kva.example", 80, "/")),
        # As browsers have it (UTS 46); the older rules would lead to fass.example.
        ("ws://Faß.example/", WebSocketURI(False, "xn--fa-hia.example", 80, "/")),
        ("ws://例え。example:81/", WebSocketURI(False, "xn--r8jz45g.example", 81, "/")),
        ("wss://example.com.:444/", WebSocketURI(True, "example.com.", 444, "/")),
        ("ws://[fe80::1%25eth0]/", WebSocketURI(False, "fe80::1", 80, "/", zone="eth0")),
        ("ws://[FE80::1%25Eth0.7]:9/", WebSocketURI(False, "fe80::1", 9, "/", zone="Eth0.7")),
        ("ws://[fe80::1%eth0]/", WebSocketURI(False, "fe80::1", 80, "/", zone="eth0")),
        ("ws://[fe80::1%2512]/", WebSocketURI(False, "fe80::1", 80, "/", zone="12")),
        ("ws://h/caf%C3%A9?q=%20", WebSocketURI(False, "h", 80, "/caf%C3%A9?q=%20")),
        ("ws://h/café d?q=é ü", WebSocketURI(False, "h", 80, "/caf%C3%A9%20d?q=%C3%A9%20%C3%BC")),
        ("ws://h/a;b=c,d?e=[1]", WebSocketURI(False, "h", 80, "/a;b=c,d?e=[1]")),
    ],
)
def test_the_parts_of_a_uri(uri: str, expected: WebSocketURI) -> None:
    assert parse_uri(uri) == expected


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("ws://h/", "h"),
        ("ws://h:80/", "h"),
        ("ws://h:443/", "h:443"),
        ("wss://h:443/", "h"),
        ("wss://h:80/", "h:80"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[::1]:81/", "[::1]:81"),
        ("ws://[fe80::1%25eth0]:81/", "[fe80::1]:81"),
        ("wss://example.com./", "example.com."),
        ("wss://example.com.:444/", "example.com.:444"),
    ],
)
def test_the_host_header_names_the_port_only_where_it_is_not_the_schemes_own(uri: str, host: str) -> None:
    assert parse_uri(uri).host_header == host


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [
        ("user:secret", b"user:secret"),
        ("user", b"user:"),
        ("user:", b"user:"),
        (":secret", b":secret"),
        ("us%65r:p%40ss%3Aw%2Fd", b"user:p@ss:w/d"),
        ("%C3%A9:%C3%BC", "é:ü".encode()),
    ],
)
def test_user_and_password_become_basic_authentication(userinfo: str, pair: bytes) -> None:
    parsed = parse_uri(f"ws://{userinfo}@example.com/")
    assert parsed.authorization is not None
    scheme, _, value = parsed.authorization.partition(" ")
    assert (scheme, base64.b64decode(value)) == ("Basic", pair)
    assert parsed.host == "example.com"
    assert "secret" not in parsed.host_header + parsed.target


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://example.com/", r"use ws:// for http://"),
        ("https://example.com/", r"use wss:// for https://"),
        ("ftp://example.com/", r"must start with ws:// or wss://"),
        ("example.com", r"must start with ws:// or wss://"),
        ("//example.com", r"must start with ws:// or wss://"),
        ("", r"must start with ws:// or wss://"),
        ("ws:example.com", "has no host"),
        ("ws://", "has no host"),
        ("ws:///path", "has no host"),
        ("ws://:80/", "has no host"),
        ("ws://h/#part", "write # as %23"),
        ("ws://h/#", "write # as %23"),
        ("ws://h:http/", "has an invalid host or port"),
        ("ws://h:65536/", "has an invalid host or port"),
        ("ws://h:-1/", "has an invalid host or port"),
        ("ws://[::1/", "has an invalid host or port"),
        ("ws://a b/", "is not a host name"),
        ("ws://a..b/", "is not a host name"),
        (f"ws://{'a' * 64}.example/", "is not a host name"),
        ("ws://bü..cher/", "is not a host name"),
        (f"ws://{'ü' * 64}.example/", "is not a host name"),
        ("ws://h\x7f/", "is not a host name"),
        ("ws://./", "is not a host name"),
        ("ws://h../", "is not a host name"),
        ("ws://☃.example/", "is not a host name"),
        ("ws://[fe80::1%25]/", "write it as %25eth0"),
        ("ws://[fe80::1%]/", "has an invalid host or port"),
        ("ws://[fe80::1%25a%2Fb]/", "has an invalid host or port"),
        ("ws://h/\ud800", "surrogate"),
        ("ws://a:\ud800@h/", "surrogate"),
    ],
)
def test_an_invalid_uri_says_what_to_correct(uri: str, message: str) -> None:
    with pytest.raises(InvalidURIError, match=message) as info:
        parse_uri(uri)
    assert isinstance(info.value, ValueError)
    assert isinstance(info.value, ConnectionFailedError)


@pytest.mark.parametrize(
    ("uri", "address", "server_name"),
    [
        ("wss://h/", "h", "h"),
        ("wss://h.example.:1/", "h.example.", "h.example"),
        ("wss://[fe80::1%25eth0]/", "fe80::1%eth0", "fe80::1"),
        ("wss://127.0.0.1/", "127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_address_and_the_server_name(uri: str, address: str, server_name: str) -> None:
    parsed = parse_uri(uri)
    assert (parsed.address, parsed.server_name) == (address, server_name)


@pytest.mark.parametrize("uri", [None, b"ws://h/", 7])
def test_another_type_than_str_is_a_type_error(uri: Any) -> None:
    with pytest.raises(TypeError, match=f"a WebSocket URI must be a str, not {type(uri).__name__}"):
        parse_uri(uri)


@given(st.text(max_size=30))
def test_any_text_behind_the_scheme_is_taken_or_refused(text: str) -> None:
    try:
        parsed = parse_uri("ws://" + text)
    except InvalidURIError:
        return
    # Nothing may end up in a request that could break out of its line.
    assert parsed.target.startswith("/")
    assert all("!" <= char <= "~" for char in parsed.target + parsed.host_header)
    assert 0 <= parsed.port <= 65535
