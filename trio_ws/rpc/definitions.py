"""Checks of a handler class when it is defined, for mistakes that would otherwise show with the first client.

Invariants:

- Only code that could not work is refused. Code that cannot be judged is accepted, some of it with a warning.
- Each error message shows the line to write instead.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import inspect
import types
import typing
import uuid
from inspect import Parameter
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_ws._types import ANY_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence


__all__ = [
    "Hook",
    "check_connection",
    "check_hooks",
    "connection_names",
    "forgotten_connection",
    "layers",
    "looks_like_argument",
    "mistaken_hooks",
]

#: The maximum number of decorators on one function that are looked through.
_MAX_LAYERS = 64
#: Types of arguments. A connection is not an instance of any of these.
_VALUES = (
    *(int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, type(None)),
    *(dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID),
    *(enum.Enum, msgspec.Struct, collections.abc.AsyncIterable, trio.abc.ReceiveChannel),
)

#: Parts of the usual names of the parameter for the connection, and whole names.
_CONNECTION_WORDS = ("conn", "client", "ws", "sock", "peer", "ctx", "context", "session", "caller", "user")
_CONNECTION_NAMES = frozenset({"c", "s", "me", "who", "them", "other", "remote", "sender", "member"})


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """How a hook of the handler is called.

    Attributes:
        parameters: the names of its parameters after ``self``.
        kind: ``"async"``, ``"plain"``, or ``"either"``.
    """

    parameters: tuple[str, ...]
    kind: str

    def line(self, name: str) -> str:
        """Return the ``def`` line of a hook with this name."""
        start = "async def" if self.kind == "async" else "def"
        return f"{start} {name}({', '.join(('self', *self.parameters))})"


def layers(function: object) -> Iterator[types.FunctionType]:
    """Yield the functions that a call runs through, the outermost first.

    A decorator is looked through if it sets ``__wrapped__``.
    """
    for _ in range(_MAX_LAYERS):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType | staticmethod | classmethod):
            function = function.__func__
        else:
            call = function if inspect.isfunction(function) else type(function).__call__
            if inspect.isfunction(call):
                yield call
            function = getattr(function, "__wrapped__", None)
            if function is None:
                return


# -- hooks ------------------------------------------------------------------------------------------


def check_hooks(cls: type, base: type, hooks: Mapping[str, Hook]) -> None:
    """Check the hooks that a class defines, or inherits from classes other than ``base``.

    Raises:
        TypeError: a hook does not accept its arguments, must be async but is not, or the other way round.
    """
    for name, hook in hooks.items():
        member = inspect.getattr_static(cls, name, None)
        if not inspect.isfunction(member) or member is inspect.getattr_static(base, name, None):
            continue
        where = f"{cls.__name__}.{name}"
        signature = inspect.signature(member)
        try:
            signature.bind(None, *hook.parameters)
        except TypeError:
            takes = ", ".join(map(_written, list(signature.parameters.values())[1:]))
            raise TypeError(
                f"{where} is called with ({', '.join(hook.parameters)}), but takes ({takes});"
                f" write: {hook.line(name)}"
            ) from None
        _check_kind(where, name, member, hook)


def _check_kind(where: str, name: str, member: object, hook: Hook) -> None:
    found = list(layers(member))
    if any(inspect.isasyncgenfunction(one) or inspect.isgeneratorfunction(one) for one in found):
        raise TypeError(f"{where} has a yield, so calling it would not run it; write: {hook.line(name)}")
    is_async = any(map(inspect.iscoroutinefunction, found))
    if hook.kind == "plain" and is_async:
        raise TypeError(f"{where} is async, but is called from plain code; write: {hook.line(name)}")
    # A decorator without __wrapped__ may return the awaitable of an async function.
    if hook.kind == "async" and not is_async and len(found) == 1 and not _gives_awaitable(found[0]):
        raise TypeError(f"{where} is not async; write: {hook.line(name)}")


def mistaken_hooks(
    cls: type, base: type, others: Mapping[str, str], is_method: Callable[[object], bool]
) -> list[str]:
    """Return the texts of warnings about hooks that a class defines under names that nothing calls.

    A class that has the hook itself uses the other name for a purpose of its own.

    Args:
        cls: the class.
        base: the class that calls the hooks.
        others: the names of hooks in other libraries, and the names of the same hooks here.
        is_method: whether clients call a function.
    """
    return [
        f"{cls.__name__}.{name} is not called by trio_ws; the hook is called {hook}"
        for name, hook in others.items()
        if inspect.isfunction(vars(cls).get(name))
        and not is_method(vars(cls)[name])
        and inspect.getattr_static(cls, hook) is inspect.getattr_static(base, hook)
    ]


def _gives_awaitable(function: types.FunctionType) -> bool:
    returns = str(function.__annotations__.get("return", ""))
    return function.__name__ == "<lambda>" or "Awaitable" in returns or "Coroutine" in returns


# -- methods ----------------------------------------------------------------------------------------


def check_connection(where: str, function: object, parameters: Sequence[Parameter], *, bound: bool) -> None:
    """Check that the first parameter of a method can be the connection.

    Args:
        where: the method's name, for error messages.
        function: the method.
        parameters: its parameters without ``self``, so the connection comes first.
        bound: whether ``self`` comes before them.

    Raises:
        TypeError: there is no such parameter, or it is annotated with the type of an argument.
    """
    first = parameters[0] if parameters else None
    if first is not None and first.kind == Parameter.VAR_POSITIONAL:
        return
    if first is not None and first.kind <= Parameter.POSITIONAL_OR_KEYWORD:
        if not _is_value(_resolved(first.annotation, function)):
            return
        problem = f"must take the connection as its first parameter, but that is {_written(first)!r}"
    else:
        problem = "must take the connection as its first parameter"
    raise TypeError(f"{where} {problem}; write: {_line(where, function, parameters, bound=bound)}")


def _line(where: str, function: object, parameters: Sequence[Parameter], *, bound: bool = True) -> str:
    """Return the ``def`` line of a method with a parameter for the connection."""
    names = [*(["self"] if bound else []), "connection", *map(_written, parameters)]
    inmost = next(iter(list(layers(function))[-1:]), None)
    start = "def" if inmost is not None and not _is_async(inmost) else "async def"
    return f"{start} {where.rpartition('.')[2]}({', '.join(names)})"


def forgotten_connection(
    where: str, function: object, parameters: Sequence[Parameter], known: Collection[str]
) -> str:
    """Return the text of a warning if a method has probably no parameter for the connection; otherwise "".

    Nobody can tell from ``def add(self, a, b)`` alone. If another parameter is annotated, the first one was
    left without an annotation on purpose, because the connection is no argument.

    Args:
        where: the method's name.
        function: the method.
        parameters: its parameters without ``self``.
        known: names that hooks of the same class give to the connection.
    """
    if not parameters or not looks_like_argument(parameters[0]) or parameters[0].name in known:
        return ""
    if any(one.annotation is not Parameter.empty for one in parameters):
        return ""
    first = parameters[0].name
    return (
        f"the first parameter of {where}, {first}, gets the connection; write:"
        f" {_line(where, function, parameters)}; if {first} is the connection, annotate it:"
        f" {first}: ClientConnection"
    )


def connection_names(cls: type, hooks: Mapping[str, Hook]) -> set[str]:
    """Return the names that the hooks of a class give to the connection."""
    names = set()
    for name, hook in hooks.items():
        member = inspect.getattr_static(cls, name, None)
        if hook.parameters[0] == "connection" and inspect.isfunction(member):
            names.update(list(inspect.signature(member).parameters)[1:2])
    return names


def looks_like_argument(parameter: Parameter) -> bool:
    """Return whether the parameter for the connection has no annotation, and an unusual name."""
    if parameter.annotation is not Parameter.empty or parameter.kind > Parameter.POSITIONAL_OR_KEYWORD:
        return False
    name = parameter.name.lower()
    if name.startswith("_") or name in _CONNECTION_NAMES:
        return False
    return not any(word in name for word in _CONNECTION_WORDS)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _written(parameter: Parameter) -> str:
    """Return a parameter as it is written in the source, even if its annotation is a string."""
    if isinstance(parameter.annotation, str):
        default = "" if parameter.default is Parameter.empty else f" = {parameter.default!r}"
        bare = str(parameter.replace(annotation=Parameter.empty, default=Parameter.empty))
        return f"{bare}: {parameter.annotation}{default}"
    return str(parameter)


def _resolved(annotation: object, function: object) -> object:
    """Resolve an annotation; Any if that fails, since its names may exist for type checkers only."""
    if not isinstance(annotation, str):
        return annotation
    inmost = next(iter(list(layers(function))[-1:]), None)
    try:
        holder = types.SimpleNamespace(__annotations__={"hint": annotation})
        return typing.get_type_hints(holder, getattr(inmost, "__globals__", {}), include_extras=True)["hint"]
    except Exception:  # noqa: BLE001 - an annotation may be any expression
        return ANY_VALUE


def _is_value(hint: object) -> bool:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_value(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return all(map(_is_value, typing.get_args(hint)))
    if origin is typing.Literal:
        return True
    kind = origin or hint
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return kind is None
    return kind is not Parameter.empty and (issubclass(kind, _VALUES) or dataclasses.is_dataclass(kind))
