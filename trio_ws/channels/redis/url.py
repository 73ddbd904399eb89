"""What a Redis URL says, checked when a broker is made.

What always holds: no text that is made here has the password in it, nor an error's, nor a cause's. That is
why a wrong URL is not repeated in the error: where it is wrong, nobody can tell which of its parts was
secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_ws.protocol.urls import masked

__all__ = ["SCHEMES", "UNDERSTOOD", "RedisURL", "parse_redis_url"]

#: The schemes of Redis URLs; the last two are one.
SCHEMES = frozenset({"redis", "rediss", "unix", "redis+unix"})

#: For error messages.
UNDERSTOOD = (
    "redis://[user:password@]host[:port][/db], the same with rediss:// for TLS,"
    " and unix://[user:password@]/path/of/socket; special characters in a password are percent-encoded"
)


@dataclass(frozen=True)
class RedisURL:
    """Where Redis is, and who we are there.

    Attributes:
        host: a name or an address; empty with ``path``.
        port: the TCP port.
        path: the Unix socket, or None.
        secure: whether TLS is spoken.
        username: None for Redis' default user.
        password: None for no password.
        shown: the URL without user and password, for people.
    """

    host: str
    port: int
    path: str | None
    secure: bool
    username: str | None
    password: str | None = field(repr=False)
    shown: str


def parse_redis_url(url: str) -> RedisURL:
    """Take a URL apart.

    The database that it may name is checked and has no meaning: channels are outside of Redis' databases.

    Raises:
        TypeError: it is no str.
        ValueError: it is no URL of a Redis.
    """
    if not isinstance(url, str):
        raise TypeError(f"a Redis URL is a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port if parts.port is not None else 6379
    except ValueError:
        raise ValueError(f"the URL's host or port is wrong; what is understood: {UNDERSTOOD}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the URL is not one of a Redis; what is understood: {UNDERSTOOD}")
    if parts.fragment or port == 0:
        raise ValueError(f"the URL has a wrong port or a '#'; what is understood: {UNDERSTOOD}")
    if parts.scheme in ("redis", "rediss"):
        host, path = parts.hostname or "", None
        database = parts.path.removeprefix("/")
        if not host:
            raise ValueError(f"the URL names no host; what is understood: {UNDERSTOOD}")
    else:
        host, path = "", unquote(parts.path)
        database = ""
        if parts.hostname or len(path) < 2:
            raise ValueError(f"the URL names no path of a socket; what is understood: {UNDERSTOOD}")
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
        raise ValueError("of the options after '?' in a Redis URL only db is understood")
    for number in [database] * (database != "") + [value for _, value in options]:
        if not (number.isascii() and number.isdecimal()):
            raise ValueError("the database in a Redis URL is a number")
