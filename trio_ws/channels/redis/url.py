"""Parse and validate a Redis URL.

Invariant: no message made here contains the password, nor does the message of an error or of its cause. An
invalid URL is therefore not repeated in the error, since nobody can tell which of its parts was secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_ws.protocol.urls import masked

__all__ = ["SCHEMES", "UNDERSTOOD", "RedisURL", "parse_redis_url"]

#: The schemes of Redis URLs; the last two are one.
SCHEMES = frozenset({"redis", "rediss", "unix", "redis+unix"})

#: The accepted URLs, for error messages.
UNDERSTOOD = (
    "redis://[user:password@]host[:port][/db], the same with rediss:// for TLS,"
    " and unix://[user:password@]/path/of/socket; special characters in a password are percent-encoded"
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
    """

    host: str
    port: int
    path: str | None
    secure: bool
    username: str | None
    password: str | None = field(repr=False)
    shown: str


def parse_redis_url(url: str) -> RedisURL:
    """Parse a URL.

    The number of a database is validated and has no effect, since channels do not belong to databases.

    Raises:
        TypeError: ``url`` is not a str.
        ValueError: ``url`` is not a valid Redis URL.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL must be a str, not {type(url).__name__}")
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
