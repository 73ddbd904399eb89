"""The parts of a Redis Cluster: hash slots, sharded channels, and the map of its nodes.

The map is read from CLUSTER NODES, since only that contains the epochs: of two nodes that claim a slot, the
one with the greater epoch has it.

A channel is published and subscribed at the node that has its slot (SPUBLISH, SSUBSCRIBE). The name of the
sharded channel is the prefix and then the name in braces, as in the keys of its history, so both have one
slot.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, NamedTuple

from trio_ws.channels.redis.questions import Question
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws._types import Reply
    from trio_ws.channels.redis.questions import Server

__all__ = [
    "SLOTS",
    "Address",
    "Health",
    "Owner",
    "check_state",
    "key_slot",
    "parse_nodes",
    "parse_redirect",
    "plain_channel",
    "sharded_channel",
]

#: The number of hash slots of a cluster.
SLOTS = 16_384

#: Host and port.
Address = tuple[str, int]


class Owner(NamedTuple):
    """A primary, and the epoch of its slots."""

    address: Address
    epoch: int


def key_slot(key: bytes) -> int:
    """Return the hash slot of a key or a sharded channel."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS  # CRC-16/XMODEM


def sharded_channel(prefix: bytes, channel: bytes) -> bytes:
    """Return the name of a channel for SPUBLISH."""
    return b"%b{%b}" % (prefix, channel[len(prefix) :])


def plain_channel(prefix: bytes, sharded: bytes) -> bytes:
    """Return the name of a channel for PUBLISH, for which messages are signed."""
    return prefix + sharded[len(prefix) + 1 : -1]


def parse_nodes(text: str, asked: Address) -> tuple[dict[int, Owner], list[Address]]:
    """Parse a reply to CLUSTER NODES.

    Args:
        text: the reply.
        asked: the address of the node that sent it, which may not know its own.

    Returns:
        The owner of each slot, and the addresses of all nodes.

    Raises:
        ValueError, IndexError: it is malformed.
    """
    owners: dict[int, Owner] = {}
    nodes: list[Address] = []
    for line in text.splitlines():
        fields = line.split(" ")
        place, _, name = fields[1].partition(",")
        flags = fields[2].split(",")
        host, _, port = place.partition("@")[0].rpartition(":")
        host = name.partition(",")[0] or host.strip("[]")
        address = (host or asked[0], int(port))
        if "myself" in flags and not host:
            address = asked
        if "noaddr" in flags or "handshake" in flags or not address[1]:
            continue
        nodes.append(address)
        if "master" not in flags:
            continue
        owner = Owner(address, int(fields[6]))
        for slot in _slots(fields[8:]):
            known = owners.get(slot)
            if known is None or known.epoch < owner.epoch:
                owners[slot] = owner
    return owners, nodes


def _slots(ranges: list[str]) -> Iterator[int]:
    for text in ranges:
        if text.startswith("["):
            continue  # a slot that is being moved; it still belongs to its former owner
        first, _, last = text.partition("-")
        yield from range(int(first), min(int(last or first) + 1, SLOTS))


def check_state(info: Reply, shown: str) -> None:
    """Check a reply to CLUSTER INFO.

    Raises:
        BrokerError: the server is not part of a cluster that works.
    """
    if isinstance(info, Exception):
        raise BrokerError(f"{shown} is not a Redis Cluster: {info}")
    text = info if isinstance(info, bytes) else str(info).encode()
    if b"cluster_state:ok" not in text:
        raise BrokerError(f"{shown} says that its cluster is down")


def parse_redirect(error: Exception) -> tuple[str, Address | None]:
    """Return the kind of a redirection, MOVED, ASK or TRYAGAIN, and its target; an empty kind for others."""
    kind, _, rest = str(error).partition(" ")
    if kind not in ("MOVED", "ASK", "TRYAGAIN"):
        return "", None
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return kind, (host.strip("[]"), int(port)) if host and port.isdecimal() else None


class Health(Question):
    """Asks a node about the state of its cluster. The connection is given up if the cluster is down."""

    def __init__(self, shown: str) -> None:
        super().__init__()
        self._shown = shown

    def words(self, server: Server) -> list[bytes]:
        return [b"CLUSTER", b"INFO"]

    def parse(self, reply: Reply) -> None:
        check_state(reply, self._shown)
