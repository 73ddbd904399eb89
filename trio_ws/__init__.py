"""trio_ws: a trio-native, structured-concurrency WebSocket toolkit.

The package layout, from the lowest layer up. A module imports only from layers below its own, or from its own
folder; tests/test_layers.py checks that, and that this picture lists every module::

    _types.py            layer -2  names for values of any type
    logs.py              layer -1  escaping of a peer's text in logs, and limits on records
    _blocks.py           layer -1  async context managers with helpful errors for misuse
    models.py            layer 0   pydantic models as types of msgspec
    errors.py            layer 0   every exception, its tree in the docstring
    options.py           layer 0   Options: every limit and timeout, frozen
    ledger.py            layer 0   MemoryLedger: the memory held on behalf of one peer
    signals.py           layer 0   cancelling a scope on a signal
    systems.py           layer 0   names that exist on some operating systems only
    _nurseries.py        layer 0   unwrapping the exception group of an internal nursery
    _settings.py         layer 0   keyword arguments that several functions share
    wall.py              layer 1   handling of exceptions from user code
    decoding.py          layer 1   decoding of JSON and msgpack from a peer
    _late_scope.py       layer 2   a cancel scope that is only made when it is cancelled
    predicates.py        layer 2   conditions on a connection, for calls and messages
    protocol/            layer 2   bytes <-> events, without I/O
        http.py              requests, headers, plain responses
        http_parser.py       parsing of requests, with a fast path for the common one
        handshake.py         both opening handshakes
        server_response.py   the responses of a server to an opening request
        hosts.py             the host names that a server accepts
        forwarded.py         Forwarded and X-Forwarded-*, as proxies write them
        proxy_protocol.py    the PROXY protocol of TCP proxies
        tls.py               properties of a connection's TLS
        urls.py              URLs in errors and logs, without secrets
        masking.py           masking of payloads, and its random keys
        _accel.py            reading and writing of common frames
        _speedups.c          masking, frames, sizes of msgpack and plain calls in C, if it could be built
        speedups/            the parts of _speedups.c, by what they serve
        frames.py            parsing of incoming frames by wsproto, with a fast path for the common frame
        framing.py           building of outgoing frames
        deflate.py           permessage-deflate with a bound on what it inflates
    wire/                layer 3   the deprecated name of protocol/
    codecs/              layer 3   payloads of messages <-> packets
        base.py              packets, and the interface of codecs
        recovery.py          the argument and the result of __recover__
        decoded_size.py      the memory that a decoded payload takes
        packets.py           packets as msgpack and as JSON
        jsonrpc_batches.py   batches of JSON-RPC
        jsonrpc_objects.py   objects of JSON-RPC
        jsonrpc.py           packets as JSON-RPC 2.0
        dialect.py           Dialect: RPC protocols of other authors
        registry.py          the choice of a connection's codec
    websocket/           layer 4   one WebSocket on one trio stream
        _checkpoint.py       the check for a cancellation, without a coroutine
        _notify.py           notifications for waiting tasks
        _wait.py             the wait of a task, in one object
        message.py           WebSocketMessage
        opening.py           the opening handshake of a server's connection
        transport.py         a plain socket, or any trio stream
        sockets.py           errors of streams and sockets, and the end of TCP
        tls.py               TLS on a socket, and over any other stream
        frame_log.py         logging of connections and frames
        delivery.py          the number of bytes that the peer's system has acknowledged
        deferred_frame.py    large messages that are compressed while they wait
        write_buffer.py      frames that wait to be written
        receive_buffer.py    received messages that wait for the application
        closing.py           the states of a connection, and the closing handshake
        liveness.py          control frames of one connection, and signs that its peer is alive
        keepalive.py         the detection of lost peers, for all connections
        fair_turn.py         the time that a task may use which works for many connections
        readers.py           the ways in which a connection is read
        single_messages.py   messages that the shared reader handles itself, in C if possible
        epoll_reader.py      the shared reader of many plain sockets (Linux)
        disconnect_watch.py  noticing that a client disconnects before it is accepted
        runtime.py           the tasks that serve all connections of one client or server
        message_stream.py    receiving one message in parts
        fragmented_message.py  sending one message in fragments
        connection.py        WebSocket, made of these parts
        internals.py         these parts, for the layers above
    channels/            layer 5   one message to many
        names.py             names and globs
        channel.py           messages, channels and their subscribers
        history.py           histories: the newest messages of channels
        recovery.py          the start of subscriptions, and reading of histories by tasks
        shared_messages.py   the format of messages between processes
        shared_histories.py  histories that all processes share through a broker
        presence.py          the members of channels in all processes
        users.py             all connections of a user
        subscription.py      a subscribed task's bounded queue and its policy
        fanout.py            writing to all subscribed connections
        local_delivery.py    delivery of messages to the subscribers in this process
        registry.py          the subscribers of channels and globs
        hub_histories.py     the histories of a hub, and subscribers that continue from them
        hub_presence.py      presence in the channels of a hub
        statistics.py        counters
        hub.py               Hub, made of these parts: subscribing and publishing
        sharing.py           connecting the hubs of a server to a broker
        broadcast.py         one message to many plain WebSockets
        broker.py            Broker: the interface for exchange between processes
        memory_broker.py     InMemoryBroker: a broker for tests, and an example
        broker_urls.py       creating a broker from a URL
        redis/               RedisBroker: channels through Redis
            broker.py            RedisBroker
            routing.py           where commands go: to one server, or to the nodes of a cluster
            cluster_routing.py   the links to the primaries of a cluster, and their slots
            cluster_exchange.py  sharded publish/subscribe, and redirections
            cluster_nodes.py     connections to nodes, and their views of the cluster
            cluster_questions.py questions to nodes, and the lists of channels with a latest value
            cluster_publisher.py the commands of a publisher
            cluster.py           slots, names of sharded channels, the map of nodes
            link.py              the connections to one server, one after the other
            link_state.py        what waits for one server
            exchange.py          the commands and replies of one connection
            connection.py        opening a connection, and parsing of replies
            delivery.py          from what arrives to messages for the server
            questions.py         reading histories
            throttled.py         warnings that are logged once a minute
            patterns.py          names and globs at Redis
            publish_queue.py     messages that wait to be published
            duplicates.py        detection of messages that were already received
            messages.py          the format of a message at Redis, and its signature
            histories.py         histories of channels as streams
            publisher.py         Publisher: publishing from other programs
            url.py               Redis URLs
    schema/              layer 5   descriptions of handlers for other languages
        docstring.py         the parts of a docstring
        types.py             types -> JSON Schema
        globs.py             the parts of a glob
        contract.py          the interface of a handler
        openrpc.py           as OpenRPC 1.3
        asyncapi.py          as AsyncAPI 3.0
        typescript.py        as TypeScript
        page.py              as an interactive page: static/docs.html
        document.py          Schema: all of these forms
    rpc/                 layer 6   calls over one WebSocket, in both directions
        rate_limit.py        rate limits
        definitions.py       checks of a handler's class when it is defined
        parameters.py        validation of arguments by their annotations
        methods.py           Method: binding and validation of calls
        marking.py           @rpc_method, and collecting the methods of a handler
        transport.py         sending packets, and the memory that a connection holds
        errors.py            codes <-> exceptions
        task_pool.py         reused tasks for calls that wait
        deadlines.py         deadlines of calls
        batch.py             several calls in one message
        streams.py           streams: items and credit
        client_streams.py    streams as arguments
        pending.py           calls that wait for their response
        outgoing.py          calls of this side
        detached.py          connections without a task
        inline_call.py       running calls in the task that reads
        deferred.py          requests that wait to be started
        incoming.py          calls of the other side
        timetable.py         what is due when, and one task that waits for it
        rights.py            subscriptions with a time limit
        expiry.py            connections that expire
        channel_methods.py   the built-in methods for channels
        packet_delivery.py   delivery of packets that are not calls
        session.py           RPCSession: the calls of one connection
        proxy.py             methods of the other side as methods of an object
        client_connection.py ClientConnection
        handler.py           WebSocketHandler
        _decorator_types.py  types of the decorators
    client/              layer 7   connecting, and reconnecting
        failures.py          messages of failed attempts to connect
        uri.py               ws:// and wss://
        proxy.py             HTTP and SOCKS5 proxies, named or from the environment
        http_tunnel.py       CONNECT, to an HTTP proxy
        redirect.py          targets of redirects, and the headers that are sent there
        config.py            ConnectConfig: the validated settings of a connection
        connect.py           connect(): names, TLS, the client's opening handshake
        backoff.py           Backoff: delays between attempts to connect
        setup.py             running on_connection
        retry.py             retrying to connect, and the state of a client
        presence.py          the members of a channel, in a client
        recovery.py          the position of a subscription over all connections
        subscriptions.py     the subscriptions of a client over all connections
        notifications.py     streams of notifications that a server pushes
        reconnect.py         the connections of one client, one after the other
        session.py           session, connections: one connection after the other to any server
        client.py            WebSocketClient
    dialects/            layer 8   protocols of calls that others designed
        cdp.py               the Chrome DevTools Protocol
        ocpp.py              OCPP-J, of charging stations
    server/              layer 8   listening, accepting, one task per client
        http.py              HTTPResponse
        listeners.py         the sockets that a server opens, and the file of a Unix socket
        accepting.py         accepting clients, and reading their requests
        access_log.py        one line for each request and each connection
        address_shares.py    limits per client address
        trusted_proxies.py   information of trusted proxies about clients
        routing.py           paths with typed parameters, and checks of functions
        router.py            the interface between a server and an App
        blocking.py          BlockingWebSocket: plain functions in threads
        config.py            ServerConfig: the validated settings of a server
        client_task.py       the task of each client
        server.py            WebSocketServer, serve
        embedded.py          a server without listeners
        wrap.py              wrap_stream: a WebSocket on a stream that was accepted elsewhere
        processes/           one server in several processes
            targets.py           import strings
            control.py           the control channel between supervisor and worker
            client_counts.py     the numbers of clients, which workers share
            worker.py            the program of a worker
            worker_handle.py     the state of a worker in the supervisor
            supervisor.py        serve_processes: start, restart, renew, drain
    hosting/             layer 9   running under ASGI and RSGI servers
        websocket.py         a WebSocket whose frames the host handles
        asgi_stream.py       an ASGI connection: HTTP as bytes, and then messages
        server.py            one server for all clients of a host
        asgi.py              ASGIApp: any target as an ASGI application
        ticks.py             scheduling of a trio run on an asyncio loop
        guest.py             a trio run on an asyncio loop, and calls between the two
        host_port.py         events of a host, between asyncio and trio
        rsgi.py              the same application under RSGI
    guest.py             layer 10  servers and trio functions in asyncio programs
    compat/              layer 10  interfaces of other libraries
        trio_websocket/      trio-websocket
            exceptions.py        its exceptions, and CloseReason
            connection.py        WebSocketConnection, WebSocketRequest
            clients.py           open_websocket, connect_websocket, wrap_client_stream
            servers.py           WebSocketServer, serve_websocket, wrap_server_stream
        webshocket/          webshocket
            _background.py       background tasks outside of a block
            _client.py           WebSocketClient
            _engine.py           adapter between its handlers and ours
            _sending.py          sending from plain code
            _server.py           WebSocketServer
            connection.py        ClientConnection
            enum.py              its enums
            exceptions.py        its exceptions
            handler.py           WebSocketHandler, with its channels
            packets.py           Packet, RPCRequest, RPCResponse
            predicate.py         predicates
            rpc.py               its decorators
            websocket.py         its module for servers and clients
    app/                 layer 10  App
        lifespan.py          running the lifespans
        listener.py          app.listener: functions that are called for each message
        dispatch.py          running the function of a route through the middleware
        docs.py              serving the interactive page
        javascript.py        serving the JavaScript client: static/trio-ws.js
        app.py               App: routes, mounts, middleware, a lifespan
    testing/             layer 10  memory links, faults, the raw peer
        link.py              two ends of a connection in memory
        peer.py              RawPeer: frames byte by byte
        exploring.py         explore: cancelling a test at each checkpoint, and cutting its links at each byte
        memory_server.py     MemoryServer
        pytest_plugin.py     fixtures
        recording.py         record: messages of a client and a server, to a file
        replaying.py         replay: a server that plays a recording
        conformance/         the conformance suite for clients of trio-ws.v1
            stage.py             the driver, and the connections of its client
            scene.py             Scene: one test of a client
            client_scenes.py     calls, streams, uploads
            server_scenes.py     calls by the server, data, channels, ends of connections
            suite.py             the server, and its results
            driver.py            the driver of our own client
            __main__.py          the command
    cli/                 layer 12  the command line, which uses only the public interface
        values.py            parsing of arguments
        errors.py            messages and exit codes of exceptions
        output.py            output for people, and as JSON
        streams.py           the standard streams
        pages.py             pages for trying the target of serve
        server.py            serve
        reloading.py         serve --reload
        target.py            connecting a command to its server
        methods.py           the methods that a server lists
        rpc.py               call, stream, listen
        schemas.py           schema, types
        interactive.py       connect
        stdin.py             input from a pipe
        prompt.py            input at a terminal
        bench.py             bench
        recording.py         record
        completion.py        completion in shells
        version.py           --version
        commands.py          the commands with their options
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
    HandlerWarning,
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
from trio_ws.rpc.marking import rpc_method
from trio_ws.rpc.methods import Method
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
    "HandlerWarning",
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


def _set_modules() -> None:
    """Set ``__module__`` of the public names to this package, for tracebacks and documentation."""
    for name in __all__:
        thing = globals()[name]
        if hasattr(thing, "__struct_fields__"):  # msgspec looks up annotations in the module that it names
            hints = typing.get_type_hints(thing, include_extras=True)
            thing.__annotations__ = {field: hints[field] for field in thing.__annotations__}
        if thing.__module__ != "typing":  # an alias such as BrokerState has no name of its own
            thing.__module__ = __name__


_set_modules()

#: Deprecated names, and the module and the name of their replacements.
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
