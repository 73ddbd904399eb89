"""`trio_ws.protocol.hosts`: the host names that a server accepts."""

from __future__ import annotations

import pytest

from trio_ws import Options
from trio_ws.protocol.hosts import host_allowed, host_name


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com:8000", "example.com"),
        ("example.com.:80", "example.com"),
        ("example.com:", "example.com"),
        ("[::1]:8000", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("", None),
        (".", None),
        (":80", None),
        ("::1", None),
        ("[::1", None),
        ("[::g]", None),
        ("localhost@evil.example", None),
        ("evil.example/localhost", None),
        ("localhost evil.example", None),
        ("localhost,evil.example", None),
        ("localhost:x", None),
        ("localhost\x00", "localhost\x00"),
    ],
)
def test_the_name_in_an_authority(authority: str, name: str | None) -> None:
    assert host_name(authority) == name


LOOPBACK = [
    "localhost",
    "LocalHost:8000",
    "localhost.",
    "app.localhost:80",
    "127.0.0.1",
    "127.8.9.10:8000",
    "[::1]:8000",
    "[::ffff:127.0.0.1]",
]
OTHERS = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "128.0.0.1",
    "0.0.0.0",
    "[::2]",
    "[::ffff:192.0.2.1]",
    "127.0.0.1@evil.example",
    "localhost\x00.evil.example",
]


@pytest.mark.parametrize("authority", LOOPBACK)
def test_loopback_names_are_allowed_on_a_loopback_address(authority: str) -> None:
    assert host_allowed(authority, None, loopback=True)
    assert host_allowed(authority, ("chat.example",), loopback=True)


@pytest.mark.parametrize("authority", OTHERS)
def test_other_hosts_are_refused_on_a_loopback_address_only(authority: str) -> None:
    assert not host_allowed(authority, None, loopback=True)
    assert host_allowed(authority, None, loopback=False)
    assert not host_allowed(authority, ("chat.example",), loopback=True)
    assert not host_allowed(authority, ("chat.example",), loopback=False)


def test_a_request_without_a_host_comes_from_no_browser() -> None:
    assert host_allowed("", None, loopback=True)
    assert host_allowed("", ("chat.example",), loopback=False)


@pytest.mark.parametrize(
    ("hosts", "authority", "allowed"),
    [
        (["Chat.Example."], "chat.example:8443", True),
        (["chat.example"], "www.chat.example", False),
        (["chat.example"], "localhost", False),
        (["*.chat.example"], "a.b.chat.example", True),
        (["*.chat.example"], "chat.example", False),
        (["*.chat.example"], "evilchat.example", False),
        (["*"], "anything.example", True),
        (["*"], "no host", False),
        (["[2001:db8::1]"], "[2001:DB8:0::1]:80", True),
        (["2001:db8::1"], "[2001:db8::1]", True),
        (["192.0.2.1"], "192.0.2.1:8000", True),
        ([], "chat.example", False),
    ],
)
def test_named_hosts(hosts: list[str], authority: str, allowed: bool) -> None:
    assert host_allowed(authority, Options(hosts=hosts).hosts, loopback=False) is allowed
