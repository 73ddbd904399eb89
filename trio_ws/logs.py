"""Logging: escape and truncate a peer's text, and limit the number of records.

All loggers of the package come from `logger_for`, whose filter sees each record before any handler does.

Invariants:

- A record is one line, or one line and a traceback. It contains no control characters, bidirectional
  overrides, line separators or surrogates of a peer: they are escaped, as ``\\n`` and ``\\u202e``. The
  message of an exception in a traceback is one line as well.
- Text of a peer is truncated, to 200 bytes per argument of a record, or less if the caller says so.
- A peer cannot flood the log. `BURST` records of one kind without a traceback are written per minute and
  peer; the next one after that minute says how many were omitted. `TRACEBACKS` failures of user code,
  identified by the line that raised them, are written per minute with their traceback, the others on one
  line. A lack of system resources is logged once a minute for the whole process (`once_a_minute`).
- Logging raises nothing. An exception of an application's handler or filter is reported on stderr, if that is
  open, as `logging` does it for its own handlers. Only what ends the program propagates.
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import SocketAddress

__all__ = ["BURST", "MINUTE", "TRACEBACKS", "is_milestone", "logger_for", "once_a_minute", "shown"]

#: Records of one kind about one peer to write per minute.
BURST = 100
#: Tracebacks of one failure to write per minute.
TRACEBACKS = 10
#: Seconds.
MINUTE = 60.0

#: Maximum number of kinds of records and failures to count at a time.
_MAX_KINDS = 1024
#: Maximum size of an argument in a record. More is shown at DEBUG.
_ARGUMENT = 200
_ARGUMENT_AT_DEBUG = 2000
#: Maximum size of an exception's message in a traceback, and without one.
_MESSAGE = 1000
_REPEATED = 60
#: Patterns for the lines of a traceback, which have a margin inside groups.
_MARGIN = re.compile(r"[ |+-]*")
_FRAME = re.compile(r'[ |+-]*File "')
_BETWEEN = re.compile(r"[\s|]*(?:During handling of the above|The above exception)[ a-z,]*:[\s|]*")


def shown(text: str | bytes, limit: int = 80) -> str:
    """Return a peer's text as it may appear in a log, an error or a terminal: one line, printable, and
    truncated.

    Args:
        text: any text; bytes are decoded as UTF-8.
        limit: bytes of UTF-8 after which it is truncated, followed by "...".
    """
    head = text[: limit + 1]
    if isinstance(head, bytes):
        head = head.decode(errors="backslashreplace")
    if head.isascii() and head.isprintable():
        written, whole = head[:limit], len(head) <= limit
    else:
        written, whole = _written_out(head, limit)
    return written if whole and len(text) <= limit else f"{written}..."


def _written_out(text: str, limit: int) -> tuple[str, bool]:
    """Escape as much of a text as fits into ``limit`` bytes, and return whether that is all of it."""
    pieces: list[str] = []
    for char in text:
        piece = char if char.isprintable() else char.encode("unicode_escape").decode()
        limit -= len(piece.encode())
        if limit < 0:
            return "".join(pieces), False
        pieces.append(piece)
    return "".join(pieces), True


def logger_for(name: str) -> logging.Logger:
    """Return the logger of that name, with the filter of this module. Its methods raise nothing."""
    logger = logging.getLogger(name)
    logger.addFilter(_filter)

    def handle(record: logging.LogRecord) -> None:
        try:
            # Looked up each time, because libraries for error reports replace methods of the class.
            type(logger).handle(logger, record)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - of an application's handler or filter
            _report_failure(record)

    logger.handle = handle  # type: ignore[method-assign]
    return logger


def _report_failure(record: logging.LogRecord) -> None:
    """Report on stderr that a record could not be logged."""
    try:
        _reporter.handleError(record)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - stderr is closed, or the exception cannot be printed
        return


def once_a_minute(condition: str) -> bool:
    """Whether to write a record about this condition of the machine now. Counted for the whole process."""
    counts = _counts()
    return counts is None or counts.conditions.add(condition)[0]


class _Shown:
    """An argument of a record, escaped when the record is written."""

    __slots__ = ("_limit", "_value")

    def __init__(self, value: object, limit: int) -> None:
        self._value = value
        self._limit = limit

    def __str__(self) -> str:
        return self._text(str)

    def __repr__(self) -> str:
        return self._text(repr)

    def _text(self, how: Callable[[object], str]) -> str:
        try:
            return shown(how(self._value), self._limit)
        except (KeyboardInterrupt, SystemExit, trio.Cancelled):
            raise
        except BaseException:  # noqa: BLE001 - of an application's own object
            return f"{type(self._value).__name__} (its text is unavailable)"


def is_milestone(count: int) -> bool:
    """Whether to log that an event has happened so many times: at 1, 10, 100 and so on."""
    return str(count).strip("0") == "1"


class _Counts:
    """Counts events per minute, starting with the first one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kinds: dict[object, tuple[float, int]] = {}

    def add(self, kind: object) -> tuple[bool, int]:
        """Return whether to write this event, and how many were omitted in an earlier minute."""
        now = trio.current_time()
        end, count = self._kinds.get(kind, (now + MINUTE, 0))
        left_out = 0
        if now >= end:
            left_out = max(0, count - self._most)
            end, count = now + MINUTE, 0
            del self._kinds[kind]  # move it to the end
        self._kinds[kind] = (end, count + 1)
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return count < self._most, left_out


class _RunCounts:
    """The counters of one trio run, which use its clock."""

    def __init__(self) -> None:
        self.records = _Counts(BURST)
        self.failures = _Counts(TRACEBACKS)
        self.conditions = _Counts(1)


_run_counts: trio.lowlevel.RunVar[_RunCounts] = trio.lowlevel.RunVar("trio_ws.logs")


def _counts() -> _RunCounts | None:
    """Return the counters, or None outside of trio, such as in a handler's thread, which has no clock."""
    try:
        return _run_counts.get()
    except LookupError:
        counts = _RunCounts()
        _run_counts.set(counts)
        return counts
    except RuntimeError:
        return None


class _Filter(logging.Filter):
    """Implements the invariants above."""

    def filter(self, record: logging.LogRecord) -> bool:
        counts = _counts() if record.levelno > logging.DEBUG else None
        if counts is not None:
            if record.exc_info:
                _count_failure(counts, record)
            elif not _counted(counts, record):
                return False
        limit = _ARGUMENT if record.levelno > logging.DEBUG else _ARGUMENT_AT_DEBUG
        if isinstance(record.args, tuple):
            record.args = tuple(_argument(one, limit) for one in record.args)
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = _traceback(record.exc_info[1])
        return True


def _counted(counts: _RunCounts, record: logging.LogRecord) -> bool:
    """Whether to write a record without a traceback."""
    address: SocketAddress = getattr(record, "peer", None)
    host = address[0] if isinstance(address, tuple) and address else address
    written, left_out = counts.records.add((record.name, record.msg, str(host)))
    if left_out:
        record.msg += " (%d more of these were omitted)"
        record.args = (*record.args, left_out) if isinstance(record.args, tuple) else (left_out,)
    return written


def _count_failure(counts: _RunCounts, record: logging.LogRecord) -> None:
    """Remove the traceback from a record if it was written often enough."""
    exc = record.exc_info[1] if record.exc_info else None
    tb = exc.__traceback__ if exc is not None else None
    if exc is None or tb is None:
        return
    while tb.tb_next is not None:
        tb = tb.tb_next
    kind = (record.name, record.msg, type(exc), tb.tb_frame.f_code.co_filename, tb.tb_lineno)
    if not counts.failures.add(kind)[0]:
        record.msg += ": %s: %s (traceback logged above)"
        record.args = (*(record.args or ()), type(exc).__name__, _Shown(exc, _REPEATED))
        record.exc_info = None


def _argument(value: object, limit: int) -> object:
    return value if value is None or isinstance(value, int | float | _Shown) else _Shown(value, limit)


def _traceback(exc: BaseException) -> str | None:
    """Format the traceback of an exception, each message on one line; None if that fails."""
    try:
        chunks = list(traceback.TracebackException.from_exception(exc).format())
    except Exception:  # noqa: BLE001 - raised by the exception's own methods; the caller has handled the exception
        return None
    return "\n".join(_one_message(chunk.removesuffix("\n")) for chunk in chunks)


def _one_message(chunk: str) -> str:
    """Put a message of a traceback on one line after the margin of its group; frames stay unchanged."""
    if chunk.isprintable() and len(chunk) <= _MESSAGE:
        return chunk
    if _FRAME.match(chunk) or _BETWEEN.fullmatch(chunk):
        return chunk
    margin = _MARGIN.match(chunk)
    assert margin is not None
    message = chunk[margin.end() :].replace(f"\n{margin[0]}", "\n")
    return margin[0] + shown(message, _MESSAGE)


_filter = _Filter()
_reporter = logging.NullHandler()
