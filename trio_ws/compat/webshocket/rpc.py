"""The decorators of webshocket, and the conversion of marked functions to methods of the engine."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import trio_ws.rpc.rate_limit as engine_limits
from trio_ws.compat.webshocket.enum import RPCErrorCode
from trio_ws.errors import RateLimitError, RPCError, WebSocketError
from trio_ws.logs import logger_for
from trio_ws.predicates import PredicateLike, check_predicate
from trio_ws.rpc.methods import Method
from trio_ws.rpc.rate_limit import LIMIT_MARK, RateLimit
from trio_ws.wall import judged, log_failure, text_of

if TYPE_CHECKING:
    import trio

    from trio_ws._types import Value
    from trio_ws.rpc.client_connection import ClientConnection as EngineConnection

__all__ = ["CallSlots", "is_rpc_method", "make_method", "rate_limit", "rpc_method"]

logger = logger_for("trio_ws.compat.webshocket.rpc")

F = TypeVar("F", bound=Callable[..., object])

_MARK = "__trio_ws_webshocket_rpc__"
_NEVER = "__trio_ws_webshocket_never__"


class MethodOwner(Protocol):
    """The part of a `WebSocketHandler` that calls of its methods use."""

    send_error_text: ClassVar[bool]


@dataclass(frozen=True, slots=True)
class _Mark:
    alias_name: str | None
    requires: PredicateLike | None


def rpc_method(alias_name: str | None = None, requires: PredicateLike | None = None) -> Callable[[F], F]:
    """Let clients call an async function, or iterate over an async generator.

    Args:
        alias_name: the name that clients call. Default: the function's name.
        requires: a predicate for the connections that may call it, evaluated for each call. Default: all may.

    Raises:
        TypeError: the function is not async, or takes no connection.
    """
    if alias_name is not None and not isinstance(alias_name, str):
        raise TypeError("write @rpc_method() with the parentheses")
    if requires is not None:
        check_predicate(requires)

    def decorate(function: F) -> F:
        name = function.__name__
        names = list(inspect.signature(function).parameters)
        expected = 2 if names[:1] == ["self"] else 1
        if len(names) < expected:
            form = "('self', connection, ...)" if expected == 2 else "(connection, ...)"
            raise TypeError(f"'{name}' must accept at least {expected} parameters: {form}")
        _check_async(function)
        setattr(function, _MARK, _Mark(alias_name, requires))
        return function

    return decorate


def rate_limit(
    *, limit: int, period: str = "1s", disconnect_on_limit_exceeded: bool = False
) -> Callable[[F], F]:
    """Limit how often a client may call a method. Use it above or below ``@rpc_method()``.

    Args:
        limit: the number of calls in any window of ``period``; 0 allows no calls.
        period: a number with a unit: ``"30s"``, ``"5m"``, ``"1h"``, ``"1d"``. Default ``"1s"``.
        disconnect_on_limit_exceeded: close the connection with code 1008 after the error was sent.

    Raises:
        TypeError: the function is not async.
        ValueError: an argument is invalid.
    """
    mark = engine_limits.rate_limit(max(limit, 1), period, disconnect_on_limit_exceeded)
    if limit < 0:
        raise ValueError(f"limit is a number of calls, not {limit}")

    def decorate(function: F) -> F:
        _check_async(function)
        if limit == 0:
            setattr(function, _NEVER, True)
        return mark(function)

    return decorate


def _check_async(function: Callable[..., object]) -> None:
    if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
        raise TypeError(f"RPC method '{function.__name__}' must be an async function.")


def is_rpc_method(function: object) -> bool:
    """Return whether a function has ``@rpc_method()``."""
    return isinstance(getattr(function, _MARK, None), _Mark)


def make_method(
    function: Callable[..., object],
    handler: MethodOwner,
    slots: CallSlots,
    alias_name: str | None = None,
) -> Method:
    """Return the engine's method that runs a marked function.

    Arguments are validated by the function's annotations, and an invalid one is answered with INVALID_PARAMS.
    If msgspec does not support one of the annotations, all are ignored.
    """
    mark: _Mark = getattr(function, _MARK)
    limit = getattr(function, LIMIT_MARK, None)
    if not isinstance(limit, RateLimit):
        limit = None
    name = alias_name or mark.alias_name or function.__name__
    requires = mark.requires
    asked = None
    if requires is not None:
        asked = _Requires(requires)
    make: Callable[..., Callable[..., object]] = _stream if inspect.isasyncgenfunction(function) else _call
    wrapped = make(function, handler, slots, never=getattr(function, _NEVER, False))
    try:
        return Method(name, wrapped, asked, limit)
    except TypeError:
        signature = inspect.signature(function)
        plain = [one.replace(annotation=Parameter.empty) for one in signature.parameters.values()]
        wrapped.__signature__ = signature.replace(parameters=plain)  # type: ignore[attr-defined]
        return Method(name, wrapped, asked, limit)


class CallSlots:
    """Limits how many calls of a handler run at the same time.

    Attributes:
        limit: the semaphore; None for no limit, which is the state until a server sets it.
    """

    __slots__ = ("limit",)

    def __init__(self) -> None:
        self.limit: trio.Semaphore | None = None

    async def begin(self) -> None:
        """Wait for a slot."""
        if self.limit is not None:
            await self.limit.acquire()

    def end(self) -> None:
        """Release the slot."""
        if self.limit is not None:
            self.limit.release()


class _Requires:
    """Calls a user's predicate with the connection of this package."""

    __slots__ = ("_predicate",)

    def __init__(self, predicate: PredicateLike) -> None:
        self._predicate = predicate

    def __call__(self, connection: EngineConnection) -> object:
        return self._predicate(connection.state)

    def __repr__(self) -> str:
        return repr(self._predicate)


def _call(
    function: Callable[..., Awaitable[Value]], handler: MethodOwner, slots: CallSlots, *, never: bool
) -> Callable[..., object]:
    @functools.wraps(function)
    async def call(connection: EngineConnection, /, *args: Value, **kwargs: Value) -> Value:
        if never:
            raise RateLimitError
        try:
            await slots.begin()
            try:
                return await function(connection.state, *args, **kwargs)
            finally:
                slots.end()
        except BaseException as exc:
            error = _error_for(exc, handler, "Server error ({kind}): {text}")
            if error is None:
                raise
            raise error from exc

    return call


def _stream(
    function: Callable[..., AsyncGenerator[Value, None]],
    handler: MethodOwner,
    slots: CallSlots,
    *,
    never: bool,
) -> Callable[..., object]:
    @functools.wraps(function)
    async def stream(connection: EngineConnection, /, *args: Value, **kwargs: Value) -> AsyncIterator[Value]:
        if never:
            raise RateLimitError
        items = function(connection.state, *args, **kwargs)
        try:
            await slots.begin()
            try:
                async for item in items:
                    yield item
            finally:
                slots.end()
                await items.aclose()
        except GeneratorExit:
            raise
        except BaseException as exc:
            error = _error_for(exc, handler, "Stream aborted: {text}")
            if error is None:
                raise
            raise error from exc

    return stream


def _error_for(exc: BaseException, handler: MethodOwner, text: str) -> RPCError | None:
    """Return the error for a client after an unexpected exception; None if its text must not be sent.

    Raises:
        BaseException: ``exc``, if it is not an error of the method, such as a cancellation.
    """
    failure = judged(exc)
    if isinstance(failure, WebSocketError) or not handler.send_error_text:
        return None
    log_failure(logger, "RPC execution failed", exc=failure)
    text = text.format(kind=type(failure).__name__, text=text_of(failure).partition(": ")[2])
    return RPCError(text, code=RPCErrorCode.INTERNAL_SERVER_ERROR.value)
