"""Connections that expire: one task closes them in time, whatever their number.

Invariant: a connection is closed at its ``expires_at``, as it is then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trio_ws.rpc.timetable import Timetable

if TYPE_CHECKING:
    from trio_ws.rpc.session import RPCSession

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


async def _close(session: RPCSession) -> None:
    session.close_soon(_CODE, _REASON)


def _is_over(session: RPCSession) -> bool:
    return session.transport.over


_TIMETABLE: Timetable[RPCSession] = Timetable(_close, _is_over)


def watch_expiry(session: RPCSession, uid: str, expires_at: float | None) -> None:
    """Close a connection at this time of trio's clock, and not at the one that was given before.

    Args:
        session: its session.
        uid: its id.
        expires_at: the time; None for never.
    """
    if expires_at is None:
        _TIMETABLE.discard(session.pool, uid)
    else:
        _TIMETABLE.put(session.pool, uid, session, expires_at)
