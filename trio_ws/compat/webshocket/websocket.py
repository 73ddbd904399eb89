"""The server and the client of webshocket.

Both may be entered as a block, ``async with``, and then all that they run belongs to that block. Outside of
one, `WebSocketServer.start` and `WebSocketClient.connect` return while something runs on: in the nursery that
is given as ``nursery=``, or else in a system task of trio's, which ends with ``close()``, and at the latest
with the program's main task.
"""

from __future__ import annotations

from trio_ws.compat.webshocket._client import WebSocketClient
from trio_ws.compat.webshocket._server import WebSocketServer

__all__ = ["WebSocketClient", "WebSocketServer", "client", "server"]

server = WebSocketServer
client = WebSocketClient
