"""The program without arguments, its version, and completion in shells."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

import trio_ws
from tests.support.commands import environment, run_program
from trio_ws.cli import main
from trio_ws.cli.commands import cli
from trio_ws.cli.completion import complete_target, completion_script

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("measured")

#: What the editor of zsh does after Tab.
ZSH = "words=(trio-ws se) CURRENT=2; commands[trio-ws]=1; source %s; _trio_ws_completion"

MODULE = """
import trio_ws

class Calls(trio_ws.WebSocketHandler): ...
class Other: ...
class _Hidden(trio_ws.WebSocketHandler): ...

app = trio_ws.App()
number = int("1")
_private = trio_ws.App()

async def echo(ws: trio_ws.WebSocket) -> None: ...
def plain(ws: "trio_ws.BlockingWebSocket") -> None: ...
def helper(text: str) -> str: ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chat.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import trio_ws\ndef (")
    (tmp_path / "other.py").write_text("import json")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "api.py").write_text("import trio_ws\napi = trio_ws.App()")
    return tmp_path


def test_alone_it_prints_its_help_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Usage: trio-ws")
    assert "  serve       Serve an App, a handler or a function." in lines
    assert not [line for line in lines[1:] if line.endswith("...")]
    assert max(map(len, lines)) < 81


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_help_fits_80_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 81


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    done = run_program(option)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith(f"trio-ws {trio_ws.__version__}, with")
    assert f"CPython {sys.version_info.major}.{sys.version_info.minor}." in done.stdout


def test_version_needs_no_extra() -> None:
    code = "import sys; sys.modules['click'] = None; import trio_ws.cli; sys.exit(trio_ws.cli.main(['-V']))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(),
    )
    assert done.stdout.startswith("trio-ws ")
    assert done.returncode == 0


BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="bash is not installed")


def complete(folder: Path, line: str) -> list[str]:
    """Return the completions of bash after Tab at the end of a line."""
    script = f"""
{completion_script(cli, "bash")}
trio-ws() {{ '{sys.executable}' -m trio_ws "$@"; }}
export -f trio-ws
COMP_LINE={line!r}
COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS=$' \\t\\n"@><=;|&(:'
_trio_ws_completion trio-ws
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    assert BASH is not None
    bash = subprocess.run(
        [BASH, "--norc", "-c", script],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert bash.stderr == ""
    return bash.stdout.split()


@needs_bash
def test_bash_completes_commands_and_options(folder: Path) -> None:
    assert complete(folder, "trio-ws se") == ["serve"]
    assert complete(folder, "trio-ws serve --log-level d") == ["debug"]
    assert "--insecure" in complete(folder, "trio-ws call --")


@needs_bash
def test_bash_completes_what_can_be_served(folder: Path) -> None:
    assert complete(folder, "trio-ws serve ") == ["broken:", "chat:", "site.api:"]
    # bash ends a word at the colon, so it needs only the rest.
    assert complete(folder, "trio-ws serve chat:") == ["Calls", "app", "echo", "plain"]
    assert complete(folder, "trio-ws schema site.api:a") == ["api"]


def test_unreadable_modules_have_no_completions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    context, parameter = click.Context(cli), click.Argument(["target"])
    found = [one.value for one in complete_target(context, parameter, "chat:")]
    assert found == ["chat:Calls", "chat:app", "chat:echo", "chat:plain"]
    for target in ("broken:", "nowhere:", "..:", ":"):
        assert complete_target(context, parameter, target) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_TRIO_WS_COMPLETE" in script
    assert re.search(rf"{shell}_complete", script)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_shows_commands_with_their_descriptions(folder: Path, shell: str) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    program = folder / "trio-ws"  # the shells run it by env, which knows no functions
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m trio_ws \"$@\"\n")
    program.chmod(0o755)
    script = folder / "script"
    script.write_text(completion_script(cli, shell))
    if shell == "fish":
        words = ["--no-config", "-c", f"source {script}; complete -C 'trio-ws se'"]
    else:
        # _describe needs the editor; here it prints what it is given.
        words = ["-f", "-c", f"compdef() {{ }}; _describe() {{ print -l -- ${{(P)3}} }}; {ZSH % script}"]
    done = subprocess.run(
        [found, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**environment(), "PATH": f"{folder}:{os.environ['PATH']}"},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert "Serve an App, a handler or a function." in done.stdout
    assert re.search("^serve", done.stdout, re.MULTILINE)


def test_a_shell_that_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "'csh' is not one of" in capsys.readouterr().err
