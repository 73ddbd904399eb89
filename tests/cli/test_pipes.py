"""Output to a terminal, and standard streams that the shell has closed."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from typing import TYPE_CHECKING

import msgspec
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from tests.support.commands import GUARD, ROOT, at_a_terminal, environment, run_program
from trio_ws.cli.methods import Listed
from trio_ws.cli.output import Output
from trio_ws.cli.prompt import MethodCompleter, history_file

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "\x1b]0;title\x07\x9b31m\x7f\r\u202e\u2066\u200f\u2028\u2029\ufeff\U000e0041"
#: Escape sequences of the prompt, which are ignored.
STEERING = set("\x07\x7f\x9b\u202e\u2066\u200f\u2028\u2029\ufeff\U000e0041")


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$cli`` is the command line; ``rc=`` and the exit codes end its output."""
    script = f"set -o pipefail; {line}; echo rc=$? ${{PIPESTATUS[*]}}"
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
        cwd=ROOT,
        env=environment(cli=f"{sys.executable} -W error -m trio_ws", **more),
    )


@pytest.mark.parametrize(
    ("line", "codes", "said"),
    [
        ("$cli stream $url/rpc count_to 100000 | head -1", "0 0", "1"),
        ("$cli stream --json $url/rpc count_to 100000 | head -1", "0 0", '{"item":1}'),
        ("$cli call $url/rpc add 1 | true", "0 0", ""),
        ("$cli call $url/rpc add 1 >&-", "0", ""),
        ("$cli call $url/rpc add 1 <&- >&- 2>&-", "0", ""),
        ("$cli call $url/rpc nothing 2>&-", "1", ""),
        ("$cli call $url/rpc nothing 2>/dev/full", "1", ""),
        ("$cli connect $url/echo <&-", "0", ""),
        ("$cli connect $url/echo </dev/null", "0", ""),
        ("printf 'one\\ntwo' | $cli connect $url/echo", "0 0", "one\ntwo"),
        ("printf 'a\\r\\nb\\r\\n' | $cli connect $url/echo", "0 0", "a\nb"),
        ("printf 'caf\\xe9\\n' | $cli connect $url/echo", "0 0", "caf\N{REPLACEMENT CHARACTER}"),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $cli call $url/rpc same ü", "0", '[["\\u00fc"],{}]'),
        (
            "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $cli call --json $url/rpc same 漢",
            "0",
            '{"result":[["\\u6f22"],{}]}',
        ),
        (
            "printf 'ü\\n' | LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $cli connect $url/echo",
            "0 0",
            "\\xfc",
        ),
    ],
)
def test_pipes_and_closed_streams(url: str, line: str, codes: str, said: str) -> None:
    done = shell(line, url=url)
    output, _, found = done.stdout.rpartition("rc=")
    assert output.removesuffix("\n") == said
    assert found.split()[1:] == codes.split()
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_full_disk_is_one_line(url: str) -> None:
    done = shell("$cli call $url/rpc add 1 >/dev/full; echo rc=$? >&2", url=url)
    assert done.stderr == "trio-ws: No space left on device\nrc=1\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_cannot_print_its_url_ends_with_one_line(workers: int) -> None:
    app = "tests.support.cli_targets:app"
    done = shell(
        f"$cli serve {app} --port 0 --workers {workers} --log-level error >/dev/full; echo rc=$? >&2"
    )
    text = "trio-ws: the URL of the server cannot be printed: No space left on device"
    assert done.stderr.splitlines()[-2:] == [text, "rc=1"]
    assert "Traceback" not in done.stderr


def test_serving_continues_if_its_output_is_not_read() -> None:
    """The process that reads its first line may have exited."""
    line = "timeout -s TERM 5 $cli serve tests.support.cli_targets:app --port 0 | true"
    done = shell(line)
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[1] in ("0", "124")  # a drain, or timeout's own


def controls(text: str) -> set[str]:
    bad = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {char for char in text if char != "\n" and unicodedata.category(char) in bad}


def test_json_escapes_what_steers_a_terminal_wherever_it_goes(url: str) -> None:
    sent = {EVIL: [EVIL, "grüße 漢字 🙂"]}
    done = run_program("call", "--json", f"{url}/rpc", "same", json.dumps(sent))
    assert not controls(done.stdout)
    assert "grüße 漢字 🙂" in done.stdout
    assert json.loads(done.stdout) == {"result": [[sent], {}]}


@pytest.mark.parametrize("value", [{b"\xff": 1}, msgspec.msgpack.Ext(1, b""), {(1, 2): "\x9b"}, 2**70])
def test_a_value_that_json_has_no_form_for_is_shown(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    Output(as_json=True).value("result", value)
    out = capsys.readouterr().out
    assert json.loads(out)["result"] is not None
    assert not controls(out)


@pytest.mark.parametrize("flags", [(), ("--json",)])
async def test_nothing_raw_reaches_a_terminal(url: str, flags: tuple[str, ...]) -> None:
    """Neither in a result nor in an error, which contains the name of the method."""
    words = (("same", json.dumps([EVIL])), (f"no{EVIL}",))
    for word in words:
        async with at_a_terminal("call", *flags, f"{url}/rpc", *word) as terminal:
            await terminal.end()
        assert "title" in terminal.screen
        assert not STEERING & set(terminal.screen)
        assert "\x1b]0" not in terminal.screen


def test_a_name_that_steers_a_terminal_is_not_completed() -> None:
    methods = {name: Listed(name, doc=f"Doc {EVIL}\nmore", returns=EVIL) for name in ("add", f"add{EVIL}")}
    found = list(MethodCompleter(methods).get_completions(Document("a"), CompleteEvent()))
    assert [one.text for one in found] == ["add"]
    assert not controls(found[0].display_text + found[0].display_meta_text)


def test_a_history_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.touch(mode=0o644)
    assert history_file({"TRIO_WS_HISTORY": str(path)}) == path
    assert path.stat().st_mode & 0o777 == 0o600
    assert history_file({"TRIO_WS_HISTORY": "/dev/null"}) is not None  # and its mode is not ours
