"""Import strings: the objects that they name, and the import strings of objects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import worker_targets
from trio_ws.server.processes.targets import import_string, load, load_ssl_context

pytestmark = pytest.mark.usefixtures("measured")

ROOT = Path(__file__).parents[2]
MODULE = "tests.support.worker_targets"
PROGRAM = """
import functools
from trio_ws.server.processes.targets import import_string
def function(): ...
class Class:
    def method(self): ...
instance = functools.partial(function)
def outer():
    def inner(): ...
    return inner
def main():
    for thing in (function, Class, instance, outer(), Class().method, functools.partial(function)):
        try:
            print(import_string(thing))
        except TypeError as exc:
            print("TypeError:", exc)
if __name__ == "__main__":
    main()
"""


def lines(*arguments: str, cwd: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_there_and_back() -> None:
    things = {"pid": worker_targets.pid, "Calls": worker_targets.Calls, "Calls.pid": worker_targets.Calls.pid}
    for name, thing in things.items():
        assert import_string(thing) == f"{MODULE}:{name}"
        assert load(f"{MODULE}:{name}") is thing


@pytest.mark.parametrize("arguments", [["chat.py"], ["-m", "chat"]])
def test_import_strings_of_top_level_objects_of_a_program(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "chat.py").write_text(PROGRAM)
    first, second, third, *refused = lines(*arguments, cwd=tmp_path)
    assert [first, second, third] == ["chat:function", "chat:Class", "chat:instance"]
    assert len(refused) == 3
    assert all("it is not defined at the top level of a module" in line for line in refused)


def test_a_program_outside_of_sys_path_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "chat.v2.py").write_text(PROGRAM)
    (tmp_path / "this.py").write_text(PROGRAM)  # another module has the name
    for arguments in (["-c", PROGRAM], ["chat.v2.py"], ["-P", "chat.v2.py"], ["-P", "this.py"]):
        assert "workers cannot import the main program" in lines(*arguments, cwd=tmp_path)[0]


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":b", "a..b:c", "a:b..c", ".a:b"])
def test_invalid_import_strings(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"the key must be an import string such as 'chat:app' \(module:name\)"
    ):
        load(text, "key")


def test_a_module_within_that_is_missing_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imports_more.py").write_text("import no_such_thing")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError) as caught:
        load("imports_more:app")
    assert caught.value.name == "no_such_thing"
    with pytest.raises(ImportError, match=r"there is no module 'tests.nowhere' in sys.path"):
        load("tests.nowhere.at_all:app")


def test_contexts_for_tls(tmp_path: Path) -> None:
    assert load_ssl_context(None, None, None) is None
    for name in ("CONTEXT", "make_context"):
        assert load_ssl_context(None, None, f"{MODULE}:{name}") is worker_targets.CONTEXT
    with pytest.raises(ImportError, match=r"the ssl_context .* has no 'nothing'"):
        load_ssl_context(None, None, f"{MODULE}:nothing")
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(ValueError, match=f"cannot use the certificate {empty} with {empty}"):
        load_ssl_context(str(empty), str(empty), None)
