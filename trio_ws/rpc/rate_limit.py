"""Rate limits: how often a client may call a method.

This is a sliding-window log: the times of recent calls are stored.

Invariants:

- Any window of ``period`` seconds contains at most ``limit`` allowed calls, wherever it begins.
- A refused call is not counted. A call after exactly the ``retry_after`` of its error is allowed.
- Memory is bounded: at most ``limit`` times are stored for each client and method, for at most
  ``max_clients`` clients. The least recently used client is dropped first.

This module does not read a clock. Callers pass the time in seconds, which must not decrease.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from trio_ws.predicates import is_async

__all__ = ["LIMIT_MARK", "Limiter", "RateLimit", "rate_limit", "target_of"]

F = TypeVar("F", bound=Callable[..., object])

#: The attribute of a function that carries its `RateLimit`.
LIMIT_MARK = "__trio_ws_rate_limit__"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])", re.ASCII)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``limit`` calls in any ``period`` seconds.

    Attributes:
        limit: the number of calls, at least 1. They may arrive all at once.
        period: the length of the window, in seconds.
        disconnect: whether to close the connection with code 1008 after the error response to a call that
            exceeds the limit.
        key: a function that returns, for a connection, the key that its calls are counted under. None counts
            each connection by itself. With the user's name as the key, reconnecting does not reset the limit.
    """

    limit: int
    period: float
    disconnect: bool = False
    key: Callable[[Any], Hashable] | None = None

    def __post_init__(self) -> None:
        _check(self.limit, self.period, self.key)


def _check(limit: object, period: int | float, key: object) -> None:
    if type(limit) is not int or limit < 1:
        raise ValueError(f"limit is a whole number of calls, at least 1, not {limit!r}")
    if type(period) not in (int, float) or not 0 < period < math.inf:
        raise ValueError(f"period is a positive number of seconds, such as 60, not {period!r}")
    if key is not None and (not callable(key) or is_async(key)):
        raise ValueError(f"key is a plain function of a connection, not {key!r}")


def rate_limit(
    limit: int,
    period: str | float,
    disconnect_on_limit_exceeded: bool = False,
    key: Callable[[Any], Hashable] | None = None,
) -> Callable[[F], F]:
    """Limit how often a client may call a method. Use it above or below ``@rpc_method()``.

    A call that exceeds the limit is answered with a `RateLimitError`.

    Args:
        limit: the number of calls in any window of ``period``, at least 1. They may arrive all at once.
        period: seconds, or text with a unit: ``"500ms"``, ``"10s"``, ``"1m"``, ``"2h"``, ``"1d"``.
        disconnect_on_limit_exceeded: close the connection with code 1008 after the error was sent. Default
            False.
        key: a function that returns, for a connection, the key that its calls are counted under, such as the
            user's name. By default each connection is counted by itself.

    Raises:
        ValueError: an argument is invalid.
    """
    rule = RateLimit(limit, _seconds(period), disconnect_on_limit_exceeded, key)

    def mark(function: F) -> F:
        setattr(target_of(function), LIMIT_MARK, rule)
        return function

    return mark


def target_of(function: object) -> Any:
    """Return the function that carries the marks: for a staticmethod or classmethod, the one inside."""
    return function.__func__ if isinstance(function, staticmethod | classmethod) else function


def _seconds(period: str | float) -> float:
    if isinstance(period, str):
        match = _PERIOD.fullmatch(period.strip())
        if match is not None:
            return float(match[1]) * _UNITS[match[2]]
    elif type(period) is int or type(period) is float:
        return float(period)
    raise ValueError(
        f"period is a number of seconds, or a number with one of the units ms, s, m, h, d, such as '10s', "
        f"not {period!r}"
    )


class _Client:
    """The times of one client's allowed calls, by method, the oldest first."""

    __slots__ = ("calls", "until")

    def __init__(self) -> None:
        self.calls: dict[str | None, deque[float]] = {}
        self.until = -math.inf  # the time from which none of them counts


class Limiter:
    """The records of all rate limits of one handler. See the module docstring.

    Args:
        max_clients: the maximum number of clients, or values of ``key``, whose calls are stored.
    """

    def __init__(self, max_clients: int = 65_536) -> None:
        if max_clients < 1:
            raise ValueError(f"max_clients is at least 1, not {max_clients}")
        self._max_clients = max_clients
        # The first part of a key is whether it comes from a limit's ``key``. Least recently used first.
        self._clients: OrderedDict[tuple[bool, Hashable], _Client] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clients)

    def check(self, limit: RateLimit, name: str | None, client_key: Hashable, now: float) -> float | None:
        """Count a call, if it is allowed.

        Args:
            limit: the method's rate limit.
            name: the method name; None for all names that do not exist.
            client_key: the connection's id, or the result of ``limit.key``.
            now: the current time in seconds, not less than in an earlier call.

        Returns:
            None if the call is allowed. Otherwise the seconds after which the next call will be.
        """
        place = (limit.key is not None, client_key)
        client = self._clients.get(place)
        if client is None:
            client = self._add(place, now)
        else:
            self._clients.move_to_end(place)
        times = client.calls.get(name)
        if times is None:
            times = client.calls[name] = deque()
        period = limit.period
        while times and times[0] + period <= now:
            times.popleft()
        if len(times) >= limit.limit:
            due = times[-limit.limit] + period
            retry_after = due - now
            while now + retry_after < due:  # the difference was rounded down
                retry_after += math.ulp(max(now, retry_after))  # a smaller step would change nothing
            return retry_after
        times.append(now)
        client.until = max(client.until, now + period)
        return None

    def forget(self, client_key: Hashable) -> None:
        """Remove the records of a closed connection. Those under a limit's ``key`` stay."""
        self._clients.pop((False, client_key), None)

    def _add(self, place: tuple[bool, Hashable], now: float) -> _Client:
        clients = self._clients
        # Two checks for each client that is added, so that expired ones leave faster than new ones come.
        for _ in range(2):
            if clients and next(iter(clients.values())).until <= now:
                clients.popitem(last=False)
        while len(clients) >= self._max_clients:
            clients.popitem(last=False)
        client = clients[place] = _Client()
        return client
