"""Which proxy a connection uses: URLs, environment variables, and errors in them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trio_ws import InvalidURIError, connect
from trio_ws.client.proxy import Proxy, choose_proxy, parse_proxy
from trio_ws.client.uri import parse_uri


@pytest.mark.parametrize(
    ("uri", "environment", "expected"),
    [
        ("ws://h/", {}, None),
        ("ws://h/", {"http_proxy": "http://p:1"}, "http://p:1"),
        ("ws://h/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        ("ws://h/", {"http_proxy": "http://p:1", "https_proxy": "http://p:2"}, "http://p:2"),
        ("ws://h/", {"https_proxy": "http://p:2", "ws_proxy": "http://p:3"}, "http://p:3"),
        ("ws://h/", {"wss_proxy": "http://p:1"}, None),
        ("wss://h/", {"http_proxy": "http://p:1", "ws_proxy": "http://p:1"}, None),
        ("wss://h/", {"https_proxy": "http://p:1", "wss_proxy": "http://p:2"}, "http://p:2"),
        ("wss://h/", {"all_proxy": "socks5://p:3"}, "socks5://p:3"),
        ("ws://h/", {"ALL_PROXY": "socks5h://p"}, "socks5h://p:1080"),
        ("ws://h/", {"all_proxy": "http://p:1", "http_proxy": "http://p:2"}, "http://p:2"),
        ("ws://h/", {"http_proxy": "http://p:1", "socks_proxy": "socks5://p:2"}, "socks5://p:2"),
        ("ws://h/", {"http_proxy": "p:3128"}, "http://p:3128"),
        ("ws://h/", {"http_proxy": "user:p@p:3128/"}, "http://p:3128"),
        ("ws://h/", {"http_proxy": ""}, None),
        ("ws://h/", {"http_proxy": "http://p:1", "no_proxy": "*"}, None),
        ("ws://h/", {"http_proxy": "http://p:1", "no_proxy": "other, h"}, None),
        ("ws://a.h/", {"http_proxy": "http://p:1", "no_proxy": "h"}, None),
        ("ws://a.h/", {"http_proxy": "http://p:1", "NO_PROXY": ".h"}, None),
        ("ws://ah/", {"http_proxy": "http://p:1", "no_proxy": "h"}, "http://p:1"),
        ("ws://h:8080/", {"http_proxy": "http://p:1", "no_proxy": "h:8080"}, None),
        ("ws://h:8081/", {"http_proxy": "http://p:1", "no_proxy": "h:8080"}, "http://p:1"),
        ("ws://[::1]/", {"http_proxy": "http://p:1", "no_proxy": "::1"}, None),
        ("ws://[::1]/", {"http_proxy": "http://p:1", "no_proxy": "[::1]"}, None),
        ("ws://[::2]/", {"http_proxy": "http://p:1", "no_proxy": "::1"}, "http://p:1"),
        ("ws://localhost/", {"http_proxy": "http://p:1"}, "http://p:1"),
    ],
)
def test_proxies_of_the_environment(
    uri: str, environment: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = choose_proxy(parse_uri(uri), True)
    assert (proxy and str(proxy)) == expected
    assert choose_proxy(parse_uri(uri), None) is None
    assert str(choose_proxy(parse_uri(uri), "http://mine")) == "http://mine:80"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://p", Proxy("http", "p", 80)),
        ("https://P/", Proxy("https", "p", 443)),
        ("socks5://[::1]:9", Proxy("socks5", "::1", 9)),
        ("socks5h://bücher.example", Proxy("socks5h", "xn--bcher-kva.example", 1080)),
        ("http://us%65r:p%40ss@p:3128", Proxy("http", "p", 3128, "user", "p@ss")),
        ("http://user@p", Proxy("http", "p", 80, "user", "")),
    ],
)
def test_proxy_urls(url: str, expected: Proxy) -> None:
    assert parse_proxy(url) == expected
    assert "p@ss" not in f"{expected} {expected!r}"


BAD_URLS = [
    (
        "gopher://ann:s3cret@p:70",
        r"'gopher://p:70' has an unknown scheme; use one of http://, https://, socks5://, ",
    ),
    ("socks4://p", "an unknown scheme"),
    ("p:3128", "an unknown scheme"),
    ("", "an unknown scheme"),
    ("http://", "has no host"),
    ("http://ann:s3cret@:80", "has no host"),
    ("http://ann:s3cret@p:99999", r"'http://p:99999' is not a proxy URL"),
    ("http://ann:s3cret@p:x", "is not a proxy URL"),
    ("http://[p", "is not a proxy URL"),
    ("http://ann:s3cret@p/path", "more than scheme, user, host and port"),
    ("http://p?x", "more than scheme"),
    ("http://a..b", "not a host name"),
    ("http://a b", "not a host name"),
    ("socks5://ann@p", "must have 1 to 255 ASCII"),
    ("socks5://ann:s3cret\xe9@p", "must have 1 to 255 ASCII"),
    (f"socks5://ann:s3cret{'x' * 250}@p", "must have 1 to 255 ASCII"),
]


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
async def test_a_bad_url_is_told_at_once(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidURIError, match=message) as info:
        async with connect("ws://127.0.0.1:9/", proxy=url):
            pytest.fail("it connected")
    assert isinstance(info.value, ValueError)
    assert "s3cret" not in f"{info.value!r} {info.value.__cause__!r}"
    if "://" in url:
        monkeypatch.setenv("http_proxy", url)
        with pytest.raises(InvalidURIError, match=f"environment variable http_proxy: .*{message}"):
            async with connect("ws://127.0.0.1:9/"):
                pytest.fail("it connected")


@pytest.mark.parametrize("proxy", [False, 7, b"http://p"])
async def test_something_that_is_not_a_url(proxy: Any) -> None:
    with pytest.raises(TypeError, match=r"proxy must be True, None or a URL, not .*; use None for no"):
        async with connect("ws://127.0.0.1:9/", proxy=proxy):
            pytest.fail("it connected")


@pytest.mark.parametrize("kwargs", [{"unix_path": "/x"}, {"stream": trio.testing.memory_stream_pair()[0]}])
async def test_a_proxy_beside_a_way_of_the_users_own(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"proxy and {next(iter(kwargs))} are mutually exclusive"):
        async with connect("ws://127.0.0.1:9/", proxy="http://p", **kwargs):
            pytest.fail("it connected")
