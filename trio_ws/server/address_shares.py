"""Addresses of clients: what one counts as, and how much one may hold.

What always holds: counters change in synchronous code, and an address that holds nothing leaves no record.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from trio_ws.protocol.hosts import unmapped

if TYPE_CHECKING:
    from trio_ws.options import Options

__all__ = ["AddressShares", "share_key"]

#: What an address of another machine may hold where the options leave it to us. A connection takes at most
#: 16 MiB with the default options, so that this is 2 GiB.
_CONNECTIONS_OF_OTHERS = 128
_HANDSHAKES_OF_OTHERS = 64


def share_key(address: Any) -> str | None:
    """What a client's connections are counted under: an IPv4 address, or the /64 network of an IPv6 address.

    Args:
        address: as sockets have it.

    Returns:
        None for what has no such address: Unix sockets, links in memory.
    """
    if not isinstance(address, tuple):
        return None
    text = str(address[0])
    if ":" not in text:
        return text
    try:
        found = unmapped(ipaddress.IPv6Address(text.partition("%")[0]))
    except ValueError:
        return text
    if isinstance(found, ipaddress.IPv4Address) or found.is_loopback:
        return str(found)
    return f"{ipaddress.IPv6Address(int(found) >> 64 << 64)}/64"


class AddressShares:
    """What each key of `share_key` holds: connections, and among them clients in their opening handshake.

    A client is any object, the same for `begin` and `opened`. The key None has no share; its handshakes are
    counted all the same.
    """

    def __init__(self, options: Options) -> None:
        self._connections: dict[str, int] = {}  # of those that have any
        self._handshakes: dict[str | None, dict[Any, None]] = {}  # the oldest first
        # The limits of this machine's own addresses, and of all others.
        given, limit = options.max_connections_per_address, options.max_connections
        self._most_connections = _shares(given, limit, _CONNECTIONS_OF_OTHERS)
        given, limit = options.max_handshakes_per_address, options.max_handshakes
        self._most_handshakes = _shares(given, limit, _HANDSHAKES_OF_OTHERS)

    def begin(self, key: str | None, client: object) -> None:
        """Count a connection that begins its opening handshake."""
        if key is not None:
            self._connections[key] = self._connections.get(key, 0) + 1
        clients = self._handshakes.get(key)
        if clients is None:
            clients = self._handshakes[key] = {}
        clients[client] = None

    def opened(self, key: str | None, client: object) -> None:
        """Its opening handshake is over."""
        clients = self._handshakes[key]
        del clients[client]
        if not clients:
            del self._handshakes[key]

    def end(self, key: str | None) -> None:
        """The connection is gone, whose opening handshake was over."""
        if key is not None:
            if self._connections[key] == 1:
                del self._connections[key]
            else:
                self._connections[key] -= 1

    def crowding(self, key: str | None) -> Any:
        """The client that makes room for another handshake of a key, where all places are taken.

        It is the oldest one of whoever has the most, if that is at least two more than the key has itself;
        else None. So silent clients, from however many addresses, keep out nobody who has fewer of them.
        """
        most = max(self._handshakes.values(), key=len, default={})
        if len(most) < len(self._handshakes.get(key, ())) + 2:
            return None
        return next(iter(most))

    def refusal(self, key: str | None) -> str | None:
        """Why a key may not have one more connection, for the log, with the option that it depends on."""
        if key is None:
            return None
        other = not _is_own(key)
        limit = self._most_handshakes[other]
        if limit is not None and len(self._handshakes.get(key, ())) >= limit:
            return _reason(key, "max_handshakes_per_address", limit)
        limit = self._most_connections[other]
        if limit is not None and self._connections.get(key, 0) >= limit:
            return _reason(key, "max_connections_per_address", limit)
        return None

    def max_connections(self, key: str) -> int | None:
        """The limit of a key; None for none."""
        return self._most_connections[not _is_own(key)]

    def max_handshakes(self, key: str) -> int | None:
        """The limit of a key for opening handshakes."""
        return self._most_handshakes[not _is_own(key)]

    def __len__(self) -> int:
        """How many keys there is a record of."""
        return len(self._connections)


def _is_own(key: str) -> bool:
    """Whether it is an address of this machine alone."""
    return key.startswith("127.") or key == "::1"


def _shares(given: int | None, of: int | None, of_others: int) -> tuple[int | None, int | None]:
    if given is not None:
        return given, given
    # A quarter stays for others. This machine's own addresses get all the rest: a proxy may have them.
    # Of fewer than four there is no quarter, and the limit itself is all there is.
    rest = None if of is None or of < 4 else of - of // 4
    return rest, of_others if rest is None else min(rest, of_others)


def _reason(key: str, name: str, limit: int) -> str:
    remedy = "if it is a proxy of yours, name it: Options(trusted_proxies=[...])"
    return f"{key} has {name} ({limit}) already; {remedy}"
