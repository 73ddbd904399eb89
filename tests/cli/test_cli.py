"""The program itself: its imports, its help, and its message if libraries are missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import environment
from trio_ws.cli import main

pytestmark = pytest.mark.usefixtures("measured")

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = ("serve", "connect", "call", "stream", "listen", "bench", "completion")


def run_python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment(),
    )


def test_importing_trio_ws_imports_none_of_its_libraries() -> None:
    done = run_python(
        "import sys, trio_ws, trio_ws.cli\n"
        "print({'click', 'rich', 'prompt_toolkit', 'watchfiles'} & set(sys.modules))"
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_without_the_extra() -> None:
    done = run_python(
        "import sys; sys.modules['rich'] = sys.modules['click'] = None\n"
        "import trio_ws.cli; sys.exit(trio_ws.cli.main(['--help']))"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trio-ws: the command line needs click, rich; try: pip install 'trio-ws[cli]'\n"


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_has_the_exit_codes_and_the_page_has_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    for code in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"^  *{code} ", shown, re.MULTILINE)
        assert f"| {code} |" in DOCS
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert {option for option in options if f"`{option}" not in DOCS} == set()


@pytest.mark.parametrize(("words", "text"), [(["sing"], "No such command 'sing'"), (["call"], "'URL'")])
def test_wrong_usage_is_one_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert text in err
    assert "--help" in err
    assert err.count("\n") == 1


def test_a_defect_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("trio_ws.cli.commands.serve", broken)
    with pytest.raises(KeyError):
        main(["serve", "chat:app"])
