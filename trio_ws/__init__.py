"""trio_ws: a trio-native, structured-concurrency WebSocket toolkit.

The house, from the ground up; a module imports only from floors below its own, and a test holds it to that::

    logs.py              floor 0  what of a peer's text a log shows, and how often
    errors.py            floor 0  every exception, its tree in the docstring
    options.py           floor 0  Options: every limit and timeout, frozen
    ledger.py            floor 0  what one peer makes us hold
    signals.py           floor 0  from a signal to a cancelled scope
    groups.py            floor 0  what struck a nursery, out of its group
    wall.py              floor 1  what leaves user code, what of it passes, and what it has left open
    predicates.py        floor 2  who may call, or gets a message
    wire/                floor 1  bytes <-> events, without trio
        http.py              requests, headers, plain answers
        reader.py            a request out of bytes, with a fast lane for the common one
        handshake.py         both opening handshakes
        hosts.py             the names that a server goes by
        forwarded.py         Forwarded and X-Forwarded-*, as proxies write them
        proxy_protocol.py    the PROXY protocol of proxies of TCP
        tls.py               what is known of a connection's TLS
        tunnel.py            CONNECT, to an HTTP proxy
        masking.py           xor, and where its keys come from
        fast.py              the common frame
        _fast.c              both of these in C, where it could be built
        frames.py            frames that come, to messages: wsproto's, with a fast lane for the common frame
        framing.py           frames that go
        decoded_size.py      what a payload takes once it is decoded
        deflate.py           permessage-deflate with a bound on what it inflates
        packets.py           the packets of calls, and what a dialect of them does
        packing.py           the dialects that write them, as msgpack and as JSON
        jsonrpc.py           the same calls as JSON-RPC 2.0
        dialects.py          which of them is spoken
    websocket/           floor 2  one WebSocket on one trio stream
        bell.py              the lightest way to wait for a change
        message.py           WebSocketMessage
        transport.py         a plain socket, or any trio stream
        trace.py             what the log says of a connection and its frames
        late.py              large messages that are deflated while they wait
        outbox.py            what waits to be written: coalescing, water marks
        keepalive.py         who is alive, judged fairly
        delivery.py          what of a socket's bytes the peer has taken
        presence.py          whether the client of a plain request is still there
        reader.py            one reader for many plain sockets (Linux)
        service.py           the few tasks that serve all connections of one owner
        opening.py           what a server answers to an opening request
        lifetime.py          states, signs of life, the closing handshake, the end
        endpoint.py          the machine: reading
        parts.py             one message in parts
        handshaking.py       how a connection begins and ends: accept, reject, close
        receiving.py         the ways to receive
        sending.py           the ways to send
        connection.py        WebSocket: its face
    routing.py           floor 2  paths with typed parameters, and the functions that answer to them
    network/             floor 3  reaching and being reached
        uri.py               ws:// and wss://
        proxy.py             HTTP and SOCKS5 proxies, named or from the environment
        redirect.py          where a redirect leads, and what may go there
        connect.py           names, TLS, the client's opening
        http.py              plain HTTP responses beside the upgrade
        listeners.py         the sockets that a server opens, and the file of a Unix socket
        listen.py            accepting, and a client's way to a checked request
        addresses.py         what one address of a client may hold
        trust.py             which proxies are believed, and what follows
        gateway.py           an ASGI connection as a client's byte stream
    rpc/                 floor 3  calls over one WebSocket, either way round
        limits.py            how often
        parameters.py        what an annotation lets through
        methods.py           @rpc_method: signature -> checked call
        errors.py            from codes to exceptions
        streams.py           items and credit
        workers.py           parked tasks for calls that wait
        waiting.py           what waits for answers
        uploads.py           arguments that are streams
        calls.py             the half that asks
        begun.py             a call of the other side that has begun
        answering.py         the half that is asked
        peer.py              both, and the reading
        proxy.py             the other side's methods as an object's
        typed.py             what type checkers see of a method
    channels/            floor 3  one message to many
        names.py             names and globs
        log.py               messages, channels and their subscribers
        inbox.py             a subscribed task's bounded queue and its policy
        flusher.py           the task that writes to them all
        hub.py               who is subscribed to what, and publishing
        raw.py               one message to many plain WebSockets
        brokers.py           what joins several processes
        redis_url.py         what a Redis URL says
        redis_names.py       names and globs at Redis
        redis_queue.py       what waits to be published there
        redis_heard.py       what was heard from there already
        redis_link.py        one connection to Redis
        redis.py             RedisBroker: through Redis
        urls.py              from a URL to its broker
    blocking.py          floor 3  plain functions in threads, and the WebSocket that they get
    lifespan.py          floor 3  what is held open around the work of a server
    session.py           floor 4  ClientConnection
    reconnecting/        floor 4  the connections of one client, one after the other
        backoff.py           when to try again
        subscriptions.py     what a client listens to, on whatever connection it has
        keeper.py            who dials, and who waits for a connection
    handler.py           floor 5  WebSocketHandler
    front.py             floor 5  what a server asks of an App
    dispatch.py          floor 6  from a route to its function, through the middleware
    admission.py         floor 6  the way of a client through a server
    server.py            floor 7  WebSocketServer, serve
    client.py            floor 7  WebSocketClient
    asgi.py              floor 8  ASGIApp: any target as an ASGI application
    processes/           floor 8  one server in several processes
        targets.py           import strings: how a target gets into another process
        orders.py            what parent and worker say to each other
        worker.py            a worker, in its own process
        child.py             a worker, as its parent sees it
        group.py             serve_processes: start, restart, renew, drain
    app.py               floor 9  App: routes, mounts, middleware, a lifespan
    testing/             floor 9  memory links, faults, the raw peer
    cli/                 floor 11 the command line, which uses the names of this module as any program does
        values.py            from words to arguments
        failure.py           from an exception to one line and an exit code
        output.py            for people, and as JSON
        server.py            serve
        reloading.py         serve --reload
        reaching.py          how a command reaches its server
        listing.py           the methods that a server lists
        calling.py           call, stream, listen
        talking.py           connect
        lines.py             lines from a pipe
        prompt.py            lines from a person
        bench.py             bench
        commands.py          arguments and options
    __main__.py          floor 12 python -m trio_ws
"""

from __future__ import annotations

from trio_ws.app import App
from trio_ws.asgi import ASGIApp, asgi_scope
from trio_ws.blocking import BlockingWebSocket
from trio_ws.channels.brokers import Broker, BrokerState, BrokerStatistics, MemoryBroker, MemoryHub
from trio_ws.channels.hub import ChannelStatistics, Hub, HubStatistics
from trio_ws.channels.inbox import Inbox, InboxStatistics
from trio_ws.channels.raw import broadcast
from trio_ws.channels.redis import RedisBroker
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
    SubscriptionError,
    WebSocketError,
    WebSocketException,
    WorkerError,
)
from trio_ws.handler import WebSocketHandler
from trio_ws.network.connect import connect
from trio_ws.network.http import HTTPResponse
from trio_ws.options import Compression, Options
from trio_ws.predicates import All, Any, Has, Is, IsEqual, Predicate
from trio_ws.processes.group import ProcessGroup, WorkerProcess, serve_processes
from trio_ws.reconnecting.backoff import Backoff
from trio_ws.reconnecting.keeper import StateChanges
from trio_ws.rpc.calls import PacketStream, RPCResponse
from trio_ws.rpc.limits import RateLimit, rate_limit
from trio_ws.rpc.methods import Method, rpc_method
from trio_ws.rpc.streams import ItemStream
from trio_ws.server import DrainReport, WebSocketServer, serve
from trio_ws.session import ClientConnection
from trio_ws.signals import cancel_on_signals
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.wire.http import Headers, Request
from trio_ws.wire.packets import Packet, PacketSource
from trio_ws.wire.tls import TLSInfo

__version__ = "0.1.0"

__all__ = [
    "ASGIApp",
    "All",
    "Any",
    "App",
    "Backoff",
    "BlockingWebSocket",
    "Broker",
    "BrokerError",
    "BrokerState",
    "BrokerStatistics",
    "ChannelStatistics",
    "ClientConnection",
    "CloseFrame",
    "Compression",
    "ConnectionClosedError",
    "ConnectionClosedLocallyError",
    "ConnectionFailedError",
    "DrainReport",
    "HTTPResponse",
    "HandshakeRejectedError",
    "Has",
    "Headers",
    "Hub",
    "HubStatistics",
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
    "ProcessGroup",
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
    "RedisBroker",
    "Request",
    "StateChanges",
    "SubscriptionError",
    "TLSInfo",
    "WebSocket",
    "WebSocketClient",
    "WebSocketError",
    "WebSocketException",
    "WebSocketHandler",
    "WebSocketMessage",
    "WebSocketServer",
    "WorkerError",
    "WorkerProcess",
    "asgi_scope",
    "broadcast",
    "cancel_on_signals",
    "connect",
    "rate_limit",
    "rpc_method",
    "serve",
    "serve_processes",
]


def _name_here() -> None:
    """Users meet these names here, in tracebacks and in documentation too, wherever they are defined."""
    for name in __all__:
        if globals()[name].__module__ != "typing":  # an alias such as BrokerState has no name of its own
            globals()[name].__module__ = __name__


_name_here()
