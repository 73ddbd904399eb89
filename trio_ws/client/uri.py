"""Parse WebSocket URIs (RFC 6455 section 3), and the parts that proxy URLs share with them."""

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
    """A parsed URI.

    Attributes:
        secure: whether it is ``wss``.
        host: the host name in ASCII, or the address without brackets and zone.
        port: the TCP port.
        target: path and query as sent in the request.
        authorization: the ``Authorization`` header for user and password, or None.
        zone: the zone of an IPv6 address, such as ``"eth0"``, or empty. It is meaningful on this machine
            only, so it is never sent (RFC 6874 section 4).
    """

    secure: bool
    host: str
    port: int
    target: str
    authorization: str | None = None
    zone: str = ""

    @property
    def address(self) -> str:
        """The host to resolve and connect to."""
        return f"{self.host}%{self.zone}" if self.zone else self.host

    @property
    def server_name(self) -> str:
        """The name that the certificate must have, without the final dot of an absolute name (RFC 6066)."""
        return self.host.removesuffix(".")

    @property
    def host_header(self) -> str:
        """The value of the ``Host`` header. It includes the port only if that is not the default."""
        host = self.authority.rpartition(":")[0]
        return host if self.port == _PORTS["wss" if self.secure else "ws"] else self.authority

    @property
    def authority(self) -> str:
        """Host and port, always both."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """The parts that two URIs of the same server have in common."""
        return self.secure, self.address, self.port

    def __str__(self) -> str:
        """The URI for messages and logs, without the user and the query, which may be secret."""
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.target.partition('?')[0]}"


def parse_uri(uri: str) -> WebSocketURI:
    """Parse a ``ws`` or ``wss`` URI.

    Raises:
        TypeError: ``uri`` is not a str.
        InvalidURIError: it is not a WebSocket URI; the message says how to fix it.
    """
    if not isinstance(uri, str):
        raise TypeError(f"a WebSocket URI must be a str, not {type(uri).__name__}")
    shown = masked(uri)
    # The causes would contain the whole URI with its password.
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        raise InvalidURIError(f"{shown!r} has an invalid host or port") from None
    if parts.scheme not in _PORTS:
        better = _OTHERS.get(parts.scheme)
        hint = f"use {better}:// for {parts.scheme}://" if better else "it must start with ws:// or wss://"
        raise InvalidURIError(f"{shown!r} has no WebSocket scheme; {hint}")
    if not parts.hostname:
        raise InvalidURIError(f"{shown!r} has no host")
    if parts.fragment or uri.endswith("#"):
        raise InvalidURIError(f"{shown!r} has a fragment, which is not allowed; write # as %23")
    host, zone = split_host(parts.hostname)
    try:
        authorization = None
        if parts.username is not None:
            authorization = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        # Existing percent-encoding is kept.
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
        if parts.query:
            target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=-._~[]")
    except UnicodeError:
        raise InvalidURIError(f"{shown!r} contains half a surrogate pair") from None
    secure = parts.scheme == "wss"
    port = _PORTS[parts.scheme] if port is None else port
    return WebSocketURI(secure, host, port, target, authorization, zone)


def split_host(name: str) -> tuple[str, str]:
    """Return a host as used in requests and DNS, and the zone of an IPv6 address if it has one.

    Raises:
        InvalidURIError: it is invalid.
    """
    shown = masked(name)
    if ":" in name:
        address, percent, zone = name.partition("%")
        zone = unquote(zone.removeprefix("25") or "%")
        if percent and not _is_zone(zone):
            raise InvalidURIError(f"{shown!r} has no zone after its %; write it as %25eth0")
        return address, zone if percent else ""
    try:
        if name.isascii():
            host = name.encode("idna").decode("ascii")  # also validates the labels
        else:
            host = idna.encode(name, uts46=True).decode("ascii")
    except UnicodeError:
        raise InvalidURIError(f"{shown!r} is not a host name") from None
    if host == "." or any(not "!" <= char <= "~" or char == "%" for char in host):
        raise InvalidURIError(f"{shown!r} is not a host name")
    return host, ""


def basic_authorization(user: str, password: str) -> str:
    """Encode Basic credentials as the value of a header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
