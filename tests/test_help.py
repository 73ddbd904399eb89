"""``help(trio_ws)`` and ``inspect.signature`` work for everything that is public."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
import subprocess
import sys
import warnings
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import trio_ws

ROOT = Path(__file__).parents[1]
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of trio_ws.wire
    MODULES = sorted(
        module.name
        for module in pkgutil.walk_packages(trio_ws.__path__, "trio_ws.")
        if not module.name.endswith(("__main__", "._speedups"))
    )
PUBLIC = (
    *("trio_ws", "trio_ws.errors", "trio_ws.options", "trio_ws.predicates", "trio_ws.guest"),
    *("trio_ws.testing", "trio_ws.dialects", "trio_ws.compat.trio_websocket", "trio_ws.compat.webshocket"),
    *(name for name in MODULES if name.startswith("trio_ws.compat.webshocket.") and "._" not in name),
)


def public_things() -> list[tuple[str, object]]:
    """The classes and functions among the public names, and the public methods of the classes."""
    found: dict[str, object] = {}
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            # A TypedDict has no signature, and neither has a kind of bytes that adds nothing.
            if inspect.isclass(thing) and not hasattr(thing, "__total__") and not issubclass(thing, bytes):
                found[f"{module_name}.{name}"] = thing
                for attribute in dir(thing):
                    member = getattr(thing, attribute, None)
                    if not attribute.startswith("_") and isinstance(member, FunctionType):
                        found[f"{module_name}.{name}.{attribute}"] = member
            elif inspect.isroutine(thing):
                found[f"{module_name}.{name}"] = thing
    return list(found.items())


THINGS = public_things()
PLAIN: Any = vars(pydoc)["plaintext"]  # its type information lacks it


def test_there_are_many() -> None:
    assert len(MODULES) > 100
    assert len(THINGS) > 300


def test_every_public_name_has_a_signature() -> None:
    without = {}
    for name, thing in THINGS:
        try:
            inspect.signature(thing)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - each is reported
            without[name] = repr(exc)
    assert without == {}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_help_shows_every_module() -> None:
    failed = {}
    for name in ("trio_ws", *MODULES):
        module = importlib.import_module(name)
        assert isinstance(module, ModuleType)
        try:
            text = pydoc.render_doc(module, renderer=PLAIN)
        except Exception as exc:  # noqa: BLE001
            failed[name] = repr(exc)
        else:
            assert text.startswith("Python Library Documentation")
    assert failed == {}


def test_help_shows_every_public_name() -> None:
    failed = {}
    for name, thing in THINGS:
        try:
            text = pydoc.render_doc(thing, renderer=PLAIN)
        except Exception as exc:  # noqa: BLE001
            failed[name] = repr(exc)
        else:
            assert name.rpartition(".")[2] in text or inspect.isclass(thing)
    assert failed == {}


def test_help_of_the_package_in_a_fresh_process() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import trio_ws; help(trio_ws)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert "trio_ws: a trio-native, structured-concurrency WebSocket toolkit" in done.stdout
    assert "class WebSocketClient(" in done.stdout
    assert "connect(uri" in done.stdout
