"""The URL and options of a RedisBroker. The password in the URL is never shown."""

from __future__ import annotations

import ssl
import subprocess
import sys
from typing import Any

import pytest

from trio_ws import BrokerError, RedisBroker


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://",
        "redis:///0",
        "redis://:secret@",
        "redis://h:x",
        "redis://h:0",
        "redis://h:70000",
        "redis://h/secret",
        "redis://h/0/1",
        "redis://h?db=secret",
        "redis://h?ssl_cert_reqs=none",
        "redis://:secret#1@h",
        "redis://[::1",
        "unix://",
        "unix:///",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel:///name",
        "redis+sentinel://h,/name",
        "redis+sentinel://h:0/name",
        "redis+sentinel://h:x/name",
        "redis+sentinel://:secret@h/na?me",
        "redis+cluster://",
        "redis+cluster://:secret@h:0",
        "redis+cluster://h,/",
        "redis+cluster://h/0",
        "redis+cluster://:secret@h?db=1",
        "rediss+cluster://h:x",
        "unix://host/path",
        "http://h",
        "h:6379",
        "secret@h",
        "secret:secret@h",
    ],
)
def test_bad_input_redis_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis|expected redis://") as caught:
        RedisBroker(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://:secret@h:7/1", "redis://h:7/1"),
        ("rediss://me:%40secret@[::1]:7", "rediss://[::1]:7"),
        ("unix://me:secret@/a%20b?db=2", "unix:///a%20b"),
        ("redis://me@h", "redis://h"),
        ("redis+cluster://me:secret@h:7,[::1]", "redis+cluster://h:7,[::1]"),
        ("rediss+cluster://:secret@h/", "rediss+cluster://h/"),
        ("redis+sentinel://me:secret@h:7,[::1]:8/name", "redis+sentinel://h:7,[::1]:8/name"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    broker = RedisBroker(url)
    assert repr(broker) == f"<RedisBroker {shown} new>"
    assert "secret" not in repr(broker._url)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prefix": b"p"}, TypeError),
        ({"max_queue_items": 0}, ValueError),
        ({"max_queue_bytes": 0}, ValueError),
        ({"backoff_initial": 0}, ValueError),
        ({"backoff_max": float("nan")}, ValueError),
        ({"ping_interval": -1}, ValueError),
        ({"ping_timeout": 0}, ValueError),
        ({"ssl_context": ssl.create_default_context()}, ValueError),
    ],
)
def test_bad_input_redis_options(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        RedisBroker("redis://h", **options)


async def test_bad_input_redis_timeout() -> None:
    broker = RedisBroker("redis://h")
    with pytest.raises(ValueError, match="timeout"):
        async with broker.run(lambda *_: None, 0):
            pass


def test_without_hiredis_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hiredis", None)
    with pytest.raises(BrokerError, match=r"pip install 'trio-ws\[redis\]'"):
        RedisBroker("redis://h")


def test_importing_trio_ws_imports_no_hiredis() -> None:
    program = "import sys, trio_ws; sys.exit('hiredis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
