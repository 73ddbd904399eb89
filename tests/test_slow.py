"""`make test` leaves out exactly the tests of tests/support/slow.py, and reports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slow import SLOW

ROOT = Path(__file__).parents[1]


def test_every_entry_is_there() -> None:
    for entry in (entry for entries in SLOW.values() for entry in entries):
        file, _, name = entry.partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), entry
        if name:
            assert f"def {name}(" in path.read_text(encoding="utf-8"), entry


def test_make_test_leaves_these_out_and_make_check_does_not() -> None:
    recipes = (ROOT / "Makefile").read_text(encoding="utf-8").split("\n\n")
    [test] = [recipe for recipe in recipes if recipe.startswith("test:")]
    [check] = [recipe for recipe in recipes if recipe.startswith("check:")]
    assert "-m 'not slow'" in test
    assert "-m slow" not in test
    assert "-m 'not slow'" in check
    assert "-m slow" in check


@pytest.mark.parametrize("processes", ["one", "several"])
def test_a_run_says_what_it_left_out(processes: str) -> None:
    arguments = []
    if processes == "several":
        pytest.importorskip("xdist", reason="pytest-xdist is not installed; the extra `test` has it")
        arguments = ["--numprocesses", "2", "--dist", "worksteal"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *arguments,
         "tests/test_pages.py", "tests/test_ctrl_c.py", "-k", "comparison_of_code or ctrl"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "left out, because they are slow: several processes (" in done.stdout
    assert "make check" in done.stdout
