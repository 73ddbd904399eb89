"""trio_ws: a trio-native, structured-concurrency WebSocket toolkit.

The house, from the ground up; a module imports only from floors below its own, and a test holds it to that::

    errors.py            floor 0  every exception, its tree in the docstring
    options.py           floor 0  Options: every limit and timeout, frozen
    wire/                floor 1  bytes <-> events, without trio
        http.py              requests, headers, plain answers
        reader.py            a request out of bytes, with a fast lane for the common one
        handshake.py         both opening handshakes
        masking.py           xor, and where its keys come from
        frames.py            frames and messages: wsproto's, with a fast lane for the common frame
        deflate.py           permessage-deflate with a bound on what it inflates
        packets.py           the packets of calls, and the dialects they are written in
        jsonrpc.py           the same calls as JSON-RPC 2.0
    websocket/           floor 2  one WebSocket on one trio stream
        bell.py              the lightest way to wait for a change
        message.py           WebSocketMessage
        transport.py         a plain socket, or any trio stream
        outbox.py            what waits to be written: coalescing, water marks
        keepalive.py         who is alive, judged fairly
        reader.py            one reader for many plain sockets (Linux)
        service.py           the few tasks that serve all connections of one owner
        opening.py           what a server answers to an opening request
        endpoint.py          the machine: reading, states, the closing handshake
        parts.py             one message in parts
        handshaking.py       how a connection begins and ends: accept, reject, close
        receiving.py         the ways to receive
        sending.py           the ways to send
        connection.py        WebSocket: its face
    network/             floor 3  reaching and being reached
        uri.py               ws:// and wss://
        connect.py           names, TLS, the client's opening
        listen.py            listeners, and a client's way to a checked request
    rpc/                 floor 3  calls over one WebSocket, either way round
        predicates.py        who may
        limits.py            how often
        parameters.py        what an annotation lets through
        methods.py           @rpc_method: signature -> checked call
        errors.py            from codes to exceptions
        streams.py           items and credit
        workers.py           parked tasks for calls that wait
        calls.py             the half that asks
        answering.py         the half that is asked
        peer.py              both, and the reading
        proxy.py             the other side's methods as an object's
        typed.py             what type checkers see of a method
    channels/            floor 3  one message to many
        names.py             names and globs
        inbox.py             a subscribed task's bounded queue and its policy
        brokers.py           what joins several processes
    handler.py           floor 4  WebSocketHandler and ClientConnection
    server.py            floor 5  WebSocketServer, serve
    client.py            floor 5  WebSocketClient
    testing/             floor 6  memory links, faults, the raw peer
"""

from __future__ import annotations

from trio_ws.channels.brokers import Broker, BrokerStatistics, MemoryBroker, MemoryHub
from trio_ws.channels.inbox import Inbox, InboxStatistics
from trio_ws.client import WebSocketClient
from trio_ws.errors import (
    BrokerError,
    CloseFrame,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionFailedError,
    HandshakeRejectedError,
    InvalidURIError,
    MessageError,
    PacketError,
    PacketValidationError,
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
    WebSocketError,
    WebSocketException,
)
from trio_ws.handler import ClientConnection, WebSocketHandler
from trio_ws.network.connect import connect
from trio_ws.options import Compression, Options
from trio_ws.rpc.calls import PacketStream, RPCResponse
from trio_ws.rpc.limits import RateLimit, rate_limit
from trio_ws.rpc.methods import Method, rpc_method
from trio_ws.rpc.predicates import All, Any, Has, Is, IsEqual, Predicate
from trio_ws.rpc.streams import ItemStream
from trio_ws.server import DrainReport, WebSocketServer, serve
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.wire.http import Headers, Request
from trio_ws.wire.packets import Packet, PacketSource

__version__ = "0.1.0"

__all__ = [
    "All",
    "Any",
    "Broker",
    "BrokerError",
    "BrokerStatistics",
    "ClientConnection",
    "CloseFrame",
    "Compression",
    "ConnectionClosedError",
    "ConnectionClosedLocallyError",
    "ConnectionFailedError",
    "DrainReport",
    "HandshakeRejectedError",
    "Has",
    "Headers",
    "Inbox",
    "InboxStatistics",
    "InvalidURIError",
    "Is",
    "IsEqual",
    "ItemStream",
    "MemoryBroker",
    "MemoryHub",
    "MessageError",
    "Method",
    "Options",
    "Packet",
    "PacketError",
    "PacketSource",
    "PacketStream",
    "PacketValidationError",
    "Predicate",
    "RPCAccessDeniedError",
    "RPCCancelledError",
    "RPCError",
    "RPCInternalError",
    "RPCInvalidParamsError",
    "RPCMethodNotFoundError",
    "RPCResponse",
    "RPCTimeoutError",
    "RateLimit",
    "RateLimitError",
    "Request",
    "WebSocket",
    "WebSocketClient",
    "WebSocketError",
    "WebSocketException",
    "WebSocketHandler",
    "WebSocketMessage",
    "WebSocketServer",
    "connect",
    "rate_limit",
    "rpc_method",
    "serve",
]


def _name_here() -> None:
    """Users meet these names here, in tracebacks and in documentation too, wherever they are defined."""
    for name in __all__:
        globals()[name].__module__ = __name__


_name_here()
