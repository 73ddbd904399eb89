"""Parsing of arguments: a word that is valid JSON is decoded, and any other word is text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec

if TYPE_CHECKING:
    from trio_ws._types import JSONObject, Value

__all__ = ["Line", "parse_headers", "parse_kwargs", "parse_line", "parse_value"]

_WORD = re.compile(r"\S+")
_KEY = re.compile(r"([A-Za-z_]\w*)=")


class Line(NamedTuple):
    """A call that was typed at the prompt."""

    method: str
    args: list[Value]
    kwargs: JSONObject
    stream: bool


def parse_value(word: str) -> Value:
    """Return the value of a word on the command line."""
    try:
        return msgspec.json.decode(word)
    except (ValueError, RecursionError):
        return word


def parse_kwargs(text: str) -> JSONObject:
    """Parse the JSON object of ``--kwargs``.

    Raises:
        ValueError: the text is not a JSON object.
    """
    found = parse_value(text)
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 - the value of an argument is wrong, not its Python type
            f"{text!r} is not a JSON object such as '{{\"name\": 1}}'"
        )
    return found


def parse_headers(lines: tuple[str, ...]) -> list[tuple[str, str]]:
    """Parse the headers of ``--header``.

    Raises:
        ValueError: one is not of the form ``Name: value``.
    """
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not (name.strip() and colon):
            raise ValueError(f"{line!r} is not a header; write it as 'Name: value'")
        headers.append((name.strip(), value.strip()))
    return headers


def parse_line(line: str) -> Line:
    """Parse a line such as ``move 3 [1, 2] to="the left"``. ``*`` before the method means a stream.

    Raises:
        ValueError: the line has no method, an argument begins like JSON but is invalid, or a name is given
            twice.
    """
    found = _WORD.search(line)
    if found is None or not found[0].removeprefix("*"):
        raise ValueError("a call is: method argument name=value ..., with arguments in JSON or as text")
    method = found[0]
    args: list[Value] = []
    kwargs: JSONObject = {}
    place = found.end()
    while (found := _WORD.search(line, place)) is not None:
        key = _KEY.match(line, found.start())
        value, place = _value_at(line, found.start() if key is None else key.end())
        if key is None:
            args.append(value)
        elif key[1] in kwargs:
            raise ValueError(f"{key[1]} is given twice")
        else:
            kwargs[key[1]] = value
    return Line(method.removeprefix("*"), args, kwargs, method.startswith("*"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are not JSON


_decoder = json.JSONDecoder(parse_constant=_no_constant)


def _value_at(line: str, start: int) -> tuple[Value, int]:
    """Return the value at a position, and its end. JSON may contain spaces; other words end at a space."""
    word = _WORD.match(line, start)
    if word is None:  # name= at the end of the line
        return "", start
    try:
        value, end = _decoder.raw_decode(line, start)
    except (ValueError, RecursionError) as exc:
        if word[0][0] in '{["':
            raise ValueError(f"a value that begins with {word[0][0]} must be JSON: {exc}") from None
        return word[0], word.end()
    if end < len(line) and not line[end].isspace():  # such as 3rd
        return word[0], word.end()
    return value, end
