"""Hosts: the host name of a request, and whether the server accepts it.

If ``evil.example`` resolves to 127.0.0.1 (DNS rebinding), a page of ``http://evil.example`` can connect to a
server on the visitor's own machine, and its origin matches the requested host. Only the host name reveals the
attack. A server that is reachable only from its own machine therefore accepts only loopback names, unless
other names are allowed.
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
    "is_not_from_browser",
    "unmapped",
]

# Characters of a name in the DNS, plus more than any port has.
_LONGEST = 253 + 20

_authority = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s\[\]:/?#@,]+))(?::[0-9]*)?").fullmatch


def host_name(authority: str) -> str | None:
    """Return the host of ``host:port`` in lower case, an IPv6 address without brackets; None if it is
    invalid.

    A final dot, which makes a name absolute (RFC 1034 section 3.1), is removed.
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
    """Return the IPv4 address in an IPv4-mapped IPv6 one (RFC 4291 section 2.5.5.2); others unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback_address(text: str) -> bool:
    """Whether `text` is a loopback address: IPv4, IPv4-mapped, or IPv6."""
    try:
        return unmapped(ipaddress.ip_address(text)).is_loopback
    except ValueError:
        return False


def is_loopback_name(name: str) -> bool:
    """Whether a host is a loopback name (RFC 6761 section 6.3) or a loopback address."""
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name)


def is_local_name(authority: str) -> bool:
    """Whether a host is a name without a dot: from ``/etc/hosts`` or a local network, not from the DNS."""
    name = host_name(authority)
    return name is not None and "." not in name and ":" not in name


def is_not_from_browser(request: Request) -> bool:
    """Whether a request cannot come from a browser, because it lacks headers that browsers add.

    Browsers send ``Origin`` in handshakes (RFC 6455 section 4.1) and with methods other than GET and HEAD,
    and always ``User-Agent``, both according to the Fetch standard.
    """
    if request.raw_values(b"origin"):
        return False
    return (
        request.method not in ("GET", "HEAD")
        or bool(request.raw_values(b"sec-websocket-key"))
        or not request.raw_values(b"user-agent")
    )


def host_allowed(authority: str, hosts: Sequence[str] | None, *, loopback: bool) -> bool:
    """Return whether a server accepts the host of a request. The port is ignored.

    Args:
        authority: the request's ``Host``; an empty one does not come from a browser, and is allowed.
        hosts: as in `trio_ws.Options`.
        loopback: whether the request came to a loopback address of this machine.
    """
    if not authority or (hosts is None and not loopback):
        return True
    if len(authority) > _LONGEST:
        return False
    return _is_allowed(authority, None if hosts is None else tuple(hosts), loopback)


@functools.lru_cache(maxsize=64)  # most clients use the same host
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
