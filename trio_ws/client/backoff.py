"""Backoff: whether and when to retry a connection.

Exponential back-off with full jitter. All clients of a server that restarts lose it at the same moment, so
their delays are drawn from the whole interval to keep them from returning at the same moment, too.
"""

from __future__ import annotations

import math
import random
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from trio_ws.client.http_tunnel import TunnelError
from trio_ws.errors import HandshakeRejectedError, InvalidURIError

if TYPE_CHECKING:
    from trio_ws.errors import ConnectionClosedError, ConnectionFailedError

__all__ = ["ONCE", "Backoff"]

#: Request Timeout, Too Early and Too Many Requests: the same request may succeed later.
_PASSING = frozenset({408, 425, 429})


class _SystemRandom(random.SystemRandom):
    """The system's random source. It is pickled by name, and has no state that a fork would copy."""

    def __reduce__(self) -> str:
        return "_SYSTEM"

    def __repr__(self) -> str:
        return "SystemRandom()"


_SYSTEM = _SystemRandom()


#: The lowest value of each number among the fields.
_LOWEST = {"initial": 0.0, "maximum": 0.0, "factor": 1.0, "reset_after": 0.0, "max_retry_after": 0.0}


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Retry policy of a client: ``WebSocketClient(uri, reconnect=Backoff(...))``.

    The n-th consecutive delay is drawn uniformly from 0 to ``min(maximum, initial * factor ** (n - 1))``
    seconds. If the server rejects the handshake with ``Retry-After``, that many seconds are added, at most
    ``max_retry_after``.

    The first connection is attempted immediately, with a delay before each further attempt. After a lost
    connection there is a delay before the first attempt.

    Under a clock that jumps (`trio.testing.MockClock`), 20 internal errors of the server in a row, 500 or
    1011, end the attempts in any case. Otherwise a test of a broken server would never end.

    Attributes:
        initial: upper bound of the first delay in seconds. Default 0.5.
        maximum: upper bound of all delays in seconds, without ``Retry-After``. Default 30.
        factor: growth of the bound from delay to delay. Default 2.
        attempts: consecutive attempts after which the client gives up. None, the default, means never.
        reset_after: seconds that a connection must stay open for delays and attempts to start over. Default
            30.
        jitter: whether delays are random. If False, each is as long as its upper bound. Default True.
        max_retry_after: upper bound of what ``Retry-After`` adds to a delay, in seconds. Default 3600, an
            hour. 0 ignores the header.
        random: source of random numbers; pass a seeded one for predictable delays in a test. By default the
            system's source, which a fork does not duplicate.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range; the message names it.
    """

    initial: float = 0.5
    maximum: float = 30.0
    factor: float = 2.0
    attempts: int | None = None
    reset_after: float = 30.0
    jitter: bool = True
    max_retry_after: float = 3600.0
    random: random.Random = field(
        default=_SYSTEM,
        repr=False,
        compare=False,
    )

    def __post_init__(self) -> None:
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {type(value).__name__}")
            if not low <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least {low:g}, not {value}")
        if self.initial > self.maximum:
            raise ValueError(f"initial ({self.initial}) must be at most maximum ({self.maximum})")
        if self.attempts is not None:
            if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
                raise TypeError(f"attempts must be an int or None, not {type(self.attempts).__name__}")
            if self.attempts < 1:
                raise ValueError(f"attempts must be 1 or more, not {self.attempts}")

    def retries(self, error: ConnectionFailedError | ConnectionClosedError) -> bool:
        """Return whether to retry after this error. Override it in a subclass for another rule.

        True for a lost connection, whoever closed it with whatever code, for HTTP 5xx, for the temporary 408,
        425 and 429, for network errors and for ``open_timeout``. False for any other HTTP status, also of a
        proxy, including redirects that cannot be followed, for an `InvalidURIError`, an untrusted
        certificate, or a missing package: these would fail again.
        """
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, HandshakeRejectedError | TunnelError) and cause.status is not None:
                return cause.status >= 500 or cause.status in _PASSING
            if isinstance(cause, InvalidURIError | ImportError | ssl.SSLCertVerificationError):
                return False
            cause = cause.__cause__
        return True

    def delay(self, wait: int, error: ConnectionFailedError | ConnectionClosedError | None = None) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            wait: 1 for the first of consecutive delays.
            error: the last failure, which may ask for a longer delay.
        """
        try:
            bound = min(self.maximum, self.initial * float(self.factor) ** (wait - 1))
        except OverflowError:
            bound = self.maximum
        drawn = self.random.uniform(0, bound) if self.jitter else bound
        return drawn + min(self.max_retry_after, _retry_after(error))


def _retry_after(error: object) -> float:
    """Return the seconds of a ``Retry-After`` header (RFC 9110 section 10.2.3), or 0."""
    if not isinstance(error, HandshakeRejectedError):
        return 0.0
    value = (error.headers.get("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    date = _time_of(value)
    if date is None:
        return 0.0
    # Use the server's clock if it sent one, since ours may be wrong.
    now = _time_of(error.headers.get("Date")) or datetime.now(UTC)
    return max(0.0, (date - now).total_seconds())


def _time_of(value: str | None) -> datetime | None:
    """Parse an HTTP date (RFC 9110 section 5.6.7); None if it is invalid."""
    try:
        date = parsedate_to_datetime(value or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


#: A single attempt.
ONCE = Backoff(attempts=1)
