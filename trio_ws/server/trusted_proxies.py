"""Trusted proxies: determine the origin of a request from the headers that they add.

Invariants: only information from trusted addresses counts, hop by hop from the socket outwards. The first
address that is not trusted is the client's, whatever it claims. Malformed headers are never used.
"""

from __future__ import annotations

import ipaddress
from itertools import islice
from typing import TYPE_CHECKING

from trio_ws.logs import logger_for
from trio_ws.protocol.forwarded import MalformedForwardedError, forwarded_hops, x_forwarded_hops
from trio_ws.protocol.hosts import unmapped
from trio_ws.protocol.http import Forwarded, HTTPError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws._types import SocketAddress
    from trio_ws.options import Options
    from trio_ws.protocol.forwarded import Hop
    from trio_ws.protocol.http import Request

__all__ = ["TrustedProxies"]

logger = logger_for("trio_ws.network")


#: Limit on chained proxies. A client can write any number of hops, and each costs work.
_MOST_HOPS = 32


class TrustedProxies:
    """The proxies of `Options.trusted_proxies`. ``address in proxies`` is true for a trusted one."""

    def __init__(self, options: Options) -> None:
        names = options.trusted_proxies
        self._unix = "unix" in names
        self._networks = [ipaddress.ip_network(name) for name in names if name != "unix"]
        self._header = options.forwarded_header

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, tuple):
            # A Unix socket has a name, usually an empty one; the address of another stream is None.
            return self._unix and isinstance(address, str | bytes)
        if not self._networks:
            return False
        try:
            found = unmapped(ipaddress.ip_address(str(address[0]).partition("%")[0]))
        except ValueError:
            return False
        return any(found in network for network in self._networks)

    def origin(self, request: Request, address: SocketAddress) -> Forwarded:
        """Return the origin of a request that was received from an address.

        Raises:
            HTTPError: 400, if a header of a trusted proxy is malformed, or two of them contradict each other.
        """
        if address not in self:
            return Forwarded(address)
        x = bool(request.raw_values(b"x-forwarded-for")) and self._header != "Forwarded"
        standard = bool(request.raw_values(b"forwarded")) and self._header != "X-Forwarded-For"
        try:
            by_standard = self._walk(forwarded_hops(request), address) if standard else None
        except MalformedForwardedError:
            raise self._refused("a malformed Forwarded header") from None
        if by_standard is None:
            if not x and self._header == "Forwarded":
                return Forwarded(address)
            return self._walk(x_forwarded_hops(request), address)
        if x:
            # A client can write the header that its proxy does not know and passes on.
            return self._agreed(by_standard, self._walk(x_forwarded_hops(request), address))
        return by_standard

    def _agreed(self, one: Forwarded, other: Forwarded) -> Forwarded:
        if one.address[:1] != other.address[:1]:
            raise self._refused(
                "Forwarded and X-Forwarded-For that differ; set the one that your proxy writes:"
                " Options(forwarded_header=...)"
            )
        return Forwarded(
            max(one.address, other.address),  # prefer the one with a port
            one.scheme if one.scheme == other.scheme else None,
            one.host if one.host == other.host else None,
        )

    def _walk(self, hops: Iterator[Hop], address: SocketAddress) -> Forwarded:
        scheme = host = None
        for hop in islice(hops, _MOST_HOPS):
            scheme, host = hop.scheme, hop.host
            if hop.address is None:
                break  # hidden by the proxy; use the nearest known address
            address = hop.address
            if address not in self:
                break
        return Forwarded(address, scheme, host)

    @staticmethod
    def _refused(why: str) -> HTTPError:
        logger.warning("refused a request that came through a trusted proxy with %s", why)
        return HTTPError(400, "the proxy headers are malformed or contradict each other", logged=True)
