"""EmbeddedServer: a server that listens nowhere. Its owner hands streams to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trio_ws.server.server import WebSocketServer

if TYPE_CHECKING:
    from trio_ws.server.config import ServerConfig

__all__ = ["EmbeddedServer"]


class EmbeddedServer(WebSocketServer):
    """A server to which `ClientTasks._accept_client` brings its clients."""

    def __init__(self, config: ServerConfig) -> None:
        self._set_up(replace(config, listeners=()))
