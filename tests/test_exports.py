"""The public interface: every public name is exported once, is documented, and shows its public module."""

from __future__ import annotations

import inspect
from types import ModuleType

import trio_ws
import trio_ws.errors
import trio_ws.options
import trio_ws.testing


def documented(thing: object) -> bool:
    """Return whether a class or function has a docstring that is not inherited or generated."""
    text = vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    # dataclass and NamedTuple generate "Name(field, ...)".
    return bool(text) and not str(text).startswith(f"{getattr(thing, '__name__', '')}(")


def described(module: ModuleType) -> dict[str, object]:
    """The classes and functions among a module's public names."""
    things = {name: getattr(module, name) for name in module.__all__}
    return {
        name: thing for name, thing in things.items() if inspect.isclass(thing) or inspect.isroutine(thing)
    }


def undocumented_members(cls: type) -> list[str]:
    """The public methods and properties that a class defines without a docstring."""
    return [
        f"{cls.__name__}.{name}"
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member))
        and not inspect.getdoc(member)
    ]


def test_every_public_name_exists_once() -> None:
    for module in (trio_ws, trio_ws.testing):
        assert len(set(module.__all__)) == len(module.__all__) > 0
        assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_no_public_name_is_missing() -> None:
    visible = {
        name
        for name, thing in vars(trio_ws).items()
        if not name.startswith("_") and not isinstance(thing, ModuleType) and name != "annotations"
    }
    assert visible - set(trio_ws.__all__) == set()
    for module in (trio_ws.errors, trio_ws.options):
        assert set(module.__all__) - set(trio_ws.__all__) == set()


def test_every_public_name_says_that_it_is_in_trio_ws() -> None:
    things = described(trio_ws)
    assert [name for name, thing in things.items() if getattr(thing, "__module__", None) != "trio_ws"] == []


def test_every_public_name_has_a_docstring() -> None:
    for module in (trio_ws, trio_ws.testing):
        assert [name for name, thing in described(module).items() if not documented(thing)] == []


def test_every_public_method_has_a_docstring() -> None:
    for module in (trio_ws, trio_ws.testing):
        classes = [thing for thing in described(module).values() if inspect.isclass(thing)]
        assert [member for cls in classes for member in undocumented_members(cls)] == []
