"""The commands ``call``, ``stream`` and ``listen``."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import GUARD, at_a_terminal, environment, program, run_program
from trio_ws.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("measured")


def test_call_as_a_process(url: str) -> None:
    done = run_program("call", f"{url}/rpc", "add", "20", "22")
    assert (done.stdout, done.stderr, done.returncode) == ("42\n", "", 0)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["add", "1"], "2\n"),
        (["add", "-5", "2"], "-3\n"),
        (["add", "--kwargs", '{"a": 1, "b": 2}'], "3\n"),
        (["add", "1", "2", "--json"], '{"result":3}\n'),
        (["same", "alice", "null", '{"x": 1}', "--", "--json"], '[["alice",null,{"x":1},"--json"],{}]\n'),
        (["same", "--kwargs", '{"self": 1, "method": 2, "returns": 3}'], None),
        (["text", "--json"], '{"result":"two\\nlines \\u001b[2J"}\n'),
    ],
)
def test_call(url: str, capsys: pytest.CaptureFixture[str], words: list[str], printed: str | None) -> None:
    assert main(["call", f"{url}/rpc", *words]) == (0 if printed is not None else 1)
    out, err = capsys.readouterr()
    assert out == (printed or "")
    assert (err == "") == (printed is not None)


def test_a_long_value_is_spread_over_lines_for_people(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", f"{url}/rpc", "same", *(["word"] * 20)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) > 20
    assert json.loads(out) == [["word"] * 20, {}]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["ad", "1"], 1, "there is no method 'ad'; there is: add"),
        (["xyz"], 1, "there is: add, count_to, dismiss, hang_up, same, tell, text, wait"),
        (["add", "alice"], 1, "a: Expected `int`, got `str`"),
        (["add"], 1, "add needs a"),
        (["secret"], 1, "access to secret denied"),
        (["count_to", "2"], 1, "use stream()"),
        (["wait", "--timeout", "0.2"], 4, "--timeout"),
        (["hang_up", "4001"], 3, "code 4001 (hung up)"),
        (["add", "--kwargs", "[1]"], 2, "--kwargs: '[1]' is not a JSON object"),
        (["add", "--timout", "5"], 2, "--timout"),
        (["add", "1", "--timeout", "0"], 2, "--timeout"),
        (["add", "1", "--header", "oops"], 2, "'oops' is not a header"),
        (["add", "1", "--header", "X: a\x00b"], 2, "X"),
        (["add", "1", "--cafile", "/nowhere.pem"], 2, "--insecure are for wss:// URLs"),
    ],
)
def test_a_call_that_fails(
    url: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    assert main(["call", f"{url}/rpc", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trio-ws: ")
    assert text in err
    assert err.count("\n") == 1


def test_an_error_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", f"{url}/rpc", "add", "alice", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["data"]) == (-32602, {"path": "$.a"})


def test_methods_that_are_not_listed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", f"{url}/silent", "ad"]) == 1
    assert capsys.readouterr().err == "trio-ws: there is no method 'ad' (code -32601)\n"


@pytest.mark.parametrize(
    ("where", "code", "text"),
    [
        ("/refuse", 3, "HTTP status 403 (members only)"),
        ("/nowhere", 3, "HTTP status 404"),
        ("/#x", 2, "fragment"),
    ],
)
def test_urls_that_lead_to_nothing(
    url: str, capsys: pytest.CaptureFixture[str], where: str, code: int, text: str
) -> None:
    assert main(["call", f"{url}{where}", "add"]) == code
    assert text in capsys.readouterr().err


def test_addresses_that_lead_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # without listening
        assert main(["call", f"ws://127.0.0.1:{free.getsockname()[1]}", "add"]) == 3
    assert "is the server running" in capsys.readouterr().err
    assert main(["call", "localhost:8000", "add"]) == 2
    assert "ws://localhost:8000/path" in capsys.readouterr().err


def test_stream(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", f"{url}/rpc", "count_to", "2"]) == 0
    assert capsys.readouterr().out == "1\n2\n"
    assert main(["stream", f"{url}/rpc", "count_to", "1000000", "--limit", "2", "--json"]) == 0
    assert capsys.readouterr().out == '{"item":1}\n{"item":2}\n'


@pytest.mark.parametrize(
    ("words", "out", "code", "text"),
    [
        (["count_to", "3"], "1\n2\n3\n", 1, "three is enough (code 7)"),
        (["count"], "", 1, "there is: count_to"),
        (["add", "1"], "", 1, "is not a stream"),
        (["wait", "--timeout", "0.2"], "", 4, "--timeout"),
    ],
)
def test_a_stream_that_fails(
    url: str, capsys: pytest.CaptureFixture[str], words: list[str], out: str, code: int, text: str
) -> None:
    assert main(["stream", f"{url}/rpc", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == out
    assert text in printed.err


def test_the_reader_of_the_output_may_exit(url: str) -> None:
    with subprocess.Popen(
        program("stream", f"{url}/rpc", "count_to", "100000000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=environment(),
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(GUARD) == 0


def test_listen_until_ctrl_c(url: str) -> None:
    with listening(url, "news.*") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "news.tech: hello\n"
        assert process.stdout.readline() == 'news.tech: {"a":1}\n'
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
        assert process.wait(GUARD) == 130


def test_listen_to_so_many(url: str) -> None:
    with listening(url, "news.tech", "news.rest", "--limit", "2", "--json") as process:
        assert process.stdout is not None
        assert process.stdout.read().splitlines() == [
            '{"channel":"news.tech","data":"hello"}',
            '{"channel":"news.tech","data":{"a":1}}',
        ]
        assert process.wait(GUARD) == 0


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [([], 0, "the server closed the connection"), (["--limit", "3"], 3, "after 2 of 3 messages")],
)
def test_a_server_that_ends_the_listening(url: str, options: list[str], code: int, text: str) -> None:
    with listening(url, "news.tech", *options) as process:
        assert main(["call", f"{url}/rpc", "dismiss", "news.tech"]) == 0
        assert text in process.communicate()[1]
        assert process.wait(GUARD) == code


@contextmanager
def listening(url: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``listen`` in a process, and wait until it has received two messages."""
    with subprocess.Popen(
        program("listen", f"{url}/rpc", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("trio-ws: listening to news.")
            for data in ("hello", '{"a": 1}'):
                assert main(["call", f"{url}/rpc", "tell", "news.tech", data]) == 0
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["secrets"], 1, "access to the channel 'secrets' denied"),
        (["news", "--timeout", "0.2"], 4, "--timeout"),
        ([], 2, "CHANNEL"),
    ],
)
def test_listening_in_vain(
    url: str, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    assert main(["listen", f"{url}/rpc", *words]) == code
    assert text in capsys.readouterr().err


async def test_no_color(url: str) -> None:
    async with at_a_terminal("call", f"{url}/rpc", "same", "\x1b[2J", NO_COLOR="1") as terminal:
        assert await terminal.end() == 0
    assert terminal.screen.split() == [r'[["\u001b[2J"],{}]']
