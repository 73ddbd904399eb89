"""Parameters of methods: which values an annotation accepts, and the errors for other values.

Invariants:

- An annotation that no decoded value can satisfy is refused at registration.
- A value either is valid, and is converted, or raises `RPCInvalidParamsError` with the path to the invalid
  part. Exceptions of a type's ``__post_init__`` other than ValueError and TypeError are bugs of that type and
  propagate.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import types
import typing
from inspect import Parameter
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio
from msgspec import convert

from trio_ws._types import ANY_VALUE
from trio_ws.decoding import UNDECODABLE
from trio_ws.errors import RPCInvalidParamsError
from trio_ws.logs import shown
from trio_ws.models import ModelError, decode_model, is_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import JSONObject, NamedValues, Value

__all__ = ["MethodParameter", "format_annotation", "invalid_params", "resolve", "show_name"]

_STREAMS = (
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    trio.abc.ReceiveChannel,
)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)


# The index of an invalid value, in an error message of msgspec.
_AT_INDEX = re.compile(r"`\$\[0\]\[(\d+)\]")
_STARRED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class MethodParameter:
    """One parameter after the connection.

    ``box`` is an array-like Struct with one field of the parameter's type, because msgspec caches compiled
    types only for classes. It is None if every value is accepted.
    """

    __slots__ = (
        "_convert",
        "annotation_text",
        "box",
        "box_of_many",
        "default",
        "has_models",
        "is_stream",
        "kind",
        "name",
        "optional",
        "place",
        "str_keys",
        "type",
        "wire_type",
    )

    def __init__(
        self,
        method: str,
        parameter: Parameter,
        function: types.FunctionType | None,
        namespace: NamedValues,
    ) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.default = parameter.default
        self.place = -1
        self.annotation_text = format_annotation(parameter.annotation)
        where = f"{method}: parameter {self.name}: {self.annotation_text}"
        hint = resolve(where, parameter.annotation, function, namespace)
        self.is_stream, self.optional, self.type = _stream_in(hint, where)
        if self.is_stream and parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise TypeError(f"{where}: a stream needs a parameter of its own, not one with a star")
        self.str_keys, self.has_models = _check_type(self.type, where)
        if self.is_stream:
            self.has_models = False  # the stream converts its items one by one
        hook = decode_model if self.has_models else None
        self._convert = functools.partial(convert, str_keys=self.str_keys, dec_hook=hook)
        self.wire_type = None if self.is_stream else self.type
        self.box: Any = None
        if self.wire_type is not ANY_VALUE:
            self.box = msgspec.defstruct("Argument", [("value", self.wire_type)], array_like=True, gc=False)
        self.box_of_many: Any = None
        if self.box is not None and self.kind in _STARRED:
            many = types.GenericAlias(list, (self.wire_type,))
            self.box_of_many = msgspec.defstruct("Arguments", [("values", many)], array_like=True, gc=False)

    @property
    def has_default(self) -> bool:
        return self.default is not Parameter.empty

    @property
    def required(self) -> bool:
        starred = self.kind in _STARRED
        return self.default is Parameter.empty and not starred

    def validate(self, value: Value, label: str) -> Value:
        """Return the converted value; ``label`` names the value in errors."""
        if self.box is None:
            return value
        if self.is_stream:
            if value is not None:
                raise invalid_params(f"{label} takes a stream", f"$.{label}")
            return None
        try:
            if self.str_keys or self.has_models:
                return self._convert((value,), self.box).value
            return convert((value,), self.box).value
        except UNDECODABLE as exc:
            text, path = _explain(exc, label)
            raise invalid_params(text, path) from exc

    def validate_many(self, values: list[Value], label: Callable[[int], str]) -> list[Value]:
        """Like `validate`, for all values of a starred parameter; ``label`` names a value by its index.

        Converting all values at once takes about a hundredth of the time.
        """
        if self.box is None or not values:
            return values
        try:
            converted: list[Value] = self._convert((values,), self.box_of_many).values
        except UNDECODABLE as exc:
            at = _AT_INDEX.search(str(exc))
            if at is not None and not isinstance(exc, RecursionError):
                index = int(at[1])
                self.validate(values[index], label(index))
            return [self.validate(value, label(index)) for index, value in enumerate(values)]
        return converted

    def describe(self) -> JSONObject:
        described: JSONObject = {
            "name": self.name,
            "type": self.annotation_text,
            "required": self.required,
        }
        if self.default is not Parameter.empty:
            plain = self.default is None or type(self.default) in (bool, int, float, str)
            described["default"] = self.default if plain else repr(self.default)
        if self.is_stream:
            described["stream"] = True
        if self.kind != Parameter.POSITIONAL_OR_KEYWORD:
            described["kind"] = self.kind.description
        return described


# -- types of parameters ----------------------------------------------------------------------------


def format_annotation(annotation: object) -> str:
    """Return an annotation as text, for messages and descriptions."""
    if annotation is Parameter.empty:
        return "Any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def resolve(
    where: str, annotation: object, function: types.FunctionType | None, namespace: NamedValues
) -> object:
    """Return the type of one annotation. Others, such as the connection's, need not be resolvable."""
    if annotation is Parameter.empty:
        return ANY_VALUE
    holder = types.SimpleNamespace(
        __annotations__={"hint": annotation}, __type_params__=getattr(function, "__type_params__", ())
    )
    scope = {} if function is None else function.__globals__
    try:
        try:
            return typing.get_type_hints(holder, scope, include_extras=True)["hint"]
        except NameError:
            # Types may be defined in the handler class. Its methods are left out: one may be named list.
            local = {name: one for name, one in namespace.items() if not isinstance(one, _METHODS)}
            return typing.get_type_hints(holder, scope, local, include_extras=True)["hint"]
    except Exception as exc:
        raise TypeError(
            f"{where} cannot be resolved: {exc}. Define or import it in the module itself, neither inside a "
            f"function nor only for type checkers"
        ) from exc


def _stream_in(hint: object, where: str) -> tuple[bool, bool, object]:
    """Return whether a type is a stream, whether None is allowed for the stream, and the value's type.

    For a stream, the last is the type of its items.
    """
    if typing.get_origin(hint) is typing.Annotated and _is_stream(typing.get_args(hint)[0]):
        hint = typing.get_args(hint)[0]
    if _is_stream(hint):
        return True, False, (*typing.get_args(hint), ANY_VALUE)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [one for one in typing.get_args(hint) if one is not type(None)]
        if any(map(_is_stream, choices)):
            if len(choices) > 1:
                raise TypeError(f"{where}: a stream may be this or None, but nothing else")
            return True, True, (*typing.get_args(choices[0]), ANY_VALUE)[0]
    return False, False, ANY_VALUE if hint is object or isinstance(hint, TypeVar) else hint


def _is_stream(hint: object) -> bool:
    return (typing.get_origin(hint) or hint) in _STREAMS


def _check_type(hint: object, where: str) -> tuple[bool, bool]:
    """Check that msgspec can validate a type.

    Returns:
        Whether it contains a mapping whose keys JSON writes as strings, and whether it contains pydantic
        models.
    """
    if hint is ANY_VALUE:
        return False, False
    try:
        msgspec.msgpack.Decoder(hint)
        todo: list[Value] = [msgspec.inspect.type_info(hint)]
    except Exception as exc:
        raise TypeError(f"{where} cannot be validated: {exc}") from exc
    str_keys = has_models = False
    seen: set[int] = set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType) and is_model(node.cls):
            has_models = True
        elif isinstance(node, msgspec.inspect.CustomType) and node.cls is not object:
            raise TypeError(
                f"{where} cannot be validated: nothing from the wire is a {node.cls.__qualname__}; "
                f"use a msgspec.Struct, a dataclass, a model of pydantic, or Any"
            )
        if isinstance(node, msgspec.inspect.DictType):
            plain = msgspec.inspect.StrType, msgspec.inspect.AnyType
            str_keys = str_keys or not isinstance(node.key_type, plain)
        if isinstance(node, msgspec.inspect.Type | msgspec.inspect.Field):
            todo += [getattr(node, field) for field in node.__struct_fields__]
        elif isinstance(node, tuple):
            todo += node
    return str_keys, has_models


# -- errors for invalid values ----------------------------------------------------------------------


def invalid_params(text: str, path: str) -> RPCInvalidParamsError:
    return RPCInvalidParamsError(text, data={"path": path})


def _explain(exc: Exception, label: str) -> tuple[str, str]:
    """Return the text and path for an error about the only item of an array, which ``label`` names."""
    if isinstance(exc, RecursionError):
        return f"{label}: nested too deeply", f"$.{label}"
    text, _, where = str(exc).rpartition(" - at ")
    if "$[0]" not in where:
        text, where = str(exc), "$[0]"
    rest = where.partition("$[0]")[2].rstrip("`")
    if isinstance(exc.__cause__, ModelError):
        rest += exc.__cause__.path
    if where.startswith("`key`"):
        text = f"a key: {text}"
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return f"{label}{rest}: {text}".encode(errors="backslashreplace").decode(), f"$.{label}{rest}"


def show_name(name: str) -> str:
    """Return a name that the caller has chosen, escaped for messages."""
    return shown(name) if name.isidentifier() else f"'{shown(name)}'"
