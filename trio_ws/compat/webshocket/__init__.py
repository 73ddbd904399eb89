"""webshocket's interface on this engine: its programs run with another import and trio for asyncio.

``import trio_ws.compat.webshocket as webshocket`` stands for ``import webshocket``; the modules below have
the same names, too. What is different is in the documentation, in "Moving from webshocket".
"""

from __future__ import annotations

from trio_ws.compat.webshocket import enum, exceptions, handler, packets, predicate, rpc, websocket
from trio_ws.compat.webshocket.connection import ClientConnection
from trio_ws.compat.webshocket.enum import (
    ClientType,
    ConnectionState,
    PacketSource,
    RPCErrorCode,
    ServerState,
)
from trio_ws.compat.webshocket.exceptions import (
    ConnectionClosedError,
    ConnectionError,
    ConnectionFailedError,
    InvalidURIError,
    MessageError,
    PacketError,
    PacketValidationError,
    RateLimitError,
    ReceiveTimeoutError,
    RPCError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
    TimeoutError,
    WebSocketError,
)
from trio_ws.compat.webshocket.handler import DefaultWebSocketHandler, WebSocketHandler
from trio_ws.compat.webshocket.packets import Packet, RPCRequest, RPCResponse
from trio_ws.compat.webshocket.predicate import All, Any, Has, Is, IsEqual
from trio_ws.compat.webshocket.rpc import rate_limit, rpc_method
from trio_ws.compat.webshocket.websocket import WebSocketClient, WebSocketServer

__all__ = [
    "All",
    "Any",
    "ClientConnection",
    "ClientType",
    "ConnectionClosedError",
    "ConnectionError",
    "ConnectionFailedError",
    "ConnectionState",
    "DefaultWebSocketHandler",
    "Has",
    "InvalidURIError",
    "Is",
    "IsEqual",
    "MessageError",
    "Packet",
    "PacketError",
    "PacketSource",
    "PacketValidationError",
    "RPCError",
    "RPCErrorCode",
    "RPCMethodNotFoundError",
    "RPCRequest",
    "RPCResponse",
    "RPCTimeoutError",
    "RateLimitError",
    "ReceiveTimeoutError",
    "ServerState",
    "TimeoutError",
    "WebSocketClient",
    "WebSocketError",
    "WebSocketHandler",
    "WebSocketServer",
    "enum",
    "exceptions",
    "handler",
    "packets",
    "predicate",
    "rate_limit",
    "rpc",
    "rpc_method",
    "websocket",
]

#: Their annotations are looked up where they are defined.
_STRUCTS = (Packet, RPCRequest, RPCResponse)


def _name_here() -> None:
    """Users meet these names here, in tracebacks and in documentation too, wherever they are defined."""
    for name in __all__:
        value = globals()[name]
        if getattr(value, "__module__", "").startswith(f"{__name__}.") and value not in _STRUCTS:
            value.__module__ = __name__


_name_here()
