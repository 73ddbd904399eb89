"""WebSocket URIs (RFC 6455 section 3), and what the URLs of proxies share with them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import idna

from trio_ws.errors import InvalidURIError
from trio_ws.protocol.urls import masked

__all__ = ["WebSocketURI", "basic_authorization", "parse_uri", "split_host"]

_PORTS = {"ws": 80, "wss": 443}
_OTHERS = {"http": "ws", "https": "wss"}
_is_zone = re.compile(r"[-._~0-9A-Za-z]+").fullmatch


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """A checked URI.

    Attributes:
        secure: whether it is ``wss``.
        host: the host's name in ASCII, or its address without brackets and zone.
        port: the TCP port.
        target: path and query as they go into the request.
        authorization: the value of the ``Authorization`` header that user and password ask for, or None.
        zone: the zone of an IPv6 address, such as ``"eth0"``, or empty. It has a meaning on this machine
            alone, so that nobody else is told of it (RFC 6874 section 4).
    """

    secure: bool
    host: str
    port: int
    target: str
    authorization: str | None = None
    zone: str = ""

    @property
    def address(self) -> str:
        """What to look up and connect to."""
        return f"{self.host}%{self.zone}" if self.zone else self.host

    @property
    def server_name(self) -> str:
        """Whom the certificate is to name: no dot ends it, as in an absolute name (RFC 6066 section 3)."""
        return self.host.removesuffix(".")

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
        return self.secure, self.address, self.port

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
    shown = masked(uri)
    # The causes would show the whole, with its password.
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise InvalidURIError(f"{shown!r} is no URI: its host or its port is wrong") from None
    if parts.scheme not in _PORTS:
        better = _OTHERS.get(parts.scheme)
        hint = f"write {better}:// for {parts.scheme}://" if better else "it starts with ws:// or wss://"
        raise InvalidURIError(f"{shown!r} has no WebSocket scheme; {hint}")
    if not parts.hostname:
        raise InvalidURIError(f"{shown!r} names no host")
    if parts.fragment or uri.endswith("#"):
        raise InvalidURIError(f"{shown!r} has a fragment, which no WebSocket URI may have; write # as %23")
    host, zone = split_host(parts.hostname)
    try:
        authorization = None
        if parts.username is not None:
            authorization = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        # What is escaped already stays as it is.
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=-._~[]")
    except UnicodeError:
        raise InvalidURIError(f"{shown!r} has half a surrogate pair in it, which is no text") from None
    secure = parts.scheme == "wss"
    port = _PORTS[parts.scheme] if port is None else port
    return WebSocketURI(secure, host, port, target, authorization, zone)


def split_host(name: str) -> tuple[str, str]:
    """A host as it goes into requests and to DNS, and the zone of an IPv6 address, if it ends in one.

    Raises:
        InvalidURIError: it is none.
    """
    shown = masked(name)
    if ":" in name:
        address, percent, zone = name.partition("%")
        zone = unquote(zone.removeprefix("25") or "%")
        if percent and not _is_zone(zone):
            raise InvalidURIError(f"{shown!r} has no zone behind its %; write it as %25eth0")
        return address, zone if percent else ""
    try:
        if name.isascii():
            host = name.encode("idna").decode("ascii")  # this checks the labels
        else:
            host = idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:
        raise InvalidURIError(f"{shown!r} is no host name") from None
    if host == "." or any(not "!" <= char <= "~" or char == "%" for char in host):
        raise InvalidURIError(f"{shown!r} is no host name")
    return host, ""


def basic_authorization(user: str, password: str) -> str:
    """Basic credentials, as the value of a header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
