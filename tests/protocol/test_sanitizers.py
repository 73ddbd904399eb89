"""The C extension under the sanitizers of gcc: no byte is read or written beyond its bounds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.subprocesses import run_python

ROOT = Path(__file__).parents[2]


def sanitizer() -> str | None:
    """The library that a sanitized program needs, if gcc has it."""
    gcc = shutil.which("gcc")
    if gcc is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        return None
    found = subprocess.run([gcc, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = found.stdout.strip()
    return library if Path(library).is_absolute() else None  # gcc returns the bare name of what it lacks


@pytest.mark.skipif(sanitizer() is None, reason="no gcc with its sanitizers here, or no headers of Python")
def test_changed_packets_and_frames(tmp_path: Path) -> None:
    built = tmp_path / "_speedups.so"
    subprocess.run(
        [
            *("gcc", "-g", "-O1", "-shared", "-fPIC"),
            *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
            f"-I{sysconfig.get_path('include')}",
            *(str(ROOT / "trio_ws" / "protocol" / "_speedups.c"), "-o", str(built)),
        ],
        check=True,
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": str(sanitizer()),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself frees little at its end
        "PYTHONMALLOC": "malloc",  # a block of its own for each object
    }
    plain = run_python(
        "-m", "tests.fuzz.extension", str(built), "10000", folder=ROOT, environment=environment
    )
    assert 500 < int(plain) < 9500
