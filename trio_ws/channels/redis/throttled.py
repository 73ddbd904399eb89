"""Warnings that may have the same cause again and again."""

from __future__ import annotations

import math

import trio

from trio_ws.logs import logger_for

__all__ = ["ThrottledWarning"]

logger = logger_for("trio_ws.channels")

#: Seconds in which the same warning is logged once.
_INTERVAL = 60.0


class ThrottledWarning:
    """Logs a warning at most once a minute, with the number of occurrences."""

    def __init__(self) -> None:
        self._count = 0
        self._next = -math.inf

    def warn(self, text: str, *args: object) -> None:
        self._count += 1
        now = trio.current_time()
        if now >= self._next:
            logger.warning(text + " (%d in the last minute)", *args, self._count)  # noqa: G003
            self._count = 0
            self._next = now + _INTERVAL
