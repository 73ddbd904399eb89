"""The enums of webshocket, with its values."""

from __future__ import annotations

from enum import Enum, IntEnum

from trio_ws.codecs.base import PacketSource

__all__ = ["ClientType", "ConnectionState", "PacketSource", "RPCErrorCode", "ServerState"]


class ConnectionState(IntEnum):
    """The state of a connection.

    Attributes:
        DISCONNECTED: it is not open yet, was lost, or was closed by the peer.
        CONNECTING: it is being opened.
        CONNECTED: it is open.
        CLOSED: this side has closed it.
    """

    DISCONNECTED = 1
    CONNECTING = 2
    CONNECTED = 3
    CLOSED = 4


class ServerState(IntEnum):
    """The state of a server.

    Attributes:
        CLOSED: it does not listen.
        SERVING: it accepts clients.
    """

    CLOSED = 1
    SERVING = 2


class ClientType(Enum):
    """The encoding that a client uses.

    Attributes:
        FRAMEWORK: msgpack; a subprotocol of webshocket or trio_ws was negotiated.
        GENERIC: JSON, for clients without a library, such as browsers.
    """

    FRAMEWORK = "Framework"
    GENERIC = "Generic"


class RPCErrorCode(IntEnum):
    """The error codes of calls.

    Attributes:
        METHOD_NOT_FOUND: the handler has no such method.
        INVALID_PARAMS: the arguments are invalid.
        INTERNAL_SERVER_ERROR: the method raised an unexpected exception.
        RATE_LIMIT_EXCEEDED: the client exceeded the method's rate limit.
        APPLICATION_ERROR: the method raised a `trio_ws.RPCError`.
        ACCESS_DENIED: the method's predicate ``requires`` was false.
    """

    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_SERVER_ERROR = -32603
    RATE_LIMIT_EXCEEDED = -32000
    APPLICATION_ERROR = -32001
    ACCESS_DENIED = -32002
