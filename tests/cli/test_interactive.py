"""The command ``connect``, from a pipe and at a terminal."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.commands import at_a_terminal, run_program
from trio_ws.cli import main
from trio_ws.cli.errors import Failure
from trio_ws.cli.methods import Listed, Parameter
from trio_ws.cli.prompt import MethodCompleter, history_file
from trio_ws.cli.stdin import PipedLines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("measured")


@pytest.fixture
def connect(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run ``connect`` in this process, with a pipe for its stdin: exit code, stdout, stderr."""

    def run(where: str, lines: str, *options: str) -> tuple[int, str, str]:
        reading, writing = os.pipe()
        os.write(writing, lines.encode())
        os.close(writing)
        with os.fdopen(reading) as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            code = main(["connect", f"{url}{where}", *options])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# -- from a pipe ------------------------------------------------------------------------------------


def test_a_pipe(url: str) -> None:
    done = run_program("connect", f"{url}/echo", lines="one\n\ntwo\r\nthree")
    assert (done.stdout, done.stderr, done.returncode) == ("one\n\ntwo\nthree\n", "", 0)


def test_calls_from_a_pipe(connect: Callable[..., tuple[int, str, str]]) -> None:
    printed = '3\n1\n2\n[["a b"],{}]\n'
    assert connect("/rpc", 'add 1 b=2\n\ncount_to 2\nsame "a b"\n', "--rpc") == (0, printed, "")


def test_a_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text("one\ntwo")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["connect", f"{url}/echo", "--json"]) == 0
    assert capsys.readouterr().out == '{"type":"text","text":"one"}\n{"type":"text","text":"two"}\n'


def test_no_lines(connect: Callable[..., tuple[int, str, str]]) -> None:
    assert connect("/echo", "") == (0, "", "")


def test_expected_number_of_responses(connect: Callable[..., tuple[int, str, str]]) -> None:
    # As many responses as lines are expected, and missing ones are not an error.
    assert connect("/mute", "one\n", "--timeout", "0.1") == (0, "", "")
    code, out, err = connect("/mute", "one\n", "--timeout", "0.1", "--expect", "1")
    assert (code, out) == (4, "")
    assert "0 of 1 messages" in err
    assert connect("/mute", "one\n", "--expect", "0") == (0, "", "")


def test_headers_and_the_subprotocol_go_out(connect: Callable[..., tuple[int, str, str]]) -> None:
    options = ["--header", "X-Name: alice", "--subprotocol", "chat.v1", "--expect", "1"]
    assert connect("/headers", "", *options) == (0, "alice chat.v1\n", "")


def test_a_server_that_closes(connect: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = connect("/bye", "one\n", "--expect", "9")
    assert (code, out) == (3, "\x1b[31mred\n2 bytes: 00 ff\n")
    assert err == "trio-ws: the connection ended: code 4000 (enough)\n"
    code, out, err = connect("/headers", "one\n", "--expect", "9")
    assert (code, out) == (3, "None None\n")
    assert err.splitlines() == [
        "trio-ws: the server closed the connection: code 1000",
        "trio-ws: the connection ended after 1 of 9 messages",
    ]
    code, out, _ = connect("/bye", "one\n", "--expect", "9", "--json")
    assert json.loads(out.splitlines()[1]) == {"type": "binary", "base64": "AP8="}


def test_an_invalid_call_is_reported_and_the_others_are_made(
    connect: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = connect("/rpc", "ad 1\nadd [1\nadd 1 2\n", "--rpc", "--json")
    assert code == 1
    errors, result = out.splitlines()[:-1], out.splitlines()[-1]
    assert json.loads(errors[0])["error"]["code"] == -32601
    assert result == '{"result":3}'
    assert [line.partition(";")[0] for line in err.splitlines()] == [
        "trio-ws: there is no method 'ad'",
        "trio-ws: a value that begins with [ must be JSON: Expecting ',' delimiter: line 1 column 7 (char 6)",
    ]


def test_calls_where_nothing_is_listed(connect: Callable[..., tuple[int, str, str]]) -> None:
    assert connect("/silent", "add 1 2\n*count_to 2\n", "--rpc") == (0, "3\n1\n2\n", "")


def test_a_call_without_an_answer(connect: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = connect("/rpc", "wait\nadd 1\n", "--rpc", "--timeout", "0.5")
    assert (code, out) == (4, "it waits\n2\n")
    assert "--timeout" in err


def test_a_connection_that_is_lost_ends_the_calls(connect: Callable[..., tuple[int, str, str]]) -> None:
    assert connect("/rpc", "hang_up 1000\nadd 1\n", "--rpc") == (
        3,
        "",
        "trio-ws: the server closed the connection\n",
    )
    code, out, err = connect("/rpc", "hang_up 4001\nadd 1\n", "--rpc")
    assert (code, out) == (3, "")
    assert err == "trio-ws: the connection ended: code 4001 (hung up)\n"


def test_the_methods_are_described(connect: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = connect("/rpc", "?add\n?\n", "--rpc")
    assert code == 0
    assert out.startswith("add(a: int, b: int = 1) -> int\n    Add two numbers.\n\nThe second is 1")
    assert "\n*count_to(n: int) -> AsyncIterator[int]\n" in out
    assert "\nsame(*values: Any, **named: Any) -> Any\n" in out
    assert "secret" not in out


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--rpc", "--subprotocol", "chat"], 2, "dialect must be one of"),
        (["--subprotocol", "a b"], 2, "a b"),
        (["--expect", "-1"], 2, "--expect"),
    ],
)
def test_options_that_cannot_be(
    connect: Callable[..., tuple[int, str, str]], options: list[str], code: int, text: str
) -> None:
    got, out, err = connect("/echo", "", *options)
    assert (got, out) == (code, "")
    assert text in err


async def test_a_line_has_a_limit() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"short\nmuch too long for it")
    lines = PipedLines(reading, 10)
    with pytest.raises(Failure, match="more than 10 bytes") as caught:
        await lines.next()
    assert caught.value.code == 2
    os.close(reading)
    os.close(writing)


async def test_waiting_for_a_line_can_be_cancelled_and_loses_none() -> None:
    reading, writing = os.pipe()
    lines = PipedLines(reading, 100)
    os.write(writing, b"be")
    with trio.move_on_after(0.01):
        await lines.next()
    os.write(writing, b"gun\n")
    assert await lines.next() == "begun"
    os.close(writing)
    assert await lines.next() is None
    os.close(reading)


# -- at a terminal ----------------------------------------------------------------------------------


async def test_messages_at_a_terminal(url: str, tmp_path: Path) -> None:
    history = str(tmp_path / "history")
    async with at_a_terminal("connect", f"{url}/shout", TRIO_WS_HISTORY=history) as terminal:
        await terminal.shows("Ctrl+D ends")
        await terminal.shows("\x1b[?2004h")
        terminal.type("hello\r")
        await terminal.shows("hello!")
        await terminal.shows("\x1b[?2004h")  # the prompt is back
        terminal.type("\x1b[A\r")  # arrow up: from the history
        await terminal.shows("hello!")
        await terminal.shows("\x1b[?2004h")  # the prompt is back
        terminal.type("\x04")
        assert await terminal.end() == 0
    assert "+hello" in await trio.Path(history).read_text()
    assert (await trio.Path(history).stat()).st_mode & 0o077 == 0


async def test_calls_at_a_terminal(url: str) -> None:
    async with at_a_terminal("connect", f"{url}/rpc", "--rpc", TRIO_WS_HISTORY="") as terminal:
        await terminal.shows("? lists the methods")
        await terminal.shows("\x1b[?2004h")
        terminal.type("ad")
        await terminal.shows("Add two numbers.")
        terminal.type("\t 20 22\r")  # the method is completed
        await terminal.shows("\x1b[1;36m42")  # in colour
        terminal.type("wait\r")
        await terminal.shows("it waits")
        terminal.type("\x03")
        await terminal.shows("cancelled")
        terminal.type("add 1 98\r")
        await terminal.shows("99")
        terminal.type("\x03")
        assert await terminal.end() == 130


async def test_the_end_of_the_connection_ends_the_prompt(url: str) -> None:
    async with at_a_terminal("connect", f"{url}/bye", TRIO_WS_HISTORY="") as terminal:
        await terminal.shows("\\x1b[31mred")
        await terminal.shows("2 bytes: 00 ff")
        terminal.type("go\r")
        await terminal.shows("code 4000 (enough)")
        assert await terminal.end() == 3


def completions(methods: list[Listed], text: str) -> list[str]:
    from prompt_toolkit.completion import CompleteEvent  # noqa: PLC0415 - beside its use
    from prompt_toolkit.document import Document  # noqa: PLC0415

    completer = MethodCompleter({one.name: one for one in methods})
    found = completer.get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + one.start_position] + one.text for one in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["add", "count_to"]),
        ("a", ["add"]),
        ("*c", ["*count_to"]),
        ("?c", ["?count_to"]),
        ("x", []),
        ("add ", ["add a=", "add b="]),
        ("add b=1 ", ["add b=1 a="]),
        ("*count_to ", ["*count_to n="]),
        ("other ", []),
    ],
)
def test_completion(text: str, found: list[str]) -> None:
    star = Parameter("rest", kind="variadic positional")
    methods = [
        Listed("count_to", parameters=[Parameter("n")]),
        Listed("add", parameters=[Parameter("a"), star, Parameter("b", kind="keyword-only")]),
    ]
    assert completions(methods, text) == found


def test_where_the_history_is(tmp_path: Path) -> None:
    assert history_file({"TRIO_WS_HISTORY": ""}) is None
    named = history_file({"TRIO_WS_HISTORY": str(tmp_path / "a" / "lines")})
    assert named == tmp_path / "a" / "lines"
    assert (tmp_path / "a" / "lines").exists()
    assert history_file({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "trio-ws" / "history"
    assert history_file({"TRIO_WS_HISTORY": str(tmp_path)}) is None  # a folder


def test_a_signature() -> None:
    given: list[Any] = [Parameter("a", "int", required=False, default="x")]
    assert Listed("f", "plain", given, "None").signature == "f(a: int = 'x') -> None"
