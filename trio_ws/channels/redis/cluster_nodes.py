"""Connections to the nodes of a Redis Cluster, and their views of it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from trio_ws.channels.redis.cluster import check_state, parse_nodes
from trio_ws.channels.redis.connection import command, open_connection
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    from trio_ws.channels.redis.cluster import Address, Owner
    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.url import RedisURL

__all__ = ["close_all", "fetch_owners", "open_node"]

#: Seconds in which a node must show its view before the next one is asked.
_VIEW_TIMEOUT = 1.0

_shuffle = random.SystemRandom().shuffle


async def open_node(
    url: RedisURL,
    address: Address,
    ssl_context: ssl.SSLContext | None,
    timeout: float,  # noqa: ASYNC109
) -> RedisConnection:
    """Connect to a node, and check that its cluster works.

    Args:
        url: of the cluster, with the credentials.
        address: of the node.
        ssl_context: for TLS.
        timeout: seconds.

    Raises:
        BrokerError: it cannot be reached, refuses, or says that the cluster is down.
    """
    node = replace(url, host=address[0], port=address[1], shown=f"{address[0]}:{address[1]} of {url.shown}")
    connection = await open_connection(node, ssl_context, timeout)
    try:
        with trio.move_on_after(timeout):
            (info,) = await connection.request(command(b"CLUSTER", b"INFO"), 1)
            check_state(info, node.shown)
            return connection
        raise BrokerError(f"{node.shown} did not answer within {timeout} seconds")
    except BaseException:
        await connection.aclose()
        raise


async def close_all(connections: Iterable[RedisConnection]) -> None:
    """Close all connections at once, even if cancelled."""
    with trio.CancelScope(shield=True):
        for connection in connections:
            await connection.aclose()


async def fetch_owners(
    url: RedisURL,
    nodes: Sequence[Address],
    ssl_context: ssl.SSLContext | None,
    timeout: float,  # noqa: ASYNC109
) -> tuple[dict[int, Owner], list[Address]]:
    """Ask nodes, one after the other, for their view of the cluster, until one answers.

    Args:
        url: of the cluster. Its nodes are asked last.
        nodes: the first is asked first, and the others in a random order.
        ssl_context: for TLS.
        timeout: seconds for all.

    Returns:
        As `parse_nodes`.

    Raises:
        BrokerError: none of them has answered.
    """
    others = list(nodes[1:])
    _shuffle(others)
    problems = []
    with trio.move_on_after(timeout):
        for address in dict.fromkeys([*nodes[:1], *others, *url.nodes]):
            try:
                return await _ask(url, address, ssl_context)
            except (BrokerError, ValueError, IndexError) as exc:
                problems.append(str(exc))
    raise BrokerError(
        f"no node of {url.shown} answers within {timeout} seconds: {'; '.join(problems[:3]) or 'silence'}"
    )


async def _ask(
    url: RedisURL, address: Address, ssl_context: ssl.SSLContext | None
) -> tuple[dict[int, Owner], list[Address]]:
    connection = await open_node(url, address, ssl_context, _VIEW_TIMEOUT)
    try:
        with trio.move_on_after(_VIEW_TIMEOUT):
            (text,) = await connection.request(command(b"CLUSTER", b"NODES"), 1)
            if isinstance(text, Exception):
                raise BrokerError(f"{address[0]}:{address[1]} refused CLUSTER NODES: {text}")
            return parse_nodes(text.decode() if isinstance(text, bytes) else str(text), address)
    finally:
        await connection.aclose()
    raise BrokerError(f"{address[0]}:{address[1]} did not answer within {_VIEW_TIMEOUT} seconds")
