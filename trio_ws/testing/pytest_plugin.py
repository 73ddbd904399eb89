"""Fixtures for tests of WebSockets in memory, with pytest-trio. pytest finds this plugin by itself."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Unpack

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from trio_ws.client.client import WebSocketClient
    from trio_ws.server.config import ServerSettings, Target
    from trio_ws.testing.exploring import Exploration
    from trio_ws.testing.link import Link, LinkOptions
    from trio_ws.testing.memory_server import ClientSettings, MemoryServer

__all__ = ["trio_ws_client", "trio_ws_explore", "trio_ws_link", "trio_ws_server"]

# trio_ws is imported when a fixture is used: other tests do not wait for it.


@pytest.fixture
def trio_ws_server(nursery: trio.Nursery) -> Callable[..., Awaitable[MemoryServer]]:
    """Start a server in memory for the length of the test: ``server = await trio_ws_server(target)``.

    Takes what `trio_ws.WebSocketServer` takes but where to listen, and returns a `MemoryServer`.
    """
    from trio_ws.testing.memory_server import run_memory_server  # noqa: PLC0415

    async def start(target: Target, **settings: Unpack[ServerSettings]) -> MemoryServer:
        server: MemoryServer = await nursery.start(functools.partial(run_memory_server, target, **settings))
        return server

    return start


@pytest.fixture
def trio_ws_client(nursery: trio.Nursery) -> Callable[..., Awaitable[WebSocketClient]]:
    """Start a client for the length of the test: ``client = await trio_ws_client(server, "/path")``.

    Takes what `MemoryServer.client` takes, behind the server.
    """
    from trio_ws.testing.memory_server import run_client  # noqa: PLC0415

    async def start(
        server: MemoryServer, path: str = "/", **settings: Unpack[ClientSettings]
    ) -> WebSocketClient:
        client: WebSocketClient = await nursery.start(functools.partial(run_client, server, path, **settings))
        return client

    return start


@pytest.fixture
def trio_ws_link() -> Callable[..., Awaitable[Link]]:
    """Open a link to a server: ``link = await trio_ws_link(server, latency=0.1)``.

    Its client's end is for ``connect("ws://test/", stream=link.client)``, or for a `RawPeer`.
    """

    async def open_link(server: MemoryServer, **options: Unpack[LinkOptions]) -> Link:
        return await server.listener.open_link(**options)

    return open_link


@pytest.fixture
def trio_ws_explore(autojump_clock: object) -> Callable[..., Awaitable[Exploration]]:
    """`trio_ws.testing.explore`, in a test whose clock jumps: ``await trio_ws_explore(script)``."""
    from trio_ws.testing.exploring import explore  # noqa: PLC0415

    del autojump_clock  # pytest-trio runs the test under it
    return explore
