"""Hosts: the name that a request asks for, and whether the server goes by it.

A page of ``http://evil.example`` whose name is made to lead to 127.0.0.1 (DNS rebinding) may talk to a server
on the visitor's own machine, and its origin is the host that it asks for. What gives it away is that name:
hence a server that only this machine can reach answers to loopback names alone, unless it is told others.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_ws.protocol.http import Request

__all__ = [
    "host_allowed",
    "host_name",
    "is_local_name",
    "is_loopback_address",
    "is_loopback_name",
    "is_of_no_browser",
    "unmapped",
]

# Characters of a name in the DNS, and more than any port has.
_LONGEST = 253 + 20

_authority = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:/?#@,]+))(?::[0-9]*)?").fullmatch


def host_name(authority: str) -> str | None:
    """The host of ``host:port`` in lower case, an IPv6 address without its brackets; None where it is none.

    A dot at the end of a name, which says that it is complete (RFC 1034 section 3.1), is left out.
    """
    match = _authority(authority.lower())
    if match is None:
        return None
    if match[1] is None:
        return match[2].removesuffix(".") or None
    try:
        return str(ipaddress.IPv6Address(match[1]))
    except ValueError:
        return None


def unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that is mapped into an IPv6 one (RFC 4291 section 2.5.5.2); any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback_address(text: str) -> bool:
    """Whether `text` is a loopback address, of IPv4 (also one that is mapped into IPv6) or of IPv6."""
    try:
        return unmapped(ipaddress.ip_address(text)).is_loopback
    except ValueError:
        return False


def is_loopback_name(name: str) -> bool:
    """Whether a host is this machine by its very name (RFC 6761 section 6.3), or a loopback address."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)


def is_local_name(authority: str) -> bool:
    """Whether a host is a name without a dot: one of ``/etc/hosts`` or of a local network, not of the DNS."""
    name = host_name(authority)
    return name is not None and "." not in name and ":" not in name


def is_of_no_browser(request: Request) -> bool:
    """Whether no page of a browser can have made a request, because it lacks what browsers add.

    They send ``Origin`` in handshakes (RFC 6455 section 4.1), and where the method is neither GET nor HEAD,
    and ``User-Agent`` always; both by the Fetch standard.
    """
    if request.raw_values(b"origin"):
        return False
    return (
        request.method not in ("GET", "HEAD")
        or bool(request.raw_values(b"sec-websocket-key"))
        or not request.raw_values(b"user-agent")
    )


def host_allowed(authority: str, hosts: Sequence[str] | None, *, loopback: bool) -> bool:
    """Whether a server goes by the host that a request asks for. The port makes no difference.

    Args:
        authority: the request's ``Host``; an empty one comes from no browser, and is allowed.
        hosts: as `trio_ws.Options` has them.
        loopback: whether the request came to a loopback address of this machine.
    """
    if not authority or (hosts is None and not loopback):
        return True
    if len(authority) > _LONGEST:
        return False
    return _is_allowed(authority, None if hosts is None else tuple(hosts), loopback)


@functools.lru_cache(maxsize=64)  # most clients ask for the same
def _is_allowed(authority: str, hosts: tuple[str, ...] | None, loopback: bool) -> bool:
    name = host_name(authority)
    if name is None:
        return False
    if loopback and is_loopback_name(name):
        return True
    return any(_matches(name, allowed) for allowed in hosts or ())


def _matches(name: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return name.endswith(allowed[1:])
    return allowed in ("*", name)
