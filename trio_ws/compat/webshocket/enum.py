"""The enums of webshocket, with its values."""

from __future__ import annotations

from enum import Enum, IntEnum

from trio_ws.codecs.base import PacketSource

__all__ = ["ClientType", "ConnectionState", "PacketSource", "RPCErrorCode", "ServerState"]


class ConnectionState(IntEnum):
    """The state of a connection.

    Attributes:
        DISCONNECTED: there is none: not yet, or it was lost, or the peer closed it.
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
    """What a client speaks.

    Attributes:
        FRAMEWORK: msgpack; it agreed to a subprotocol of webshocket or trio_ws.
        GENERIC: JSON, as a browser without a library.
    """

    FRAMEWORK = "Framework"
    GENERIC = "Generic"


class RPCErrorCode(IntEnum):
    """Why a call failed.

    Attributes:
        METHOD_NOT_FOUND: the handler has no such method.
        INVALID_PARAMS: the arguments do not fit the method.
        INTERNAL_SERVER_ERROR: the method raised an unexpected exception.
        RATE_LIMIT_EXCEEDED: the client called the method too often.
        APPLICATION_ERROR: the method raised an `trio_ws.RPCError`.
        ACCESS_DENIED: the method's ``requires`` said no.
    """

    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_SERVER_ERROR = -32603
    RATE_LIMIT_EXCEEDED = -32000
    APPLICATION_ERROR = -32001
    ACCESS_DENIED = -32002
