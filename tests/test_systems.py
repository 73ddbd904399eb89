"""The package without the features that other systems lack.

Each test runs the core of the tests in a process with the plugin tests/without_features.py:
clients, servers, calls and errors. So the code for macOS and Windows is run on Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.without_features import NAMES

ROOT = Path(__file__).parents[1]
CORE = [
    "tests/client/test_connect.py",
    "tests/server/test_server.py",
    "tests/websocket/test_connection.py",
    "tests/rpc/test_handler.py",
]
# The features of these tests are missing, which the tests below check.
NOT_THERE = {"AF_UNIX": "not unix"}


def python(*args: str, without: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRIO_WS_TEST_WITHOUT": without},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def run_core(without: str) -> None:
    chosen = " and ".join(NOT_THERE[name] for name in without.split(",") if name in NOT_THERE)
    select = ["-k", chosen] if chosen else []
    plugin = ["-p", "no:cacheprovider", "-p", "tests.without_features"]
    done = python("-m", "pytest", "-q", "-x", *plugin, *select, *CORE, without=without)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def said(code: str, without: str) -> str:
    done = python("-c", f"import tests.without_features\nimport trio, trio_ws\n{code}", without=without)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["AF_UNIX", "epoll", "SIGHUP", "fork", "pass_fds"])
def test_the_core_without(name: str) -> None:
    run_core(name)


def test_the_core_without_any_of_them() -> None:
    run_core(",".join(NAMES))


def test_names_can_be_removed() -> None:
    code = """
import trio_ws.systems as systems, trio_ws.websocket.delivery, trio_ws.protocol.framing
print(systems.AF_UNIX, systems.HAS_EPOLL, systems.HANGUP_SIGNALS, trio_ws.websocket.transport._HAS_SENDMSG)
print(hasattr(trio_ws.websocket.delivery, "fcntl"), trio_ws.websocket.sockets._HUNG_UP)
"""
    assert said(code, "") != said(code, ",".join(NAMES))
    assert said(code, ",".join(NAMES)) == "None False () False\nFalse None\n"


def test_without_unix_sockets_unix_path_is_refused_at_once() -> None:
    code = """
async def handler(ws): pass
async def main():
    for make in (
        lambda: trio_ws.WebSocketServer(handler, unix_path="/tmp/x"),
        lambda: trio_ws.connect("ws://localhost/", unix_path="/tmp/x"),
        lambda: trio_ws.WebSocketClient("ws://localhost/", unix_path="/tmp/x"),
    ):
        try:
            async with make():
                pass
        except RuntimeError as exc:
            print(exc)
trio.run(main)
"""
    assert said(code, "AF_UNIX").count("unix_path requires Unix sockets, which Python does not support") == 3


def test_serve_processes_says_where_it_cannot() -> None:
    code = """
async def handler(ws): pass
try:
    trio.run(trio_ws.serve_processes, handler, 0)
except RuntimeError as exc:
    print(exc)
"""
    text = said(code, "pass_fds")
    assert text.startswith("serve_processes passes open sockets to child processes")
    assert "use serve" in text


@pytest.mark.parametrize("option", ["--workers=2", "--reload"])
def test_the_command_line_says_where_it_cannot(option: str) -> None:
    pytest.importorskip("click", reason="the extra cli is not installed")
    code = f"""
import sys
from trio_ws.cli import main
sys.argv = ["trio-ws", "serve", "json:loads", "--port=0", {option!r}]
sys.exit(main())
"""
    done = python("-c", f"import tests.without_features\n{code}", without="pass_fds")
    assert done.returncode == 2
    assert f"{option.partition('=')[0]} passes open sockets" in done.stderr
    assert "Traceback" not in done.stderr
