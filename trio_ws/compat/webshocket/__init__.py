"""The interface of webshocket, implemented by trio_ws, for programs that run on trio instead of asyncio.

``import trio_ws.compat.webshocket as webshocket`` replaces ``import webshocket``. The modules of the package
have the same names as those of webshocket. The page "Moving from webshocket" lists the differences.
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

#: Their annotations must be resolved in the module that defines them.
_STRUCTS = (Packet, RPCRequest, RPCResponse)


def _name_here() -> None:
    """Set ``__module__`` of the public classes, so that tracebacks and documentation show this package."""
    for name in __all__:
        value = globals()[name]
        if getattr(value, "__module__", "").startswith(f"{__name__}.") and value not in _STRUCTS:
            value.__module__ = __name__


_name_here()
