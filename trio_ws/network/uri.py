"""WebSocket URIs (RFC 6455 section 3), and what the URLs of proxies share with them."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from trio_ws.errors import InvalidURIError

__all__ = ["WebSocketURI", "ascii_host", "basic_authorization", "parse_uri"]

_PORTS = {"ws": 80, "wss": 443}
_OTHERS = {"http": "ws", "https": "wss"}


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """A checked URI.

    Attributes:
        secure: whether it is ``wss``.
        host: the host's name in ASCII, or its address without brackets.
        port: the TCP port.
        target: path and query as they go into the request.
        authorization: the value of the ``Authorization`` header that user and password ask for, or None.
    """

    secure: bool
    host: str
    port: int
    target: str
    authorization: str | None = None

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header: the port only where it is not the scheme's own."""
        host = self.authority.rpartition(":")[0]
        return host if self.port == _PORTS["wss" if self.secure else "ws"] else self.authority

    @property
    def authority(self) -> str:
        """Host and port, always both."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What has to be the same for two URIs to be at one server."""
        return self.secure, self.host, self.port

    def __str__(self) -> str:
        """For people and logs: without what may be secret, user and query."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.target.partition('?')[0]}"


def parse_uri(uri: str) -> WebSocketURI:
    """Take a ``ws`` or ``wss`` URI apart.

    Raises:
        TypeError: it is no str.
        InvalidURIError: it names no WebSocket; the message says what to mend.
    """
    if not isinstance(uri, str):
        raise TypeError(f"a WebSocket URI is a str, not {type(uri).__name__}")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as exc:
        raise InvalidURIError(f"{uri!r} is no URI: {exc}") from exc
    if parts.scheme not in _PORTS:
        better = _OTHERS.get(parts.scheme)
        hint = f"write {better}:// for {parts.scheme}://" if better else "it starts with ws:// or wss://"
        raise InvalidURIError(f"{uri!r} has no WebSocket scheme; {hint}")
    if not parts.hostname:
        raise InvalidURIError(f"{uri!r} names no host")
    if parts.fragment or uri.endswith("#"):
        raise InvalidURIError(f"{uri!r} has a fragment, which no WebSocket URI may have; write # as %23")
    host = ascii_host(parts.hostname)
    authorization = None
    if parts.username is not None:
        authorization = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
    # What is escaped already stays as it is.
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=-._~[]")
    secure = parts.scheme == "wss"
    return WebSocketURI(secure, host, _PORTS[parts.scheme] if port is None else port, target, authorization)


def ascii_host(name: str) -> str:
    """A host's name as it goes into requests and to DNS.

    Raises:
        InvalidURIError: it is none.
    """
    try:
        host = name.encode("idna").decode("ascii")  # this checks the labels of ASCII names too
    except UnicodeError as exc:
        raise InvalidURIError(f"{name!r} is no host name") from exc
    if any(not "!" <= char <= "~" for char in host) or ("%" in host and ":" not in host):
        raise InvalidURIError(f"{name!r} is no host name")
    return host


def basic_authorization(user: str, password: str) -> str:
    """Basic credentials, as the value of a header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
