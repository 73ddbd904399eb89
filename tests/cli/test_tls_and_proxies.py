"""Options of commands for certificates, proxies and the access log."""

from __future__ import annotations

import re
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trustme

from tests.support.commands import exchange, run_program, serving_process
from tests.support.serving import serving
from trio_ws.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trio_ws

pytestmark = pytest.mark.usefixtures("measured")

TARGETS = "tests.support.cli_targets"


class Files:
    """Certificates, as files."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.authority = self._write(folder / "ca.pem", self.ca.cert_pem)
        server = self.ca.issue_cert("localhost", "127.0.0.1")
        self.server = self._write(folder / "server.pem", server.private_key_and_cert_chain_pem)
        other = self.ca.issue_cert("example.org")
        self.other = self._write(folder / "other.pem", other.private_key_and_cert_chain_pem)
        client = self.ca.issue_cert("ada@example.org")
        self.cert = str(folder / "client.pem")
        client.cert_chain_pems[0].write_to_path(self.cert)
        self.key = self._write(folder / "client.key", client.private_key_pem)

    @staticmethod
    def _write(path: Path, blob: trustme.Blob) -> str:
        blob.write_to_path(str(path))
        return str(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@contextmanager
def served(certfile: str) -> Iterator[str]:
    with serving_process(f"{TARGETS}:echo", "--ssl-certfile", certfile) as (_, url):
        yield url.replace("127.0.0.1", "localhost")


def say(url: str, *options: str) -> tuple[int, str, str]:
    done = run_program("connect", url, *options, lines="hello\n")
    return done.returncode, done.stdout, done.stderr


def test_which_certificates_are_trusted(files: Files) -> None:
    with served(files.server) as url:
        assert say(url, "--cafile", files.authority) == (0, "hello\n", "")
        assert say(url, "--insecure") == (0, "hello\n", "")
        code, out, err = say(url)
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        assert "--cafile, or trust it with --insecure" in err
        assert "ssl_context" not in err
        code, _, err = say(url.replace("wss:", "ws:"))
        assert code == 3
        assert "use wss://" in err


def test_a_certificate_for_another_name(files: Files) -> None:
    with served(files.other) as url:
        code, _, err = say(url, "--cafile", files.authority)
        assert code == 3
        assert "connect by a name that its certificate is for" in err


def test_tls_to_a_plain_port() -> None:
    with serving_process(f"{TARGETS}:echo") as (_, url):
        code, _, err = say(url.replace("ws:", "wss:"))
    assert code == 3
    assert "does not speak TLS; use ws://" in err


async def test_a_client_shows_a_certificate(files: Files) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.server)
    files.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def whose(ws: trio_ws.WebSocket) -> None:
        assert ws.tls is not None
        assert ws.tls.peer_certificate is not None
        names = [name for _, name in ws.tls.peer_certificate["subjectAltName"]]
        async for _ in ws:
            await ws.send(" ".join(names))

    async with serving(whose, ssl_context=context) as server:
        url = f"wss://localhost:{server.port}/"
        trust = ("--cafile", files.authority)
        mine = (*trust, "--cert", files.cert, "--key", files.key)
        assert await trio.to_thread.run_sync(say, url, *mine) == (0, "ada@example.org\n", "")
        code, _, err = await trio.to_thread.run_sync(say, url, *trust)
        assert code == 3
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key", "k.pem"], "--key requires --cert"),
        (["--cert", "nowhere.pem"], "--cert nowhere.pem cannot be used"),
        (["--cafile", "nowhere.pem"], "--cafile nowhere.pem cannot be used"),
        (["--insecure", "--cafile", "x"], "leave out --cafile, or --insecure"),
        (["--proxy", "gopher://h"], "gopher"),
    ],
)
def test_options_that_cannot_be(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "wss://localhost:1/", "add", *options]) == 2
    assert said in capsys.readouterr().err


def test_options_of_tls_are_for_tls(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "ws://localhost:1/", "add", "--insecure"]) == 2
    assert "are for wss:// URLs" in capsys.readouterr().err


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_process(f"{TARGETS}:echo") as (_, url):
        code, _, err = say(url, "--proxy", "http://127.0.0.1:1")
        assert code == 3
        assert "the proxy http://127.0.0.1:1" in err
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert say(url)[0] == 3
        assert say(url, "--proxy", "none") == (0, "hello\n", "")


def test_the_access_log() -> None:
    with serving_process(f"{TARGETS}:echo", "--access-log") as (process, url):
        assert exchange(f"{url}/some/path?token=secret", "hello") == "hello"
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
    line = r'127\.0\.0\.1:\d+ "GET /some/path" 101, closed with 1000, \d\.\d{3} s$'
    assert re.search(rf"trio_ws\.access: {line}", log, re.MULTILINE)
    assert "secret" not in log


def test_workers_write_an_access_log_too() -> None:
    with serving_process(f"{TARGETS}:echo", "--access-log", "--workers", "2") as (process, url):
        assert exchange(f"{url}/some/path", "hello") == "hello"
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
    assert '"GET /some/path" 101, closed with 1000' in log
