"""The build: a wheel with the extension where that can be compiled, and a whole one without it elsewhere.

Each wheel is built from a copy of the tree, in a process of its own, and unpacked and imported in another.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling builds this package; the extra `test` has it")

ROOT = Path(__file__).parents[1]
PARTS = ("trio_ws", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore")
BUILD = "from hatchling.build import build_{kind} as build; print('built', build({folder!r}))"
WITH = "trio_ws has its C extension: "
WITHOUT = "trio_ws goes without its C extension: masks and frames in Python"


def compiler() -> str | None:
    """The compiler that a build will use, if it is there."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(shlex.split(command)[0])


needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")


def run(code: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source, with nothing built in it."""
    copy = tmp_path / "tree"
    copy.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, copy / part, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
            )
        else:
            shutil.copy(ROOT / part, copy)
    return copy


def wheel(tree: Path, **environment: str) -> tuple[str, str, list[str]]:
    """Build one; what the build said, the wheel's name, and the extensions in it. It is unpacked beside."""
    said = run(BUILD.format(kind="wheel", folder=str(tree.parent)), tree, **environment)
    name = said.split()[-1]
    with zipfile.ZipFile(tree.parent / name) as archive:
        archive.extractall(tree.parent / "installed")
        return said, name, [file for file in archive.namelist() if file.endswith((".so", ".pyd", ".c"))]


def lane(folder: Path) -> str:
    """The lane that the package in a folder takes."""
    code = "from trio_ws.protocol import masking; print(masking.LANE, masking.__file__)"
    which, file = run(code, folder, TRIO_WS_PURE="").split()
    assert Path(file).is_relative_to(folder)
    return which


@needs_compiler
def test_with_a_compiler_the_wheel_has_the_extension(tree: Path) -> None:
    said, name, extensions = wheel(tree)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert f"{WITH}_speedups{suffix}" in said
    assert extensions == [f"trio_ws/protocol/_speedups{suffix}"]
    assert f"-cp3{sys.version_info.minor}-" in name
    assert not name.endswith("-any.whl")
    assert lane(tree.parent / "installed") == "c"
    assert list(tree.rglob(f"*{suffix}")) == []  # a build leaves nothing in the tree


def test_without_a_compiler_the_wheel_is_for_every_platform(tree: Path) -> None:
    said, name, extensions = wheel(tree, CC="/nowhere/cc")
    assert WITHOUT in said
    assert extensions == []
    assert name.endswith("-py3-none-any.whl")
    assert lane(tree.parent / "installed") == "python"


@needs_compiler
def test_without_headers_it_is_the_same(tree: Path) -> None:
    said, name, _ = wheel(tree, CFLAGS="-nostdinc")
    assert WITHOUT in said
    assert name.endswith("-py3-none-any.whl")


def test_a_variable_keeps_the_build_from_trying(tree: Path) -> None:
    said, name, _ = wheel(tree, TRIO_WS_NO_EXTENSION="1")
    assert said == f"built {name}\n"
    assert name.endswith("-py3-none-any.whl")


@needs_compiler
def test_an_editable_installation_has_it_beside_the_source(tree: Path) -> None:
    pytest.importorskip("editables", reason="hatchling asks for it; the extra `test` has it")
    code = BUILD.format(kind="editable", folder=str(tree.parent))
    run(code, tree)
    assert lane(tree) == "c"
    # What was built before is not used when one asks for none.
    run(code, tree, TRIO_WS_NO_EXTENSION="1")
    assert lane(tree) == "python"


def test_the_wheel_has_the_javascript_client(tree: Path) -> None:
    wheel(tree, TRIO_WS_NO_EXTENSION="1")
    for name in ("trio-ws.js", "trio-ws.d.ts"):
        packed = tree.parent / "installed" / "trio_ws" / "static" / name
        assert packed.read_bytes() == (ROOT / "trio_ws" / "static" / name).read_bytes()
