"""The package behaves equally with the C extension, without it, and with TRIO_WS_PURE.

The implementation is selected at import, so each test here runs a process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.examples import FACTOR
from tests.support.subprocesses import run_python
from trio_ws.protocol.masking import IMPLEMENTATION

ROOT = Path(__file__).parents[2]
WHICH = "from trio_ws.protocol.masking import IMPLEMENTATION; print(IMPLEMENTATION)"
# None in sys.modules makes the import fail, as if the extension was never built.
NOT_BUILT = "import sys; sys.modules['trio_ws.protocol._speedups'] = None; "
ECHO = """
import os, trio, trio_ws

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    options = trio_ws.Options(max_message_size=None)
    async with trio_ws.WebSocketServer(echo, host="127.0.0.1", options=options) as server:
        async with trio_ws.connect(server.url, options=options) as ws:
            for size in (0, 1, 125, 126, 70_000, 3_000_001):
                data = os.urandom(size)
                await ws.send(data)
                assert await ws.receive_bytes() == data
            await ws.send("ä" * 100_000)
            assert await ws.receive_text() == "ä" * 100_000
    print("echoed")

trio.run(main)
"""


def python(*args: str, pure: str | None, **more: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "TRIO_WS_PURE"}
    environment["PYTHONPATH"] = str(ROOT)
    environment.update(more)
    if pure is not None:
        environment["TRIO_WS_PURE"] = pure
    return run_python(*args, folder=ROOT, environment=environment)


def test_the_variable_selects_python() -> None:
    assert python("-c", WHICH, pure="1") == "python\n"


@pytest.mark.skipif(IMPLEMENTATION == "python", reason="the extension was not built, or TRIO_WS_PURE is set")
@pytest.mark.parametrize("pure", [None, "", "0"])
def test_without_the_variable_it_is_c(pure: str | None) -> None:
    assert python("-c", WHICH, pure=pure) == "c\n"


def test_without_the_extension_it_is_python() -> None:
    assert python("-c", NOT_BUILT + WHICH, pure=None) == "python\n"


def test_without_the_extension_everything_works() -> None:
    assert python("-c", NOT_BUILT + ECHO, pure=None) == "echoed\n"


@pytest.mark.skipif(IMPLEMENTATION == "python", reason="these tests have just run in Python")
def test_in_python_the_tests_of_frames_pass_too() -> None:
    names = [
        "protocol/test_frames.py",
        "protocol/test_frames_agree.py",
        "protocol/test_framing.py",
        "fuzz/test_corpus.py",
    ]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in names)]
    # Fewer examples, because test_accel.py compares both implementations.
    out = python(*command, pure="1", TRIO_WS_TEST_EXAMPLES=str(FACTOR / 4))
    assert " passed" in out


@pytest.mark.skipif(IMPLEMENTATION == "python", reason="the extension was not built, or TRIO_WS_PURE is set")
@pytest.mark.parametrize("interface", ["extension.INTERFACE = -1", "del extension.INTERFACE"])
def test_an_extension_of_another_version_is_not_used(interface: str) -> None:
    # Before trio_ws is imported, so that its modules meet this one.
    code = f"""
import importlib.util, sys, sysconfig, warnings
name = "trio_ws.protocol._speedups"
file = {str(ROOT)!r} + "/trio_ws/protocol/_speedups" + sysconfig.get_config_var("EXT_SUFFIX")
spec = importlib.util.spec_from_file_location(name, file)
extension = importlib.util.module_from_spec(spec)
spec.loader.exec_module(extension)
{interface}
sys.modules[name] = extension
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import trio_ws.protocol.masking as masking
print(masking.IMPLEMENTATION, *[str(warning.message).split(" ", 1)[1] for warning in caught])
"""
    said = python("-c", code, pure="0")
    assert said == "python was built from another version of trio_ws and is not used; install trio_ws again\n"
