"""Headers that reverse proxies add about a client: ``Forwarded`` (RFC 7239) and ``X-Forwarded-*``.

Each proxy appends an entry with the origin of its own client. The last entry therefore comes from the nearest
proxy, and each earlier entry from the host that the next one names. The caller decides which entries to
trust.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, NamedTuple

from trio_ws.protocol.hosts import host_name, unmapped
from trio_ws.protocol.http import TOKEN, comma_list

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws.protocol.http import Request

__all__ = ["Hop", "MalformedForwardedError", "forwarded_hops", "parse_node", "x_forwarded_hops"]

# A pair of name and value, and its separator. Values that must be quoted, such as [::1], often are not.
_pair = re.compile(rf'[ \t]*(?:({TOKEN}+)=(?:"((?:[^"\\]|\\.)*+)"|([^\s",;]*+)))?[ \t]*(;|,|\Z)').match
_escaped = re.compile(r"\\(.)")
_node = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?").fullmatch
#: Maximum number of entries in one ``Forwarded`` line; proxies do not add more.
_MOST_ELEMENTS = 64
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class MalformedForwardedError(Exception):
    """A ``Forwarded`` header is malformed. Internal."""


class Hop(NamedTuple):
    """The report of one proxy about its client.

    Attributes:
        address: host and port, 0 for an unknown port; None if the proxy hides or does not know the address.
        scheme: "http" or "https"; None if missing or unknown.
        host: the ``Host`` of the client's request; None if missing or invalid.
    """

    address: tuple[str, int] | None
    scheme: str | None
    host: str | None


def parse_node(text: str) -> tuple[str, int] | None:
    """Parse an address with or without a port, in the forms that proxies use; None for anything else."""
    match = _node(text)
    if match is not None:
        text, port = match[1] or match[2], int(match[3] or 0)
    else:
        port = 0  # an IPv6 address without brackets, or not an address
        text = "" if "%" in text else text  # a zone is meaningful on the proxy's machine only
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if port > 65535:
        return None
    return str(unmapped(address)), port


def forwarded_hops(request: Request) -> Iterator[Hop]:
    """Yield the entries of ``Forwarded``, that of the nearest proxy first.

    Each header line is parsed separately and on demand, since a client may send malformed lines itself.

    Raises:
        MalformedForwardedError: a requested line is malformed.
    """
    for value in reversed(request.raw_values(b"forwarded")):
        for pairs in reversed(_elements(value.decode("latin-1"))):
            node, scheme, host = pairs.get("for"), pairs.get("proto"), pairs.get("host")
            yield Hop(parse_node(node) if node else None, _scheme(scheme), _host(host))


def x_forwarded_hops(request: Request) -> Iterator[Hop]:
    """Yield the entries of ``X-Forwarded-For``, that of the nearest proxy first.

    ``X-Forwarded-Proto`` and ``-Host`` are matched by position if they have as many entries as there are
    addresses. Otherwise the last entry applies.
    """
    nodes, protos, hosts = (
        comma_list(request.raw_values(name))
        for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
    )
    for place in range(1, max(len(nodes), 1) + 1):
        proto, host = (
            values[-place if len(values) == len(nodes) else -1] if values else None
            for values in (protos, hosts)
        )
        yield Hop(parse_node(nodes[-place]) if nodes else None, _scheme(proto), _host(host))


def _elements(text: str) -> list[dict[str, str]]:
    elements: list[dict[str, str]] = []
    pairs: dict[str, str] = {}
    at = 0
    while True:
        match = _pair(text, at)
        if match is None:
            raise MalformedForwardedError
        name, quoted, plain, end = match.groups()
        if name is not None:
            name = name.lower()
            if name in pairs:  # RFC 7239 section 4 allows each once
                raise MalformedForwardedError
            pairs[name] = plain if quoted is None else _escaped.sub(r"\1", quoted)
        if end != ";":
            if pairs:
                elements.append(pairs)
                pairs = {}
                if len(elements) > _MOST_ELEMENTS:
                    raise MalformedForwardedError
            if end == "":
                return elements
        at = match.end()


def _scheme(text: str | None) -> str | None:
    return None if text is None else _SCHEMES.get(text.lower())


def _host(text: str | None) -> str | None:
    return text if text is not None and host_name(text) is not None else None
