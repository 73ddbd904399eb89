"""The types of methods that `rpc_method` has marked, for type checkers. At run time they are plain functions.

A handler calls its own methods with the connection as the first argument. A proxy (see proxy.py) calls them
without it, awaits the result of a plain ``def`` too, and opens streams with ``async with``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from trio_ws.rpc.streams import ItemStream

__all__ = ["AsyncMethod", "MethodDecorator", "PlainMethod", "StreamMethod"]

H = TypeVar("H")  # the handler
C = TypeVar("C")  # the connection
P = ParamSpec("P")
R = TypeVar("R")  # the result, or an item of a stream
Y = TypeVar("Y")  # what a coroutine yields to its runner
S = TypeVar("S")  # and what it is sent. mypy needs variables here: Any or Never would fit several overloads


class AsyncMethod(Generic[C, P, R]):
    """An ``async def``."""

    @overload
    def __call__(
        self, connection: C, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[object, object, R]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]: ...
    def __call__(self, *args: object, **kwargs: object) -> object:  # type: ignore[misc]
        """Return an awaitable for the method's result."""
        raise NotImplementedError


class PlainMethod(Generic[C, P, R]):
    """A plain ``def``."""

    @overload
    def __call__(self, connection: C, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R]: ...
    def __call__(self, *args: object, **kwargs: object) -> object:  # type: ignore[misc]
        """Return the method's result; over a proxy, an awaitable for it."""
        raise NotImplementedError


class StreamMethod(Generic[C, P, R]):
    """An async generator."""

    @overload
    def __call__(self, connection: C, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[R, None]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[ItemStream[R]]: ...
    def __call__(self, *args: object, **kwargs: object) -> object:  # type: ignore[misc]
        """Return the method's items; over a proxy, a context manager for them."""
        raise NotImplementedError


class MethodDecorator(Protocol):
    """The decorator that ``rpc_method()`` returns."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[H, C, P], AsyncGenerator[R, None]], /
    ) -> StreamMethod[C, P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[H, C, P], AsyncIterator[R]], /
    ) -> StreamMethod[C, P, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[Concatenate[H, C, P], Coroutine[Y, S, R]], /
    ) -> AsyncMethod[C, P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[H, C, P], R], /) -> PlainMethod[C, P, R]: ...
