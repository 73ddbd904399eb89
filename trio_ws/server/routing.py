"""Routing: paths with typed parameters, tables of routes, and checks of handler functions.

Invariants:

- Which route matches depends on the paths only, never on the order in which they were added. The more
  specific one wins, compared from left to right.
- Matching takes linear time, whatever a client requests.
- An invalid path or function is an error where it is added, and the message says how to fix it.
- A text parameter that is joined to a folder never leads out of it.
"""

from __future__ import annotations

import functools
import inspect
import keyword
import re
import types
import typing
import uuid
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from trio_ws._types import PathParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from trio_ws._types import PathParameters

__all__ = ["REQUEST", "Pattern", "Table", "check_function", "is_async", "name_of"]


class _Converter(NamedTuple):
    type: Callable[[str], object]
    regex: str
    rank: int  # lower is more specific


# The rest of a path has no part "." or "..", nor anything that another system takes for a separator. It has
# no NUL, and no empty part, which at its beginning would be the root of the file system.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\\\0]+"
# Values that no parameter may have, for the same reason.
_ELSEWHERE = frozenset({".", ".."})

# The number of digits is bounded, because converting them takes more than linear time.
_CONVERTERS = {
    "uuid": _Converter(uuid.UUID, "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", 2),
    "int": _Converter(int, "-?[0-9]{1,100}", 4),
    "float": _Converter(float, r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?", 6),
    "str": _Converter(str, "[^/]+", 8),
    "path": _Converter(str, f"(?:{_PART}(?:/{_PART})*+/?)?", 10),
}

# One parameter per segment; two could be split in many ways.
_segment = re.compile(r"([^{}]*)\{([^{}:]*)(?::([^{}]*))?\}([^{}]*)").fullmatch


class Pattern:
    """The path of a route, such as ``/rooms/{room_id:int}``. A trailing ``/`` makes no difference.

    Raises:
        TypeError: ``path`` is not a str.
        ValueError: ``path`` is invalid; the message says why.

    Attributes:
        path: the path as written, without a trailing ``/``.
        types: the type of each parameter.
        shape: equal for two patterns that match the same paths, whatever the names of their parameters.
        rank: sorts patterns from the most to the least specific.
    """

    __slots__ = ("_match", "path", "rank", "shape", "types")

    def __init__(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"the path of a route must be a str, not {type(path).__name__}")
        if not path.startswith("/"):
            raise ValueError(f"the path of a route must begin with a slash; use {'/' + path!r}")
        if "?" in path or "#" in path:
            raise ValueError(f"{path!r} is not just a path; find the query in ws.query_params")
        self.path = path[:-1] if path.endswith("/") and path != "/" else path
        self.types: dict[str, Callable[[str], object]] = {}
        shape: list[object] = []
        rank: list[tuple[int, int]] = []
        regex: list[str] = []
        segments = self.path[1:].split("/") if self.path != "/" else []
        for index, segment in enumerate(segments):
            if not segment:
                raise ValueError(f"the path {path!r} has an empty segment; remove a slash")
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
                f"the segment {segment!r} of the path {path!r} must have exactly one parameter:"
                " {name} or {name:int}"
            )
        before, name, kind, after = match.groups("")
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} in the path {path!r} is not a valid parameter name")
        if name in self.types:
            raise ValueError(f"the path {path!r} has two parameters {name!r}; rename one")
        if "{" + name + "}" in segment:
            kind = "str"
        if kind not in _CONVERTERS:
            raise ValueError(
                f"{kind!r} in the path {path!r} is not a converter; use {', '.join(sorted(_CONVERTERS))}"
            )
        if kind == "path" and (before or after or not last):
            raise ValueError(
                f"{{{name}:path}} matches the rest of a path, so it must be the last segment of {path!r}"
            )
        return before, name, kind, after

    def match(self, path: str) -> PathParameters | None:
        """Return the parameters of a decoded path, or None if it does not match."""
        match = self._match(path)
        if match is None or not _ELSEWHERE.isdisjoint(match.groups()):
            return None
        return {name: make(match[name]) for name, make in self.types.items()}

    def under(self, prefix: Pattern) -> Pattern:
        """Return this pattern below another path."""
        return self if prefix.path == "/" else Pattern(prefix.path + self.path)


class Routed(Protocol):
    """An entry of a `Table`."""

    @property
    def pattern(self) -> Pattern: ...


R = TypeVar("R", bound=Routed)


class Table(Generic[R]):
    """Routes by path. Several routes may have the same path."""

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

    def find(self, path: str) -> Iterator[tuple[R, PathParameters]]:
        """Yield the routes that match a decoded path, most specific first, each with its parameters."""
        found = False
        for route, params in self._find(path):
            found = True
            yield route, params
        if not found and path.endswith("/") and path != "/":
            yield from self._find(path[:-1])

    def _find(self, path: str) -> Iterator[tuple[R, PathParameters]]:
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


#: The name of a parameter that gets a WebSocket's opening request, as in Cello.
REQUEST = "request"

_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)

# -- functions --------------------------------------------------------------------------------------


def is_async(function: object) -> bool:
    """Whether calling ``function`` returns an awaitable. Sees through wrappers and partials."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(inspect.unwrap(function))
    )


def name_of(function: object) -> str:
    """Return a name for messages."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def check_function(
    function: object, first: str, pattern: Pattern | None = None, *, second: str = ""
) -> tuple[str, ...]:
    """Check that a handler can be called with its first argument and the parameters of its path.

    Args:
        function: the user's function.
        first: describes the first argument in messages.
        pattern: the path of its route, or None.
        second: describes the second argument in messages, if there is one.

    Returns:
        The path parameters that it accepts as keyword arguments, and ``"request"``, where a handler of
        WebSockets takes the opening request under that name.

    Raises:
        TypeError: it is not a function, is a generator, or has another signature.
    """
    if inspect.iscoroutine(function):
        function.close()
        raise TypeError("the handler must be a function; pass it without calling it")
    if not callable(function) or inspect.isclass(function):
        raise TypeError(f"the handler must be a function of one {first}, not {function!r}; use async def")
    inner = inspect.unwrap(function)
    if inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        raise TypeError(f"the handler {name_of(function)} contains yield; a handler cannot be a generator")
    try:
        signature = inspect.signature(function)
    except ValueError:  # not written in Python
        return ()
    params = pattern.types if pattern is not None else {}
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise TypeError(
            f"the handler {name_of(function)} takes no argument; its first one must be the {first}"
        )
    if parameters[0].name in params:
        raise TypeError(
            f"the first argument of the handler {name_of(function)} must be the {first},"
            f" not the path parameter {parameters[0].name!r}"
        )
    if second:
        _check_second(function, parameters[1:2], second, params)
    wanted: list[str] = []
    for parameter in parameters[2 if second else 1 :]:
        if parameter.kind == inspect.Parameter.VAR_KEYWORD:
            wanted = list(params)
            break
        if parameter.kind == inspect.Parameter.VAR_POSITIONAL:
            continue
        if parameter.name in params and parameter.kind != inspect.Parameter.POSITIONAL_ONLY:
            _check_annotation(function, parameter, params[parameter.name])
            wanted.append(parameter.name)
        elif _takes_request(parameter, first):
            wanted.append(parameter.name)
        elif parameter.default is inspect.Parameter.empty:
            where = f"the path {pattern.path!r} has no {{{parameter.name}}}" if pattern else "it has no path"
            raise TypeError(
                f"the handler {name_of(function)} requires parameter {parameter.name!r}, but {where}"
            )
    return tuple(wanted)


def _check_second(
    function: object, found: list[inspect.Parameter], second: str, params: Mapping[str, object]
) -> None:
    if not found or found[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise TypeError(f"the handler {name_of(function)} must take the {second} as its second argument")
    if found[0].name in params:
        raise TypeError(
            f"the second argument of the handler {name_of(function)} must be the {second},"
            f" not the path parameter {found[0].name!r}"
        )


def _takes_request(parameter: inspect.Parameter, first: str) -> bool:
    required = parameter.default is inspect.Parameter.empty
    named = parameter.name == REQUEST and parameter.kind != inspect.Parameter.POSITIONAL_ONLY
    return first == "WebSocket" and named and required


def _check_annotation(function: object, parameter: inspect.Parameter, given: Callable[[str], object]) -> None:
    """Reject an annotation that cannot match the type of the path parameter. Unknown annotations pass."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))  # type: ignore[arg-type]  # noqa: S307
        except Exception:  # noqa: BLE001 - a name for type checkers only, which cannot be resolved
            return
    if annotation is inspect.Parameter.empty:
        return
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    assert isinstance(given, type)
    if all(type(option) is type and not _takes(option, given) for option in options):
        name = annotation.__name__ if isinstance(annotation, type) else annotation
        raise TypeError(
            f"the handler {name_of(function)} annotates {parameter.name} as {name}, but its path provides"
            f" {'an int' if given is int else 'a ' + given.__name__}; change one of them"
        )


def _takes(annotation: type, given: type) -> bool:
    return issubclass(given, annotation) or (annotation is float and given is int)
