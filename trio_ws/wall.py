"""Handle exceptions of user code: handlers, methods, generators, hooks, predicates and HTTP functions.

User code runs in many places, some of them too hot for a wrapper. All of them catch ``BaseException`` and use
this module to classify it.

Invariants:

- Three exceptions propagate: KeyboardInterrupt and SystemExit, which end the program, and `trio.Cancelled` if
  the current task is cancelled. A Cancelled that was stored and raised again elsewhere does not propagate.
- Everything else is a failure, which ends one connection or one request: also an exception that is not an
  Exception, whose ``__init__`` did not call its base's, whose ``__str__`` raises, or whose attributes are
  invalid.
- Nothing here raises any other exception, whatever the exception does when it is inspected.
"""

from __future__ import annotations

import math
import re
import traceback
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from trio_ws.errors import CloseConnection, RPCError, check_close
from trio_ws.logs import logger_for

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from trio_ws._types import JSONObject, Value

__all__ = [
    "close_nurseries",
    "close_of",
    "ends_program",
    "error_of",
    "failures_in",
    "is_cancelled",
    "is_innermost",
    "judged",
    "leaves",
    "log_failure",
    "only_cancelled",
    "passes",
    "text_of",
    "traceback_of",
]

#: Error messages of trio about an awaited asyncio future, and of asyncio about code outside of its tasks.
_IS_OF_ASYNCIO = re.compile(
    r"other framework like asyncio|no running event loop|Timeout should be used inside a task"
).search
_ASYNCIO_NOTE = (
    "Handlers, methods and hooks of trio_ws run in trio and cannot await asyncio functions. Under an asyncio"
    " host, use: await trio_ws.guest.call_asyncio(function, ...)"
)

_logger = logger_for("trio_ws.server")

_ENDS = (KeyboardInterrupt, SystemExit)


def ends_program(exc: BaseException) -> bool:
    """Whether the exception is, or contains, a KeyboardInterrupt or a SystemExit."""
    return any(isinstance(one, _ENDS) for one in leaves(exc))


def passes(exc: BaseException) -> bool:
    """Whether the exception must propagate: it ends the program, or is the cancellation of this task."""
    return ends_program(exc) or (only_cancelled(exc) and is_cancelled())


def only_cancelled(exc: BaseException) -> bool:
    """Whether the exception is a Cancelled, or a group of these only."""
    return all(isinstance(one, trio.Cancelled) for one in leaves(exc))


def failures_in(exc: BaseException) -> list[BaseException]:
    """Return the exceptions in nested groups, without any Cancelled among them.

    Raises:
        BaseException: ``exc``, if it must propagate.
    """
    if passes(exc):
        raise exc
    found = list(leaves(exc))
    return [one for one in found if not isinstance(one, trio.Cancelled)] or found


def judged(exc: BaseException) -> BaseException:
    """Return the only failure, or the group of several. Raises as `failures_in`."""
    failures = failures_in(exc)
    return failures[0] if len(failures) == 1 else exc


def is_cancelled() -> bool:
    """Whether the next checkpoint of this task raises Cancelled."""
    return trio.current_effective_deadline() == -math.inf


def close_of(failure: BaseException) -> tuple[int, str] | None:
    """Return the code and the reason of a `CloseConnection`.

    None for any other exception, and for an invalid code or reason, which is an ordinary failure.
    """
    if not isinstance(failure, CloseConnection):
        return None
    try:
        code, reason = failure.code, failure.reason
        check_close(code, reason)
    except BaseException as exc:  # noqa: BLE001 - from a property, or a missing attribute
        judged(exc)
        return None
    return int(code), str(reason)


def error_of(failure: BaseException) -> tuple[int, str, Value] | None:
    """Return code, text and data of an `RPCError`; None as for `close_of`."""
    if not isinstance(failure, RPCError):
        return None
    try:
        code, text, data = failure.code, failure.message, failure.data
    except BaseException as exc:  # noqa: BLE001 - as above
        judged(exc)
        return None
    return (code, text, data) if type(code) is int and type(text) is str else None


def text_of(exc: BaseException) -> str:
    """Return the type and the text of an exception, if the text is available."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except BaseException as second:  # noqa: BLE001 - __str__ is user code
        judged(second)
        return f"{type(exc).__name__} (its text is unavailable)"


def traceback_of(exc: BaseException) -> str:
    """Return the traceback as Python prints it, if it is available; else `text_of`."""
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException as second:  # noqa: BLE001 - as above
        judged(second)
        text = text_of(exc)
    return text.encode(errors="backslashreplace").decode()


def log_failure(
    logger: logging.Logger, text: str, *args: object, exc: BaseException, extra: JSONObject | None = None
) -> None:
    """Log a failure of user code as one record, with the traceback if it is available."""
    try:
        _explain_asyncio(exc)
        # Access the attributes that a log handler will use.
        traceback.TracebackException.from_exception(exc, limit=0, lookup_lines=False)
    except BaseException as second:  # noqa: BLE001 - as above
        judged(second)
        logger.error("%s: %s", text % args, text_of(exc), extra=extra, stacklevel=2)  # noqa: TRY400
    else:
        logger.error(text, *args, exc_info=exc, extra=extra, stacklevel=2)


def _explain_asyncio(exc: BaseException) -> None:
    """Add a note to errors of code that awaits asyncio in trio, since neither library suggests a fix."""
    for failure in list(leaves(exc)):
        if (
            isinstance(failure, TypeError | RuntimeError)
            and _IS_OF_ASYNCIO(str(failure))
            and _ASYNCIO_NOTE not in getattr(failure, "__notes__", ())
        ):
            failure.add_note(_ASYNCIO_NOTE)


# -- contexts that user code has left open --------------------------------------------------------------
#
# Leaving a loop over an async generator that contains a nursery or a cancel scope leaves it open. trio ends a
# task with an open nursery with an error in the parent nursery, which would end all other connections. An
# open scope cancels whatever the task does next.
#
# trio has no public way to detect or close these; if its attributes are not as expected, nothing is done.


async def close_nurseries(what: str) -> None:
    """Cancel and close all nurseries of this task. Call it only when none of ours is open.

    Args:
        what: whose code left them open, for the log.
    """
    nurseries = current_task().child_nurseries
    if not nurseries:
        return
    _logger.error("%s left a nursery open; closing it and cancelling its tasks", what)
    for nursery in reversed(nurseries):
        # There is no other way: the manager that `async with` would exit is not available.
        manager: Any = trio.open_nursery()
        manager._nursery, manager._scope = nursery, nursery.cancel_scope
        nursery.cancel_scope.cancel()
        try:
            await manager.__aexit__(None, None, None)
        except BaseException as exc:  # noqa: BLE001 - classified by judged()
            log_failure(_logger, "%s failed in a nursery that it left open", what, exc=judged(exc))


def is_innermost(scope: trio.CancelScope) -> bool:
    """Whether the scope is the innermost one that this task has open."""
    status = getattr(current_task(), "_cancel_status", None)
    return status is not None and status is getattr(scope, "_cancel_status", None)


# -- groups -------------------------------------------------------------------------------------------------


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in nested groups, or the exception itself."""
    left = [exc]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(_MEMBERS.__get__(one)))
        else:
            yield one


# The member itself: a subclass may override the name.
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]
