"""Proxies: call the other side's methods as methods of an object, typed by a class or Protocol."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from trio_ws._types import ANY_VALUE
from trio_ws.rpc.marking import MARK

if TYPE_CHECKING:
    from trio_ws._types import NamedValues, Value, Values

    class Calls(Protocol):
        """An object that makes calls: `OutgoingCalls`, or a client that waits for a connection first."""

        async def call(self, method: str, args: Values, kwargs: NamedValues, returns: object) -> Value: ...
        def stream(self, method: str, args: Values, kwargs: NamedValues, items: object) -> object: ...


__all__ = ["Proxy"]

_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator, trio.abc.ReceiveChannel)


class Proxy:
    """See the module docstring.

    Args:
        outgoing: makes the calls.
        api: a class whose public functions are the methods. If `rpc_method` marks some of them, only those
            are, under their ``alias_name`` if they have one.

    Raises:
        TypeError: ``api`` is not a class, or the return annotation of a method cannot be resolved.
    """

    def __init__(self, outgoing: Calls, api: object) -> None:
        if not isinstance(api, type):
            raise TypeError(f"a proxy is made from a class, not from {api!r}")
        functions = [pair for pair in inspect.getmembers(api, inspect.isfunction) if pair[0][0] != "_"]
        marked = [(name, function) for name, function in functions if hasattr(function, MARK)]
        for name, function in marked or functions:
            setattr(self, name, _method(outgoing, _name(name, function), function))


def _name(name: str, function: Callable[..., object]) -> str:
    """Return the name of a method on the other side."""
    mark = getattr(function, MARK, None)
    return name if mark is None or mark.alias_name is None else mark.alias_name


def _method(outgoing: Calls, name: str, function: Callable[..., object]) -> Callable[..., object]:
    returns, is_stream = _result(function)

    if is_stream:

        def stream(*args: Value, **kwargs: Value) -> Value:
            return outgoing.stream(name, args, kwargs, returns)

        return stream

    async def call(*args: Value, **kwargs: Value) -> Value:
        return await outgoing.call(name, args, kwargs, returns)

    return call


def _result(function: Callable[..., object]) -> tuple[object, bool]:
    """Return the type of a method's result or items, and whether the method is a stream."""
    # Only this annotation is resolved. Names in the others may exist for type checkers only.
    holder = types.SimpleNamespace(
        __annotations__={"return": function.__annotations__.get("return", ANY_VALUE)}
    )
    try:
        hint = typing.get_type_hints(holder, function.__globals__, include_extras=True)["return"]
    except NameError as exc:
        raise TypeError(f"an annotation of {function.__qualname__} cannot be resolved: {exc}") from exc
    if typing.get_origin(hint) in _STREAMS:
        return typing.get_args(hint)[0], True
    return hint, inspect.isasyncgenfunction(function) or hint in _STREAMS
