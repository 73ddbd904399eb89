"""The build: a wheel with the extension if it can be compiled, and a complete one without it otherwise.

Each wheel is built from a copy of the tree in one process, and unpacked and imported in another.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.subprocesses import run_python
from trio_ws import __version__

pytest.importorskip("hatchling", reason="hatchling builds this package; the extra `test` has it")

ROOT = Path(__file__).parents[1]
PARTS = ("trio_ws", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore")
BUILD = "from hatchling.build import build_{kind} as build; print('built', build({folder!r}))"
WITH = "trio_ws has its C extension: "
WITHOUT = "trio_ws goes without its C extension: masks and frames in Python"


def compiler() -> str | None:
    """Return the compiler that a build will use, if it is installed."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return shutil.which(shlex.split(command)[0])


needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")


def run(code: str, folder: Path, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return run_python("-c", code, folder=folder, environment=environment)


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
    """Build and unpack a wheel. Return the output of the build, the wheel's name, and its extensions."""
    said = run(BUILD.format(kind="wheel", folder=str(tree.parent)), tree, **environment)
    name = said.split()[-1]
    with zipfile.ZipFile(tree.parent / name) as archive:
        archive.extractall(tree.parent / "installed")
        return said, name, [file for file in archive.namelist() if file.endswith((".so", ".pyd", ".c"))]


def implementation(folder: Path) -> str:
    """Return the implementation that the package in a folder uses."""
    code = "from trio_ws.protocol import masking; print(masking.IMPLEMENTATION, masking.__file__)"
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
    assert implementation(tree.parent / "installed") == "c"
    assert list(tree.rglob(f"*{suffix}")) == []  # a build leaves nothing in the tree


def test_without_a_compiler_the_wheel_is_for_every_platform(tree: Path) -> None:
    said, name, extensions = wheel(tree, CC="/nowhere/cc")
    assert WITHOUT in said
    assert extensions == []
    assert name.endswith("-py3-none-any.whl")
    assert implementation(tree.parent / "installed") == "python"


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
    assert implementation(tree) == "c"
    # What was built before is not used when one asks for none.
    run(code, tree, TRIO_WS_NO_EXTENSION="1")
    assert implementation(tree) == "python"


def test_the_wheel_has_the_javascript_client(tree: Path) -> None:
    wheel(tree, TRIO_WS_NO_EXTENSION="1")
    for name in ("trio-ws.js", "trio-ws.d.ts"):
        packed = tree.parent / "installed" / "trio_ws" / "static" / name
        assert packed.read_bytes() == (ROOT / "trio_ws" / "static" / name).read_bytes()


def check(folder: Path, *names: str) -> None:
    """Let twine judge files as PyPI would."""
    pytest.importorskip("twine", reason="twine is not installed; the extra `test` has it")
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *names],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == len(names)


def fresh_environment(folder: Path) -> Path:
    """Make a virtual environment with the packages of ours except trio_ws, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    name = "python.exe" if os.name == "nt" else "python"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / name
    paths = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True, timeout=60)
    # .pth files are not read from there, so an editable installation of ours is not found.
    Path(done.stdout.strip(), "dependencies.pth").write_text("\n".join(dict.fromkeys(paths)))
    return python


def install(python: Path, file: Path, folder: Path) -> str:
    """Install a wheel or an sdist as users do, send a message, and return the implementation."""
    pytest.importorskip("pip", reason="this environment has no pip")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
         "--no-build-isolation", "--ignore-installed", "--disable-pip-version-check", file],
        check=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    done = subprocess.run(
        [python, "-c", TALK],
        cwd=folder,
        env=without_path(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    which, where, said = done.stdout.split()
    assert Path(where).is_relative_to(python.parents[1])
    assert said == "hello"
    return which


def without_path() -> dict[str, str]:
    left_out = ("PYTHONPATH", "TRIO_WS_PURE")
    return {name: value for name, value in os.environ.items() if name not in left_out}


TALK = """
import trio, trio_ws
from trio_ws.protocol import masking

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with trio_ws.WebSocketServer(echo) as server, trio_ws.connect(server.url) as ws:
        await ws.send("hello")
        print(masking.IMPLEMENTATION, trio_ws.__file__, await ws.receive_text())

trio.run(main)
"""


@needs_compiler
def test_the_wheel_installs_into_a_fresh_environment(tree: Path, tmp_path: Path) -> None:
    _, name, _ = wheel(tree)
    check(tree.parent, name)
    assert install(fresh_environment(tmp_path / "fresh"), tree.parent / name, tmp_path) == "c"


@pytest.mark.parametrize("compiles", [pytest.param(True, marks=needs_compiler), False])
def test_the_sdist_builds_with_and_without_a_compiler(
    compiles: bool, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("CHANGELOG.md", "tests", "docs", "examples", "benchmarks"):
        (tree / part).mkdir() if "." not in part else (tree / part).touch()
    name = run(BUILD.format(kind="sdist", folder=str(tree.parent)), tree).split()[-1]
    assert name == f"trio_ws-{__version__}.tar.gz"
    check(tree.parent, name)
    with tarfile.open(tree.parent / name) as archive:
        files = {file.partition("/")[2] for file in archive.getnames()}
    parts = {str(part.relative_to(ROOT)) for part in (ROOT / "trio_ws/protocol/speedups").iterdir()}
    assert len(parts) > 1
    assert {"hatch_build.py", "trio_ws/protocol/_speedups.c", "LICENSE", "README.md", *parts} <= files
    assert not [file for file in files if file.endswith((".so", ".pyd"))]
    if not compiles:
        monkeypatch.setenv("CC", "/nowhere/cc")
    which = install(fresh_environment(tmp_path / "fresh"), tree.parent / name, tmp_path)
    assert which == ("c" if compiles else "python")
