"""Backoff: whether to try again, and when.

Exponential with full jitter: all clients of a server that restarts lose it in the same moment, and only waits
drawn from the whole interval keep them from coming back in one too.
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

#: Request Timeout, Too Early and Too Many Requests: the same request may be answered otherwise later.
_PASSING = frozenset({408, 425, 429})


class _SystemRandom(random.SystemRandom):
    """The system's random source. It has no state, which a fork would copy, so it is pickled by its name."""

    def __reduce__(self) -> str:
        return "_SYSTEM"

    def __repr__(self) -> str:
        return "SystemRandom()"


_SYSTEM = _SystemRandom()


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """When a client tries again to connect: ``WebSocketClient(uri, reconnect=Backoff(...))``.

    The n-th wait in a row is drawn evenly from 0 to ``min(maximum, initial * factor ** (n - 1))`` seconds.
    A ``Retry-After`` of the server's answer is added to that; together they are ``maximum`` at most.

    A first connection is tried at once, and waits lie between its tries. A lost connection is waited for
    before the first try.

    Attributes:
        initial: seconds, the upper bound of the first wait. Default 0.5.
        maximum: seconds, the upper bound of all. Default 30.
        factor: what the bound grows by from wait to wait. Default 2.
        attempts: tries in a row after which the client gives up. None, the default, for no end.
        reset_after: seconds that a connection must have stayed open for the counting of waits and tries to
            begin anew. Default 30.
        jitter: draw the waits. False makes each as long as its upper bound. Default True.
        random: what draws; give a seeded one to know the waits in a test. Default: the system's source, of
            which each child of a fork draws for itself.

    Raises:
        TypeError, ValueError: a field is of the wrong type or out of its range; the message names it.
    """

    initial: float = 0.5
    maximum: float = 30.0
    factor: float = 2.0
    attempts: int | None = None
    reset_after: float = 30.0
    jitter: bool = True
    random: random.Random = field(
        default=_SYSTEM,
        repr=False,
        compare=False,
    )

    def __post_init__(self) -> None:
        for name, low in (("initial", 0.0), ("maximum", 0.0), ("factor", 1.0), ("reset_after", 0.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number, not {type(value).__name__}")
            if not low <= value < math.inf:
                raise ValueError(f"{name} must be {low:g} or more, and finite, not {value}")
        if self.initial > self.maximum:
            raise ValueError(f"initial ({self.initial}) must be at most maximum ({self.maximum})")
        if self.attempts is not None:
            if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
                raise TypeError(f"attempts is an int or None, not {type(self.attempts).__name__}")
            if self.attempts < 1:
                raise ValueError(f"attempts must be 1 or more, not {self.attempts}")

    def retries(self, error: ConnectionFailedError | ConnectionClosedError) -> bool:
        """Whether to try again after this error. A subclass may have a rule of its own.

        Yes for a lost connection, whoever closed it with whatever code, for HTTP 5xx, for 408, 425 and 429,
        which pass, for errors of the network and for ``open_timeout``. No for any other HTTP status, of a
        proxy too, a redirect that cannot be followed among them, for an `InvalidURIError`, a certificate that
        is not trusted, or a package that is missing: these will be the same the next time.
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
        """Seconds to wait before the next try.

        Args:
            wait: 1 for the first wait in a row.
            error: what went wrong, which may ask for more.
        """
        try:
            bound = min(self.maximum, self.initial * float(self.factor) ** (wait - 1))
        except OverflowError:
            bound = self.maximum
        drawn = self.random.uniform(0, bound) if self.jitter else bound
        return min(self.maximum, drawn + _retry_after(error))


def _retry_after(error: object) -> float:
    """The seconds that a server asked for with ``Retry-After`` (RFC 9110 section 10.2.3), else 0."""
    if not isinstance(error, HandshakeRejectedError):
        return 0.0
    value = (error.headers.get("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    date = _time_of(value)
    if date is None:
        return 0.0
    # By the server's own clock where it tells, since ours may be wrong.
    now = _time_of(error.headers.get("Date")) or datetime.now(UTC)
    return max(0.0, (date - now).total_seconds())


def _time_of(value: str | None) -> datetime | None:
    """What an HTTP date says (RFC 9110 section 5.6.7); None where it is none."""
    try:
        date = parsedate_to_datetime(value or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


#: One try.
ONCE = Backoff(attempts=1)
