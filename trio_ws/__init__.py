"""trio_ws: a trio-native, structured-concurrency WebSocket toolkit.

The package layout, from the lowest layer up. A module imports only from layers below its own, or from its own
folder; tests/test_layers.py checks that, and that this picture lists every module::

    logs.py              layer -1  what a log shows of a peer's text, and how often
    _blocks.py           layer -1  what is entered by async with, and says so
    _types.py            layer -1  names for what may be anything
    models.py            layer 0   models of pydantic, where msgspec meets one
    errors.py            layer 0   every exception, its tree in the docstring
    options.py           layer 0   Options: every limit and timeout, frozen
    ledger.py            layer 0   the memory that one peer makes us hold
    signals.py           layer 0   from a signal to a cancelled scope
    systems.py           layer 0   names that exist on some operating systems only
    _nurseries.py        layer 0   unwrapping the exception group of an internal nursery
    _settings.py         layer 0   keyword arguments that several functions share
    wall.py              layer 1   runs user code: handlers, methods and hooks
    decoding.py          layer 1   decoding JSON and msgpack that a peer sent
    _late_scope.py       layer 2   a cancel scope that is only made when it is cancelled
    predicates.py        layer 2   who may call, or gets a message
    protocol/            layer 2   bytes <-> events, without I/O
        http.py              requests, headers, plain answers
        http_parser.py       a request out of bytes, with a fast path for the common one
        handshake.py         both opening handshakes
        server_response.py   what a server answers to an opening request
        hosts.py             the names that a server is reached by
        forwarded.py         Forwarded and X-Forwarded-*, as proxies write them
        proxy_protocol.py    the PROXY protocol of TCP proxies
        tls.py               what is known of a connection's TLS
        urls.py              URLs as they may be shown in errors and logs
        masking.py           xor, and where its keys come from
        _accel.py            the common frame, in Python
        _speedups.c          the same and masking in C, where it could be built
        frames.py            frames that arrive, to messages: wsproto's, with a fast path for the common frame
        framing.py           frames that are sent
        deflate.py           permessage-deflate with a bound on what it inflates
    wire/                layer 3   the deprecated name of protocol/
    codecs/              layer 3   what a payload means
        base.py              the packets of calls, and what a codec does with them
        recovery.py          where subscriptions continue
        decoded_size.py      the memory a payload takes once it is decoded
        packets.py           packets as msgpack and as JSON
        jsonrpc_batches.py   batches of JSON-RPC
        jsonrpc.py           the same calls as JSON-RPC 2.0
        dialect.py           calls as others write them
        registry.py          which codec a connection uses
    websocket/           layer 4   one WebSocket on one trio stream
        _notify.py           the cheapest way to wait for a change
        message.py           WebSocketMessage
        transport.py         a plain socket, or any trio stream
        sockets.py           how streams and sockets fail, and how TCP ends
        tls.py               TLS on a socket, and over any other stream
        frame_log.py         what the log shows of a connection and its frames
        delivery.py          how many bytes the peer's system has taken from a socket
        deferred_frame.py    large messages that are deflated while they wait
        write_buffer.py      what waits to be written: coalescing, water marks
        receive_buffer.py    messages that wait for the application
        closing.py           the states of a connection, and the closing handshake
        keepalive.py         pings, and judging fairly whether the peer is alive
        readers.py           who reads a connection
        epoll_reader.py      one reader for many plain sockets (Linux)
        disconnect_watch.py  whether the client of a plain request is still there
        runtime.py           the few tasks that serve all connections of one owner
        message_stream.py    one message in parts
        connection.py        WebSocket, made of these parts
        internals.py         these parts, for the layers above
    channels/            layer 5   one message to many
        names.py             names and globs
        channel.py           messages, channels and their subscribers
        history.py           the newest messages of channels, kept for those who missed them
        recovery.py          where a subscription begins, and how a task reads a history
        shared_messages.py   what processes send each other of a message
        shared_histories.py  histories that a broker keeps for all processes
        presence.py          who is in a channel, in all processes
        users.py             all connections of a user
        subscription.py      a subscribed task's bounded queue and its policy
        fanout.py            the task that writes to all subscribers
        local_delivery.py    giving messages to the subscribers in this process
        registry.py          who is subscribed to what
        hub_histories.py     histories of a hub, and subscribers that continue from them
        statistics.py        counters
        hub.py               Hub, made of these parts: subscribing and publishing
        sharing.py           connecting the hubs of a server to a broker
        broadcast.py         one message to many plain WebSockets
        broker.py            what joins several processes
        memory_broker.py     InMemoryBroker: for tests, and as a model
        broker_urls.py       from a URL to its broker
        redis/               RedisBroker: channels through Redis
            broker.py            RedisBroker
            connection.py        one connection to Redis
            patterns.py          names and globs at Redis
            publish_queue.py     what waits to be published
            duplicates.py        which messages were received already
            messages.py          the form of a message at Redis, and its mark
            histories.py         histories of channels as streams
            publisher.py         Publisher: publishing from other programs
            url.py               Redis URLs
    schema/              layer 5   the contract of handlers, for other languages
        docstring.py         the parts of a docstring
        types.py             types -> JSON Schema
        globs.py             the parts of a glob
        contract.py          what a handler offers
        openrpc.py           as OpenRPC 1.3
        asyncapi.py          as AsyncAPI 3.0
        typescript.py        as TypeScript
        page.py              as a page that tries it: static/docs.html
        document.py          Schema: in every form
    rpc/                 layer 6   calls over one WebSocket, either way round
        rate_limit.py        rate limits
        definitions.py       mistakes that a handler's class shows when it is defined
        parameters.py        validating arguments by their annotations
        methods.py           @rpc_method: from a signature to a checked call
        transport.py         sending packets, and the memory that a connection holds
        errors.py            from codes to exceptions, and from exceptions to responses
        task_pool.py         parked tasks for calls that wait
        deadlines.py         deadlines of calls
        batch.py             several calls in one message
        streams.py           items and credit
        client_streams.py    arguments that are streams
        pending.py           calls that wait for their response
        outgoing.py          the calls of this side
        detached.py          connections that live on without a task
        inline_call.py       how calls run in the task that reads: the theory of operation
        deferred.py          requests that wait for room
        incoming.py          the calls of the other side
        rights.py            subscriptions that a handler is asked about again
        expiry.py            connections that expire
        channel_methods.py   the built-in methods for channels
        packet_delivery.py   packets that are not calls
        session.py           one session per connection, which owns these and reads
        proxy.py             the other side's methods as an object's
        client_connection.py ClientConnection
        handler.py           WebSocketHandler
        _decorator_types.py  what type checkers see of a method
    client/              layer 7   connecting, and reconnecting
        failures.py          why no connection came about, in words
        uri.py               ws:// and wss://
        proxy.py             HTTP and SOCKS5 proxies, named or from the environment
        http_tunnel.py       CONNECT, to an HTTP proxy
        redirect.py          where a redirect leads, and what may go there
        config.py            ConnectConfig: how to connect, checked once
        connect.py           connect(): names, TLS, the client's opening handshake
        backoff.py           when to try again
        setup.py             on_connection at work
        retry.py             trying to connect again, counted, and the state that users watch
        presence.py          who is in a channel, as a client sees it
        recovery.py          how far a subscription has come, over all connections
        subscriptions.py     what a client subscribes to, on whatever connection it has
        notifications.py     what a server pushes to a client without being asked each time
        reconnect.py         the connections of one client, one after the other
        session.py           session, connections: one connection after the other to any server
        client.py            WebSocketClient
    dialects/            layer 8   protocols of calls that others designed
        cdp.py               the Chrome DevTools Protocol
        ocpp.py              OCPP-J, of charging stations
    server/              layer 8   listening, accepting, one task per client
        http.py              plain HTTP responses beside the upgrade
        listeners.py         the sockets that a server opens, and the file of a Unix socket
        accepting.py         accepting, and a client's way to a checked request
        access_log.py        one line for each request and each connection
        address_shares.py    what one address of a client may hold
        trusted_proxies.py   which proxies are believed, and what follows
        routing.py           paths with typed parameters, and the functions that answer to them
        router.py            what a server asks of an App
        blocking.py          plain functions in threads, and the WebSocket that they get
        config.py            ServerConfig: the settings of a server, checked once
        client_task.py       one client, from its first byte to its last
        server.py            WebSocketServer, serve
        embedded.py          a server to which others bring the clients
        wrap.py              wrap_stream: a WebSocket on a stream that was accepted elsewhere
        processes/           one server in several processes
            targets.py           import strings: how a target gets into another process
            control.py           what supervisor and worker say to each other
            worker.py            a worker, in its own process
            worker_handle.py     a worker, as its supervisor sees it
            supervisor.py        serve_processes: start, restart, renew, drain
    hosting/             layer 9   under servers that are not ours
        websocket.py         a WebSocket whose frames the host parses and makes
        asgi_stream.py       an ASGI connection: HTTP as bytes, and then messages
        server.py            one server for all clients that hosts accept
        asgi.py              ASGIApp: any target as an ASGI application
        ticks.py             when a trio run on an asyncio loop takes its turns
        guest.py             a trio run on an asyncio loop, and the way across
        rsgi.py              the same application under RSGI
    guest.py             layer 10  servers and functions of trio's in asyncio programs
    compat/              layer 10  other libraries' interfaces
        trio_websocket.py    that of trio-websocket
        webshocket/          webshocket's
            _background.py       what runs on outside of a block
            _client.py           WebSocketClient
            _engine.py           between its handlers and ours
            _sending.py          sending from plain code
            _server.py           WebSocketServer
            connection.py        ClientConnection
            enum.py              its enums
            exceptions.py        its exceptions
            handler.py           WebSocketHandler, with its channels
            packets.py           Packet, and what is in it
            predicate.py         predicates, which ask session_state
            rpc.py               its decorators
            websocket.py         server and client by their names there
    app/                 layer 10  App
        lifespan.py          what is held open around the work of a server
        listener.py          functions of one message: app.listener
        dispatch.py          from a route to its function, through the middleware
        docs.py              who gets that page
        javascript.py        the JavaScript client, as a page gets it: static/trio-ws.js
        app.py               App: routes, mounts, middleware, a lifespan
    testing/             layer 10  memory links, faults, the raw peer
        link.py              two ends of a connection in memory
        peer.py              RawPeer: frames byte by byte
        exploring.py         explore: a test cancelled at each checkpoint, and cut at each byte
        memory_server.py     a server in memory, and the ways to it
        pytest_plugin.py     fixtures
        recording.py         record: what a client and a server said, to a file
        replaying.py         replay: the server of a recording
        conformance/         a server that judges clients of trio-ws.v1
            stage.py             the driver, and the connections of its client
            scene.py             one thing that a client does
            client_scenes.py     calls, streams, uploads
            server_scenes.py     the server's calls, data, channels, ends
            suite.py             the server, and its verdicts
            driver.py            the driver of our own client
            __main__.py          the command
    cli/                 layer 12  the command line, which uses the names of this module as any program does
        values.py            from words to arguments
        errors.py            from an exception to one line and an exit code
        output.py            output for people, and as JSON
        streams.py           the standard streams
        server.py            serve
        reloading.py         serve --reload
        target.py            how a command reaches its server
        methods.py           the methods that a server lists
        rpc.py               call, stream, listen
        schemas.py           schema, types
        interactive.py       connect
        stdin.py             lines from a pipe
        prompt.py            lines from a person
        bench.py             bench
        recording.py         record
        completion.py        what a shell completes
        version.py           what the program says of itself
        commands.py          arguments and options
    __main__.py          layer 13  python -m trio_ws
"""

from __future__ import annotations

import importlib
import typing
import warnings

from trio_ws.app.app import App
from trio_ws.channels.broadcast import broadcast
from trio_ws.channels.broker import Broker, BrokerState, BrokerStatistics, HistoryPage, KeptMessage
from trio_ws.channels.history import History
from trio_ws.channels.hub import Hub
from trio_ws.channels.presence import Presence, PresenceChange, PresenceChanges
from trio_ws.channels.redis.broker import RedisBroker
from trio_ws.channels.redis.publisher import BlockingPublisher, Publisher
from trio_ws.channels.statistics import ChannelStatistics, HubStatistics
from trio_ws.channels.subscription import Subscription, SubscriptionStatistics
from trio_ws.client.backoff import Backoff
from trio_ws.client.client import WebSocketClient
from trio_ws.client.connect import connect
from trio_ws.client.notifications import NotificationStream, RPCNotification
from trio_ws.client.presence import ClientPresence
from trio_ws.client.session import Session, connections, session
from trio_ws.codecs.base import Gap, Packet, PacketSource, Position
from trio_ws.errors import (
    BrokerError,
    CloseCode,
    CloseConnection,
    CloseFrame,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionEndedError,
    ConnectionFailedError,
    HandshakeRejectedError,
    InvalidURIError,
    MessageError,
    PacketError,
    PacketValidationError,
    RateLimitError,
    Reconnect,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
    SubprotocolError,
    SubscriptionError,
    WebSocketError,
    WebSocketException,
    WorkerError,
)
from trio_ws.hosting.asgi import ASGIApp, asgi_scope
from trio_ws.options import Compression, Options
from trio_ws.predicates import All, Any, Has, Is, IsEqual, Predicate
from trio_ws.protocol.http import Headers, Request
from trio_ws.protocol.tls import TLSInfo
from trio_ws.rpc.batch import BatchedCall, CallBatch
from trio_ws.rpc.client_connection import ClientConnection
from trio_ws.rpc.handler import WebSocketHandler
from trio_ws.rpc.methods import Method, rpc_method
from trio_ws.rpc.outgoing import PacketStream, RPCResponse
from trio_ws.rpc.rate_limit import RateLimit, rate_limit
from trio_ws.rpc.streams import ItemStream
from trio_ws.schema.document import Schema
from trio_ws.server.blocking import BlockingWebSocket
from trio_ws.server.http import HTTPResponse
from trio_ws.server.processes.supervisor import ProcessGroup, WorkerProcess, serve_processes
from trio_ws.server.server import DrainReport, WebSocketServer, serve
from trio_ws.server.wrap import wrap_stream
from trio_ws.signals import cancel_on_signals
from trio_ws.websocket.connection import WebSocket
from trio_ws.websocket.message import WebSocketMessage

__version__ = "0.1.0"

__all__ = [
    "ASGIApp",
    "All",
    "Any",
    "App",
    "Backoff",
    "BatchedCall",
    "BlockingPublisher",
    "BlockingWebSocket",
    "Broker",
    "BrokerError",
    "BrokerState",
    "BrokerStatistics",
    "CallBatch",
    "ChannelStatistics",
    "ClientConnection",
    "ClientPresence",
    "CloseCode",
    "CloseConnection",
    "CloseFrame",
    "Compression",
    "ConnectionClosedError",
    "ConnectionClosedLocallyError",
    "ConnectionEndedError",
    "ConnectionFailedError",
    "DrainReport",
    "Gap",
    "HTTPResponse",
    "HandshakeRejectedError",
    "Has",
    "Headers",
    "History",
    "HistoryPage",
    "Hub",
    "HubStatistics",
    "InvalidURIError",
    "Is",
    "IsEqual",
    "ItemStream",
    "KeptMessage",
    "MessageError",
    "Method",
    "NotificationStream",
    "Options",
    "Packet",
    "PacketError",
    "PacketSource",
    "PacketStream",
    "PacketValidationError",
    "Position",
    "Predicate",
    "Presence",
    "PresenceChange",
    "PresenceChanges",
    "ProcessGroup",
    "Publisher",
    "RPCAccessDeniedError",
    "RPCCancelledError",
    "RPCError",
    "RPCInternalError",
    "RPCInvalidParamsError",
    "RPCMethodNotFoundError",
    "RPCNotification",
    "RPCResponse",
    "RPCTimeoutError",
    "RateLimit",
    "RateLimitError",
    "Reconnect",
    "RedisBroker",
    "Request",
    "Schema",
    "Session",
    "SubprotocolError",
    "Subscription",
    "SubscriptionError",
    "SubscriptionStatistics",
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
    "connections",
    "rate_limit",
    "rpc_method",
    "serve",
    "serve_processes",
    "session",
    "wrap_stream",
]


def _name_here() -> None:
    """Users meet these names here, in tracebacks and in documentation too, wherever they are defined."""
    for name in __all__:
        thing = globals()[name]
        if hasattr(thing, "__struct_fields__"):  # msgspec looks up annotations in the module that it names
            hints = typing.get_type_hints(thing, include_extras=True)
            thing.__annotations__ = {field: hints[field] for field in thing.__annotations__}
        if thing.__module__ != "typing":  # an alias such as BrokerState has no name of its own
            thing.__module__ = __name__


_name_here()

#: Names of earlier versions: where each is now.
_DEPRECATED = {
    "Inbox": ("trio_ws", "Subscription"),
    "InboxStatistics": ("trio_ws", "SubscriptionStatistics"),
    "MemoryBroker": ("trio_ws.testing", "InMemoryBroker"),
    "MemoryHub": ("trio_ws.testing", "InMemoryBus"),
}


def __getattr__(name: str) -> object:
    if name not in _DEPRECATED:
        raise AttributeError(f"module 'trio_ws' has no attribute {name!r}")
    module, current = _DEPRECATED[name]
    warnings.warn(f"trio_ws.{name} is deprecated, use {module}.{current}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(module), current)
