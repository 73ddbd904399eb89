"""What user code may raise, as hostile input, an extension module or a mistake may make it."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import trio

from trio_ws import MessageError, RPCError, WebSocketException

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FAULTS", "Panic", "kept_cancelled"]


class Panic(BaseException):
    """What an extension module raises that has come to harm."""


class NoInit(WebSocketException):
    def __init__(self) -> None:
        pass


class NoInitRPCError(RPCError):
    def __init__(self) -> None:
        pass


class NoInitMessageError(MessageError):
    def __init__(self) -> None:
        pass


class PanicsWhenAsked(WebSocketException):
    @property
    def code(self) -> int:
        raise Panic

    @code.setter
    def code(self, value: int) -> None:
        pass


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UnprintablePanic(BaseException):
    def __str__(self) -> str:
        raise Panic

    __repr__ = __str__


class NoTracebackError(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


class Underivable(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        raise RuntimeError("no derivation")


def _changed(exc: Exception, **attributes: Any) -> Exception:
    for name, value in attributes.items():
        setattr(exc, name, value)
    return exc


async def kept_cancelled() -> BaseException:
    """A Cancelled of a scope that was left long ago."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            return exc
    raise AssertionError("it was cancelled")


#: Each gives a new exception, which is no normal end.
FAULTS: dict[str, Callable[[], BaseException]] = {
    "no_init": NoInit,
    "no_init_rpc": NoInitRPCError,
    "no_init_message": NoInitMessageError,
    "long_reason": lambda: _changed(WebSocketException(4000), reason="x" * 200),
    "reason_of_bytes": lambda: _changed(WebSocketException(4000), reason=b"x"),
    "surrogate_reason": lambda: _changed(WebSocketException(4000), reason="\udc80"),
    "illegal_code": lambda: _changed(WebSocketException(4000), code=99),
    "no_code": lambda: _changed(WebSocketException(4000), code=None),
    "panics_when_asked": PanicsWhenAsked,
    "rpc_code_of_text": lambda: RPCError("no", code="x"),  # type: ignore[arg-type]
    "rpc_text_of_bytes": lambda: RPCError(b"no"),  # type: ignore[arg-type]
    "unprintable": UnprintableError,
    "unprintable_panic": UnprintablePanic,
    "no_traceback": NoTracebackError,
    "panic": Panic,
    "generator_exit": GeneratorExit,
    "asyncio_cancelled": asyncio.CancelledError,
    "stop_iteration": StopIteration,
    "stop_async_iteration": StopAsyncIteration,
    "recursion": RecursionError,
    "memory": MemoryError,
    "key": functools.partial(KeyError, "k"),
    "broken_resource": functools.partial(trio.BrokenResourceError, "of something else"),
    "group_of_panics": lambda: BaseExceptionGroup("g", [Panic(), ValueError()]),
    "group_of_one": lambda: BaseExceptionGroup("g", [BaseExceptionGroup("h", [Panic()])]),
    "group_that_cannot_be_split": lambda: Underivable("g", [ValueError(), KeyError()]),
    "mixed_group": lambda: ExceptionGroup("g", [WebSocketException(4001), KeyError()]),
}
