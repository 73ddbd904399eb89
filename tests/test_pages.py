"""docs/: every piece of code on the pages comes from a program in examples/, and all of these are run.

A page may include a file, or show a few lines of it. Lines are compared without blank ones, and a piece may
be indented differently as a whole.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.programs import lines_of, programs_with, shown_in, stands_in

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
PROGRAMS = sorted([*(ROOT / "examples" / "pages").glob("*.py"), *(ROOT / "examples" / "first").glob("*.py")])
#: Blocks that are not programs: terminal sessions, or packets (tests/protocol/test_protocol_page.py).
NOT_CODE = {"", "console", "json", "jsonrpc", "msgpack", "text", "{literalinclude}", "{include}", "{toctree}"}


def blocks(path: Path) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_there_are_pages_and_programs() -> None:
    assert len(PAGES) > 25
    assert len(PROGRAMS) > 10


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_code_on_a_page_is_that_of_a_program(page: Path) -> None:
    made_up = [
        body for kind, body in blocks(page) if kind.split(" ")[0] not in NOT_CODE and not programs_with(body)
    ]
    assert made_up == []


def test_pieces_of_a_page_come_from_the_program_that_has_most_of_them() -> None:
    page = ROOT / "docs" / "reconnecting.md"
    pieces = [body for kind, body in blocks(page) if kind == "python"]
    assert len(pieces) > 3
    assert {path.name for path in shown_in(pieces) if path is not None} == {"reconnecting.py"}
    assert shown_in(["such(a, line)\n", ""]) == [None, None]


def test_a_page_shows_the_whole_of_the_files_for_proxies() -> None:
    """Caddyfile and haproxy.cfg are shown as plain text, which no other test looks at."""
    shown = [lines_of(body) for _, body in blocks(ROOT / "docs" / "how-to" / "proxies.md")]
    for name in ("nginx.conf", "Caddyfile", "haproxy.cfg"):
        assert lines_of((ROOT / "examples" / "deploy" / name).read_text(encoding="utf-8")) in shown


def test_comparison_of_code() -> None:
    source = lines_of("def f():\n\n    if x:\n        y()\n")
    assert stands_in(lines_of("if x:\n    y()"), source)
    assert not stands_in(lines_of("if x:\ny()"), source)
    assert not stands_in(lines_of("if x:\n    z()"), source)


@pytest.mark.parametrize("program", PROGRAMS, ids=[str(path.relative_to(ROOT)) for path in PROGRAMS])
def test_a_program_of_the_pages(program: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    expected = program.with_suffix(".txt").read_text(encoding="utf-8")
    assert re.sub(r":\d{4,5}$", ":PORT", done.stdout, flags=re.MULTILINE) == expected


def test_every_program_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    programs = [path for path in (ROOT / "examples").rglob("*.py") if path not in PROGRAMS]
    named = {
        path: path.name if path.parent == ROOT / "examples" else f"{path.parent.name}/{path.name}"
        for path in programs
    }
    assert [str(path) for path, name in named.items() if name not in tests and path.stem not in tests] == []
