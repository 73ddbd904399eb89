"""Limits per client address: how addresses are grouped, and how much each group may hold.

Invariants: counters change in synchronous code only, and an address that holds nothing leaves no record.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from trio_ws.protocol.hosts import unmapped

if TYPE_CHECKING:
    from trio_ws._types import SocketAddress
    from trio_ws.options import Options

__all__ = ["AddressShares", "share_key"]

#: Default shares of an address of another machine. A connection takes at most 16 MiB with the default
#: options, so this amounts to 2 GiB.
_CONNECTIONS_OF_OTHERS = 128
_HANDSHAKES_OF_OTHERS = 64


def share_key(address: SocketAddress) -> str | None:
    """Return the key that a client is counted under: its IPv4 address, or the /64 network of its IPv6
    address.

    Args:
        address: a socket address.

    Returns:
        None for clients without an IP address: Unix sockets, streams in memory.
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
    """Counts the connections of each key of `share_key`, and the opening handshakes among them.

    A client is any object, the same one for `begin` and `opened`. The key None has no limits, but its
    handshakes are counted as well.
    """

    def __init__(self, options: Options) -> None:
        self._connections: dict[str, int] = {}  # keys with at least one
        self._handshakes: dict[str | None, dict[object, None]] = {}  # oldest first
        # The limits of local addresses, and of all others.
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
        """Record that the opening handshake of a connection is over."""
        clients = self._handshakes[key]
        del clients[client]
        if not clients:
            del self._handshakes[key]

    def end(self, key: str | None) -> None:
        """Forget a connection whose opening handshake was over."""
        if key is not None:
            if self._connections[key] == 1:
                del self._connections[key]
            else:
                self._connections[key] -= 1

    def crowding(self, key: str | None) -> Any:
        """Return the client to drop for another handshake of this key when there are too many, or None.

        It is the oldest handshake of the key with the most, if that key has at least two more than this one.
        Silent clients, from however many addresses, therefore cannot keep out a client whose address has
        fewer.
        """
        most = max(self._handshakes.values(), key=len, default={})
        if len(most) < len(self._handshakes.get(key, ())) + 2:
            return None
        return next(iter(most))

    def refusal(self, key: str | None) -> str | None:
        """Return why a key may not open another connection, with the limiting option; None if it may."""
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
        """The limit on connections of a key, or None."""
        return self._most_connections[not _is_own(key)]

    def max_handshakes(self, key: str) -> int | None:
        """The limit on opening handshakes of a key, or None."""
        return self._most_handshakes[not _is_own(key)]

    def __len__(self) -> int:
        """The number of keys with a record."""
        return len(self._connections)


def _is_own(key: str) -> bool:
    """Whether an address is local to this machine."""
    return key.startswith("127.") or key == "::1"


def _shares(given: int | None, of: int | None, of_others: int) -> tuple[int | None, int | None]:
    if given is not None:
        return given, given
    # A quarter is reserved for others. Local addresses get all the rest, since a proxy may use them. A limit
    # below four has no quarter and is not divided.
    rest = None if of is None or of < 4 else of - of // 4
    return rest, of_others if rest is None else min(rest, of_others)


def _reason(key: str, name: str, limit: int) -> str:
    remedy = "if it is your proxy, add it to Options(trusted_proxies=[...])"
    return f"{key} has {name} ({limit}) already; {remedy}"
