"""Parse and validate a Redis URL.

Invariant: neither an error nor its cause contains the password. An error therefore does not quote an invalid
URL, because any part of it may be the password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_ws.protocol.urls import masked

__all__ = ["SCHEMES", "UNDERSTOOD", "RedisURL", "parse_redis_url"]

#: The schemes of Redis URLs; ``unix`` and ``redis+unix`` are one.
SCHEMES = frozenset(
    {"redis", "rediss", "unix", "redis+unix", "redis+sentinel", "redis+cluster", "rediss+cluster"}
)
#: The port of a Sentinel.
_SENTINEL_PORT = 26379

#: The accepted URLs, for error messages.
UNDERSTOOD = (
    "redis://[user:password@]host[:port][/db], the same with rediss:// for TLS,"
    " unix://[user:password@]/path/of/socket, redis+sentinel://[user:password@]host[:port][,host...]/name,"
    " and redis+cluster:// or rediss+cluster://[user:password@]host[:port][,host...];"
    " special characters in a password are percent-encoded"
)


@dataclass(frozen=True)
class RedisURL:
    """Address and credentials of a Redis server.

    Attributes:
        host: a name or an address; empty with ``path``.
        port: the TCP port.
        path: the Unix socket, or None.
        secure: whether to use TLS.
        username: None for Redis' default user.
        password: None for no password.
        shown: the URL without user and password, for messages.
        sentinels: hosts and ports of the Sentinels that know the primary; ``host`` is then empty.
        service: the name of the primary at the Sentinels.
        nodes: hosts and ports of some nodes of a cluster; ``host`` is then empty.
    """

    host: str
    port: int
    path: str | None
    secure: bool
    username: str | None
    password: str | None = field(repr=False)
    shown: str
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    nodes: tuple[tuple[str, int], ...] = ()


def parse_redis_url(url: str) -> RedisURL:
    """Parse a URL.

    The number of a database is validated and has no effect, since channels do not belong to databases.

    Raises:
        TypeError: ``url`` is not a str.
        ValueError: ``url`` is not a valid Redis URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL must be a str, not {type(url).__name__}")
    if url.startswith("redis+sentinel://"):
        return _parse_sentinels(url)
    if url.startswith(("redis+cluster://", "rediss+cluster://")):
        return _parse_cluster(url)
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else 6379
    except ValueError:
        raise ValueError(f"the URL has an invalid host or port; expected {UNDERSTOOD}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the URL has another scheme; expected {UNDERSTOOD}")
    if parts.fragment or port == 0:
        raise ValueError(f"the URL has an invalid port or a '#'; expected {UNDERSTOOD}")
    if parts.scheme in ("redis", "rediss"):
        host, path = parts.hostname or "", None
        database = parts.path.removeprefix("/")
        if not host:
            raise ValueError(f"the URL has no host; expected {UNDERSTOOD}")
    else:
        host, path = "", unquote(parts.path)
        database = ""
        if parts.hostname or len(path) < 2:
            raise ValueError(f"the URL has no socket path; expected {UNDERSTOOD}")
    _check_database(database, parts.query)
    return RedisURL(
        host=host,
        port=port,
        path=path,
        secure=parts.scheme == "rediss",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
        shown=masked(url),
    )


def _check_database(database: str, query: str) -> None:
    options = parse_qsl(query, keep_blank_values=True)
    if any(name != "db" for name, _ in options):
        raise ValueError("db is the only option allowed after '?' in a Redis URL")
    for number in [database] * (database != "") + [value for _, value in options]:
        if not (number.isascii() and number.isdecimal()):
            raise ValueError("the database in a Redis URL must be a number")


def _parse_sentinels(url: str) -> RedisURL:
    username, password, place = _split_user(url)
    hosts, _, service = place.partition("/")
    try:
        sentinels = _parse_hosts(hosts, _SENTINEL_PORT)
        if not service or not service.isascii() or any(character in service for character in "/?# "):
            raise ValueError
    except ValueError:
        raise ValueError(f"the URL has an invalid Sentinel, or no name; expected {UNDERSTOOD}") from None
    return RedisURL(
        host="",
        port=0,
        path=None,
        secure=False,
        username=username,
        password=password,
        shown=f"redis+sentinel://{place}",
        sentinels=sentinels,
        service=service,
    )


def _parse_cluster(url: str) -> RedisURL:
    username, password, place = _split_user(url)
    scheme = url.partition("://")[0]
    try:
        nodes = _parse_hosts(place.removesuffix("/"), 6379)
    except ValueError:
        raise ValueError(f"the URL has an invalid node of a cluster; expected {UNDERSTOOD}") from None
    return RedisURL(
        host="",
        port=0,
        path=None,
        secure=scheme == "rediss+cluster",
        username=username,
        password=password,
        shown=f"{scheme}://{place}",
        nodes=nodes,
    )


def _split_user(url: str) -> tuple[str | None, str | None, str]:
    """Return user, password, and what follows them."""
    user_info, at, place = url.partition("://")[2].rpartition("@")
    username, colon, password = user_info.partition(":")
    return (
        unquote(username) if at and username else None,
        unquote(password) if at and colon else None,
        place,
    )


def _parse_hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for one in text.split(","):
        parts = urlsplit(f"//{one}")
        if not parts.hostname or parts.path or parts.port == 0 or parts.query or parts.fragment:
            raise ValueError
        hosts.append((parts.hostname, parts.port or port))
    return tuple(hosts)
