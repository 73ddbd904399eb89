"""Contracts: the methods and channels of handlers, read from their annotations and docstrings.

Invariants:

- A contract that cannot be expressed in every format is refused when it is created: one with a type without
  a schema, a name that is not an identifier in TypeScript, or two names that differ in case only. The error
  names the method and the solution.
- A contract contains no secrets of predicates. For `IsEqual`, it has the key but not the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from trio_ws.errors import (
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCTimeoutError,
)
from trio_ws.models import encode_model
from trio_ws.predicates import All, Has, Is, IsEqual, Predicate
from trio_ws.predicates import Any as AnyOf
from trio_ws.schema.docstring import Docstring, parse_docstring
from trio_ws.schema.types import JSONSchema, TypeSchemas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from trio_ws.errors import RPCError
    from trio_ws.predicates import PredicateLike

__all__ = [
    "ChannelContract",
    "Describable",
    "ErrorContract",
    "HandlerContract",
    "MethodContract",
    "ParameterContract",
    "check_method",
    "describe_predicate",
    "read_contracts",
]

_IDENTIFIER = re.compile(r"[^\W\d][\w]*|\$[\w$]*")
# Names for the kinds of `inspect.Parameter`, in their order.
_KINDS = ("positional", "either", "positional_rest", "keyword", "keyword_rest")


class _Parameter(Protocol):
    """The attributes of a method's parameter that a contract reads."""

    name: str

    @property
    def kind(self) -> int: ...

    type: object
    default: object
    is_stream: bool
    optional: bool

    @property
    def required(self) -> bool: ...

    @property
    def has_default(self) -> bool: ...


class _RateLimit(Protocol):
    """The attributes of a `RateLimit` that a contract reads."""

    @property
    def limit(self) -> int: ...

    @property
    def period(self) -> float: ...


class _Method(Protocol):
    """The attributes of a `Method` that a contract reads."""

    name: str
    doc: str
    requires: PredicateLike | None
    errors: tuple[type[RPCError], ...]

    @property
    def limit(self) -> _RateLimit | None: ...

    @property
    def is_stream(self) -> bool: ...

    @property
    def parameters(self) -> Sequence[_Parameter]: ...

    def resolve_result(self) -> object: ...


@runtime_checkable
class Describable(Protocol):
    """The attributes of a `WebSocketHandler` that a contract reads."""

    channel_types: Mapping[str, object]

    @property
    def default_rate_limit(self) -> _RateLimit | None: ...

    @property
    def rpc_methods(self) -> Mapping[str, _Method]: ...


@dataclass(frozen=True)
class ParameterContract:
    """One parameter.

    Attributes:
        name: its name.
        schema: the schema of the value, or of the items of a stream.
        required: whether it must be passed.
        kind: ``"either"`` by position or by name, ``"positional"``, ``"keyword"``, ``"positional_rest"`` for
            ``*args`` or ``"keyword_rest"`` for ``**kwargs``.
        is_stream: whether it takes a stream from the caller.
        nullable: whether the stream may be null.
        text: its description in the docstring.
    """

    name: str
    schema: JSONSchema
    required: bool
    kind: str
    is_stream: bool
    nullable: bool
    text: str


@dataclass(frozen=True)
class ErrorContract:
    """An error that a call may end with."""

    code: int
    name: str
    text: str


@dataclass(frozen=True)
class MethodContract:
    """One method.

    Attributes:
        name: the name that clients call.
        is_stream: whether it is a stream.
        parameters: the parameters in order.
        result: the schema of the result, or of the items of a stream.
        docstring: the parts of its docstring.
        errors: the errors that a call may end with.
        requires: a description of its predicate for readers; "" if all clients may call it.
        limit: its rate limit, or None.
        source: the method itself.
    """

    name: str
    is_stream: bool
    parameters: tuple[ParameterContract, ...]
    result: JSONSchema
    docstring: Docstring
    errors: tuple[ErrorContract, ...]
    requires: str
    limit: _RateLimit | None
    source: _Method = field(compare=False, repr=False)

    @property
    def schemas(self) -> list[JSONSchema]:
        """All schemas of parameters and the result."""
        return [*(one.schema for one in self.parameters), self.result]


@dataclass(frozen=True)
class ChannelContract:
    """A channel, or all channels that a glob matches, and the schema of its data."""

    name: str
    schema: JSONSchema

    @property
    def text(self) -> str:
        """The description in the schema."""
        return str(self.schema.get("description", ""))


@dataclass(frozen=True)
class HandlerContract:
    """The contract of one handler.

    Attributes:
        path: its path in an App; "/" for a handler that is served alone.
        name: the name of its class.
        docstring: the parts of its class's docstring.
        methods: in the order of their definitions.
        channels: in the order of their declarations.
    """

    path: str
    name: str
    docstring: Docstring
    methods: tuple[MethodContract, ...]
    channels: tuple[ChannelContract, ...]


def read_contracts(
    handlers: Mapping[str, Describable], *, identifiers: bool = True
) -> tuple[tuple[HandlerContract, ...], TypeSchemas]:
    """Return the contracts of handlers, given by path, and the schemas that they share.

    Names must be identifiers, unless ``identifiers`` is false: OpenRPC allows any name.

    Raises:
        TypeError: a type has no schema.
        ValueError: a name cannot be used; the message says which one and why.
    """
    types: list[tuple[str, object, bool]] = []
    for handler in handlers.values():
        types += _types_of(handler, identifiers=identifiers)
    found = TypeSchemas(types)
    schemas = iter(found.schemas)
    return tuple(_read_handler(path, one, schemas) for path, one in handlers.items()), found


def _types_of(handler: Describable, *, identifiers: bool) -> Iterable[tuple[str, object, bool]]:
    """Yield the types of a handler, in the order in which `_read_handler` uses their schemas."""
    name = type(handler).__name__
    _check_names(name, handler.rpc_methods, identifiers=identifiers)
    for method in handler.rpc_methods.values():
        yield from _types_of_method(name, method)
    for channel, kind in handler.channel_types.items():
        yield f"{name}: the channel {channel!r}", kind, True


def _types_of_method(handler: str, method: _Method) -> Iterable[tuple[str, object, bool]]:
    for one in method.parameters:
        yield f"{handler}: {method.name}: parameter {one.name}", one.type, False
    yield f"{handler}: {method.name}: the result", method.resolve_result(), True


def check_method(handler: str, method: _Method, names: Iterable[str]) -> None:
    """Check that a method can be described as OpenRPC together with methods of these names.

    Raises:
        TypeError, ValueError: like `read_contracts`.
    """
    _check_names(handler, [*names, method.name], identifiers=False)
    TypeSchemas(list(_types_of_method(handler, method)))


def _read_handler(path: str, handler: Describable, schemas: Iterator[JSONSchema]) -> HandlerContract:
    methods = tuple(_read_method(handler, one, schemas) for one in handler.rpc_methods.values())
    channels = tuple(ChannelContract(name, next(schemas)) for name in handler.channel_types)
    cls = type(handler)
    return HandlerContract(
        path, cls.__name__, parse_docstring(vars(cls).get("__doc__") or ""), methods, channels
    )


def _read_method(handler: Describable, method: _Method, schemas: Iterator[JSONSchema]) -> MethodContract:
    docstring = parse_docstring(method.doc)
    parameters = tuple(
        _read_parameter(one, next(schemas), docstring.parameters.get(one.name, ""))
        for one in method.parameters
    )
    limit = handler.default_rate_limit if method.limit is None else method.limit
    return MethodContract(
        name=method.name,
        is_stream=method.is_stream,
        parameters=parameters,
        result=next(schemas),
        docstring=docstring,
        errors=tuple(_errors_of(method, docstring, limited=limit is not None)),
        requires="" if method.requires is None else describe_predicate(method.requires),
        limit=limit,
        source=method,
    )


def _read_parameter(parameter: _Parameter, schema: JSONSchema, text: str) -> ParameterContract:
    if parameter.has_default and not parameter.is_stream:
        try:
            default = msgspec.to_builtins(parameter.default, enc_hook=encode_model, str_keys=True)
        except (TypeError, ValueError, RecursionError):
            pass  # a value that cannot be encoded, such as a sentinel
        else:
            schema = {**schema, "default": default}
            if "$ref" in schema:
                schema["allOf"] = [{"$ref": schema.pop("$ref")}]
    return ParameterContract(
        name=parameter.name,
        schema=schema,
        required=parameter.required,
        kind=_KINDS[parameter.kind],
        is_stream=parameter.is_stream,
        nullable=parameter.is_stream and parameter.optional,
        text=text,
    )


def _errors_of(method: _Method, docstring: Docstring, *, limited: bool) -> Iterable[ErrorContract]:
    for declared in method.errors:
        own = parse_docstring(vars(declared).get("__doc__") or "").summary
        text = docstring.raises.get(declared.__name__) or own or declared.__name__
        yield ErrorContract(declared.default_code, declared.__name__, text)
    standard: list[type[RPCError]] = [RPCInvalidParamsError, RPCInternalError]
    standard += [RateLimitError] if limited else []
    standard += [RPCAccessDeniedError] if method.requires is not None else []
    standard += [RPCTimeoutError, RPCCancelledError]
    codes = {declared.default_code for declared in method.errors}
    for kind in standard:
        if kind.default_code not in codes:
            yield ErrorContract(kind.default_code, kind.__name__, _STANDARD[kind])


_STANDARD: dict[type[RPCError], str] = {
    RPCInvalidParamsError: "the arguments do not fit",
    RPCInternalError: "the method failed unexpectedly",
    RateLimitError: "too many calls",
    RPCAccessDeniedError: "access denied",
    RPCTimeoutError: "the deadline passed",
    RPCCancelledError: "the server stops",
}


def describe_predicate(predicate: PredicateLike) -> str:
    """Return a predicate as text for readers, such as ``admin and (region = ? or is_friend)``."""
    if isinstance(predicate, Is):
        return predicate.key
    if isinstance(predicate, Has):
        return f"has {predicate.key}"
    if isinstance(predicate, IsEqual):
        return f"{predicate.key} = ?"
    if isinstance(predicate, AnyOf | All):
        parts = [
            f"({text})" if isinstance(one, AnyOf | All) and len(one.predicates) > 1 else text
            for one, text in ((one, describe_predicate(one)) for one in predicate.predicates)
        ]
        return (" or " if isinstance(predicate, AnyOf) else " and ").join(parts)
    negated = getattr(predicate, "predicate", None)
    if isinstance(predicate, Predicate) and isinstance(negated, Predicate):
        text = describe_predicate(negated)
        return f"not ({text})" if isinstance(negated, AnyOf | All) else f"not {text}"
    name = getattr(predicate, "__name__", type(predicate).__name__)
    return "a condition" if name == "<lambda>" else str(name)


def _check_names(handler: str, names: Iterable[str], *, identifiers: bool) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if identifiers and not all(map(_IDENTIFIER.fullmatch, name.split("."))):
            raise ValueError(
                f"{handler}: the method name {name!r} must be an identifier, or several identifiers joined by"
                " dots, so that every language can call it; set another alias_name"
            )
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise ValueError(
                f"{handler}: the methods {other!r} and {name!r} differ in case only; set another"
                " alias_name for one of them"
            )
