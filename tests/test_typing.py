"""The number of uses of ``Any`` in the package.

``Any`` switches the type checkers off for what it describes. It is for values whose type only the program
knows, and `trio_ws._types` names these. A parameter that is only passed on or inspected is an ``object``, and
an object of another library a Protocol.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trio_ws"

#: Uses of ``Any`` in trio_ws, imports excepted. Only to be lowered.
MOST = 134


def names_of_any(tree: ast.Module) -> set[str]:
    """The names by which a module knows `typing.Any`."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("typing", "typing_extensions")
        for alias in node.names
        if alias.name == "Any"
    }


def uses_of_any(source: str) -> list[int]:
    """The lines of a module that use `typing.Any`, once for each use; imports do not count."""
    tree = ast.parse(source)
    names = names_of_any(tree)
    found: list[int] = []

    def visit(node: ast.AST, line: int) -> None:
        for one in ast.walk(node):
            at = getattr(one, "lineno", 1) if line == 0 else line
            if (isinstance(one, ast.Name) and one.id in names) or (
                isinstance(one, ast.Attribute) and one.attr == "Any" and ast.unparse(one.value) == "typing"
            ):
                found.append(at)
            elif isinstance(one, ast.Constant) and isinstance(one.value, str) and "Any" in one.value != "Any":
                visit_text(one.value, at)

    def visit_text(text: str, line: int) -> None:
        # An annotation in quotes. Prose is not an expression, or has no names in brackets.
        try:
            expression = ast.parse(text, mode="eval")
        except SyntaxError:
            return
        visit(expression, line)

    visit(tree, 0)
    return sorted(found)


def test_any_is_the_exception() -> None:
    uses = {path: len(uses_of_any(path.read_text(encoding="utf-8"))) for path in PACKAGE.rglob("*.py")}
    total = sum(uses.values())
    most = sorted(uses, key=lambda path: -uses[path])[:10]
    where = ", ".join(f"{path.relative_to(PACKAGE)}: {uses[path]}" for path in most)
    assert total <= MOST, (
        f"trio_ws uses Any {total} times; at most {MOST} are allowed. Use object for what is only passed on,"
        f" a Protocol, or a name of trio_ws._types for values of the program. Most are in {where}"
    )


def test_aliases_of_any_have_one_place() -> None:
    """A name for Any anywhere else would only hide it from the count."""
    hidden = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = names_of_any(tree)
        for node in tree.body:
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Name) and value.id in names and path.name != "_types.py":
                hidden.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert hidden == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from typing import Any\nx: Any = 1", 1),
        ("from typing import Any\ndef f(x: list[Any]) -> dict[str, Any]: return Any", 3),
        ("from typing import Any as A\nx: A", 1),
        ("import typing\nx: typing.Any", 1),
        ("from typing import Any\nx: 'list[Any]'", 1),
        ("from typing import Any\nx = 'Any number of tasks'", 0),
        ("from trio_ws.predicates import Any\nx = Any()", 0),
    ],
)
def test_uses_are_counted(source: str, count: int) -> None:
    assert len(uses_of_any(source)) == count


# -- private names -------------------------------------------------------------------------------------------

#: Private names of other objects that modules use: the reason, and the names. Only to be shortened.
PRIVATE: dict[str, tuple[str, str]] = {
    "_blocks.py": (
        "asyncio has no public function that does not raise",
        "_get_running_loop",
    ),
    "_late_scope.py": (
        "trio has no public way to put a cancel scope around code that runs",
        "_activate_cancel_status _cancel_status _has_been_entered",
    ),
    "channels/broadcast.py": (
        "a fast path: once for each connection",
        "_options _threshold _write_buffer",
    ),
    "hosting/ticks.py": (
        "where trio waits for files",
        "_kqueue",
    ),
    "wall.py": (
        "nurseries that user code left open; trio has no public way to close them",
        "_nursery _scope",
    ),
    "websocket/_checkpoint.py": (
        "trio has no public way to ask whether a task is cancelled that is as fast",
        "_cancel_points _cancel_status _runner",
    ),
    "websocket/closing.py": (
        "a part calls its owner",
        "_ended",
    ),
    "websocket/frame_log.py": (
        "a part calls its owner",
        "_log_extra",
    ),
    "websocket/internals.py": (
        "hands out the parts of a WebSocket",
        (
            "_accept _closing _deflate _fragmenting _let_in _liveness _opened _opening _options _post "
            "_reader _receive_buffer _send _shutdown _start_application_close _wait_for_message "
            "_wait_for_room _write_buffer"
        ),
    ),
}

#: Objects of these names may only be used in the module of their class.
OWNERS = {
    "ws": "websocket/connection.py",
    "_ws": "websocket/connection.py",
    "connection": "rpc/client_connection.py",
}

#: Names with an underscore that are public: methods of NamedTuples.
PUBLIC = {"_asdict", "_fields", "_make", "_replace"}


def declared_names(tree: ast.Module) -> set[str]:
    """The private names that the classes of a module declare: methods, and attributes of themselves."""
    found = set()
    for one in ast.walk(tree):
        if isinstance(one, ast.ClassDef):
            for part in one.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(part.name)
                elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    found.add(part.target.id)
                elif isinstance(part, ast.Assign):
                    found.update(target.id for target in part.targets if isinstance(target, ast.Name))
        elif (
            isinstance(one, ast.Attribute)
            and isinstance(one.ctx, ast.Store)
            and isinstance(one.value, ast.Name)
            and one.value.id == "self"
        ):
            found.add(one.attr)
    return found


def uses_of_private_names(source: str, path: str = "") -> list[tuple[str, bool]]:
    """The private names of other objects that a module uses, with whether it writes them.

    Names that the classes of the module declare are its own: it may read them from any of their instances.
    """
    tree = ast.parse(source)
    own = declared_names(tree)
    modules = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    found = []
    for one in ast.walk(tree):
        if not isinstance(one, ast.Attribute) or not one.attr.startswith("_") or one.attr.startswith("__"):
            continue
        owner = one.value
        name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
        base = owner
        while isinstance(base, ast.Attribute):
            base = base.value
        if (
            (isinstance(owner, ast.Name) and owner.id in ("self", "cls"))
            or (isinstance(owner, ast.Call) and ast.unparse(owner.func) == "super")
            or one.attr in PUBLIC
            or (isinstance(base, ast.Name) and base.id in modules)  # of other libraries
            or (one.attr in own and OWNERS.get(name, path) == path)
        ):
            continue
        found.append((one.attr, isinstance(one.ctx, ast.Store)))
    return found


def test_private_names_of_other_objects_are_listed() -> None:
    """A module may read the private names of its own classes. Other names are exceptions."""
    unlisted, unused = [], []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        uses = uses_of_private_names(file.read_text(encoding="utf-8"), path)
        listed = set(PRIVATE.get(path, ("", ""))[1].split())
        unlisted += [f"{path}: {name}" for name, _ in uses if name not in listed]
        unused += [f"{path}: {name}" for name in listed - {name for name, _ in uses}]
    assert unlisted == [], (
        "give what is used a name without an underscore if its class is internal, or a function in the module"
        " of its class, or take it from trio_ws.websocket.internals"
    )
    assert unused == [], "these are not used any more: take them off PRIVATE"


def test_private_names_of_other_objects_are_not_written() -> None:
    written = []
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        uses = uses_of_private_names(file.read_text(encoding="utf-8"), path)
        written += [
            f"{path}: {name}" for name, writes in uses if writes and name not in WRITTEN.get(path, ())
        ]
    assert written == []


#: Private names of other libraries' objects that have to be written.
WRITTEN = {
    "_late_scope.py": ("_has_been_entered", "_cancel_status"),
    "wall.py": ("_nursery", "_scope"),
    "websocket/_checkpoint.py": ("_cancel_points",),
}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x._y", [("_y", False)]),
        ("x._y = 1", [("_y", True)]),
        ("a.b._y()", [("_y", False)]),
        ("def f(self): self._y", []),
        ("class A:\n    def _y(self): super()._y()", []),
        ("class A:\n    def _y(self, other): other._y()", []),
        ("class A:\n    def __init__(self): self._y = 1\ndef f(a): return a._y", []),
        ("class A:\n    def _closing(self): self._ws._closing", [("_closing", False)]),
        ("x._replace(a=1)", []),
        ("import asyncio\nasyncio._y()", []),
        ("x.__class__", []),
    ],
)
def test_uses_of_private_names_are_found(source: str, found: list[tuple[str, bool]]) -> None:
    assert uses_of_private_names(source, "app/app.py") == found
