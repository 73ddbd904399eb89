"""How often the package says ``Any``.

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
MOST = 650


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
            elif isinstance(one, ast.Constant) and isinstance(one.value, str) and "Any" in one.value:
                visit_text(one.value, at)

    def visit_text(text: str, line: int) -> None:
        # An annotation in quotes; prose is no expression, or has no names in brackets.
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
