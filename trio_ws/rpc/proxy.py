"""Proxy: the methods of the other side as methods of an object, with the types of a class or Protocol."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol

import trio

from trio_ws.rpc.methods import MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

    class Calls(Protocol):
        """Whoever can be asked to call: a `Caller`, or what waits for one."""

        async def call(
            self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], returns: Any
        ) -> Any: ...
        def stream(
            self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], items: Any
        ) -> Any: ...


__all__ = ["Proxy"]

_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator, trio.abc.ReceiveChannel)


class Proxy:
    """See the module's text.

    Args:
        caller: whom to ask.
        api: a class whose public functions are the methods; where `rpc_method` marks some, those alone. A
            name that it gave is the one called.

    Raises:
        TypeError: ``api`` is no class, or an annotation of its methods cannot be resolved.
    """

    def __init__(self, outgoing: Calls, api: Any) -> None:
        if not isinstance(api, type):
            raise TypeError(f"a proxy is made from a class, not from {api!r}")
        functions = [pair for pair in inspect.getmembers(api, inspect.isfunction) if pair[0][0] != "_"]
        marked = [(name, function) for name, function in functions if hasattr(function, MARK)]
        for name, function in marked or functions:
            setattr(self, name, _method(outgoing, _name(name, function), function))


def _name(name: str, function: Callable[..., Any]) -> str:
    """What the other side calls it."""
    mark = getattr(function, MARK, None)
    return name if mark is None or mark.alias_name is None else mark.alias_name


def _method(outgoing: Calls, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    returns, is_stream = _result(function)

    if is_stream:

        def stream(*args: Any, **kwargs: Any) -> Any:
            return outgoing.stream(name, args, kwargs, returns)

        return stream

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await outgoing.call(name, args, kwargs, returns)

    return call


def _result(function: Callable[..., Any]) -> tuple[Any, bool]:
    """What a method gives, and whether it is a stream of that."""
    # Only this annotation is needed; the others may be there for type checkers alone.
    holder = types.SimpleNamespace(__annotations__={"return": function.__annotations__.get("return", Any)})
    try:
        hint = typing.get_type_hints(holder, function.__globals__, include_extras=True)["return"]
    except NameError as exc:
        raise TypeError(f"an annotation of {function.__qualname__} cannot be resolved: {exc}") from exc
    if typing.get_origin(hint) in _STREAMS:
        return typing.get_args(hint)[0], True
    return hint, inspect.isasyncgenfunction(function) or hint in _STREAMS
