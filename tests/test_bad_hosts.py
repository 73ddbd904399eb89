"""The limits of hosts and addresses, each exceeded once, as in test_bad_input.py."""

from __future__ import annotations

import logging
import stat
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.logs import the_line
from tests.support.serving import echo, exchange, read_to_end, request, serving, serving_in_memory, status_of
from trio_ws import Options, connect

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trio_ws")


def made(**arguments: Any) -> Options:
    """Make an `Options` of arguments that a type checker would refuse."""
    return Options(**arguments)


def asking_for(host: str) -> bytes:
    return request(f"Host: {host}", leave_out=["host"])


async def test_hosts(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with serving_in_memory(options=Options(hosts=["a.example"])) as memory:
        stream = await memory.stream()
        assert status_of(await exchange(stream, asking_for("b.example"))) == 403
    assert "'b.example', which is not in Options(hosts=...)" in the_line(caplog)


async def test_hosts_of_a_server_on_a_loopback_address(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with stream:
            assert status_of(await exchange(stream, asking_for("evil.example:8000"))) == 403
        text = the_line(caplog)
        assert "'evil.example:8000'" in text
        assert "Options(hosts=['evil.example'])" in text
        caplog.clear()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            assert status_of(await exchange(stream, asking_for("x" * 10_000 + ".example"))) == 403
        assert len(the_line(caplog)) < 400


@pytest.mark.parametrize(
    ("hosts", "error", "message"),
    [
        ("a.example", TypeError, r"use hosts=\['a.example'\]"),
        ([7], TypeError, "a name in hosts must be a str, not int"),
        (
            ["https://a.example"],
            ValueError,
            "'https://a.example' in hosts is not a host name; use one without",
        ),
        (["a.example:80"], ValueError, "'a.example:80' in hosts is not a host name"),
        (["a.example/x"], ValueError, "'a.example/x' in hosts is not a host name"),
        (["*a.example"], ValueError, r"'\*a.example' in hosts is not a host name"),
        (["a.*.example"], ValueError, r"'a.\*.example' in hosts is not a host name"),
        ([""], ValueError, "'' in hosts is not a host name"),
        (["."], ValueError, "'.' in hosts is not a host name"),
    ],
)
def test_wrong_hosts(hosts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(hosts=hosts)


async def test_unix_mode(tmp_path: Path) -> None:
    for mode in (0o600, 0o660, 0o777):
        options = Options() if mode == 0o600 else Options(unix_mode=mode)
        async with serving(echo, host=None, unix_path=tmp_path / "socket", options=options):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == mode


def test_wrong_unix_modes() -> None:
    with pytest.raises(TypeError, match=r"^unix_mode must be an int, not str"):
        made(unix_mode="600")
    with pytest.raises(ValueError, match=r"^unix_mode must be from 0 to 511, not 512"):
        made(unix_mode=0o1000)


# -- shares -----------------------------------------------------------------------------------------


async def test_max_connections_per_address(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(options=Options(max_connections_per_address=1)) as server:
        async with connect(server.url):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            assert status_of(await read_to_end(stream)) == 503
            await stream.aclose()
        assert "127.0.0.1 has max_connections_per_address (1) already" in the_line(caplog)


async def test_max_handshakes_per_address(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(options=Options(max_handshakes_per_address=1)) as server:
        first = await trio.open_tcp_stream("127.0.0.1", server.port)
        second = await trio.open_tcp_stream("127.0.0.1", server.port)
        assert status_of(await read_to_end(second)) == 503
        assert "127.0.0.1 has max_handshakes_per_address (1) already" in the_line(caplog)
        await first.aclose()
        await second.aclose()


# -- proxies ----------------------------------------------------------------------------------------


async def test_trusted_proxies_and_forwarded_header(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(options=Options(trusted_proxies=["127.0.0.1"])) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        lines = ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.2"]
        assert status_of(await exchange(stream, request(*lines))) == 400
        assert "Options(forwarded_header=...)" in the_line(caplog)
        await stream.aclose()


async def test_proxy_protocol(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(options=Options(trusted_proxies=["127.0.0.1"], proxy_protocol=True)) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        assert await exchange(stream, request()) == b""
        assert "Options(proxy_protocol=True)" in the_line(caplog)
        await stream.aclose()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"trusted_proxies": "127.0.0.1"}, TypeError, r"use \['127.0.0.1'\]"),
        ({"trusted_proxies": [7]}, TypeError, "an entry of trusted_proxies must be a str, not int"),
        (
            {"trusted_proxies": ["localhost"]},
            ValueError,
            "'localhost' in trusted_proxies is neither an address",
        ),
        ({"trusted_proxies": ["10.1.2.3/8"]}, ValueError, "'10.1.2.3/8' in .* has host bits set"),
        ({"trusted_proxies": ["*"]}, ValueError, r"'\*' in trusted_proxies is neither an address"),
        ({"forwarded_header": "X-Real-IP"}, ValueError, "forwarded_header is 'X-Forwarded-For', 'Forwarded'"),
        ({"proxy_protocol": 1}, TypeError, "proxy_protocol must be True or False, not int"),
        ({"proxy_protocol": True}, ValueError, "proxy_protocol requires trusted_proxies"),
    ],
)
def test_wrong_options_of_proxies(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        made(**arguments)
