"""The interface of trio-websocket 0.12, implemented by trio_ws: programs migrate by changing an import.

Differences:

- ``receive_buffer_size`` has no effect, and ``message_queue_size`` limits only how many messages may wait
  while the peer's Close frame is answered. Messages that wait to be received are limited in bytes.
- Of the private names only ``WebSocketConnection._send`` is here, which takes events of wsproto.
- Interim responses such as 100 are skipped (RFC 9110 section 15.2).
"""

from __future__ import annotations

from trio_ws.compat.trio_websocket.clients import (
    connect_websocket,
    connect_websocket_url,
    open_websocket,
    open_websocket_url,
    wrap_client_stream,
)
from trio_ws.compat.trio_websocket.connection import Endpoint, WebSocketConnection, WebSocketRequest
from trio_ws.compat.trio_websocket.exceptions import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    ConnectionTimeout,
    DisconnectionTimeout,
    HandshakeError,
)
from trio_ws.compat.trio_websocket.servers import WebSocketServer, serve_websocket, wrap_server_stream

__all__ = [
    "CloseReason",
    "ConnectionClosed",
    "ConnectionRejected",
    "ConnectionTimeout",
    "DisconnectionTimeout",
    "Endpoint",
    "HandshakeError",
    "WebSocketConnection",
    "WebSocketRequest",
    "WebSocketServer",
    "connect_websocket",
    "connect_websocket_url",
    "open_websocket",
    "open_websocket_url",
    "serve_websocket",
    "wrap_client_stream",
    "wrap_server_stream",
]


def _name_here() -> None:
    """Set ``__module__`` of the public names, so that tracebacks and documentation show this package."""
    for name in __all__:
        globals()[name].__module__ = __name__


_name_here()
