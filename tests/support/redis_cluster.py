"""A real Redis Cluster on free ports, whose slots a test can move and whose nodes it can kill."""

from __future__ import annotations

import math
import re
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.redis import RedisServer, redis_server
from trio_ws.channels.redis.cluster import SLOTS, key_slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["RedisCluster", "redis_cluster"]

_PAUSE = 0.01
#: Seconds after which nodes count another one as lost.
_NODE_TIMEOUT = 1.0
#: Nodes that have slots.
PRIMARIES = 3


class RedisCluster:
    """See the module docstring. Made by `redis_cluster`.

    Attributes:
        nodes: the primaries at the start, each with a third of the slots, then their replicas, and then
            primaries without slots.
    """

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes
        self._ids: dict[int, str] = {}
        self._elected: dict[RedisServer, float] = {}  # when they became primaries

    @property
    def url(self) -> str:
        """The URL, with a node that does not exist, followed by the others."""
        return "redis+cluster://127.0.0.1:1," + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    async def form(self, replicas: int) -> None:
        """Make a cluster of the servers. Those after the replicas are primaries without slots."""
        primaries = self.nodes[:PRIMARIES]
        for number, node in enumerate(self.nodes):
            self._ids[node.port] = (await node.do("CLUSTER", "MYID")).decode()
            await node.do("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for number, node in enumerate(primaries):
            first, end = (SLOTS * one // len(primaries) for one in (number, number + 1))
            await node.do("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1))
        for node in self.nodes[1:]:
            bus = await node.do("CONFIG", "GET", "cluster-port")
            await self.nodes[0].do("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus[1].decode())
        for node in self.nodes:
            await self._until(node, "INFO", f"cluster_known_nodes:{len(self.nodes)}")
            await self._until(node, "INFO", "cluster_state:ok")
        for primary, node in zip(primaries, self.nodes[PRIMARIES : PRIMARIES + replicas], strict=False):
            await node.do("CLUSTER", "REPLICATE", self._ids[primary.port])
            await self.until_copying(node)
        for node in primaries:
            while (await node.do("CLUSTER", "NODES")).count(b" slave ") < replicas:
                await trio.sleep(_PAUSE)

    async def until_copying(self, node: RedisServer) -> None:
        """Wait until a node is a replica, and receives what its primary writes."""
        while b"master_link_status:up" not in await node.do("INFO", "replication"):
            await trio.sleep(_PAUSE)

    async def until_primary(self, node: RedisServer) -> None:
        """Wait until a node is a primary."""
        while b"role:master" not in await node.do("INFO", "replication"):
            await trio.sleep(_PAUSE)
        self._elected[node] = trio.current_time()

    async def _until_known(self, replica: RedisServer, primary: RedisServer) -> None:
        """Wait until all nodes know of which node one is the replica. They do not vote for it before."""
        own, its = self._ids[replica.port], self._ids[primary.port]
        known = re.compile(rf"^{own} \S+ \S*slave {its} ", re.MULTILINE)
        for node in self.nodes:
            while node.is_running and not known.search((await node.do("CLUSTER", "NODES")).decode()):
                await trio.sleep(_PAUSE)

    async def _until(self, node: RedisServer, what: str, text: str) -> None:
        while text.encode() not in await node.do("CLUSTER", what):
            await trio.sleep(_PAUSE)

    def node_of(self, slot: int) -> RedisServer:
        """Return the node that had a slot at the start."""
        return next(
            node for number, node in enumerate(self.nodes) if slot < SLOTS * (number + 1) // PRIMARIES
        )

    def slot_of(self, name: str) -> int:
        """Return the slot of a channel of the handler without a path."""
        return key_slot(f"trio_ws:{{:{name}}}".encode())

    async def begin_to_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Begin to move a slot: its keys are then looked for at both nodes."""
        await target.do("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self._ids[source.port])
        await source.do("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self._ids[target.port])

    async def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move the keys of a slot."""
        while keys := await source.do("CLUSTER", "GETKEYSINSLOT", str(slot), "10"):
            words = ["MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS"]
            await source.do(*words, *keys)

    async def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give a slot to its new node."""
        for node in (target, source):
            await node.do("CLUSTER", "SETSLOT", str(slot), "NODE", self._ids[target.port])

    async def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move a slot with its keys."""
        await self.begin_to_move(slot, source, target)
        await self.move_keys(slot, source, target)
        await self.end_move(slot, source, target)

    async def until_replicated(self) -> None:
        """Wait until the replica has everything that the first primary has."""
        end = (await self.nodes[0].do("INFO", "replication")).partition(b"master_repl_offset:")[2].split()[0]
        while True:
            said = await self.nodes[3].do("INFO", "replication")
            if int(said.partition(b"slave_repl_offset:")[2].split()[0]) >= int(end):
                return
            await trio.sleep(_PAUSE)

    async def take_over(self, replica: RedisServer, primary: RedisServer, *, losing: bool) -> None:
        """Have a replica become the primary, which becomes its replica.

        Args:
            replica: copies the primary.
            primary: of which it is a replica.
            losing: whether it takes over what it has; otherwise it waits for the rest.
        """
        # A replica counts the votes of its last election again if that was less than this before. It would be
        # a primary for a moment, with the epoch of that election, and lose what it takes meanwhile.
        await trio.sleep_until(self._elected.get(replica, -math.inf) + 2 * _NODE_TIMEOUT + 0.1)
        await self._until_known(replica, primary)
        taken = False
        while not taken:  # Redis gives it up after 5 seconds
            await replica.do("CLUSTER", "FAILOVER", *(["TAKEOVER"] if losing else []))
            with trio.move_on_after(6):
                await self.until_primary(replica)
                taken = True
        await self.until_copying(primary)

    async def cut_off(self, replica: RedisServer, primary: RedisServer) -> None:
        """Have a replica receive nothing more from its primary, until that is its replica itself."""
        await primary.do("ACL", "SETUSER", "default", "-psync", "-sync")
        await primary.do("CLIENT", "KILL", "TYPE", "replica")
        while b"master_link_status:up" in await replica.do("INFO", "replication"):
            await trio.sleep(_PAUSE)

    async def reconnect(self, primary: RedisServer) -> None:
        """Undo `cut_off`."""
        await primary.do("ACL", "SETUSER", "default", "+psync", "+sync")

    async def do(self, name: str, *words: Any) -> Any:
        """Run a command at the node of the channel ``name``."""
        return await self.node_of(self.slot_of(name)).do(*words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def redis_cluster(*options: str, replicas: int = 0, spare: int = 0) -> AsyncIterator[RedisCluster]:
    """Run three primaries for the duration of a block. Skips the test without Redis 7.0 or later.

    Args:
        options: additional command-line arguments; ``{tls}`` in them is replaced by another free port.
        replicas: 1 for a replica of the first primary, 3 for one of each.
        spare: primaries without slots, which are the last nodes.
    """
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(PRIMARIES + replicas + spare):
            bus, tls = free_port(), free_port()
            node = await stack.enter_async_context(
                redis_server(
                    "--cluster-enabled yes --repl-diskless-sync-delay 0",
                    f"--cluster-node-timeout {_NODE_TIMEOUT * 1000:.0f}",
                    f"--cluster-port {bus}",
                    *(option.replace("{tls}", str(tls)) for option in options),
                )
            )
            nodes.append(node)
        version = (await nodes[0].do("INFO", "server")).partition(b"redis_version:")[2]
        if int(version.partition(b".")[0]) < 7:
            pytest.skip("sharded pub/sub requires Redis 7.0")
        made = RedisCluster(nodes)
        await made.form(replicas)
        yield made
