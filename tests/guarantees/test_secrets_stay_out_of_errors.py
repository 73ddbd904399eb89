"""No error, log line or output contains the password of a URL of a server, proxy, redirect or Redis."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.serving import echo, guard, serving
from trio_ws import RedisBroker, WebSocketClient, WebSocketServer, connect
from trio_ws.client.redirect import resolve_redirect
from trio_ws.client.uri import parse_uri
from trio_ws.protocol.urls import masked

if TYPE_CHECKING:
    from trio.testing import MockClock

SECRET = "hunter2"

#: Invalid URLs with a password; each begins with a scheme.
WRONG = [
    f"alice:{SECRET}#x@h/",
    f"alice:{SECRET}?x@h/",
    f"alice:{SECRET}/x@h/",
    f"alice:{SECRET}@h:99999/",
    f"alice:{SECRET}@h:port/",
    f"alice:{SECRET}@h/x#f",
    f"alice:{SECRET}@",
    f"alice:{SECRET}@bad host/",
    f"alice:{SECRET}@[::1/",
    f"alice:{SECRET}@[::1%25]/",
    f"alice:{SECRET}@h℀st/",
    f"alice:{SECRET}@{'a' * 70}.com/",
    f"alice:{SECRET}\ud800@h/",
    f"alice:{SECRET}@b@d host/",
    f"{SECRET}@bad host",
    f"alice:{SECRET}",
    f"alice:{SECRET}%40h/",
    f"alice:{SECRET}@127.0.0.1:1",
]
#: The same with an invalid scheme.
SCHEMES = [
    "ws://",
    "wss://",
    "http://",
    "socks5://",
    "socks5h://",
    "redis://",
    "rediss://",
    "unix://",
    "ftp://",
]


def told(exc: BaseException) -> str:
    """Return everything that a user can see of an error."""
    seen = ["".join(traceback.format_exception(exc))]
    pending: list[BaseException] = [exc]
    while pending:
        one = pending.pop()
        seen += [str(one), repr(one), repr(one.args), repr(vars(one))]
        pending += [cause for cause in (one.__cause__, getattr(one, "exc", None)) if cause is not None]
        if one.__context__ is not None and not one.__suppress_context__:
            pending.append(one.__context__)
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions
    return "\n".join(seen)


async def failure_of(how: str, url: str) -> str:
    try:
        with trio.fail_after(guard()):
            if how == "connect":
                async with connect(url):
                    pass
            elif how == "client":
                async with WebSocketClient(url):
                    pass
            elif how == "proxy":
                async with connect("ws://127.0.0.1:1/", proxy=url):
                    pass
            else:
                async with WebSocketServer(echo, 0, host="127.0.0.1", broker=RedisBroker(url)):
                    pass
    except Exception as exc:  # noqa: BLE001 - whatever it is
        again = copy.copy(exc)
        return told(exc) + told(again)
    return "no error"


async def no_network(*args: object, **kwargs: object) -> Any:
    raise ConnectionRefusedError("nobody is there")


@pytest.mark.parametrize("how", ["connect", "client", "proxy", "redis"])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_url_that_is_wrong(
    how: str,
    scheme: str,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("open_tcp_stream", "open_unix_socket"):
        monkeypatch.setattr(trio, name, no_network)
    for rest in WRONG:
        url = scheme + rest
        assert SECRET not in await failure_of(how, url), url
        assert SECRET not in await failure_of(how, rest), rest
    assert SECRET not in caplog.text


@pytest.mark.parametrize("location", [*(f"//{rest}" for rest in WRONG), *(f"ftp://{rest}" for rest in WRONG)])
def test_a_redirect_that_is_wrong(location: str) -> None:
    try:
        found = resolve_redirect(parse_uri("wss://h/"), location)
    except Exception as exc:  # noqa: BLE001 - whatever it is
        assert SECRET not in told(exc)
    else:
        assert SECRET not in f"{found} {found.authority} {found.host_header}"


def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ws_proxy", f"gopher://bob:{SECRET}@h")
    with pytest.raises(ValueError, match="ws_proxy") as info:
        trio.run(failure_unless, "ws://h/")
    assert SECRET not in told(info.value)


async def failure_unless(url: str) -> None:
    async with connect(url):
        pass


async def test_something_that_is_not_text() -> None:
    with pytest.raises(TypeError) as info:
        async with connect("ws://h/", proxy=f"http://bob:{SECRET}@h".encode()):  # type: ignore[arg-type]
            pass
    assert SECRET not in told(info.value)


async def test_a_server_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(lambda ws: ws.reject(401)) as server:
        text = await failure_of("client", server.url.replace("ws://", f"ws://alice:{SECRET}@"))
    assert "401" in text
    assert SECRET not in text
    assert SECRET not in caplog.text


def test_the_command_line() -> None:
    for rest in WRONG[:4]:
        done = subprocess.run(
            [sys.executable, "-m", "trio_ws", "connect", f"ws://{rest}"],
            input="",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert SECRET not in done.stdout + done.stderr


@examples(200)
@given(st.text(alphabet="ab:/@?#[]%\\ ", max_size=12), st.text(alphabet="ab:/@?#[]%. ", max_size=12))
def test_everything_before_the_host_is_masked(user: str, place: str) -> None:
    assert SECRET not in masked(f"ws://{user}{SECRET}@{place}")
    assert SECRET not in masked(f"{user}{SECRET}@{place}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://h:80/x", "ws://h:80/x"),
        ("localhost:8000", "localhost:8000"),
        ("ws://[::1]:80/x", "ws://[::1]:80/x"),
        ("ws://a:b@h/x?token=7", "ws://h/x"),
        ("ws://a:b", "ws://a:***"),
    ],
)
def test_masked_urls(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_an_error_that_was_pickled_keeps_quiet() -> None:
    with pytest.raises(ValueError, match="not a host name") as info:
        parse_uri(f"ws://alice:{SECRET}@bad host/")
    assert SECRET.encode() not in pickle.dumps(info.value)
