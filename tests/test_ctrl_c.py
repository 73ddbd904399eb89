"""Ctrl+C at any point ends the program in an orderly way."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("script", "step"), [("echo", 47), ("calls", 197), ("app", 61)])
def test_ctrl_c_at_any_line_of_a_server_ends_it(script: str, step: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ctrl_c", script, str(step)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    endings = json.loads(done.stdout)
    assert set(endings) <= {"KeyboardInterrupt", "done"}  # some runs have a few lines less than the first
    assert endings["KeyboardInterrupt"] > 25
