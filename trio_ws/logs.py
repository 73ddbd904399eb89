"""Logs: what of a peer's text is shown, and how often.

All loggers of the package come from `logger_for`, whose filter sees each record before any handler does.

Invariants:

- A record is one line, or one line and a traceback. No control character of a peer reaches it, none that
  turns the direction of text, no line or paragraph separator and no surrogate: they are written out, as
  ``\\n`` and ``\\u202e`` are. The message of an exception in a traceback is one line as well.
- What a peer wrote is cut, at 200 bytes for each argument of a record and shorter where the caller says so.
- A peer cannot flood the log. Of one kind of record without a traceback, `BURST` a minute are written for
  each peer; the next one after that minute says how many were left out. Of one failure of user code, known
  by the line that raised it, `TRACEBACKS` a minute are written with their traceback, the others on one line.
  What the machine lacks, whoever meets it, is one line a minute (`once_a_minute`).
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BURST", "MINUTE", "TRACEBACKS", "logger_for", "once_a_minute", "shown"]

#: Records of one kind, about one peer, that are written in a minute.
BURST = 100
#: Tracebacks of one failure that are written in a minute.
TRACEBACKS = 10
#: Seconds.
MINUTE = 60.0

#: Kinds of records, and of failures, that are counted at a time.
_MAX_KINDS = 1024
#: Bytes of an argument in a record. At DEBUG somebody wants to see more.
_ARGUMENT = 200
_ARGUMENT_AT_DEBUG = 2000
#: Bytes of the message of an exception in a traceback, and where that is left out.
_MESSAGE = 1000
_REPEATED = 60
#: The pieces of a traceback, which stand behind a margin inside of groups.
_MARGIN = re.compile(r"[ |+-]*")
_FRAME = re.compile(r'[ |+-]*File "')
_BETWEEN = re.compile(r"[\s|]*(?:During handling of the above|The above exception)[ a-z,]*:[\s|]*")


def shown(text: str | bytes, limit: int = 80) -> str:
    """A peer's text as a log, an error or a terminal may have it: on one line, printable, and cut.

    Args:
        text: anything; bytes are read as UTF-8.
        limit: bytes of UTF-8 after which it is cut; "..." follows then.
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
    """As much of a text as ``limit`` bytes hold, and whether that is all of it."""
    pieces: list[str] = []
    for char in text:
        piece = char if char.isprintable() else char.encode("unicode_escape").decode()
        limit -= len(piece.encode())
        if limit < 0:
            return "".join(pieces), False
        pieces.append(piece)
    return "".join(pieces), True


def logger_for(name: str) -> logging.Logger:
    """The logger of that name, with the filter that this module is about."""
    logger = logging.getLogger(name)
    logger.addFilter(_filter)
    return logger


def once_a_minute(condition: str) -> bool:
    """Whether a record of this condition of the machine, whoever meets it, is to be written now."""
    counts = _counts()
    return counts is None or counts.conditions.add(condition)[0]


class _Shown:
    """An argument of a record, shown when the record is written."""

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
            return f"{type(self._value).__name__}, whose text cannot be had"


class _Counts:
    """How often something happened in the minute that began when it first did."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kinds: dict[object, tuple[float, int]] = {}

    def add(self, kind: object) -> tuple[bool, int]:
        """Whether it may still be written, and how many before it were not, in a minute that is over."""
        now = trio.current_time()
        end, count = self._kinds.get(kind, (now + MINUTE, 0))
        left_out = 0
        if now >= end:
            left_out = max(0, count - self._most)
            end, count = now + MINUTE, 0
            del self._kinds[kind]  # it becomes the newest
        self._kinds[kind] = (end, count + 1)
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return count < self._most, left_out


class _RunCounts:
    """What is counted in one run of trio, by its clock."""

    def __init__(self) -> None:
        self.records = _Counts(BURST)
        self.failures = _Counts(TRACEBACKS)
        self.conditions = _Counts(1)


_run_counts: trio.lowlevel.RunVar[_RunCounts] = trio.lowlevel.RunVar("trio_ws.logs")


def _counts() -> _RunCounts | None:
    """None outside of trio: a handler that failed in a thread of its own. There is no clock, and no count."""
    try:
        return _run_counts.get()
    except LookupError:
        counts = _RunCounts()
        _run_counts.set(counts)
        return counts
    except RuntimeError:
        return None


class _Filter(logging.Filter):
    """See the module's text."""

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
    """Whether a record without a traceback is to be written."""
    address: Any = getattr(record, "peer", None)
    host = address[0] if isinstance(address, tuple) and address else address
    written, left_out = counts.records.add((record.name, record.msg, str(host)))
    if left_out:
        record.msg += " (%d more of these were left out)"
        record.args = (*record.args, left_out) if isinstance(record.args, tuple) else (left_out,)
    return written


def _count_failure(counts: _RunCounts, record: logging.LogRecord) -> None:
    """Take its traceback from a record, if that was written often enough."""
    exc = record.exc_info[1] if record.exc_info else None
    tb = exc.__traceback__ if exc is not None else None
    if exc is None or tb is None:
        return
    while tb.tb_next is not None:
        tb = tb.tb_next
    kind = (record.name, record.msg, type(exc), tb.tb_frame.f_code.co_filename, tb.tb_lineno)
    if not counts.failures.add(kind)[0]:
        record.msg += ": %s: %s (its traceback is further up)"
        record.args = (*(record.args or ()), type(exc).__name__, _Shown(exc, _REPEATED))
        record.exc_info = None


def _argument(value: object, limit: int) -> object:
    return value if value is None or isinstance(value, int | float | _Shown) else _Shown(value, limit)


def _traceback(exc: BaseException) -> str | None:
    """The traceback of an exception, with each message on one line; None where it cannot be had."""
    try:
        chunks = list(traceback.TracebackException.from_exception(exc).format())
    except Exception:  # noqa: BLE001 - of the exception's own methods; whoever logged it has seen to that
        return None
    return "\n".join(_one_message(chunk.removesuffix("\n")) for chunk in chunks)


def _one_message(chunk: str) -> str:
    """A piece of a traceback: frames as they are, a message on one line behind the margin of its group."""
    if chunk.isprintable() and len(chunk) <= _MESSAGE:
        return chunk
    if _FRAME.match(chunk) or _BETWEEN.fullmatch(chunk):
        return chunk
    margin = _MARGIN.match(chunk)
    assert margin is not None
    message = chunk[margin.end() :].replace(f"\n{margin[0]}", "\n")
    return margin[0] + shown(message, _MESSAGE)


_filter = _Filter()
