"""From what a server is given as its broker to a broker."""

from __future__ import annotations

from trio_ws.channels.broker import Broker
from trio_ws.channels.redis.broker import RedisBroker
from trio_ws.channels.redis.url import SCHEMES, UNDERSTOOD

__all__ = ["broker_from"]


def broker_from(given: str | Broker) -> Broker:
    """Give a broker back, or make the one that a URL names.

    Raises:
        TypeError: it is neither.
        ValueError: no broker has such a URL, or the URL is wrong.
        BrokerError: what its broker needs is not installed.
    """
    if isinstance(given, Broker):
        return given
    if not isinstance(given, str):
        raise TypeError(
            f"a broker is a Broker or a URL such as 'redis://localhost', not {type(given).__name__}"
        )
    # The URL is not repeated: it may hold a password.
    if given.partition("://")[0].lower() not in SCHEMES:
        raise ValueError(f"no broker has such a URL; what is understood: {UNDERSTOOD}")
    return RedisBroker(given)
