"""The floors of the package: a module imports only from floors below its own, or from its own folder.

Imports for type checkers and imports inside functions count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trio_ws"

# The first name below trio_ws, and its floor; trio_ws itself, on the top floor, stands as "".
FLOORS = {
    "logs": -1,  # errors show what a peer said
    "errors": 0,
    "options": 0,
    "ledger": 0,
    "signals": 0,
    "groups": 0,
    "wall": 1,
    "predicates": 2,
    "wire": 1,
    "websocket": 2,
    "network": 3,
    "rpc": 3,
    "channels": 3,
    "routing": 2,
    "blocking": 3,
    "lifespan": 3,
    "session": 4,
    "handler": 5,
    "front": 5,
    "reconnecting": 4,
    "dispatch": 6,
    "admission": 6,
    "server": 7,
    "client": 7,
    "asgi": 8,
    "processes": 8,
    "app": 9,  # above the servers: it can run one
    "testing": 9,
    "": 10,
    "cli": 11,  # uses trio_ws as any program does
    "__main__": 12,
}


def imported_modules(source: str, module: str, *, package: bool) -> set[str]:
    """The full names that a module's import statements name, relative ones resolved.

    Args:
        source: the module's text.
        module: its full name.
        package: whether it is a package's ``__init__``, which relative imports start from.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + package]
                origin = ".".join([*kept, origin] if origin else kept)
            # What is imported may be a module itself: `from trio_ws import errors`.
            names.update(f"{origin}.{alias.name}" for alias in node.names)
    return names


def part(name: str) -> str | None:
    """The part of trio_ws that a full name is in ("wire" for ``trio_ws.wire.frames``), or None."""
    top, *rest = name.split(".")
    if top != "trio_ws":
        return None
    # A name that is no module of ours was imported from trio_ws itself.
    if rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file() or rest[0] in FLOORS):
        return rest[0]
    return ""


def wrong_imports(source: str, module: str, *, package: bool = False) -> list[str]:
    """The imports of a module that its floor forbids."""
    own = part(module)
    assert own is not None
    wrong = []
    for name in sorted(imported_modules(source, module, package=package)):
        other = part(name)
        if other is not None and other != own and FLOORS[other] >= FLOORS[own]:
            wrong.append(f"{module} (floor {FLOORS[own]}) imports {name} (floor {FLOORS[other]})")
        elif own == "wire" and name.split(".")[0] == "trio":
            wrong.append(f"{module} imports {name}; wire/ is plain code without a loop")
    return wrong


def modules() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return found


def test_every_module_has_a_floor() -> None:
    parts = {part(module) for _, module in modules()}
    assert {"errors", "options", "wire"} <= parts
    assert parts - FLOORS.keys() == set(), "give it a floor in house and in FLOORS"


@pytest.mark.repeats
@pytest.mark.parametrize(("path", "module"), modules(), ids=[module for _, module in modules()])
def test_imports_go_down(path: Path, module: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert wrong_imports(source, module, package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("trio_ws.errors", "from .wire import frames"),
        ("trio_ws.errors", "from .options import Options"),
        ("trio_ws.wire.frames", "from ..websocket.connection import WebSocket"),
        ("trio_ws.wire.frames", "import trio"),
        ("trio_ws.wire.frames", "from trio.abc import Stream"),
        ("trio_ws.websocket.connection", "if True:\n    import trio_ws.network.listen"),
        ("trio_ws.network.connect", "def late():\n    from trio_ws import connect"),
        ("trio_ws.network.connect", "from .. import server"),
        ("trio_ws.network.connect", "from trio_ws.rpc import peer"),
        ("trio_ws.client", "from .server import serve"),
        ("trio_ws.server", "from .testing import memory"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(module: str, line: str) -> None:
    assert len(wrong_imports(line, module)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("trio_ws.wire.frames", "from .deflate import DeflateParams"),
        ("trio_ws.wire.frames", "import triolike, zlib, wsproto"),
        ("trio_ws.wire.frames", "from ..errors import CloseFrame"),
        ("trio_ws.network.connect", "from trio_ws import errors"),
        ("trio_ws.network.connect", "import trio"),
        ("trio_ws.testing.memory", "from ..server import serve"),
    ],
)
def test_an_import_that_goes_down_is_allowed(module: str, line: str) -> None:
    assert wrong_imports(line, module) == []


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert imported_modules("from .frames import X", "trio_ws.wire", package=True) == {
        "trio_ws.wire.frames.X"
    }
    assert wrong_imports("from .server import serve", "trio_ws", package=True) == []
