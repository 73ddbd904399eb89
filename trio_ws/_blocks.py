"""Blocks: async context managers for trio, with helpful errors for incorrect use.

Invariants: nothing happens before the block is entered. Incorrect use immediately raises TypeError,
AttributeError or RuntimeError, whose message shows the correct use.
"""

from __future__ import annotations

import functools
import sys
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar

from trio.lowlevel import enable_ki_protection, in_trio_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

__all__ = ["IMPORTING", "Block", "EnteredOnly", "block", "check_no_loop", "check_not_importing", "check_trio"]

P = ParamSpec("P")
T = TypeVar("T")


def check_trio(what: str) -> None:
    """Check that the caller is a trio task.

    Args:
        what: the function that needs trio, such as ``"connect()"``.

    Raises:
        RuntimeError: the caller is not a trio task; the message says what to do.
    """
    if in_trio_task():
        return
    if in_asyncio_loop():
        raise RuntimeError(
            f"{what} needs trio, but this is an asyncio program. Start it by trio.run(main) in place of"
            " asyncio.run(main()), or keep asyncio and use trio_ws.guest: serve() serves from asyncio, and"
            " run_trio() calls a function of trio's"
        )
    raise RuntimeError(f"{what} needs trio: call it in an async function that trio.run(main) has started")


def check_no_loop(what: str) -> None:
    """Check that no event loop is running in this thread.

    Raises:
        RuntimeError: one is running; the message says what to do.
    """
    for runs, instead in (
        (in_trio_task, "in a trio program, use: await trio_ws.serve(app, port)"),
        (in_asyncio_loop, "in an asyncio program, use: async with trio_ws.guest.serve(app, port)"),
    ):
        if runs():
            raise RuntimeError(f"{what} starts a loop of its own; {instead}")


#: The import string of the target whose module is being imported, to be served.
IMPORTING: ContextVar[str | None] = ContextVar("trio_ws_importing", default=None)


def check_not_importing() -> None:
    """Check that this is not called by a module that is being imported, to be served.

    Raises:
        RuntimeError: it is; the import would not end while the module serves.
    """
    target = IMPORTING.get()
    if target is not None:
        raise RuntimeError(
            f"the module of {target!r} serves while it is imported to be served; put that call under: if"
            ' __name__ == "__main__":'
        )


def in_asyncio_loop() -> bool:
    """Whether an asyncio loop runs in this thread, without importing asyncio."""
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


class EnteredOnly:
    """A base class of async context managers, for which ``await`` and ``with`` raise helpful errors.

    Attributes:
        _usage: the correct use, as code.
    """

    _usage: ClassVar[str]

    if not TYPE_CHECKING:  # type checkers report these mistakes themselves

        def __await__(self) -> NoReturn:
            raise TypeError(f"a {type(self).__name__} is a block and cannot be awaited; write: {self._usage}")

        def __enter__(self) -> NoReturn:
            raise TypeError(f"a {type(self).__name__} needs 'async with'; write: {self._usage}")

        def __exit__(self, *_: object) -> None:
            """Never called; `with` looks for it before it enters."""


class Block(AbstractAsyncContextManager[T], Generic[T]):
    """An async context manager that a function of this package returns."""

    __slots__ = ("_entered", "_manager", "_name", "_needs_trio", "_usage")

    def __init__(
        self, manager: AbstractAsyncContextManager[T], name: str, usage: str, needs_trio: bool = True
    ) -> None:
        self._entered = False
        self._manager = manager
        self._name = name
        self._needs_trio = needs_trio
        self._usage = usage

    @enable_ki_protection
    async def __aenter__(self) -> T:
        if self._needs_trio:
            check_trio(self._name)
        if self._entered:
            raise RuntimeError(f"{self._name} makes a block that can be entered only once; make another")
        self._entered = True
        return await self._manager.__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._manager.__aexit__(kind, exc, trace)

    def __repr__(self) -> str:
        return f"<{self._name}, which is to be entered: {self._usage}>"

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError(f"{self._name} is a block and cannot be awaited; write: {self._usage}")

        def __aiter__(self) -> NoReturn:
            raise TypeError(f"{self._name} is a block, to be entered before its loop; write: {self._usage}")

        def __iter__(self) -> NoReturn:
            raise TypeError(f"{self._name} is a block; write: {self._usage}")

        def __enter__(self) -> NoReturn:
            raise TypeError(f"{self._name} needs 'async with'; write: {self._usage}")

        def __exit__(self, *_: object) -> None:
            """Never called; `with` looks for it before it enters."""

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise AttributeError(
                f"{self._name} is a block, and what it yields may have {name!r}; write: {self._usage}"
            )


def block(
    usage: str, *, needs_trio: bool = True
) -> Callable[[Callable[P, AsyncIterator[T]]], Callable[P, Block[T]]]:
    """Decorate an async generator function like `contextlib.asynccontextmanager`, to return a `Block`.

    Args:
        usage: the correct use, as code.
        needs_trio: whether it is entered in a trio task.
    """

    def decorate(function: Callable[P, AsyncIterator[T]]) -> Callable[P, Block[T]]:
        make = asynccontextmanager(function)
        name = f"{function.__name__}()"

        @functools.wraps(function)
        def made(*args: P.args, **kwargs: P.kwargs) -> Block[T]:
            return Block(make(*args, **kwargs), name, usage, needs_trio)

        made.__returns_acontextmanager__ = True  # type: ignore[attr-defined] # sphinxcontrib-trio reads it
        return made

    return decorate
