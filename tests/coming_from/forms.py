"""How a statement of another library's documentation holds here.

Each test below is a program for one statement. Its name begins with the statement's number, its docstring is
the statement in our words, and one of these decorators says in which form it holds. The table in
docs/how-to/statements.md says the same, which test_table.py sees to.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["as_it_stands", "form_of", "in_compat", "in_trio_form"]

T = TypeVar("T")


def _form(name: str) -> Any:
    def mark(test: T) -> T:
        test.form = name  # type: ignore[attr-defined]
        return test

    return mark


#: The program of the page runs with another import, and ``await`` where trio needs it.
as_it_stands = _form("as it stands")
#: The same is had in another form.
in_trio_form = _form("in trio's form")
#: `trio_ws.compat` has it in the page's form.
in_compat = _form("in compat")


def form_of(test: Any) -> str:
    form: str = test.form
    return form
