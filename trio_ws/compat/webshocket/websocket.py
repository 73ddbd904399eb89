"""The server and the client of webshocket.

Both are async context managers, and their background tasks then belong to the ``async with`` block. Without a
block, `WebSocketServer.start` and `WebSocketClient.connect` leave a background task running: in the nursery
that is passed as ``nursery``, or otherwise as a system task of trio. It ends with ``close()``, and a system
task ends with the program's main task at the latest.
"""

from __future__ import annotations

from trio_ws.compat.webshocket._client import WebSocketClient
from trio_ws.compat.webshocket._server import WebSocketServer

__all__ = ["WebSocketClient", "WebSocketServer", "client", "server"]

server = WebSocketServer
client = WebSocketClient
