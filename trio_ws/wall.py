"""The wall around user code: what may leave a handler, method, generator, hook, predicate or HTTP function.

User code runs in many places, some of them too hot for a wrapper. All of them catch ``BaseException`` and ask
here what that is.

Invariants:

- Three exceptions pass: KeyboardInterrupt and SystemExit, which end the program, and `trio.Cancelled`, where
  the task that it leaves is cancelled. A Cancelled that was kept and raised again elsewhere does not pass.
- Everything else is a failure, which costs one connection or one request: an exception that is no Exception,
  one whose ``__init__`` did not call its base's, whose ``__str__`` raises, or whose attributes are not legal.
- Nothing here raises anything but what passes, whatever the exception does when it is looked at.
"""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import current_task

from trio_ws.errors import CloseConnection, RPCError, check_close
from trio_ws.logs import logger_for

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

__all__ = [
    "close_nurseries",
    "close_of",
    "ends_program",
    "error_of",
    "failures_in",
    "is_cancelled",
    "is_innermost",
    "judged",
    "log_failure",
    "only_cancelled",
    "passes",
    "text_of",
    "traceback_of",
]

_logger = logger_for("trio_ws.server")

_ENDS = (KeyboardInterrupt, SystemExit)


def ends_program(exc: BaseException) -> bool:
    """Whether it is, or holds, a KeyboardInterrupt or a SystemExit."""
    return any(isinstance(one, _ENDS) for one in _leaves(exc))


def passes(exc: BaseException) -> bool:
    """Whether it is none of our business: it ends the program, or is the cancellation of this task."""
    return ends_program(exc) or (only_cancelled(exc) and is_cancelled())


def only_cancelled(exc: BaseException) -> bool:
    """Whether it is a Cancelled, or a group of nothing else."""
    return all(isinstance(one, trio.Cancelled) for one in _leaves(exc))


def failures_in(exc: BaseException) -> list[BaseException]:
    """What failed: the exceptions in a group, however deep, without the Cancelled that came with them.

    Raises:
        BaseException: ``exc``, where it passes.
    """
    if passes(exc):
        raise exc
    leaves = list(_leaves(exc))
    return [one for one in leaves if not isinstance(one, trio.Cancelled)] or leaves


def judged(exc: BaseException) -> BaseException:
    """The one exception that failed, or the group of several. Raises as `failures_in`."""
    failures = failures_in(exc)
    return failures[0] if len(failures) == 1 else exc


def is_cancelled() -> bool:
    """Whether the next checkpoint of this task raises Cancelled."""
    return trio.current_effective_deadline() == -math.inf


def close_of(failure: BaseException) -> tuple[int, str] | None:
    """The code and the reason that a `CloseConnection` closes with.

    None for any other exception, and for one that no Close frame can carry: that is a failure like others.
    """
    if not isinstance(failure, CloseConnection):
        return None
    try:
        code, reason = failure.code, failure.reason
        check_close(code, reason)
    except BaseException as exc:  # noqa: BLE001 - of a property, or for want of an attribute
        judged(exc)
        return None
    return int(code), str(reason)


def error_of(failure: BaseException) -> tuple[int, str, Any] | None:
    """The code, the text and the data that an `RPCError` answers with; None as for `close_of`."""
    if not isinstance(failure, RPCError):
        return None
    try:
        code, text, data = failure.code, failure.message, failure.data
    except BaseException as exc:  # noqa: BLE001 - as above
        judged(exc)
        return None
    return (code, text, data) if type(code) is int and type(text) is str else None


def text_of(exc: BaseException) -> str:
    """The name of its type, and what it says, where it can say that."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except BaseException as second:  # noqa: BLE001 - what __str__ raises is the user's
        judged(second)
        return f"{type(exc).__name__}, whose text cannot be had"


def traceback_of(exc: BaseException) -> str:
    """Its traceback as Python prints it, where that can be had; else `text_of`."""
    try:
        text = "".join(traceback.format_exception(exc))
    except BaseException as second:  # noqa: BLE001 - as above
        judged(second)
        text = text_of(exc)
    return text.encode(errors="backslashreplace").decode()


def log_failure(
    logger: logging.Logger, text: str, *args: object, exc: BaseException, extra: dict[str, Any] | None = None
) -> None:
    """Log a failure of user code: one record, with the traceback where that can be had."""
    try:
        # What a log handler is going to look at.
        traceback.TracebackException.from_exception(exc, limit=0, lookup_lines=False)
    except BaseException as second:  # noqa: BLE001 - as above
        judged(second)
        logger.error("%s: %s", text % args, text_of(exc), extra=extra, stacklevel=2)  # noqa: TRY400
    else:
        logger.error(text, *args, exc_info=exc, extra=extra, stacklevel=2)


# -- what user code has left open -----------------------------------------------------------------------
#
# It happens by leaving a loop over an async generator that has a nursery or a cancel scope inside. trio ends
# a task that has left a nursery open with an error, in the nursery around it, which would take all other
# connections with it. A scope that is left open cancels what the task does next, whosever that is.
#
# trio has no public way to see or to close these; where its attributes are not as expected, nothing is done.


async def close_nurseries(what: str) -> None:
    """Cancel and close all nurseries of this task. To be called where none of ours is open.

    Args:
        what: whose code has left them, for the log.
    """
    nurseries = current_task().child_nurseries
    if not nurseries:
        return
    _logger.error("%s left a nursery open; it is closed, and what ran there is cancelled", what)
    for nursery in reversed(nurseries):
        # There is no other way: what `async with` would call at its end is known to nobody any more.
        manager: Any = trio.open_nursery()
        manager._nursery, manager._scope = nursery, nursery.cancel_scope
        nursery.cancel_scope.cancel()
        try:
            await manager.__aexit__(None, None, None)
        except BaseException as exc:  # noqa: BLE001 - judged there
            log_failure(_logger, "%s failed in a nursery that it left open", what, exc=judged(exc))


def is_innermost(scope: trio.CancelScope) -> bool:
    """Whether the scope, which this task has open, has no other of this task's inside."""
    status = getattr(current_task(), "_cancel_status", None)
    return status is not None and status is getattr(scope, "_cancel_status", None)


# -- groups -------------------------------------------------------------------------------------------------


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, however deep, or the one that is no group."""
    left = [exc]
    while left:
        one = left.pop()
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(_MEMBERS.__get__(one)))
        else:
            yield one


# The member itself: a subclass may have something else under that name.
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]
