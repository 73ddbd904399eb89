"""EmbeddedServer: a server without listeners. Its owner passes streams to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ws.server.server import WebSocketServer

if TYPE_CHECKING:
    from trio_ws.server.config import ServerConfig

__all__ = ["EmbeddedServer"]


class EmbeddedServer(WebSocketServer):
    """A server whose owner passes each client to `ClientTasks._accept_client`."""

    def __init__(self, config: ServerConfig) -> None:
        self._set_up(replace(config, listeners=()))
