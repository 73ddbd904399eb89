"""Routing: paths with typed parameters, tables of them, and the functions that answer to them.

What always holds:

- Which route answers depends on the paths alone, never on the order in which they were added: what is
  more specific comes first, from left to right.
- Matching costs linear time, whatever a client asks for.
- What is wrong with a path or a function is an error where it is added, with the fix in it.
- A parameter that is text leads nowhere else when it is joined to a folder.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import re
import types
import typing
import uuid
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Pattern", "Table", "check_function", "is_async", "name_of"]


class _Converter(NamedTuple):
    type: Callable[[str], Any]
    regex: str
    rank: int  # the lower, the more specific


# The rest of a path has no part "." or "..", and nothing that other systems take for a separator. It has no
# NUL and no empty part: at its beginning that would be the root of the file system.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\\\0]+"
# What no parameter is, for the same reason.
_ELSEWHERE = frozenset({".", ".."})

# Digits have a bound, because making a number of them takes more than linear time.
_CONVERTERS = {
    "uuid": _Converter(uuid.UUID, "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", 2),
    "int": _Converter(int, "-?[0-9]{1,100}", 4),
    "float": _Converter(float, r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?", 6),
    "str": _Converter(str, "[^/]+", 8),
    "path": _Converter(str, f"(?:{_PART}(?:/{_PART})*+/?)?", 10),
}

# One parameter in a segment: two of them could be split in many ways.
_segment = re.compile(r"([^{}]*)\{([^{}:]*)(?::([^{}]*))?\}([^{}]*)").fullmatch


class Pattern:
    """The path of a route: ``/rooms/{room_id:int}``. A ``/`` at its end makes no difference.

    Raises:
        TypeError: it is no str.
        ValueError: it is no path; the message says why.

    Attributes:
        path: as it was written, without a ``/`` at its end.
        types: what each parameter is given as.
        shape: equal for two patterns that match the same paths, whatever their parameters are called.
        rank: patterns in the order of their ranks are tried from the most to the least specific.
    """

    __slots__ = ("_match", "path", "rank", "shape", "types")

    def __init__(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"the path of a route is a str, not {type(path).__name__}")
        if not path.startswith("/"):
            raise ValueError(f"the path of a route begins with a slash; write {'/' + path!r}")
        if "?" in path or "#" in path:
            raise ValueError(f"{path!r} is more than a path; a query is in ws.query_params")
        self.path = path[:-1] if path.endswith("/") and path != "/" else path
        self.types: dict[str, Callable[[str], Any]] = {}
        shape: list[object] = []
        rank: list[tuple[int, int]] = []
        regex: list[str] = []
        segments = self.path[1:].split("/") if self.path != "/" else []
        for index, segment in enumerate(segments):
            if not segment:
                raise ValueError(f"the path {path!r} has an empty segment; leave out one slash")
            if "{" not in segment and "}" not in segment:
                shape.append(segment)
                rank.append((0, 0))
                regex.append("/" + re.escape(segment))
                continue
            before, name, kind, after = self._parameter(path, segment, last=index == len(segments) - 1)
            converter = _CONVERTERS[kind]
            self.types[name] = converter.type
            affixes = len(before) + len(after)
            shape.append((before, kind, after))
            rank.append((converter.rank - bool(affixes), -affixes))
            regex.append(f"/{re.escape(before)}(?P<{name}>{converter.regex}){re.escape(after)}")
        self.shape = tuple(shape)
        self.rank = tuple(rank)
        self._match = re.compile("".join(regex) or "/", re.DOTALL).fullmatch

    def _parameter(self, path: str, segment: str, *, last: bool) -> tuple[str, str, str, str]:
        match = _segment(segment)
        if match is None:
            raise ValueError(
                f"the segment {segment!r} of the path {path!r} is to have one parameter:"
                " {name} or {name:int}"
            )
        before, name, kind, after = match.groups("")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} in the path {path!r} is no name for a parameter")
        if name in self.types:
            raise ValueError(f"the path {path!r} has two parameters {name!r}; rename one")
        if "{" + name + "}" in segment:
            kind = "str"
        if kind not in _CONVERTERS:
            raise ValueError(
                f"{kind!r} in the path {path!r} is no converter; use one of {', '.join(sorted(_CONVERTERS))}"
            )
        if kind == "path" and (before or after or not last):
            raise ValueError(
                f"{{{name}:path}} takes the rest of a path, so it is the last segment of {path!r}"
            )
        return before, name, kind, after

    def match(self, path: str) -> dict[str, Any] | None:
        """The parameters of a decoded path, or None where it does not match."""
        match = self._match(path)
        if match is None or not _ELSEWHERE.isdisjoint(match.groups()):
            return None
        return {name: make(match[name]) for name, make in self.types.items()}

    def under(self, prefix: Pattern) -> Pattern:
        """The same below another path."""
        return self if prefix.path == "/" else Pattern(prefix.path + self.path)


class Routed(Protocol):
    """What a `Table` holds."""

    @property
    def pattern(self) -> Pattern: ...


R = TypeVar("R", bound=Routed)


class Table(Generic[R]):
    """Routes by path. Several may have one path."""

    def __init__(self) -> None:
        self._static: dict[str, list[R]] = {}
        self._dynamic: list[R] = []

    def add(self, route: R) -> None:
        """Add a route."""
        if route.pattern.types:
            self._dynamic.append(route)
            self._dynamic.sort(key=_rank)
        else:
            self._static.setdefault(route.pattern.path, []).append(route)

    def find(self, path: str) -> Iterator[tuple[R, dict[str, Any]]]:
        """The routes that match a decoded path, the most specific first, each with its parameters."""
        found = False
        for route, params in self._find(path):
            found = True
            yield route, params
        if not found and path.endswith("/") and path != "/":
            yield from self._find(path[:-1])

    def _find(self, path: str) -> Iterator[tuple[R, dict[str, Any]]]:
        for route in self._static.get(path, ()):
            yield route, {}
        for route in self._dynamic:
            params = route.pattern.match(path)
            if params is not None:
                yield route, params

    def __iter__(self) -> Iterator[R]:
        for routes in self._static.values():
            yield from routes
        yield from self._dynamic


def _rank(route: Routed) -> tuple[tuple[int, int], ...]:
    return route.pattern.rank


_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)

# -- functions --------------------------------------------------------------------------------------


def is_async(function: object) -> bool:
    """Whether calling it gives something to await: an async function, or what wraps or partly applies one."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(inspect.unwrap(function))
    )


def name_of(function: object) -> str:
    """A name for error texts and logs."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def check_function(function: object, first: str, pattern: Pattern | None = None) -> tuple[str, ...]:
    """Check that a handler can be called with what ``first`` names, and with what its path gives.

    Args:
        function: what the user gave.
        first: what its first argument will be, for the error's text.
        pattern: the path of its route; None where there is none.

    Returns:
        The parameters of the path that it wants as keyword arguments.

    Raises:
        TypeError: it is no function, is a generator, or has another signature.
    """
    if inspect.iscoroutine(function):
        function.close()
        raise TypeError("the handler is a function; pass it without calling it")
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"the handler is a function of one {first}, not {function!r}; write async def")
    inner = inspect.unwrap(function)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        raise TypeError(f"the handler {name_of(function)} has a yield; a handler is no generator")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of something that is not written in Python
        return ()
    params = pattern.types if pattern is not None else {}
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise TypeError(f"the handler {name_of(function)} takes no argument; its first one is the {first}")
    if parameters[0].name in params:
        raise TypeError(
            f"the first argument of the handler {name_of(function)} is the {first},"
            f" not the parameter {parameters[0].name!r} of its path"
        )
    wanted: list[str] = []
    for parameter in parameters[1:]:
        if parameter.kind == inspect.Parameter.VAR_KEYWORD:
            wanted = list(params)
            break
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.name in params and parameter.kind != inspect.Parameter.POSITIONAL_ONLY:
            _check_annotation(function, parameter, params[parameter.name])
            wanted.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            where = f"the path {pattern.path!r} has no {{{parameter.name}}}" if pattern else "it has no path"
            raise TypeError(
                f"the handler {name_of(function)} takes {parameter.name!r}, which it will not get: {where}"
            )
    return tuple(wanted)


def _check_annotation(function: object, parameter: inspect.Parameter, given: Callable[[str], Any]) -> None:
    """Refuse an annotation that surely does not fit what the path gives; what cannot be judged passes."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))  # type: ignore[arg-type]  # noqa: S307
        except Exception:  # noqa: BLE001 - a name for type checkers alone; it cannot be judged
            return
    if annotation is inspect.Parameter.empty:
        return
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    assert isinstance(given, type)
    if all(type(option) is type and not _takes(option, given) for option in options):
        name = getattr(annotation, "__name__", annotation)
        raise TypeError(
            f"the handler {name_of(function)} takes {parameter.name} as {name}, but its path gives"
            f" {'an int' if given is int else 'a ' + given.__name__}; change one of them"
        )


def _takes(annotation: type, given: type) -> bool:
    return issubclass(given, annotation) or (annotation is float and given is int)
