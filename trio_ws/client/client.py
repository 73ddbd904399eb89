"""WebSocketClient: calls, streams, packets and channels for the duration of a block.

Invariants: nothing of a client outlives its block. The connections, one after the other if it reconnects,
belong to a `ConnectionManager` (see reconnect.py).
"""

from __future__ import annotations

import warnings
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from trio_ws._blocks import EnteredOnly, block, check_trio
from trio_ws._settings import shows_settings_of
from trio_ws._types import ANY_VALUE
from trio_ws.channels.names import check_name, check_names
from trio_ws.channels.recovery import check_starts
from trio_ws.channels.subscription import Subscription, check_policy, error_of, has_ended
from trio_ws.client.backoff import Backoff
from trio_ws.client.config import AskURI, ConnectSettings, connect_config
from trio_ws.client.connect import ClosedAfter, ConnectAttempts
from trio_ws.client.notifications import Notifications
from trio_ws.client.presence import PRESENCE_BYTES, ClientPresence
from trio_ws.client.reconnect import ConnectionManager
from trio_ws.client.retry import StateChanges
from trio_ws.client.setup import check_set_up
from trio_ws.client.subscriptions import Subscriptions, no_channels
from trio_ws.codecs.base import PUBLISH, REFRESH
from trio_ws.codecs.dialect import Dialect
from trio_ws.codecs.jsonrpc import JSONRPCCodec
from trio_ws.codecs.registry import choose, plain_dialect
from trio_ws.errors import ConnectionFailedError
from trio_ws.rpc.batch import CallBatch
from trio_ws.rpc.client_connection import ClientConnection
from trio_ws.rpc.handler import WebSocketHandler, methods_of, prepare
from trio_ws.rpc.outgoing import PacketStream
from trio_ws.rpc.proxy import Proxy
from trio_ws.rpc.rate_limit import Limiter
from trio_ws.rpc.session import RPCSession
from trio_ws.rpc.task_pool import TaskPool
from trio_ws.websocket.internals import closed_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from types import TracebackType

    from trio_ws._types import Value
    from trio_ws.channels.recovery import After
    from trio_ws.channels.subscription import Policy
    from trio_ws.client.notifications import NotificationStream, RPCNotification
    from trio_ws.client.retry import ClientState
    from trio_ws.client.setup import SetUp
    from trio_ws.codecs.base import Packet
    from trio_ws.rpc.outgoing import OutgoingCalls, RPCResponse
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.runtime import ConnectionRuntime

__all__ = ["WebSocketClient"]

T = TypeVar("T")

_DIALECTS = {
    "trio-ws.v1": ("trio-ws.v1",),
    "trio-ws.v1.json": ("trio-ws.v1.json",),
    "webshocket.v1": ("webshocket.v1",),
    "jsonrpc": ("jsonrpc",),
    "json": (),
    None: ("trio-ws.v1", "webshocket.v1"),
}


class WebSocketClient(EnteredOnly):
    """A connection to an RPC server for the duration of an ``async with`` block.

    Leaving the block closes with 1000, and calls that are still under way fail. Cancellation closes at once.
    Any number of tasks may call, stream, send and receive.

    With ``reconnect``, a lost connection is replaced, whichever side ended it, until the block is left.
    Operations that are under way fail immediately. New ones wait for the next connection, under the caller's
    own cancel scope. After the client has given up, every operation raises the last `ConnectionFailedError`.

    Args:
        uri: ``ws://`` or ``wss://``. Or a function without arguments, async or not, that returns the URI for
            each attempt to connect.
        handler: a `WebSocketHandler`, as a class or an instance, whose methods the server may call. Its
            ``on_receive`` gets the packets that `recv` would return otherwise. Its ``on_connect`` runs on
            each new connection, before ``on_connection``, and its ``on_disconnect`` after its end.
        dialect: a `trio_ws.dialects.Dialect`, or several, from which the server selects one; or
            ``"trio-ws.v1"``, ``"trio-ws.v1.json"``, ``"webshocket.v1"``, ``"jsonrpc"`` or ``"json"``;
            connecting fails if it cannot be used. The first three require a server that selects them as
            subprotocol. JSON-RPC servers usually know no subprotocol, and do not need to. By default
            ``trio-ws.v1`` and ``webshocket.v1`` are offered, and JSON is used if the server knows neither.
        subprotocols: additional subprotocols to offer, after those of the dialects, such as a token in the
            way browsers send it. If the server selects one of them, JSON is used, or JSON-RPC where that is
            the dialect.
        headers: additional request headers. A mapping is read for each attempt to connect. Or a function
            without arguments, async or not, that returns them for each attempt, for example after fetching a
            token. If it raises, the attempt has failed: the exception is logged with its traceback, and
            ``reconnect`` decides about another attempt.
        stream: use this stream, or the one that this async function returns for each connection; see
            `connect`.
        unix_path: connect to the Unix socket at this path.
        ssl_context: for ``wss://``.
        proxy: True to use the environment's proxy, None for no proxy, or a proxy URL; see `connect`.
        options: limits and timeouts.
        on_connection: called with each new connection, a `ClientConnection`, before the client uses it, for
            example to log in or to subscribe. It is an async function, which is done when it returns, or an
            async context manager function, which is done when it yields and is left when the connection has
            ended; its tasks are cancelled then. It may use ``call``, ``notify``, ``send`` and ``stream`` of
            the connection; those of the client wait until it is done. It must be done within
            ``open_timeout``. `Reconnect` or any other exception ends that connection, and ``reconnect``
            decides about the next one.
        reconnect: when to retry, on entering and after each loss; by default never.
        autoconnect: connect on entering the block. If False, call `connect`. Default True.

    Raises:
        ConnectionFailedError: on entering, as `connect`; with ``reconnect`` when it gives up.
    """

    _usage = "async with trio_ws.WebSocketClient(...) as client:"

    @shows_settings_of(connect_config)
    def __init__(
        self,
        uri: str | AskURI,
        *,
        handler: WebSocketHandler | type[WebSocketHandler] | None = None,
        dialect: str | Dialect | Sequence[Dialect] | None = None,
        on_connection: SetUp[ClientConnection] | None = None,
        reconnect: Backoff | None = None,
        autoconnect: bool = True,
        **settings: Unpack[ConnectSettings],
    ) -> None:
        self._dialects = _foreign_dialects(dialect)
        self._dialect = dialect if isinstance(dialect, str) else None
        if not self._dialects and dialect not in _DIALECTS:
            names = ", ".join(repr(name) for name in _DIALECTS if name)
            raise ValueError(f"dialect must be one of {names}, or a Dialect, not {dialect!r}")
        if reconnect is not None and not isinstance(reconnect, Backoff):
            raise TypeError(f"reconnect must be a Backoff, not {type(reconnect).__name__}; use Backoff(...)")
        self._waits = reconnect is not None or not autoconnect
        config = connect_config(uri, **settings)
        if self._waits and config.stream is not None and not callable(config.stream):
            raise ValueError("a stream serves one connection; pass an async function that opens one")
        self._subprotocols: Sequence[str] = (
            tuple(name for one in self._dialects for name in one.subprotocols)
            if self._dialects
            else _DIALECTS[self._dialect]
        )
        self._handler = _make_handler(handler)
        self._config = replace(config, subprotocols=(*self._subprotocols, *config.subprotocols))
        self._attempts: ConnectAttempts | None = None
        self._autoconnect = autoconnect
        self._manager: AbstractAsyncContextManager[None] | None = None
        self._subscriptions = Subscriptions()
        self._notifications = Notifications()
        check_set_up(on_connection, "ClientConnection")
        self._on_connection = on_connection
        handles = WebSocketHandler
        hooks = type(self._handler)
        sets_up = (
            on_connection is not None
            or hooks.on_connect is not handles.on_connect
            or hooks.on_disconnect is not handles.on_disconnect
        )
        self._connections = ConnectionManager(
            self._open_session,
            reconnect,
            self._subscriptions,
            self._notifications,
            self._set_up if sets_up else None,
            config.options.open_timeout,
        )

    # -- opening and closing ------------------------------------------------------------------------

    @enable_ki_protection
    async def __aenter__(self) -> Self:
        check_trio("WebSocketClient")
        if self._manager is not None:
            raise RuntimeError("a WebSocketClient can be entered only once; make another")
        self._manager = self._run()
        await self._manager.__aenter__()
        return self

    @enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._manager is not None
        result: bool | None = await self._manager.__aexit__(kind, exc, trace)
        return result

    @asynccontextmanager
    @enable_ki_protection
    async def _run(self) -> AsyncIterator[None]:
        attempts = self._attempts = ConnectAttempts(self._config)
        async with attempts.open_runtime() as runtime:
            self._connections.begin(runtime, attempts.options.close_timeout)
            async with ClosedAfter(self._connections.close):
                if self._autoconnect:
                    await self._connections.connect()
                yield

    async def _open_session(self, runtime: ConnectionRuntime) -> RPCSession:
        """Open a connection, and the RPC session on it."""
        assert self._attempts is not None
        handler = self._handler
        prepare(handler)
        ws = await self._attempts.open(runtime)
        dialect = choose(ws.subprotocol, self._config.options, self._dialects)
        if dialect is None and self._dialects:
            await ws.close(1002, "no subprotocol was selected")
            raise ConnectionFailedError(
                f"the server supports none of {', '.join(self._subprotocols)}: it selected no subprotocol"
            )
        if self._dialect == "jsonrpc" and (dialect is None or dialect.name == "jsonrpc"):
            dialect = JSONRPCCodec(foreign=True, extensions=dialect is not None)
        if dialect is None and self._dialect not in (None, "json"):
            await ws.close(1002, f"{self._dialect} was not selected")
            raise ConnectionFailedError(
                f"the server does not support {self._dialect}: it selected no subprotocol; omit dialect="
                " to use JSON packets"
            )
        connection: ClientConnection = ClientConnection(ws)

        takes_packets = type(handler).on_receive is not WebSocketHandler.on_receive
        session = RPCSession(
            ws,
            TaskPool(runtime.nursery),
            dialect or plain_dialect(self._config.options),
            undecided=dialect is None and self._subprotocols != (),
            methods=methods_of(handler),
            connection=connection,
            on_packet=handler.on_receive if takes_packets else None,
            limiter=Limiter(),
            default_limit=handler.default_rate_limit,
        )
        object.__setattr__(connection, "_session", session)
        self._notifications.attach(session)
        return session

    @asynccontextmanager
    async def _set_up(self, session: RPCSession) -> AsyncIterator[None]:
        """Set up a new connection before it is used, and run hooks after its end."""
        connection: Any = session.incoming.connection
        handler = self._handler
        await handler.on_connect(connection)
        try:
            result = self._on_connection(connection) if self._on_connection is not None else None
            if isinstance(result, AbstractAsyncContextManager):
                async with result:
                    yield
            else:
                if result is not None:
                    await result
                yield
        finally:
            with trio.move_on_after(self._config.options.close_timeout, shield=True):
                await handler.on_disconnect(connection)

    async def connect(
        self, *, retry: bool = False, max_retry_attempt: int = 3, retry_interval: float = 2.0
    ) -> None:
        """Connect within the block if there is no connection: after ``autoconnect=False``, or after a loss.

        The attempts run in this task, under its cancel scope; other tasks that need the connection wait for
        the result. If cancelled, no further attempt is made. While the client is reconnecting, it waits for
        that.

        Args:
            retry: make more than one attempt, if `Backoff.retries` agrees. By default as often as the
                client's ``reconnect`` says, or once without it.
            max_retry_attempt: with ``retry``, the total number of attempts. Default 3.
            retry_interval: with ``retry``, upper bound of the first delay in seconds; ``initial`` of a
                `Backoff`. Default 2.

        Raises:
            ConnectionFailedError: the last attempt failed.
            RuntimeError: the block was not entered.
        """
        if retry:
            maximum = max(Backoff.maximum, retry_interval)
            backoff = Backoff(initial=retry_interval, maximum=maximum, attempts=max_retry_attempt)
            await self._connections.connect(backoff)
        else:
            await self._connections.connect()

    @property
    def _live(self) -> RPCSession:
        if self._connections.session is None:
            raise RuntimeError("not connected; use: async with WebSocketClient(...) as client")
        return self._connections.session

    @property
    def _outgoing(self) -> OutgoingCalls | ConnectionManager:
        """The object that makes calls. A client that never reconnects need not check for a connection."""
        connections = self._connections
        if self._waits and self._manager is not None:
            return connections
        return (connections.session or self._live).outgoing

    # -- calls --------------------------------------------------------------------------------------

    @overload
    async def call(self, method: str, /, *args: Value, returns: type[T], **kwargs: Value) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Value, returns: object = ..., **kwargs: Value) -> Value: ...
    def call(
        self, method: str, /, *args: Value, returns: object = ANY_VALUE, **kwargs: Value
    ) -> Coroutine[object, object, Value]:
        """Call a method of the server and wait for its result.

        The deadline of the enclosing cancel scope is sent with the call and ends the method on the server,
        too. An argument that is an async iterable arrives as a stream (trio-ws.v1). Cancelling the call
        cancels the method.

        Args:
            method: the name of the method.
            *args: positional arguments.
            returns: the type that msgspec validates the result against and converts it to.
            **kwargs: keyword arguments.

        Raises:
            RPCError: the call failed, see the tree in `trio_ws.errors`.
            PacketValidationError: the result is not of type ``returns``.
            PacketError: an argument cannot be encoded; nothing was sent.
            ConnectionClosedError: the connection ended first; see its ``may_have_run``.
            ConnectionFailedError: the client has given up reconnecting.
        """
        return self._outgoing.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, /, *args: Value, **kwargs: Value) -> RPCResponse:
        """Call a method and return its outcome: ``.data``, ``.error``, ``.result()``. Else like `call`."""
        return await self._outgoing.send_rpc(method, args, kwargs)

    async def notify(self, method: str, /, *args: Value, **kwargs: Value) -> None:
        """Call a method of the server that has no result, and expect no answer (JSON-RPC 2.0 section 4.1).

        It waits, and can be cancelled, like `WebSocket.send`.

        Raises:
            PacketError: the dialect has no notifications, or an argument cannot be encoded.
            ConnectionClosedError: the connection ended first.
            ConnectionFailedError: the client has given up reconnecting.
        """
        await self._outgoing.notify(method, args, kwargs)

    @block("async with client.batch() as batch:")
    async def batch(self) -> AsyncIterator[CallBatch]:
        """Send several calls in one message (JSON-RPC 2.0 section 6).

        ``async with client.batch() as batch: a = batch.call("add", 1, 2); b = batch.call("add", 3, 4)``.
        Leaving the block sends them, and waits for all responses. After that each call has its ``result``. If
        the block raises, nothing is sent. A cancellation while it waits gives up those without a response.

        Yields:
            The `CallBatch`, for at most 1,000 calls and notifications.

        Raises:
            PacketError: the dialect has no batches, or an argument cannot be encoded; nothing was sent.
            ConnectionClosedError: the connection ended first. Calls with a response have their result.
        """
        batch = CallBatch()
        yield batch
        if len(batch):
            await self._outgoing.send_batch(batch)

    @overload
    def notifications(
        self, names: str, *, items: type[T], policy: Policy = ..., max_items: int = ...
    ) -> AbstractAsyncContextManager[NotificationStream[T]]: ...
    @overload
    def notifications(
        self, names: str, *, items: object = ..., policy: Policy = ..., max_items: int = ...
    ) -> AbstractAsyncContextManager[NotificationStream[Value]]: ...
    @overload
    def notifications(
        self,
        names: list[str] | tuple[str, ...] | frozenset[str] | set[str] | None = ...,
        *,
        items: object = ...,
        policy: Policy = ...,
        max_items: int = ...,
    ) -> AbstractAsyncContextManager[NotificationStream[RPCNotification]]: ...
    @block("async with client.notifications(...) as stream: async for params in stream: ...")
    async def notifications(
        self,
        names: str | list[str] | tuple[str, ...] | frozenset[str] | set[str] | None = None,
        *,
        items: object = ANY_VALUE,
        policy: Policy = "drop_oldest",
        max_items: int = 256,
    ) -> AsyncIterator[NotificationStream[Value]]:
        """Receive what the server pushes, for the duration of a block.

        Each item is the parameters of one notification: a dict of named ones, a list of others. The stream
        continues on the next connection if the client reconnects; ``on_connection`` can ask the server for
        the notifications again. A notification reaches every stream that wants it, and a method of the
        handler with its name. All others are dropped.

        Args:
            names: the method of the notifications. With several, or with None for all, each item is an
                `RPCNotification` of method and parameters.
            items: the type that msgspec converts the parameters to.
            policy: what to do when ``max_items`` notifications wait, or too many bytes: ``"drop_oldest"``
                or ``"drop_newest"``, which count them in ``dropped``, or ``"disconnect"``, which ends the
                stream but not the connection, with a `trio.BrokenResourceError` after those that wait.
            max_items: notifications that may wait. The policy also applies when decoded ones exceed
                ``Options.channel_max_bytes``; one may exceed it.

        Yields:
            The `NotificationStream`.
        """
        check_policy(policy, ("drop_oldest", "drop_newest", "disconnect"))
        await checkpoint()
        max_bytes = self._config.options.channel_max_bytes
        with self._notifications.open(names, items, policy, max_items, max_bytes) as stream:
            if self.state in ("disconnected", "closed") and self._connections.given_up is not None:
                raise self._connections.given_up
            yield stream

    @overload
    def stream(
        self, method: str, /, *args: Value, items: type[T], **kwargs: Value
    ) -> AbstractAsyncContextManager[ItemStream[T]]: ...
    @overload
    def stream(
        self, method: str, /, *args: Value, items: object = ..., **kwargs: Value
    ) -> AbstractAsyncContextManager[ItemStream[Value]]: ...
    def stream(
        self, method: str, /, *args: Value, items: object = ANY_VALUE, **kwargs: Value
    ) -> AbstractAsyncContextManager[ItemStream[Value]]:
        """Call a streaming method for the duration of a block: ``async with ... as items: async for``.

        Leaving the block early cancels the method. A slow consumer suspends the method at its ``yield``,
        after ``stream_window`` items. Arguments and errors are those of `call`. An error of the method is
        raised in its place among the items.
        """
        return self._outgoing.stream(method, args, kwargs, items)

    def stream_rpc(self, method: str, /, *args: Value, **kwargs: Value) -> PacketStream:
        """Iterate over the items of a stream as packets: ``async for packet in ...: packet.data``.

        Like `stream` without a block. The stream ends when the iterator is closed or dropped, which leaving
        the loop by ``break`` does. Arguments that are streams require `stream`.
        """
        session = self._outgoing
        return PacketStream(lambda: session.open_stream(method, args, kwargs, ANY_VALUE))

    # -- packets ------------------------------------------------------------------------------------

    async def send(self, data: Value) -> None:
        """Send a packet that is not a call. It waits, raises and can be cancelled like `WebSocket.send`.

        If ``data`` is a `Packet`, it is sent unchanged.
        """
        await self._outgoing.send(data)

    async def recv(self) -> Packet | None:
        """Wait for the next packet that is not a call; None after a clean end. A cancellation loses none.

        Unread packets are kept up to ``max_held_bytes``. Beyond that the client stops reading; but while a
        call or a stream waits for its response, the oldest packets are dropped, counted and logged once.

        Raises:
            ConnectionClosedError: the connection ended in any other way.
            RuntimeError: the handler's ``on_receive`` gets the packets.
        """
        waits = self._waits and self._manager is not None
        return await (self._connections if waits else self._live).recv()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        packet = await self.recv()
        if packet is None:
            raise StopAsyncIteration
        return packet

    def proxy(self, api: Callable[..., T]) -> T:
        """Return an object with the methods of ``api``, a `WebSocketHandler` class or a Protocol, as calls.

        ``math = client.proxy(MathAPI)``, then ``await math.add(1, 2)``. Results are converted to the
        annotated return types of the methods.
        """
        return cast("T", Proxy(self._outgoing, api))

    # -- channels -----------------------------------------------------------------------------------

    @block("async with client.subscribe(...) as subscription: async for packet in subscription: ...")
    async def subscribe(
        self,
        names: str | Iterable[str],
        *,
        policy: Policy = "drop_oldest",
        max_items: int = 64,
        recover: bool = False,
        after: After = None,
        last: int = 0,
    ) -> AsyncIterator[Subscription]:
        """Subscribe to channels for the duration of a block: ``async with ... as packets: async for``.

        The packets of these channels go to the subscription only; `recv` returns those without one. With
        ``reconnect`` the subscription continues on the next connection, but misses what is published in
        between. Leaving the block unsubscribes, without waiting for an answer.

        Args:
            names: one or several names and globs that the handler's ``may_subscribe`` allows.
            policy: what to do when ``max_items`` packets wait, or too many bytes: ``"drop_oldest"``,
                ``"drop_newest"``, or ``"disconnect"``, which ends the subscription but not the connection.
            max_items: packets that may wait. The policy also applies when decoded packets exceed
                ``Options.channel_max_bytes``; one packet may exceed it.
            recover: after a lost connection, receive what was published in between, in order and once, if the
                channel has a history (``channels_history`` of the handler) that reaches back far enough. A
                `Gap` takes the place of missing messages, including those that the policy dropped. For
                channels without a history, for globs, and with servers of earlier versions there is one `Gap`
                after each lost connection.
            after: start after this position of a channel with a history, as in `Packet.position`, or with a
                `Gap` if that is not possible. With several names, a mapping of names to positions. Implies
                ``recover``.
            last: start with up to this many of the newest messages of each channel.

        Yields:
            The `Subscription`. After the connection has ended for good, and the waiting packets were
            received, it raises what `recv` does, or `trio.EndOfChannel` after a clean end.

        Raises:
            RPCAccessDeniedError: the handler does not allow it.
            SubscriptionError: the connection has ``max_subscribed_channels`` subscriptions already.
            RPCError: the server has no channels, or rejects the names.
            PacketError: the dialect has no subscriptions; use ``trio-ws.v1``.
            ConnectionClosedError: the connection ended before the answer.
        """
        check_policy(policy, ("drop_oldest", "drop_newest", "disconnect"))
        wanted = check_names(names)
        starts = check_starts(wanted, after, last)
        recover = recover or after is not None
        if not wanted:
            raise ValueError("subscribe to at least one channel")
        subscriptions = self._subscriptions
        max_bytes = self._config.options.channel_max_bytes
        with Subscription(policy, max_items, subscriptions.leave, max_bytes=max_bytes) as subscription:
            session = await self._connections.wait_writable()
            if not session.transport.supports_extensions:
                raise no_channels(session)
            subscription.tells_gaps = recover
            subscriptions.add(session, subscription, wanted, starts, recover=recover, last=last)
            await subscriptions.confirmed(subscription)
            if has_ended(subscription):
                raise error_of(subscription) or closed_error(session.ws)
            yield subscription

    async def refresh(self, token: Value) -> float | None:
        """Extend a connection that expires, if the handler's ``may_refresh`` allows it.

        Args:
            token: a token in any form that the server expects.

        Returns:
            The seconds after which this connection expires; None if it does not.

        Raises:
            RPCAccessDeniedError: the server refuses; the time at which the connection expires is unchanged.
            ConnectionClosedError: the connection was lost. The next one uses new ``headers``.
        """
        left: float | None = await self._outgoing.call(REFRESH, (token,), {})
        return left

    async def publish(self, name: str, data: Value) -> None:
        """Publish to a channel, where the handler's ``may_publish`` allows it.

        It returns when the server has published. A cancellation may come too late to prevent that.

        Raises:
            RPCAccessDeniedError: the handler does not allow it.
            RPCError: the server has no channels, or the name is invalid.
            PacketError: ``data`` cannot be encoded; nothing was sent.
            ConnectionClosedError: the connection ended first; its ``may_have_run`` says more.
        """
        await self._outgoing.call(PUBLISH, (name, data), {})

    @block("async with client.presence(...) as present:")
    async def presence(self, name: str, *, max_bytes: int = PRESENCE_BYTES) -> AsyncIterator[ClientPresence]:
        """Follow who is present in a channel, for the duration of a block.

        Args:
            name: the channel.
            max_bytes: the memory that the members may take: 300 bytes for each, its uid and its info, as
                Python objects. Default 16 MiB.

        Yields:
            A `ClientPresence`: the current members, and with ``async for`` the changes. Both raise
            `PacketError` if the members exceed ``max_bytes``.

        Raises:
            RPCAccessDeniedError: the handler's ``may_see_presence`` does not allow it. By default it allows
                those who are subscribed to the channel.
            RPCError: the server does not support presence.
            ConnectionClosedError: the connection ended, and there will be no other.
        """
        found = ClientPresence(self._connections, check_name(name), max_bytes)
        try:
            await found.open()
            yield found
        finally:
            await found.aclose()

    # -- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> ClientState:
        """The state of the client.

        ``"disconnected"``: there is no connection, and no attempt to make one. ``"connecting"``: an attempt
        is under way. ``"connected"``. ``"waiting"``: for the next attempt. ``"closed"``: the block was left.
        """
        return self._connections.state

    def watch_state(self) -> AsyncIterator[ClientState]:
        """Iterate over `state`: the current one, then each new one until ``"closed"``.

        A slow consumer sees only the latest state; nothing is queued.
        """
        return StateChanges(self._connections)

    def state_changes(self) -> AsyncIterator[ClientState]:
        """Deprecated: use `watch_state`."""
        warnings.warn("state_changes() is deprecated, use watch_state()", DeprecationWarning, stacklevel=2)
        return self.watch_state()

    @property
    def connected(self) -> bool:
        """Whether calls can be sent now."""
        session = self._connections.session
        return session is not None and session.ws.connected

    @property
    def dialect(self) -> str:
        """The codec in use: one of the names for the argument ``dialect``, or of a ``Dialect``."""
        return self._live.codec.name

    @property
    def websocket(self) -> WebSocket:
        """The last connection, to inspect its state. Only the client may send and receive on it."""
        return self._live.ws

    async def ping(self) -> float:
        """Ping the server, and return the round-trip time in seconds."""
        if self._waits:
            await self._connections.wait_writable()
        return await self.websocket.ping()


def _foreign_dialects(dialect: object) -> tuple[Dialect, ...]:
    """Return the `Dialect` objects; none for a codec of this package, which is named by a string."""
    if dialect is None or isinstance(dialect, str):
        return ()
    found: list[Dialect] = []
    for one in dialect if isinstance(dialect, list | tuple) else (dialect,):
        if not isinstance(one, Dialect):
            hint = f"; use {one.__name__}()" if isinstance(one, type) and issubclass(one, Dialect) else ""
            raise TypeError(f"dialect must be a Dialect or a name, not {one!r}{hint}")
        found.append(one)
    if not found:
        raise ValueError("dialect names no dialect")
    return tuple(found)


def _make_handler(handler: object) -> WebSocketHandler:
    if handler is None:
        return WebSocketHandler()
    if isinstance(handler, type) and issubclass(handler, WebSocketHandler):
        return handler()
    if isinstance(handler, WebSocketHandler):
        return handler
    raise TypeError(f"handler must be a WebSocketHandler, class or instance, not {handler!r}")


def session_of(client: WebSocketClient) -> RPCSession | None:
    """Return the session of the current connection, or of the last one."""
    return client._connections.session
