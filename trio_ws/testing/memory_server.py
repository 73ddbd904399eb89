"""MemoryServer: a server that runs in memory, and the ways to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import trio

from trio_ws.client.client import WebSocketClient
from trio_ws.client.config import ConnectSettings
from trio_ws.client.connect import connect
from trio_ws.server.server import serve
from trio_ws.testing.link import MemoryListener

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_ws.client.backoff import Backoff
    from trio_ws.client.setup import SetUp
    from trio_ws.codecs.dialect import Dialect
    from trio_ws.rpc.client_connection import ClientConnection
    from trio_ws.rpc.handler import WebSocketHandler
    from trio_ws.server.config import ServerSettings, Target
    from trio_ws.server.server import WebSocketServer
    from trio_ws.testing.link import Link, LinkStream
    from trio_ws.websocket.connection import WebSocket

__all__ = ["MemoryServer", "run_client", "run_memory_server"]


class ClientSettings(ConnectSettings, total=False):
    """The keyword arguments of `trio_ws.WebSocketClient`, for type checkers."""

    handler: WebSocketHandler | type[WebSocketHandler] | None
    dialect: str | Dialect | Sequence[Dialect] | None
    on_connection: SetUp[ClientConnection] | None
    reconnect: Backoff | None
    autoconnect: bool


class MemoryServer:
    """A running server without sockets. The fixture ``trio_ws_server`` makes one.

    Attributes:
        server: the `trio_ws.WebSocketServer`.
        listener: the `MemoryListener` on which it listens.
        links: the links of `connect` and `client` so far, oldest first, to cut or to partition them.
        latency: seconds from one end to the other, for links from now on. Default 0.
    """

    def __init__(self, server: WebSocketServer, listener: MemoryListener) -> None:
        self.server = server
        self.listener = listener
        self.links: list[Link] = []
        self.latency = 0.0

    async def dial(self) -> LinkStream:
        """Open a link, and return the client's end of it."""
        link = await self.listener.open_link(latency=self.latency)
        self.links.append(link)
        return link.client

    def connect(
        self, path: str = "/", **settings: Unpack[ConnectSettings]
    ) -> AbstractAsyncContextManager[WebSocket]:
        """Connect to a path, for the length of an ``async with`` block.

        Args:
            path: path and query.
            settings: the other arguments of `trio_ws.connect`.

        Raises:
            TypeError: ``stream`` is among them.
        """
        self._provide_stream(settings)
        return connect(f"ws://test{path}", **settings)

    def client(self, path: str = "/", **settings: Unpack[ClientSettings]) -> WebSocketClient:
        """Make a client for a path, which reconnects over new links.

        Args:
            path: path and query.
            settings: the other arguments of `trio_ws.WebSocketClient`.

        Raises:
            TypeError: ``stream`` is among them.
        """
        self._provide_stream(settings)
        return WebSocketClient(f"ws://test{path}", **settings)

    def _provide_stream(self, settings: ConnectSettings | ClientSettings) -> None:
        if "stream" in settings:
            raise TypeError("a MemoryServer opens the streams itself; leave out stream=")
        settings["stream"] = self.dial


async def run_memory_server(
    target: Target, *, task_status: trio.TaskStatus[MemoryServer], **settings: Unpack[ServerSettings]
) -> None:
    """Run a server until it is cancelled."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[WebSocketServer]) -> None:
            settings["listeners"] = [listener]
            await serve(target, 0, task_status=task_status, **settings)

        server: WebSocketServer = await nursery.start(run)
        task_status.started(MemoryServer(server, listener))


async def run_client(
    server: MemoryServer,
    path: str,
    *,
    task_status: trio.TaskStatus[WebSocketClient],
    **settings: Unpack[ClientSettings],
) -> None:
    """Run a client until it is cancelled."""
    async with server.client(path, **settings) as client:
        task_status.started(client)
        await trio.sleep_forever()
