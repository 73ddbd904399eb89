"""Turn the ``broker`` argument of a server into a broker."""

from __future__ import annotations

from trio_ws.channels.broker import Broker
from trio_ws.channels.redis.broker import RedisBroker
from trio_ws.channels.redis.url import SCHEMES, UNDERSTOOD

__all__ = ["broker_from"]


def broker_from(given: str | Broker) -> Broker:
    """Return the broker itself, or make the one that a URL names.

    Raises:
        TypeError: ``given`` is neither a broker nor a str.
        ValueError: the URL is invalid, or its scheme is unknown.
        BrokerError: a package that the broker requires is not installed.
    """
    if isinstance(given, Broker):
        return given
    if not isinstance(given, str):
        raise TypeError(
            f"broker must be a Broker or a URL such as 'redis://localhost', not {type(given).__name__}"
        )
    # Do not repeat the URL in the error: it may hold a password.
    if given.partition("://")[0].lower() not in SCHEMES:
        raise ValueError(f"no broker supports this URL; expected {UNDERSTOOD}")
    return RedisBroker(given)
