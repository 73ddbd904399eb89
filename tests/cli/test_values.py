"""Parsing of command-line arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.cli.values import Line, parse_headers, parse_kwargs, parse_line, parse_value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1),
        ("-2.5", -2.5),
        ("null", None),
        ("true", True),
        ('"1"', "1"),
        ('{"a": [1]}', {"a": [1]}),
        ("alice", "alice"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("", ""),
        ("[1", "[1"),
        ("1 2", "1 2"),
    ],
)
def test_an_argument_is_json_or_text(word: str, value: Any) -> None:
    assert parse_value(word) == value
    assert type(parse_value(word)) is type(value)


def test_kwargs() -> None:
    assert parse_kwargs('{"a": 1}') == {"a": 1}
    for text in ("[1]", "a=1", "{"):
        with pytest.raises(ValueError, match="is not a JSON object"):
            parse_kwargs(text)


def test_headers() -> None:
    assert parse_headers(("A: b:c", "X-Y:z")) == [("A", "b:c"), ("X-Y", "z")]
    for line in ("nothing", ": value"):
        with pytest.raises(ValueError, match="Name: value"):
            parse_headers((line,))


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("add 1 2", Line("add", [1, 2], {}, False)),
        ("  add  1   b=2 ", Line("add", [1], {"b": 2}, False)),
        ("*count_to 3", Line("count_to", [3], {}, True)),
        ('move [1, 2] to="the left"', Line("move", [[1, 2]], {"to": "the left"}, False)),
        ('put {"a": {"b": [1, 2]}} x={"c": 1}', Line("put", [{"a": {"b": [1, 2]}}], {"x": {"c": 1}}, False)),
        ("say hi 3rd NaN a.b=c 1=2 x=", Line("say", ["hi", "3rd", "NaN", "a.b=c", "1=2"], {"x": ""}, False)),
        ("set url=ws://h/?a=b", Line("set", [], {"url": "ws://h/?a=b"}, False)),
    ],
)
def test_a_line_is_a_call(line: str, call: Line) -> None:
    assert parse_line(line) == call


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("*", "a call is"),
        ("add [1, 2", r"begins with \["),
        ('add "1', 'begins with "'),
        ("add a=1 a=2", "a is given twice"),
    ],
)
def test_a_line_that_is_not_a_call(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_line(line)


@given(st.text(' *=[{"\\a1,', max_size=20))
def test_any_line_is_a_call_or_is_refused(line: str) -> None:
    try:
        call = parse_line(line)
    except ValueError:
        return
    assert line.split(maxsplit=1)[0].removeprefix("*") == call.method
