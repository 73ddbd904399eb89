"""Predicates: conditions on a connection, for calling a method or receiving a message.

Any plain callable of a connection is a predicate; its result counts by its truth. `Has`, `Is`, `IsEqual`,
`Any` and `All` test the session state, and can be combined with each other and with callables by ``&``, ``|``
and ``~``.

Invariant: any exception inside a predicate, however deeply nested, makes the whole predicate false.
``~broken`` is therefore false, too.
"""

from __future__ import annotations

import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from trio_ws.logs import logger_for
from trio_ws.wall import judged, log_failure

if typing.TYPE_CHECKING:
    from trio_ws._types import Value

__all__ = [
    "All",
    "Any",
    "Has",
    "HasState",
    "Is",
    "IsEqual",
    "Predicate",
    "PredicateLike",
    "check",
    "check_predicate",
    "pack_predicate",
    "unpack_predicate",
]

logger = logger_for("trio_ws.predicates")

#: Maximum number of predicates within one that is sent to other processes, where it is evaluated for each
#: subscriber.
MAX_PARTS = 1000

#: A predicate: a `Predicate`, or any other plain callable of a connection.
PredicateLike: typing.TypeAlias = Callable[[typing.Any], object]


class HasState(Protocol):
    """The part of a connection that predicates use: its session state by key."""

    def __contains__(self, key: str, /) -> bool: ...

    def __getitem__(self, key: str, /) -> object: ...


class Predicate(ABC):
    """A condition on a connection. Combine with ``&``, ``|`` and ``~``, also with plain callables."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, connection: HasState, /) -> bool:
        """Whether the condition holds for this connection."""

    def __and__(self, other: PredicateLike) -> Predicate:
        return All(self, other)

    def __rand__(self, other: PredicateLike) -> Predicate:
        return All(other, self)

    def __or__(self, other: PredicateLike) -> Predicate:
        return Any(self, other)

    def __ror__(self, other: PredicateLike) -> Predicate:
        return Any(other, self)

    def __invert__(self) -> Predicate:
        return _Not(self)

    def __bool__(self) -> bool:
        # `Is("a") and Is("b")` would be just Is("b").
        raise TypeError("predicates cannot be used as booleans; combine them with &, | and ~")


class Has(Predicate):
    """The session state has ``key``, whatever its value."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = _checked(key)

    def __call__(self, connection: HasState, /) -> bool:
        return self.key in connection

    def __repr__(self) -> str:
        return f"Has({self.key!r})"


class Is(Predicate):
    """The session state has ``key``, and its value is true."""

    __slots__ = ("key",)

    def __init__(self, key: str) -> None:
        self.key = _checked(key)

    def __call__(self, connection: HasState, /) -> bool:
        return self.key in connection and bool(connection[self.key])

    def __repr__(self) -> str:
        return f"Is({self.key!r})"


class IsEqual(Predicate):
    """The session state has ``key``, and its value equals ``value``. A missing key never equals None."""

    __slots__ = ("key", "value")

    def __init__(self, key: str, value: object) -> None:
        self.key = _checked(key)
        self.value = value

    def __call__(self, connection: HasState, /) -> bool:
        return self.key in connection and bool(connection[self.key] == self.value)

    def __repr__(self) -> str:
        return f"IsEqual({self.key!r}, {self.value!r})"


class _Of(Predicate):
    __slots__ = ("predicates",)

    def __init__(self, *predicates: PredicateLike) -> None:
        if not predicates:
            raise TypeError(f"{type(self).__name__} requires at least one predicate")
        for predicate in predicates:
            check_predicate(predicate)
        self.predicates = predicates

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(_name, self.predicates))})"


class Any(_Of):
    """At least one of ``predicates`` holds. They are evaluated in order, up to the first that holds."""

    __slots__ = ()

    def __call__(self, connection: HasState, /) -> bool:
        return any(_ask(predicate, connection) for predicate in self.predicates)


class All(_Of):
    """All of ``predicates`` hold. They are evaluated in order, up to the first that does not."""

    __slots__ = ()

    def __call__(self, connection: HasState, /) -> bool:
        return all(_ask(predicate, connection) for predicate in self.predicates)


class _Not(Predicate):
    __slots__ = ("predicate",)

    def __init__(self, predicate: Predicate) -> None:
        self.predicate = predicate

    def __call__(self, connection: HasState, /) -> bool:
        return not _ask(self.predicate, connection)

    def __repr__(self) -> str:
        return f"~{self.predicate!r}"


def check(predicate: PredicateLike, connection: object) -> bool:
    """Evaluate ``predicate`` for ``connection``. An exception counts as false, and is logged."""
    try:
        return _ask(predicate, connection)
    except BaseException as exc:  # noqa: BLE001 - classified by judged()
        log_failure(
            logger, "the predicate %s failed, which counts as false", _name(predicate), exc=judged(exc)
        )
        return False


def check_predicate(predicate: object) -> None:
    """Reject an object that cannot be a predicate.

    Raises:
        TypeError: it is not callable, is a class, or is an async function.
    """
    if not callable(predicate):
        raise TypeError(f"a predicate must be a callable of a connection, not {predicate!r}")
    if isinstance(predicate, type):
        raise TypeError(f"a predicate cannot be a class; use an instance such as {predicate.__name__}('key')")
    if is_async(predicate):
        raise TypeError(
            f"a predicate must be a plain def, which {_name(predicate)} is not; "
            f"await what it needs in on_connect, and store it in the session state"
        )


def pack_predicate(predicate: PredicateLike) -> list[Value]:
    """Return the predicate as plain data, for another process.

    Raises:
        TypeError: it is, or contains, a callable other than the classes of this module.
        ValueError: it has more than `MAX_PARTS` parts.
    """
    packed = _pack(predicate)
    _check_parts(packed)
    return packed


def _pack(predicate: PredicateLike) -> list[Value]:
    if isinstance(predicate, IsEqual):
        return ["IsEqual", predicate.key, predicate.value]
    if isinstance(predicate, Has | Is):
        return [type(predicate).__name__, predicate.key]
    if isinstance(predicate, _Of):
        return [type(predicate).__name__, *map(_pack, predicate.predicates)]
    if isinstance(predicate, _Not):
        return ["Not", _pack(predicate.predicate)]
    raise TypeError(
        f"the predicate {_name(predicate)} cannot be sent to other processes;"
        " combine Has, Is, IsEqual, Any and All"
    )


def unpack_predicate(packed: Value) -> Predicate:
    """Return the predicate that `pack_predicate` was given.

    Raises:
        ValueError, TypeError, RecursionError: ``packed`` is invalid.
    """
    _check_parts(packed)
    return _unpack(packed)


def _check_parts(packed: Value) -> None:
    """Count the predicates in a packed one, up to the limit."""
    left, count = [packed], 0
    while left:
        count += 1
        if count > MAX_PARTS:
            raise ValueError(f"a predicate for other processes has at most {MAX_PARTS} parts")
        kind, *rest = left.pop()
        if kind in ("Any", "All", "Not"):
            left.extend(rest)


def _unpack(packed: Value) -> Predicate:
    kind, *rest = packed
    if kind == "IsEqual":
        key, value = rest
        return IsEqual(key, value)
    if kind in ("Has", "Is"):
        (key,) = rest
        return Has(key) if kind == "Has" else Is(key)
    if kind in ("Any", "All"):
        return (Any if kind == "Any" else All)(*map(_unpack, rest))
    if kind == "Not":
        return _Not(_unpack(*rest))
    raise ValueError(f"{kind!r} is not a predicate")


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling ``function`` returns an awaitable or an async iterator."""
    return any(
        check(one)
        for one in (function, type(function).__call__)
        for check in (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    )


def _ask(predicate: PredicateLike, connection: object) -> bool:
    answer = predicate(connection)
    if answer is True or answer is False:
        return answer
    if inspect.isawaitable(answer):
        close = getattr(answer, "close", None)
        if close is not None:
            close()  # avoid the warning that it was never awaited
        raise TypeError(f"the predicate {_name(predicate)} is async; it must be a plain def")
    return bool(answer)  # raises for a Predicate that was returned instead of evaluated


def _checked(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key of the session state must be a str, not {key!r}")
    return key


def _name(predicate: object) -> str:
    if isinstance(predicate, Predicate):
        return repr(predicate)
    name = getattr(predicate, "__qualname__", None)
    return name if isinstance(name, str) else object.__repr__(predicate)
