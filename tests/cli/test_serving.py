"""The command ``serve``: real servers, and the errors if a server cannot start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

import trio_ws
from tests.support.commands import GUARD, environment, exchange, program, serving_process
from trio_ws.cli import main
from trio_ws.cli.server import invite, page_url

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("measured")

TARGETS = "tests.support.cli_targets"


REQUEST = '{"jsonrpc":"2.0","method":"add","params":[1,2],"id":1}'
ANSWER = '{"jsonrpc":"2.0","result":3,"id":1}'


@pytest.mark.parametrize(
    ("target", "answer", "number"),
    [("Calls", ANSWER, signal.SIGTERM), ("echo", REQUEST, signal.SIGINT)],  # an App is served all along
)
def test_a_signal_drains(target: str, answer: str, number: signal.Signals) -> None:
    async def told(process: subprocess.Popen[str], url: str) -> int | None:
        with trio.fail_after(GUARD):
            async with trio_ws.connect(url) as ws:
                await ws.send(REQUEST)
                assert await ws.receive_text() == answer
                process.send_signal(number)
                assert await ws.recv() is None
                return ws.close_code

    with serving_process(f"{TARGETS}:{target}") as (process, url):
        assert trio.run(told, process, url) == 1001
        assert process.wait(GUARD) == 0


def test_an_exception_shows_itself_with_debug() -> None:
    with serving_process(f"{TARGETS}:broken", "--debug") as (process, url):
        with pytest.raises(trio_ws.ConnectionClosedError):
            exchange(url, "go")
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert process.wait(GUARD) == 1
    assert "FileNotFoundError: the list of users" in lines
    assert lines[-1] == "trio-ws: the server failed; its exception is shown above"


async def echo(ws: trio_ws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def app_of(*paths: str, page: bool = False) -> trio_ws.App:
    app = trio_ws.App()
    for path in paths:
        app.websocket(path)(echo)
    app.mount("/calls", trio_ws.WebSocketHandler)
    if page:
        app.mount_docs("/docs", allow=lambda _: True)
    return app


URL = "ws://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        (echo, [f"try it: trio-ws connect {URL}"]),
        (trio_ws.WebSocketHandler, [f"try it: trio-ws connect --rpc {URL}"]),
        (
            app_of("/rooms/{room:int}", "/echo"),
            [
                "routes: WebSocket /echo, WebSocket /calls, WebSocket /rooms/{room:int}",
                f"try it: trio-ws connect {URL}/echo",
            ],
        ),
        (
            app_of("/rooms/{room:int}", page=True),
            [
                "open http://127.0.0.1:8000/docs",
                "routes: WebSocket /calls, WebSocket /rooms/{room:int}, GET/HEAD /docs",
                f"try it: trio-ws connect --rpc {URL}/calls",
            ],
        ),
        (trio_ws.App(), ["routes: none"]),
    ],
)
def test_what_to_open_and_to_type_next(
    target: object, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    invite(target, URL, page_url(target, URL, added=False))
    assert capsys.readouterr().err.splitlines() == [f"trio-ws: {line}" for line in lines]


@pytest.mark.parametrize("target", [echo, trio_ws.WebSocketHandler, app_of("/echo")])
def test_anything_can_be_opened_in_a_browser(target: object, capsys: pytest.CaptureFixture[str]) -> None:
    invite(target, "wss://127.0.0.1:8000", page_url(target, "wss://127.0.0.1:8000", added=True))
    assert capsys.readouterr().err.startswith("trio-ws: open https://127.0.0.1:8000/\n")


def test_many_routes_are_not_all_printed(capsys: pytest.CaptureFixture[str]) -> None:
    invite(app_of(*(f"/r{number}" for number in range(100))), URL, None)
    routes = capsys.readouterr().err.splitlines()[0]
    assert routes.endswith("WebSocket /r19 and 81 more")


def test_several_processes() -> None:
    with serving_process(f"{TARGETS}:app", "--workers", "2", "--json") as (process, line):
        said = json.loads(line)
        assert said["workers"] == 2
        assert said["target"] == f"{TARGETS}:app"
        assert exchange(f"{said['url']}/echo", "one") == "one"
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == 0


def test_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = ["--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "key.pem")]
    with serving_process(f"{TARGETS}:echo", *files) as (_, url):
        assert url.startswith("wss://")
        assert main(["bench", url, "--messages", "1", "--cafile", str(tmp_path / "ca.pem")]) == 0
        assert main(["call", url, "add"]) == 3
        assert "--cafile" in capsys.readouterr().err


def test_a_module_that_lies_here(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text("async def greet(ws):\n    await ws.send('hello from chat')\n")
    # As the console script runs it, without the current folder in sys.path.
    script = "import sys; sys.path.remove(''); from trio_ws.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", script, "serve", "chat:greet", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path, env=environment(), text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            assert exchange(url) == "hello from chat"
        finally:
            process.kill()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve a module in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "written_here.py"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "Missing argument 'MODULE:APP'"),
        (["chat"], 2, "import string such as 'chat:app'"),
        (["nowhere_at_all:app"], 2, "there is no module 'nowhere_at_all'"),
        (["nowhere_at_all.py:app"], 2, "write 'nowhere_at_all:app'"),
        (["./chat.py"], 2, "import string such as 'chat:app'"),
        (["apps/chat.py:echo"], 2, "import string such as 'apps.chat:echo'"),
        ([f"{TARGETS}:nothing"], 2, "has no 'nothing'\n"),
        ([f"{TARGETS}:ecko"], 2, "has no 'ecko'; did you mean 'echo'?\n"),
        ([f"{TARGETS}:NUMBER"], 2, f"{TARGETS}:NUMBER cannot be served"),
        ([f"{TARGETS}:echo", "--workers", "0"], 2, "--workers"),
        ([f"{TARGETS}:echo", "--port", "65536"], 2, "--port"),
        ([f"{TARGETS}:echo", "--log-level", "loud"], 2, "--log-level"),
        ([f"{TARGETS}:echo", "--ssl-keyfile", "k"], 2, "--ssl-certfile"),
        ([f"{TARGETS}:echo", "--ssl-certfile", "/nowhere"], 2, "cannot use the certificate /nowhere"),
        ([f"{TARGETS}:Calls", "--broker", "amqp://localhost"], 2, "redis://"),
        ([f"{TARGETS}:echo", "--host", ""], 2, "host is empty"),
        ([f"{TARGETS}:echo", "--allow-host", "a.example:80"], 2, "in hosts is not a host name"),
        ([f"{TARGETS}:echo", "--trusted-proxy", "proxy"], 2, "in trusted_proxies is neither an address"),
        ([f"{TARGETS}:echo", "--proxy-protocol"], 2, "proxy_protocol requires trusted_proxies"),
        ([f"{TARGETS}:echo", "--host", "192.0.2.1"], 1, "cannot listen on port 8000 of 192.0.2.1"),
    ],
)
def test_targets_that_cannot_be_served(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    assert main(["serve", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("1 / 0", 2, "ZeroDivisionError: division by zero"),
        ("import trio_ws\napp = trio_ws.App()\napp.mount('a', app)", 2, "must begin with a slash"),
        ("def f(:", 2, "SyntaxError"),
        ("import nowhere_at_all", 2, "No module named 'nowhere_at_all'"),
        (
            "import trio, trio_ws\nasync def app(ws): pass\ntrio.run(trio_ws.serve, app, 0)",
            2,
            "serves while it is imported to be served; put that call under: if __name__",
        ),
        (
            "import trio_ws\napp = trio_ws.App()\napp.run(0)",
            2,
            "serves while it is imported to be served; put that call under: if __name__",
        ),
        ("raise SystemExit(3)", 1, "ends the program when it is imported (exit code 3)"),
    ],
)
def test_a_module_that_does_not_import(
    written: Path, capsys: pytest.CaptureFixture[str], source: str, code: int, text: str
) -> None:
    written.write_text(source)
    assert main(["serve", "written_here:app"]) == code
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1
    if code == 2:
        assert "written_here.py" in err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use(capsys: pytest.CaptureFixture[str], workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", f"{TARGETS}:echo", "--port", port, "--workers", workers]) == 1
    err = capsys.readouterr().err
    assert f"cannot listen on port {port} of 127.0.0.1" in err
    assert "choose another with --port" in err


def test_a_broker_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        broker = f"redis://127.0.0.1:{free.getsockname()[1]}"
        done = subprocess.run(
            program(
                "serve", f"{TARGETS}:Calls", "--port", "0", "--broker", broker, "--log-level", "critical"
            ),
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=False,
            env=environment(),
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "127.0.0.1" in done.stderr
    assert done.stderr.count("\n") == 1
