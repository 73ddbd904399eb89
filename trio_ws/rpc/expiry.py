"""Connections that expire: one task closes them in time, whatever their number.

Invariant: a connection is closed at its ``expires_at``, as it is then.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from trio_ws.rpc.timetable import Timetable

__all__ = ["check_expiry", "watch_expiry"]

#: RFC 6455 section 7.4.1: the connection is against a policy, which may be its end.
_CODE, _REASON = 1008, "expired"


def check_expiry(value: object) -> float | None:
    """Return a time at which a connection expires, or None for never.

    Raises:
        TypeError: it is neither a number nor None.
        ValueError: it is not a number that can be compared.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expires_at must be a time of trio's clock or None, not {type(value).__name__}")
    if math.isnan(value):
        raise ValueError("expires_at must not be NaN")
    return None if value == math.inf else float(value)


class Expiring(Protocol):
    """A `ClientConnection`."""

    _session: Any
    _ws: Any

    @property
    def uid(self) -> str:
        """Its id."""
        ...

    @property
    def expires_at(self) -> float | None:
        """When it is closed."""


async def _close(connection: Expiring) -> None:
    connection._session.close_soon(_CODE, _REASON)


def _is_closed(connection: Expiring) -> bool:
    return bool(connection._ws.closed)


_TIMETABLE: Timetable[Expiring] = Timetable(_close, _is_closed)


def watch_expiry(connection: Expiring) -> None:
    """Close a connection, which has a session, when it expires."""
    session, end = connection._session, connection.expires_at
    if session is None:
        return
    if end is None:
        _TIMETABLE.discard(session.pool, connection.uid)
    else:
        _TIMETABLE.put(session.pool, connection.uid, connection, end)
