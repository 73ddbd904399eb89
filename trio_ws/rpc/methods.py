"""Methods: from a function's signature to calls with validated arguments.

A `Method` is created from a bound function when its handler is first used (see marking.py). It reads the
signature once, and compiles the annotations with msgspec.

Invariants:

- `Method.bind` returns arguments that the function can be called with, or raises `RPCInvalidParamsError` that
  names the parameter. So a TypeError that the function raises comes from its body.
- A function that is refused at registration is a mistake in the program. The message says how to correct it.
- A caller cannot pass the connection or ``self``, neither by position nor by name.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Sequence,
)
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
from msgspec import convert
from msgspec.structs import astuple

from trio_ws._types import ANY_VALUE
from trio_ws.codecs.jsonrpc import EXTENSIONS
from trio_ws.decoding import UNDECODABLE
from trio_ws.predicates import PredicateLike, check_predicate
from trio_ws.protocol.masking import extension
from trio_ws.rpc.definitions import check_connection, layers, looks_like_argument
from trio_ws.rpc.parameters import MethodParameter, format_annotation, invalid_params, resolve, show_name

if TYPE_CHECKING:
    from trio_ws._types import JSONObject, NamedValues, Value
    from trio_ws.errors import RPCError, RPCInvalidParamsError
    from trio_ws.rpc.rate_limit import RateLimit

__all__ = [
    "ASYNC",
    "PLAIN",
    "STREAM",
    "Method",
    "allow_keyboard_interrupt",
    "check_name",
    "is_interruptible",
    "kind_of",
    "own_name",
]

# What a call of the function returns: the result, an awaitable, an async generator.
PLAIN, ASYNC, STREAM = 0, 1, 2
_KINDS = ("plain", "async", "stream")
# Return annotations of a stream, and of a plain def that returns an awaitable.
_ITEMS = (AsyncIterable, AsyncIterator, AsyncGenerator)
_ITEM_NAMES = frozenset(one.__name__ for one in _ITEMS)
_AWAITABLES = (Awaitable, Coroutine)

# Types that msgspec converts to themselves.
_EXACT: tuple[object, ...] = (int, str, float, bool, bytes)
_MAX_NAME = 256  # the limit of a packet


def python_have_types(values: Sequence[Value], types: tuple[object, ...] | None) -> bool:
    """Whether the values have exactly these types. False for None."""
    return tuple(map(type, values)) == types


#: `python_have_types`, or the same in C, which returns False for values that are no list.
have_types = python_have_types if extension is None else extension.have_types


class Method:
    """A function that the other side may call.

    Args:
        name: the name that clients call.
        function: takes the connection as its first argument.
        requires: a predicate for the connections that may call it; None for all.
        limit: its rate limit, or None.
        namespace: names for annotations that the function's module does not define.
        errors: the classes of errors that it raises deliberately.

    Attributes:
        kind: PLAIN, ASYNC or STREAM.
        stream_items: the item types of the parameters that take streams, by parameter name.
        stream_params: the names of those parameters, and their positions as numbers if they have one.
        doc: the docstring, or "".
        is_plain: it is neither a stream nor takes any, and has no predicate and no rate limit.
    """

    __slots__ = (
        "_by_name",
        "_by_position",
        "_count",
        "_keyword_only",
        "_name_count",
        "_named",
        "_positional",
        "_reserved",
        "_returns",
        "_scope",
        "_suspect",
        "_types",
        "_var_keyword",
        "_var_positional",
        "doc",
        "errors",
        "function",
        "is_plain",
        "kind",
        "limit",
        "name",
        "requires",
        "stream_items",
        "stream_params",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        requires: PredicateLike | None = None,
        limit: RateLimit | None = None,
        namespace: NamedValues | None = None,
        errors: tuple[type[RPCError], ...] = (),
    ) -> None:
        check_name(name)
        if not callable(function):
            raise TypeError(f"{name} is exposed to clients, but {function!r} cannot be called")
        if requires is not None:
            check_predicate(requires)
        self.name = name
        self.function: Callable[..., Any] = function
        allow_keyboard_interrupt(function)
        self.requires = requires
        self.limit = limit
        self.errors = errors
        self.kind = kind_of(function)
        self.doc = (
            inspect.getdoc(function.func if isinstance(function, functools.partial) else function) or ""
        )
        signature = _signature(name, function)
        self._returns = signature.return_annotation
        inmost = next(iter(list(layers(function))[-1:]), None)
        self._scope = inmost, namespace or {}
        self._check_items()
        parameters = [
            MethodParameter(name, one, inmost, namespace or {})
            for one in _without_connection(name, function, signature)
        ]
        self._reserved = _names_inside(function) - {one.name for one in parameters}
        # The parameter for the connection, if it looks like an argument.
        self._suspect = _suspect(signature)
        self._arrange(parameters)

    def _check_items(self) -> None:
        """Refuse an ``async def`` that returns items by its annotation, but has no ``yield``."""
        annotation = self._returns
        if isinstance(annotation, str):  # its names may exist for type checkers only
            given = annotation.partition("[")[0].rpartition(".")[2] in _ITEM_NAMES
        else:
            given = (typing.get_origin(annotation) or annotation) in _ITEMS
        if given and self.kind == ASYNC:
            raise TypeError(
                f"{self.name}: the result is annotated {format_annotation(self._returns)}, but the method has"
                " no yield; yield the items, or annotate what it returns"
            )

    def _arrange(self, parameters: list[MethodParameter]) -> None:
        positional = [one for one in parameters if one.kind <= Parameter.POSITIONAL_OR_KEYWORD]
        for place, one in enumerate(positional):
            one.place = place
        self._positional = positional
        self._keyword_only = [one for one in parameters if one.kind == Parameter.KEYWORD_ONLY]
        self._named = {
            one.name: one
            for one in parameters
            if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        }
        self._var_positional = next((one for one in parameters if one.kind == Parameter.VAR_POSITIONAL), None)
        self._var_keyword = next((one for one in parameters if one.kind == Parameter.VAR_KEYWORD), None)
        streams = [one for one in parameters if one.is_stream]
        if streams and self.kind == PLAIN:
            raise TypeError(
                f"{self.name} is a plain def, which cannot take the stream {streams[0].name}; make it async"
            )
        self.stream_items: JSONObject = {one.name: one.type for one in streams}
        self.stream_params: frozenset[int | str] = frozenset(
            place for one in streams for place in (one.name, one.place) if place != -1
        )
        self.is_plain = self.kind != STREAM and not streams and self.requires is None and self.limit is None
        self._compile()

    def _compile(self) -> None:
        """Prepare the fast paths for calls that pass all parameters by position, or all by name."""
        positional = self._positional
        fields = [(f"p{place}", one.wire_type) for place, one in enumerate(positional)]
        fast = not any(one.required for one in self._keyword_only)
        fast = fast and not any(one.str_keys or one.has_models for one in positional)
        self._count = len(positional) if fast else -1
        # Values of exactly these types need no conversion.
        exact = fast and all(one.wire_type in _EXACT for one in positional)
        self._types = tuple(one.wire_type for one in positional) if exact else None
        self._by_position: Any = None
        if any(one.box is not None for one in positional):
            self._by_position = msgspec.defstruct("Arguments", fields, array_like=True, gc=False)
        named = fast and len(self._named) == len(positional) > 0 and not self._keyword_only
        self._name_count = len(positional) if named else -1
        self._by_name: Any = None
        if named:
            rename = {f"p{place}": one.name for place, one in enumerate(positional)}
            self._by_name = msgspec.defstruct("Arguments", fields, rename=rename, gc=False)

    def bind(self, args: list[Value], kwargs: JSONObject) -> tuple[Sequence[Value], JSONObject]:
        """Return the validated and converted arguments for the function, without the connection.

        In place of a stream from the caller there must be None, which stays; see `place_stream`.

        Raises:
            RPCInvalidParamsError: an argument is invalid. ``data["path"]`` is the path to the invalid part,
                such as ``"$.user.age"``.
        """
        try:
            if not kwargs:
                if have_types(args, self._types):
                    return args, kwargs
                if len(args) == self._count:
                    if self._by_position is None:
                        return args, kwargs
                    return astuple(convert(args, self._by_position)), kwargs
            elif len(kwargs) == self._name_count and not args:
                return astuple(convert(kwargs, self._by_name)), {}
        except UNDECODABLE:
            pass  # the slow path makes the error message
        return self._bind_each(args, kwargs)

    def _bind_each(self, args: list[Value], kwargs: JSONObject) -> tuple[Sequence[Value], JSONObject]:
        positional, rest = self._positional, self._var_positional
        count = len(positional)
        if len(args) > count and rest is None:
            raise invalid_params(
                f"{self.name} takes at most {count} by position, but {len(args)} were given"
                f"{self._hint(len(args) == count + 1)}",
                f"$[{count}]",
            )
        values = [one.validate(value, one.name) for one, value in zip(positional, args, strict=False)]
        if rest is not None:
            values += rest.validate_many(args[count:], lambda place: f"{rest.name}[{place}]")
        named: JSONObject = {}
        more: JSONObject = {}
        for key, value in kwargs.items():
            one = self._named.get(key)
            if one is None:
                if self._var_keyword is None or key in self._reserved:
                    raise self._unexpected(key)
                more[key] = value
            elif 0 <= one.place < len(args):
                raise invalid_params(f"{key} is given twice, by position and by name", f"$.{key}")
            else:
                named[key] = one.validate(value, key)
        if more:
            assert self._var_keyword is not None
            keys = list(more)
            fitting = self._var_keyword.validate_many(
                list(more.values()), lambda place: show_name(keys[place])
            )
            named.update(zip(keys, fitting, strict=True))
        missing = [
            one.name
            for one in positional[len(args) :] + self._keyword_only
            if one.required and not (one.name in named and one.name in self._named)
        ]
        if missing:
            raise invalid_params(f"{self.name} needs {', '.join(missing)}", f"$.{missing[0]}")
        return values, named

    def _unexpected(self, key: str) -> RPCInvalidParamsError:
        names = ", ".join(self._named) or "nothing"
        return invalid_params(
            f"{self.name} has no parameter {show_name(key)}; it takes {names} by name"
            f"{self._hint(key == self._suspect)}",
            f"$.{show_name(key)}",
        )

    def _hint(self, applies: bool) -> str:
        """Return the end of an error message, for a method that forgets the connection."""
        if not (applies and self._suspect):
            return ""
        return f". Its first parameter, {self._suspect}, gets the connection: write connection before it"

    def parameter_name(self, place: str) -> str:
        """Return the name of the parameter with this name, or with this position as a decimal number.

        Raises:
            RPCInvalidParamsError: there is no such parameter.
        """
        if not place.isdecimal():
            if place not in self._named:
                raise self._unexpected(place)
            return place
        if int(place) < len(self._positional):
            return self._positional[int(place)].name
        if self._var_positional is not None:
            return self._var_positional.name
        count = len(self._positional)
        raise invalid_params(f"{self.name} takes at most {count} by position", f"$[{count}]")

    def place_stream(self, args: list[Value], kwargs: JSONObject, place: str, stream: object) -> None:
        """Replace the None that `bind` left for a stream with the stream.

        Args:
            args: positional arguments from `bind`; modified in place.
            kwargs: keyword arguments from `bind`; modified in place.
            place: a position as a decimal number, or a name.
            stream: the argument for the function.

        Raises:
            RPCInvalidParamsError: the parameter takes no stream, null was not sent for it, or it has a stream
                already.
        """
        name = self.parameter_name(place)
        if name not in self.stream_items:
            raise invalid_params(f"{name} takes no stream", f"$.{name}")
        where = next((one.place for one in self._positional if one.name == name), -1)
        if 0 <= where < len(args) and args[where] is None:
            args[where] = stream
        elif kwargs.get(name, self) is None:
            kwargs[name] = stream
        else:
            raise invalid_params(f"{name} takes one stream, for which null is sent", f"$.{name}")

    def check_streams(self, args: Sequence[Value], kwargs: NamedValues) -> None:
        """Check that every parameter that takes a stream has one, after `place_stream` placed them all.

        Raises:
            RPCInvalidParamsError: a stream is missing, and None is not allowed.
        """
        for one in (*self._positional, *self._keyword_only):
            if one.is_stream and not one.optional:
                value = args[one.place] if 0 <= one.place < len(args) else kwargs.get(one.name, one)
                if value is None:
                    raise invalid_params(f"{one.name} takes a stream, and none was given", f"$.{one.name}")

    @property
    def is_stream(self) -> bool:
        """Whether the method produces a stream of items instead of one result."""
        return self.kind == STREAM

    @property
    def parameters(self) -> list[MethodParameter]:
        """The parameters after the connection, in order."""
        every = [*self._positional, self._var_positional, *self._keyword_only, self._var_keyword]
        return [one for one in every if one is not None]

    def resolve_result(self) -> object:
        """Return the type of the result, or of the items of a stream; Any without an annotation.

        Raises:
            TypeError: the annotation cannot be resolved, or the annotation of a stream is not a stream type.
        """
        where = f"{self.name}: the result: {format_annotation(self._returns)}"
        hint: Any = resolve(where, self._returns, *self._scope)
        if hint is ANY_VALUE:
            return ANY_VALUE
        wanted = _ITEMS if self.kind == STREAM else _AWAITABLES
        if typing.get_origin(hint) in wanted:
            arguments = typing.get_args(hint)
            # The result is the third type argument of Coroutine, and the first of all others.
            return arguments[2 if typing.get_origin(hint) is Coroutine else 0]
        if self.kind == STREAM:
            if hint in _ITEMS:
                return ANY_VALUE
            raise TypeError(f"{where} is not the type of a stream; write AsyncIterator[T]")
        return ANY_VALUE if hint is object or isinstance(hint, TypeVar) else hint

    def describe(self) -> JSONObject:
        """Return a description of the method as plain data that every codec can carry."""
        return {
            "name": self.name,
            "kind": _KINDS[self.kind],
            "parameters": [one.describe() for one in self.parameters],
            "returns": format_annotation(self._returns),
            "doc": self.doc,
        }

    def __repr__(self) -> str:
        return f"<Method {self.name} {_KINDS[self.kind]}>"


# -- inspecting functions ---------------------------------------------------------------------------


def allow_keyboard_interrupt(function: Any) -> None:
    """Let KeyboardInterrupt be raised in a user's function, since our own code is protected from it."""
    while function is not None:
        if hasattr(function, "__code__"):
            trio.lowlevel.disable_ki_protection(function)
        function = getattr(function, "__wrapped__", None)


def is_interruptible(function: object) -> bool:
    """Whether `allow_keyboard_interrupt` marks all that runs when an async function is called."""
    return (
        inspect.iscoroutinefunction(function)
        and hasattr(function, "__code__")
        and not hasattr(function, "__wrapped__")
    )


def own_name(function: object) -> str:
    """Return the name of a function.

    Raises:
        ValueError: it has none of its own.
    """
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise ValueError(f"{function!r} has no name of its own; give an alias_name")
    return name


def check_name(name: str) -> None:
    """Raise TypeError or ValueError if this cannot be the name of a method."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a method is a str, not {name!r}")
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"the name of a method has 1 to {_MAX_NAME} characters, not {len(name)}")
    if name.startswith("__") or name in EXTENSIONS:
        taken = ", ".join(sorted(EXTENSIONS))
        raise ValueError(f"the name {name!r} is reserved; let it not begin with '__' or be one of {taken}")


def kind_of(function: object) -> int:
    """Return PLAIN, ASYNC or STREAM.

    Raises:
        TypeError: the function is a plain generator.
    """
    # A decorator that is a plain def may return the awaitable of the async function that it wraps.
    for layer in layers(function):
        if inspect.isasyncgenfunction(layer):
            return STREAM
        if inspect.iscoroutinefunction(layer):
            return ASYNC
        if inspect.isgeneratorfunction(layer):
            raise TypeError(
                f"{layer.__qualname__} is a plain generator; make it async def, and it is a stream"
            )
    return PLAIN


def _signature(method: str, function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError as exc:
        raise TypeError(f"{method}: the parameters of {function!r} cannot be found out: {exc}") from exc


def _without_connection(method: str, function: object, signature: inspect.Signature) -> list[Parameter]:
    parameters = list(signature.parameters.values())
    check_connection(method, function, parameters, bound=isinstance(function, types.MethodType))
    return parameters if parameters[0].kind == Parameter.VAR_POSITIONAL else parameters[1:]


def _suspect(signature: inspect.Signature) -> str:
    first = next(iter(signature.parameters.values()), None)
    return first.name if first is not None and looks_like_argument(first) else ""


def _names_inside(function: object) -> set[str]:
    """Return names that would collide with an argument that is passed already, such as ``self``."""
    return {
        one.name
        for layer in layers(function)
        for one in inspect.signature(layer, follow_wrapped=False).parameters.values()
        if one.kind == Parameter.POSITIONAL_OR_KEYWORD
    }
