"""The layers of the package: a module imports only from layers below its own, or from its own folder.

Imports for type checkers and imports inside functions count as well.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trio_ws"

# The first name below trio_ws, and its layer; trio_ws itself, on the top layer, is "".
LAYERS = {
    "_types": -2,
    "logs": -1,  # errors show data of a peer
    "_blocks": -1,
    "models": 0,
    "errors": 0,
    "options": 0,
    "ledger": 0,
    "signals": 0,
    "systems": 0,
    "_nurseries": 0,
    "_settings": 0,
    "wall": 1,
    "decoding": 1,
    "_late_scope": 2,
    "predicates": 2,
    "protocol": 2,
    "codecs": 3,
    "wire": 3,  # a deprecated name
    "websocket": 4,
    "channels": 5,
    "schema": 5,
    "rpc": 6,
    "client": 7,
    "server": 8,
    "dialects": 8,
    "hosting": 9,
    "guest": 10,
    "compat": 10,
    "app": 10,  # above the servers: it can run one
    "testing": 10,
    "": 11,
    "cli": 12,  # uses trio_ws as any program does
    "__main__": 13,
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
    """The part of trio_ws that a full name is in ("protocol" for ``trio_ws.protocol.frames``), or None."""
    top, *rest = name.split(".")
    if top != "trio_ws":
        return None
    # A name that is not a module was imported from trio_ws itself.
    if rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").is_file() or rest[0] in LAYERS):
        return rest[0]
    return ""


def wrong_imports(source: str, module: str, *, package: bool = False) -> list[str]:
    """The imports of a module that its layer forbids."""
    own = part(module)
    assert own is not None
    wrong = []
    for name in sorted(imported_modules(source, module, package=package)):
        other = part(name)
        if other is not None and other != own and LAYERS[other] >= LAYERS[own]:
            wrong.append(f"{module} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[other]})")
        elif own in ("protocol", "codecs") and name.split(".")[0] == "trio":
            wrong.append(f"{module} imports {name}; {own}/ is plain code without a loop")
    return wrong


def modules() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return found


#: Modules that still import one another in a circle, by folder. Only to be shortened.
CIRCLES = {
    "trio_ws.channels": {"channel", "history"},
}


def in_circles(imports: dict[str, set[str]]) -> set[str]:
    """The modules that can be reached from themselves, by their imports of one another."""
    found = set()
    for start in imports:
        reached: set[str] = set()
        left = [start]
        while left:
            new = imports[left.pop()] - reached
            reached |= new
            left += new
        if start in reached:
            found.add(start)
    return found


def imports_within(folder: str) -> dict[str, set[str]]:
    """What the modules of a folder import of one another, by their names in it."""
    members = {
        module.rpartition(".")[2]: path
        for path, module in modules()
        if module.rpartition(".")[0] == folder and path.name != "__init__.py"
    }
    imports: dict[str, set[str]] = {}
    for name, path in members.items():
        full = imported_modules(path.read_text(encoding="utf-8"), f"{folder}.{name}", package=False)
        parts = {one.removeprefix(f"{folder}.").partition(".")[0] for one in full if one.startswith(folder)}
        imports[name] = (parts & members.keys()) - {name}
    return imports


FOLDERS = sorted({module for path, module in modules() if path.name == "__init__.py"})


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_of_a_folder_do_not_import_one_another_in_a_circle(folder: str) -> None:
    """Imports for type checkers count too: a lower module describes its needs with a Protocol."""
    circle = in_circles(imports_within(folder))
    allowed = CIRCLES.get(folder, set())
    assert circle - allowed == set()
    assert allowed - circle == set(), "these are free now: take them off CIRCLES"


def test_a_circle_is_found() -> None:
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == {"a", "b", "c"}
    assert in_circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def test_the_imports_within_a_folder_are_found() -> None:
    imports = imports_within("trio_ws.websocket")
    assert {"closing", "readers", "write_buffer"} <= imports["connection"]
    assert "runtime" in imports["connection"], "it is imported for type checkers"


def test_every_module_has_a_layer() -> None:
    parts = {part(module) for _, module in modules()}
    assert {"errors", "options", "protocol"} <= parts
    assert parts - LAYERS.keys() == set(), "give it a layer in trio_ws/__init__.py and in LAYERS"


@pytest.mark.repeats
@pytest.mark.parametrize(("path", "module"), modules(), ids=[module for _, module in modules()])
def test_imports_go_down(path: Path, module: str) -> None:
    source = path.read_text(encoding="utf-8")
    assert wrong_imports(source, module, package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("trio_ws.errors", "from .protocol import frames"),
        ("trio_ws.errors", "from .options import Options"),
        ("trio_ws.protocol.frames", "from ..websocket.connection import WebSocket"),
        ("trio_ws.protocol.frames", "import trio"),
        ("trio_ws.protocol.frames", "from trio.abc import Stream"),
        ("trio_ws.websocket.connection", "if True:\n    import trio_ws.server.accepting"),
        ("trio_ws.client.connect", "def late():\n    from trio_ws import connect"),
        ("trio_ws.client.connect", "from .. import server"),
        ("trio_ws.rpc.session", "from trio_ws.client import connect"),
        ("trio_ws.client.client", "from ..server.server import serve"),
        ("trio_ws.server.server", "from ..testing import link"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(module: str, line: str) -> None:
    assert len(wrong_imports(line, module)) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("trio_ws.protocol.frames", "from .deflate import DeflateParams"),
        ("trio_ws.protocol.frames", "import triolike, zlib, wsproto"),
        ("trio_ws.protocol.frames", "from ..errors import CloseFrame"),
        ("trio_ws.client.connect", "from trio_ws import errors"),
        ("trio_ws.client.connect", "import trio"),
        ("trio_ws.testing.link", "from ..server.server import serve"),
    ],
)
def test_an_import_that_goes_down_is_allowed(module: str, line: str) -> None:
    assert wrong_imports(line, module) == []


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert imported_modules("from .frames import X", "trio_ws.protocol", package=True) == {
        "trio_ws.protocol.frames.X"
    }
    assert wrong_imports("from .server import serve", "trio_ws", package=True) == []


def pictured() -> list[tuple[str, int | None]]:
    """Return the paths in the picture of ``trio_ws/__init__.py``, with their layers."""
    found: list[tuple[str, int | None]] = []
    folders: list[tuple[int, str]] = []
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")), clean=False)
    assert text is not None
    for line in text.splitlines():
        listed = re.fullmatch(r"( {4,})([\w.]+/?) +(?:layer (-?\d+) )? *\S.*", line)
        if listed is None:
            continue
        indent, name, layer = len(listed[1]), listed[2], listed[3]
        while folders and folders[-1][0] >= indent:
            folders.pop()
        path = "".join(folder for _, folder in folders) + name
        found.append((path, None if layer is None else int(layer)))
        if name.endswith("/"):
            folders.append((indent, name))
    return found


def test_the_picture_lists_every_module_once() -> None:
    sources = {
        str(path.relative_to(PACKAGE))
        for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.c")]
        if path.name != "__init__.py"
    }
    listed = [path for path, _ in pictured() if not path.endswith("/")]
    assert sorted(listed) == sorted(sources)


def test_the_picture_gives_each_part_its_layer() -> None:
    shown = {
        path.removesuffix("/").removesuffix(".py"): layer for path, layer in pictured() if layer is not None
    }
    assert shown == {name: layer for name, layer in LAYERS.items() if name}
