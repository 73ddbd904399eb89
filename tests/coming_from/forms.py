"""The form in which a statement of another library's documentation applies to trio_ws.

Each test in this folder is a program for one statement. Its name begins with the number of the statement, its
docstring is the statement in our words, and one of these decorators sets the form. test_table.py checks that the
table in docs/how-to/statements.md is the same.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["form_of", "in_another_form", "in_compat", "unchanged"]

T = TypeVar("T")


def _form(name: str) -> Any:
    def mark(test: T) -> T:
        test.form = name  # type: ignore[attr-defined]
        return test

    return mark


#: The program of the page runs with another import, and ``await`` where trio requires it.
unchanged = _form("unchanged")
#: The feature has another interface.
in_another_form = _form("in another form")
#: `trio_ws.compat` has the same interface.
in_compat = _form("in compat")


def form_of(test: Any) -> str:
    form: str = test.form
    return form
