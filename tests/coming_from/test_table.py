"""The table of statements in the documentation says what the tests here show, and no more."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from tests.coming_from.forms import form_of

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "statements.md"
MODULES = ("cello", "velocipy", "wsproto", "webshocket_features", "webshocket_reference")


def shown() -> list[tuple[str, str, str]]:
    """The statements that tests show: number, words, form."""
    rows = []
    for name in MODULES:
        module = importlib.import_module(f"tests.coming_from.test_{name}")
        for test, function in vars(module).items():
            number = re.match(r"test_([a-z]\d\d)_", test)
            if number is not None:
                words = inspect.getdoc(function) or ""
                rows.append((number[1].upper(), words, form_of(function)))
    return rows


def table_rows() -> list[str]:
    return [f"| {number} | {words} | {form} |" for number, words, form in shown()]


def test_the_table_has_each_statement_once() -> None:
    listed = re.findall(r"^\| [A-Z]\d\d \|.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == table_rows()


def test_numbers_are_in_order() -> None:
    numbers = [number for number, _, _ in shown()]
    assert len(set(numbers)) == len(numbers) > 90
    for letter in "CVPFA":
        mine = [int(number[1:]) for number in numbers if number[0] == letter]
        assert mine == list(range(1, len(mine) + 1))


def test_every_form_is_one_of_three() -> None:
    assert {form for _, _, form in shown()} == {"unchanged", "in another form", "in compat"}
    assert all("\n" not in words and words.endswith(".") for _, words, _ in shown())
