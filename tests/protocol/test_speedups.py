"""The extension has state per interpreter, and needs no GIL; see its slots.

Each test loads the built file by its path, so that it may differ from the module that other tests use.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import sysconfig
import threading
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "trio_ws" / "protocol"
FILE = FOLDER / f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}"
NAME = "trio_ws.protocol._speedups"

pytestmark = pytest.mark.skipif(not FILE.exists(), reason="the C extension was not built here")

FRAMES = b"\x82\x02hi" * 3
# What runs in another interpreter, which has nothing but the standard library.
LOAD_AND_TAKE = f"""
import importlib.util
from importlib.machinery import ExtensionFileLoader
spec = importlib.util.spec_from_loader({NAME!r}, ExtensionFileLoader({NAME!r}, {str(FILE)!r}))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
for _ in range(100):
    messages = []
    assert module.take_frames({FRAMES!r}, 0, False, 65535, messages) == {len(FRAMES)}
    assert messages == [b"hi"] * 3
    assert module.whole_frame(0x82, b"hi", b"") == {FRAMES[:4]!r}
"""


def load() -> ModuleType:
    """A separate module object, with its own state."""
    spec = importlib.util.spec_from_loader(NAME, ExtensionFileLoader(NAME, str(FILE)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def take(module: ModuleType) -> list[bytes]:
    messages: list[bytes] = []
    assert module.take_frames(FRAMES, 0, False, 65535, messages) == len(FRAMES)
    return messages


def test_modules_loaded_twice_share_nothing() -> None:
    first, second = load(), load()
    assert first is not second
    assert take(first) == take(second) == [b"hi"] * 3
    del first
    gc.collect()
    assert take(second) == [b"hi"] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12")
def test_interpreters_load_it_side_by_side() -> None:
    # Run in a separate process, because a failure ends the process.
    code = f"""
import threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
failures = []
def run():
    interpreter = interpreters.create()
    try:
        # 3.12 raises what went wrong, later ones return it.
        failure = interpreters.run_string(interpreter, {LOAD_AND_TAKE!r})
    except Exception as exception:
        failure = exception
    if failure is not None:
        failures.append(failure)
    interpreters.destroy(interpreter)
threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
exec({LOAD_AND_TAKE!r})
print("all took them")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "all took them\n", done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has its GIL")
def test_importing_leaves_the_gil_off() -> None:
    code = LOAD_AND_TAKE + "import sys; print(sys._is_gil_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.stdout == "False\n", done.stderr


def test_threads_take_frames_of_the_same_bytes() -> None:
    module = load()
    results: list[Any] = []
    start = threading.Barrier(4)

    def run() -> None:
        start.wait()
        results.append([take(module) for _ in range(1000)])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[[b"hi"] * 3] * 1000] * 4
