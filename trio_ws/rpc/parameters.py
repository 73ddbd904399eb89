"""Parameters: what an annotation lets through, and what is said of a value that does not fit.

What always holds:

- An annotation that no value from the wire can meet is refused at registration.
- A value either fits, and is converted, or raises `RPCInvalidParamsError` with the path to what is wrong.
  What a type's ``__post_init__`` raises, beside ValueError and TypeError, is a bug of its own and passes.
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

from trio_ws.decoding import UNDECODABLE
from trio_ws.errors import RPCInvalidParamsError
from trio_ws.logs import shown
from trio_ws.models import ModelError, decode_model, is_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MethodParameter", "format_annotation", "invalid_params", "resolve", "show_name"]

_STREAMS = (
    collections.abc.AsyncIterable,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    trio.abc.ReceiveChannel,
)
_METHODS = (types.FunctionType, staticmethod, classmethod, property)


# Where in an array a value stands that does not fit.
_AT_INDEX = re.compile(r"`\$\[0\]\[(\d+)\]")
_STARRED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class MethodParameter:
    """One parameter after the connection.

    ``box`` is a one-field array of its type, since msgspec keeps what it has compiled only for classes; None
    where anything goes.
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
        namespace: Mapping[str, Any],
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
            self.has_models = False  # its items are converted one by one, elsewhere
        hook = decode_model if self.has_models else None
        self._convert = functools.partial(convert, str_keys=self.str_keys, dec_hook=hook)
        self.wire_type = None if self.is_stream else self.type
        self.box: Any = None
        if self.wire_type is not Any:
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

    def validate(self, value: Any, label: str) -> Any:
        """The value, converted; ``label`` names it in the error."""
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

    def validate_many(self, values: list[Any], label: Callable[[int], str]) -> list[Any]:
        """As `fit`, for all that a starred parameter gets; ``label`` names one of them by its index.

        One conversion of all takes a hundredth of the time.
        """
        if self.box is None or not values:
            return values
        try:
            converted: list[Any] = self._convert((values,), self.box_of_many).values
        except UNDECODABLE as exc:
            at = _AT_INDEX.search(str(exc))
            if at is not None and not isinstance(exc, RecursionError):
                index = int(at[1])
                self.validate(values[index], label(index))
            return [self.validate(value, label(index)) for index, value in enumerate(values)]
        return converted

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
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


# -- what a parameter takes -------------------------------------------------------------------------


def format_annotation(annotation: Any) -> str:
    """An annotation as text, for people."""
    if annotation is Parameter.empty:
        return "Any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def resolve(
    where: str, annotation: Any, function: types.FunctionType | None, namespace: Mapping[str, Any]
) -> Any:
    """The type that an annotation means. Each is looked up alone: the connection's need not be found."""
    if annotation is Parameter.empty:
        return Any
    holder = types.SimpleNamespace(
        __annotations__={"hint": annotation}, __type_params__=getattr(function, "__type_params__", ())
    )
    scope = {} if function is None else function.__globals__
    try:
        try:
            return typing.get_type_hints(holder, scope, include_extras=True)["hint"]
        except NameError:
            # Types that are defined in the handler's class, beside methods which may be called list or set.
            local = {name: one for name, one in namespace.items() if not isinstance(one, _METHODS)}
            return typing.get_type_hints(holder, scope, local, include_extras=True)["hint"]
    except Exception as exc:
        raise TypeError(
            f"{where} cannot be resolved: {exc}. Define or import it in the module itself, neither inside a "
            f"function nor only for type checkers"
        ) from exc


def _stream_in(hint: Any, where: str) -> tuple[bool, bool, Any]:
    """Whether it is a stream, whether that may be None, and the type: of the items, or of the value."""
    if typing.get_origin(hint) is typing.Annotated and _is_stream(typing.get_args(hint)[0]):
        hint = typing.get_args(hint)[0]
    if _is_stream(hint):
        return True, False, (*typing.get_args(hint), Any)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [one for one in typing.get_args(hint) if one is not type(None)]
        if any(map(_is_stream, choices)):
            if len(choices) > 1:
                raise TypeError(f"{where}: a stream may be this or None, but nothing else")
            return True, True, (*typing.get_args(choices[0]), Any)[0]
    return False, False, Any if hint is object or isinstance(hint, TypeVar) else hint


def _is_stream(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in _STREAMS


def _check_type(hint: Any, where: str) -> tuple[bool, bool]:
    """Refuse what msgspec cannot validate.

    Returns:
        Whether a mapping has keys that JSON writes as text, and whether there are models of pydantic in it.
    """
    if hint is Any:
        return False, False
    try:
        msgspec.msgpack.Decoder(hint)
        todo: list[Any] = [msgspec.inspect.type_info(hint)]
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


# -- what is said of a value that does not fit ------------------------------------------------------


def invalid_params(text: str, path: str) -> RPCInvalidParamsError:
    return RPCInvalidParamsError(text, data={"path": path})


def _explain(exc: Exception, label: str) -> tuple[str, str]:
    """Text and path, out of an error about the one item of an array: the value that ``label`` names."""
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
    """A name that the caller made up, fit to be shown."""
    return shown(name) if name.isidentifier() else f"'{shown(name)}'"
