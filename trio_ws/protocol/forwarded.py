"""What reverse proxies write into a request about its client: ``Forwarded`` (RFC 7239) and ``X-Forwarded-*``.

Each proxy adds an entry at the end: where its own client came from. So the last entry is the nearest proxy's
word, and what stands before it the word of whoever it names. Whom to believe is for the caller.
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

# One pair of a name and a value, and what ends it. What has to be quoted, such as [::1], often is not.
_pair = re.compile(rf'[ \t]*(?:({TOKEN}+)=(?:"((?:[^"\\]|\\.)*+)"|([^\s",;]*+)))?[ \t]*(;|,|\Z)').match
_escaped = re.compile(r"\\(.)")
_node = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?").fullmatch
#: Entries of one line of ``Forwarded``; more cannot come from proxies.
_MOST_ELEMENTS = 64
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class MalformedForwardedError(Exception):
    """A ``Forwarded`` header cannot be read. Internal."""


class Hop(NamedTuple):
    """What one proxy says of its client.

    Attributes:
        address: host and port, 0 where that is unknown; None where the proxy hides or does not know it.
        scheme: "http" or "https"; None for no word, or none that is known.
        host: the ``Host`` that the client asked for; None for no word, or none that can be one.
    """

    address: tuple[str, int] | None
    scheme: str | None
    host: str | None


def parse_node(text: str) -> tuple[str, int] | None:
    """An address with or without a port, in the forms that proxies write; None for anything else."""
    match = _node(text)
    if match is not None:
        text, port = match[1] or match[2], int(match[3] or 0)
    else:
        port = 0  # an IPv6 address without brackets, or no address
        text = "" if "%" in text else text  # a zone means something on the proxy's machine alone
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if port > 65535:
        return None
    return str(unmapped(address)), port


def forwarded_hops(request: Request) -> Iterator[Hop]:
    """The entries of ``Forwarded``, the nearest proxy's first.

    Each header line is read on its own, when it is asked for: a client can spoil those that it sent itself.

    Raises:
        MalformedForwardedError: a line that is asked for cannot be read.
    """
    for value in reversed(request.raw_values(b"forwarded")):
        for pairs in reversed(_elements(value.decode("latin-1"))):
            node, scheme, host = pairs.get("for"), pairs.get("proto"), pairs.get("host")
            yield Hop(parse_node(node) if node else None, _scheme(scheme), _host(host))


def x_forwarded_hops(request: Request) -> Iterator[Hop]:
    """The entries of ``X-Forwarded-For``, the nearest proxy's first.

    ``X-Forwarded-Proto`` and ``-Host`` of an entry are those at its place, where there are as many as
    addresses, and else the nearest proxy's.
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
