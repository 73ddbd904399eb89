"""ClusterClient: commands of a `Publisher` to the nodes of a Redis Cluster, one after the other."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio

from trio_ws.channels.redis.cluster import key_slot, parse_redirect
from trio_ws.channels.redis.cluster_nodes import close_all, fetch_owners, open_node
from trio_ws.channels.redis.connection import command
from trio_ws.channels.redis.histories import CLUSTER_SCRIPTS, SCRIPTS, parse_run
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from trio_ws._types import Reply
    from trio_ws.channels.redis.cluster import Address, Owner
    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.url import RedisURL

__all__ = ["ClusterClient", "Node"]

#: Seconds before a command is sent again to a node that could not execute it.
_PAUSE = 0.05


class Node:
    """A connection to a node.

    Attributes:
        connection: it is logged in.
        run: identifies the run of the Redis process.
        origin: of the messages that are published on this connection.
        asking: whether the slot of the current command is being moved to this node.
    """

    def __init__(self, connection: RedisConnection, run: bytes) -> None:
        self.connection = connection
        self.run = run
        self.origin = secrets.token_bytes(16)
        self.asking = False


class ClusterClient:
    """See the module docstring. After an exception, all connections are closed.

    Args:
        url: of the cluster.
        ssl_context: for TLS.
        timeout: seconds within which a node must answer.
    """

    def __init__(self, url: RedisURL, ssl_context: ssl.SSLContext | None, timeout: float) -> None:
        self._url = url
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._owners: dict[int, Owner] = {}
        self._addresses: list[Address] = []
        self._nodes: dict[Address, Node] = {}

    async def aclose(self) -> None:
        """Close all connections at once, even if cancelled."""
        nodes, self._nodes, self._owners = self._nodes, {}, {}
        await close_all(node.connection for node in nodes.values())

    async def send(self, key: bytes, make: Callable[[Node], list[bytes]]) -> tuple[Reply, Node | None]:
        """Send a command to the node that has a key, and follow redirections.

        Args:
            key: of the command.
            make: returns the words of the command for a node.

        Returns:
            The reply, and the node that has the subscribers of a slot if that is being moved to another node,
            which has executed the command.

        Raises:
            BrokerError: a node cannot be reached, or refuses the connection.
        """
        slot = key_slot(key)
        target: Address | None = None
        former: Node | None = None
        while True:
            if slot not in self._owners:
                self._owners, self._addresses = await fetch_owners(
                    self._url, self._addresses, self._ssl_context, self._timeout
                )
                if slot not in self._owners:
                    raise BrokerError(f"{self._url.shown}: a slot of the cluster has no primary")
            node = await self._node(target or self._owners[slot].address)
            node.asking = target is not None
            words = command(*make(node))
            *_, reply = await node.connection.request(
                command(b"ASKING") + words if node.asking else words, 1 + node.asking
            )
            kind, redirected = parse_redirect(reply) if isinstance(reply, Exception) else ("", None)
            if kind == "ASK" and redirected is not None:
                target, former = redirected, node
            elif kind:
                target = former = None
                self._addresses = [self._owners[slot].address, *self._addresses]
                self._owners = {} if kind == "MOVED" else self._owners
                await trio.sleep(_PAUSE)
            else:
                return reply, former

    async def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            connection = await open_node(self._url, address, self._ssl_context, self._timeout)
            try:
                loads = [command(b"SCRIPT", b"LOAD", script) for script in SCRIPTS + CLUSTER_SCRIPTS]
                *_, info = await connection.request(
                    b"".join([*loads, command(b"INFO", b"server")]), len(loads) + 1
                )
            except BaseException:
                await connection.aclose()
                raise
            run = b"" if isinstance(info, Exception) else parse_run(info)
            node = self._nodes[address] = Node(connection, run)
        return node
