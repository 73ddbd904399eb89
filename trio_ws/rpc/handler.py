"""WebSocketHandler: methods that clients call, and the hooks of their connections.

Invariant: ``on_disconnect`` runs once for each connection for which ``on_connect`` returned without rejecting
it, even if the client has left already or the server is cancelled. It is shielded from cancellation for at
most ``close_timeout`` seconds.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._types import ANY_VALUE, JSONObject, Value
from trio_ws.channels.channel import ConnectionSubscriber
from trio_ws.channels.history import check_histories
from trio_ws.channels.hub import Hub
from trio_ws.channels.names import check_names
from trio_ws.channels.subscription import check_policy
from trio_ws.codecs.base import (
    DISCOVER,
    METHODS,
    PRESENCE,
    PUBLISH,
    RECOVER,
    REFRESH,
    SUBSCRIBE,
    UNSUBSCRIBE,
)
from trio_ws.codecs.registry import choose, plain_dialect
from trio_ws.errors import (
    CloseConnection,
    HandlerWarning,
    RPCAccessDeniedError,
)
from trio_ws.logs import logger_for, shown
from trio_ws.predicates import check
from trio_ws.rpc.channel_methods import ChannelMethods
from trio_ws.rpc.client_connection import (
    CONNECTION_POLICIES,
    ClientConnection,
    State,
    has_uid,
    member_of,
    session_of,
    websocket_of,
)
from trio_ws.rpc.definitions import Hook, check_hooks, connection_names, mistaken_hooks
from trio_ws.rpc.detached import DETACHED
from trio_ws.rpc.expiry import watch_expiry
from trio_ws.rpc.marking import check_methods, collect, is_marked, make_method
from trio_ws.rpc.methods import Method, allow_keyboard_interrupt
from trio_ws.rpc.rate_limit import Limiter, RateLimit
from trio_ws.rpc.session import RPCSession
from trio_ws.schema import Schema, check_method
from trio_ws.schema.document import discovered, discovery_schema
from trio_ws.wall import judged, log_failure
from trio_ws.websocket.closing import CONNECTING
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import (
    closing_of,
    hold_opening,
    let_in,
    offer_first,
    options_of,
    reader_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from trio_ws._types import NamedValues
    from trio_ws.channels.history import History
    from trio_ws.channels.subscription import Policy
    from trio_ws.codecs.base import Packet
    from trio_ws.codecs.dialect import Dialect
    from trio_ws.predicates import PredicateLike
    from trio_ws.rpc.detached import FinishSoon
    from trio_ws.rpc.packet_delivery import OnPacket
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["WebSocketHandler"]

logger = logger_for("trio_ws.handler")

_RESERVED = frozenset({SUBSCRIBE, UNSUBSCRIBE, RECOVER, PRESENCE, PUBLISH, REFRESH, METHODS})

#: The methods that a server calls, which subclasses may override.
_HOOKS = {
    "on_connect": Hook(("connection",), "async"),
    "on_receive": Hook(("connection", "packet"), "async"),
    "on_disconnect": Hook(("connection",), "async"),
    "may_subscribe": Hook(("connection", "name"), "either"),
    "may_publish": Hook(("connection", "name", "data"), "either"),
    "may_see_presence": Hook(("connection", "name"), "either"),
    "may_refresh": Hook(("connection", "token"), "either"),
    "on_first_subscriber": Hook(("name",), "plain"),
    "on_last_unsubscribed": Hook(("name",), "plain"),
    "make_state": Hook(("connection",), "plain"),
}


#: Names that other libraries have for hooks, and the name here.
_OTHER_NAMES = {
    **dict.fromkeys(("on_message", "on_data", "on_recv", "on_packet"), "on_receive"),
    **dict.fromkeys(("on_open", "on_connection", "on_connected"), "on_connect"),
    **dict.fromkeys(("on_close", "on_closed", "on_disconnected", "on_disconnection"), "on_disconnect"),
}


class WebSocketHandler(Generic[State]):
    """Methods that clients call, and the hooks of their connections. Subclass it, and serve the class.

    Defining a subclass raises TypeError if a method does not take the connection, or if a hook does not
    accept its arguments or is not async but must be. It gives a `HandlerWarning` for a method that has
    probably forgotten the connection, as in ``def add(self, a, b)``, and for a hook under the name that it
    has in other libraries, such as ``on_message``.

    One instance serves all connections of a server. ``WebSocketHandler[State]`` sets the type of
    ``connection.state``, which `make_state` creates; by default with ``State()``.

    Attributes:
        default_rate_limit: the rate limit of methods without ``@rate_limit``, and of calls to names that do
            not exist. Default None: no limit.
        channel_policy: what to do with a connection that is too slow for its channels, unless ``subscribe``
            is given another policy: ``"disconnect"``, the default, ``"drop_oldest"`` or ``"drop_newest"``.
        channels_history: a `History` by channel name or glob. The newest messages of these channels are kept
            for subscribers that reconnect or come later. The first pattern that matches is used. Default:
            none.
        presence_lease: seconds without a sign of life from another process after which its members are no
            longer present. Default 10.
        client_globs: whether clients may ask to subscribe to globs, which are then passed to `may_subscribe`.
            Default False: globs are refused.
        list_methods: whether clients may list the methods that they may call, with parameters and docstrings.
            `trio-ws connect` uses this for completion. ``rpc.discover`` then returns their OpenRPC document,
            so all methods must have a schema; see `Schema`. Default False.
        dialects: other RPC protocols that clients may use; see ``trio_ws.dialects``. The client's subprotocol
            selects one. One dialect without subprotocols may be the default. Default: none.
        channel_types: the types of published data by channel name or glob, for the schema, such as
            ``{"room.*": Message}``. Default: none.
    """

    default_rate_limit: ClassVar[RateLimit | None] = None
    channel_policy: ClassVar[Policy] = "disconnect"
    channels_history: ClassVar[Mapping[str, History]] = {}
    presence_lease: ClassVar[float] = 10.0
    client_globs: ClassVar[bool] = False
    list_methods: ClassVar[bool] = False
    dialects: ClassVar[Sequence[Dialect]] = ()
    channel_types: ClassVar[NamedValues] = types.MappingProxyType({})
    _state_type: ClassVar[Any] = None
    _methods: dict[str, Method]
    _limiter: Limiter
    _hub: Hub
    _channel_methods: ChannelMethods
    _clients: set[ClientConnection[State]]
    _on_receive: OnPacket
    _schema: Schema | None

    def __init_subclass__(cls, **kwargs: Value) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = typing.get_origin(base)
            if isinstance(origin, type) and issubclass(origin, WebSocketHandler):
                (state,) = typing.get_args(base)
                cls._state_type = None if isinstance(state, typing.TypeVar) or state is ANY_VALUE else state
        check_hooks(cls, WebSocketHandler, _HOOKS)
        texts = check_methods(cls, connection_names(cls, _HOOKS), vars(WebSocketHandler))
        for text in texts + mistaken_hooks(cls, WebSocketHandler, _OTHER_NAMES, is_marked):
            warnings.warn(text, HandlerWarning, stacklevel=2)

    def _prepare(self) -> None:
        """Initialize on first use, because a subclass's ``__init__`` may not call ours."""
        if "_methods" not in self.__dict__:
            self._methods = collect(self)
            self._limiter = Limiter()
            self._clients = set()
            self._on_receive = self.on_receive
            self._hub = Hub(check_histories(self.channels_history), self.presence_lease)
            self._hub.on_demand = self._on_demand
            if not isinstance(self.default_rate_limit, RateLimit | None):
                raise TypeError(
                    f"default_rate_limit must be a RateLimit or None, not {self.default_rate_limit!r}"
                )
            check_policy(self.channel_policy, CONNECTION_POLICIES)
            self._check_channel_types()
            self._channel_methods = ChannelMethods(self)
            self._methods[REFRESH] = make_method(self._refresh)
            self._methods.update(self._channel_methods.by_name())
            if self.list_methods:
                self._methods[METHODS] = make_method(self._list_methods)
                self._schema = discovery_schema(self)  # raises now if a method cannot be described
                self._methods.setdefault(DISCOVER, make_method(self._discover, DISCOVER))
            for hook in (self.on_connect, self.on_receive, self.on_disconnect):
                allow_keyboard_interrupt(hook)

    # -- to be overridden ---------------------------------------------------------------------------

    async def on_connect(self, connection: ClientConnection[State]) -> None:
        """Called for each client before it is accepted.

        An exception rejects the client: with status 403 for an `RPCAccessDeniedError` or a `CloseConnection`,
        otherwise with 500 and a traceback in the log. ``connection.reject()`` and ``connection.close()``
        reject it too.

        After ``await connection.accept()``, this hook may send to the client, call it and open its streams.
        An exception then closes the connection. Calls and packets from the client wait until this returns.

        It is cancelled if the client leaves meanwhile.
        """

    async def on_receive(self, connection: ClientConnection[State], packet: Packet) -> None:
        """Called with each packet that is not a call, one at a time, in order."""

    async def on_disconnect(self, connection: ClientConnection[State]) -> None:
        """Called once when a client has gone for which ``on_connect`` returned.

        It is called even if the client left before it was accepted. It is not called if ``on_connect``
        raised, was cancelled, or rejected the client. It is shielded from cancellation for at most
        ``close_timeout`` seconds.
        """

    def may_subscribe(
        self, connection: ClientConnection[State], name: str
    ) -> bool | float | Awaitable[bool | float]:
        """Return whether a client may subscribe to a channel with ``client.subscribe``. Default: False.

        A positive number means yes for that many seconds, after which this is called again. If the client is
        refused then, it is unsubscribed, and its subscriptions to the channel end with
        `RPCAccessDeniedError`.

        It may be ``async def``. It is called with globs only if ``client_globs`` is true. Note that ``*``
        matches every name.
        """
        return False

    def may_publish(
        self, connection: ClientConnection[State], name: str, data: Value
    ) -> bool | Awaitable[bool]:
        """Return whether a client may publish ``data`` to a channel with ``client.publish``. Default: False.

        It may be ``async def``. ``data`` was decoded but not validated, so check it here.
        """
        return False

    def may_refresh(
        self, connection: ClientConnection[State], token: Value
    ) -> bool | float | Awaitable[bool | float]:
        """Whether a connection that expires may stay longer, with ``client.refresh``. Default: no.

        Return a number of seconds from now; True for as long as it likes; or False, which leaves its
        ``expires_at`` as it is. It may be ``async def``. ``token`` is as it was decoded; check it here.
        """
        return False

    def on_first_subscriber(self, name: str) -> None:
        """Called when a channel or a glob gets its first subscriber in this process.

        It is a plain function, called synchronously by the code that subscribes. Exceptions are logged.
        """

    def on_last_unsubscribed(self, name: str) -> None:
        """Called when a channel or a glob has lost its last subscriber in this process.

        It is a plain function, like `on_first_subscriber`.
        """

    def may_see_presence(self, connection: ClientConnection[State], name: str) -> bool | Awaitable[bool]:
        """Return whether a client may see who is present in a channel, with ``client.presence``.

        Default: whether it is subscribed to the channel by name. It may be ``async def``.
        """
        return name in connection.subscribed_channel

    def make_state(self, connection: ClientConnection[State]) -> State:
        """Return the initial ``connection.state``; by default ``State()``, or None without a type."""
        state: Any = self._state_type() if self._state_type is not None else None
        return state  # type: ignore[no-any-return]

    # -- to be used ---------------------------------------------------------------------------------

    @property
    def rpc_methods(self) -> Mapping[str, Method]:
        """The methods that clients may call, by name, as a read-only mapping. Each has ``describe()``."""
        self._prepare()
        return types.MappingProxyType(
            {
                name: method
                for name, method in self._methods.items()
                if name not in _RESERVED and method.function != self._discover
            }
        )

    @property
    def clients(self) -> frozenset[ClientConnection[State]]:
        """The open connections, as a copy."""
        self._prepare()
        return frozenset(self._clients)

    @property
    def channels(self) -> Hub:
        """The channels of this handler. See `Hub`."""
        self._prepare()
        return self._hub

    def publish(
        self,
        name: str,
        data: Value,
        *,
        exclude: Iterable[ClientConnection[State]] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Publish ``data`` to all subscribers of ``name``, without waiting. See `Hub.publish`."""
        return self.channels.publish(name, data, exclude=exclude, predicate=predicate)

    def broadcast(
        self,
        data: Value,
        *,
        exclude: Iterable[ClientConnection[State]] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Send ``data`` to all connections, without waiting. See `Hub.broadcast`."""
        return self.channels.broadcast(data, exclude=exclude, predicate=predicate)

    def register_rpc_method(
        self,
        func: Callable[..., object],
        alias_name: str | None = None,
        *,
        requires: PredicateLike | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        """Let clients call ``func(connection, ...)`` from now on.

        Args:
            func: a function that takes the connection first, as for `rpc_method`.
            alias_name: the name that clients call. Default: the function's name.
            requires: a predicate for the connections that may call it. Default: that of ``@rpc_method()``.
            limit: its rate limit. Default: that of ``@rate_limit``.

        Raises:
            ValueError: the name is taken or reserved.
            TypeError: ``func`` cannot be called in this way, or has an annotation that cannot be validated.
        """
        self._prepare()
        method = make_method(func, alias_name, requires, limit)
        if method.name in self._methods:
            raise ValueError(f"there is a method {method.name!r} already; give another alias_name")
        if self.list_methods:
            check_method(type(self).__name__, method, self.rpc_methods)
            self._schema = None
        self._methods[method.name] = method

    def schema(self) -> Schema:
        """Return a schema of the current methods and channels, for OpenRPC, AsyncAPI and TypeScript.

        Raises:
            TypeError, ValueError: a method or channel cannot be described; see `Schema`.
        """
        return Schema(self)

    # -- called by a server -------------------------------------------------------------------------

    async def _serve(
        self,
        ws: WebSocket,
        workers: TaskPool,
        *,
        debug: bool,
        finish_soon: FinishSoon | None = None,
    ) -> object:
        """Serve one connection until its end.

        With ``finish_soon`` this may return `DETACHED` while the connection continues without a task. See
        `Detached`.
        """
        self._prepare()
        if self.dialects:
            offer_first(ws, [name for dialect in self.dialects for name in dialect.subprotocols])
        connection: ClientConnection[State] = ClientConnection(ws)
        object.__setattr__(connection, "_state", self.make_state(connection))
        member = ConnectionSubscriber(connection, options_of(ws), self.channel_policy)
        object.__setattr__(connection, "_hub", self._hub)
        object.__setattr__(connection, "_member", member)
        over = True
        try:
            over = await self._serve_member(connection, member, ws, workers, finish_soon, debug=debug)
        finally:
            if over:
                self._leave(connection, member)
        return None if over else DETACHED

    def _leave(self, connection: ClientConnection[State], member: ConnectionSubscriber) -> None:
        object.__setattr__(connection, "_member", None)
        self._hub.leave(member)

    async def _serve_member(
        self,
        connection: ClientConnection[State],
        member: ConnectionSubscriber,
        ws: WebSocket,
        workers: TaskPool,
        finish_soon: FinishSoon | None,
        *,
        debug: bool,
    ) -> bool:
        hold_opening(ws)
        begin = functools.partial(self._begin_early, connection, workers, debug=debug)
        object.__setattr__(connection, "_on_accept", begin)
        try:
            await self.on_connect(connection)
        except BaseException as exc:
            begun = session_of(connection)
            if begun is not None:
                await begun.finish()
            if isinstance(exc, RPCAccessDeniedError):
                raise CloseConnection(1008, "access denied") from exc
            raise
        object.__setattr__(connection, "_on_accept", None)
        let_in(ws)
        if not ws.accepted and closing_of(ws).closed_locally:
            return True  # on_connect has rejected the client
        over = True
        try:
            over = await self._serve_accepted(connection, member, ws, workers, finish_soon, debug=debug)
        finally:
            if over:
                await self._run_on_disconnect(connection)
        return over

    async def _serve_accepted(
        self,
        connection: ClientConnection[State],
        member: ConnectionSubscriber,
        ws: WebSocket,
        workers: TaskPool,
        finish_soon: FinishSoon | None,
        *,
        debug: bool,
    ) -> bool:
        if closing_of(ws).state == CONNECTING:
            await ws.accept()
        await reader_of(ws).settled()
        session = session_of(connection)
        if session is None:
            if not ws.connected:
                return True
            session = self._make_session(connection, workers, debug=debug)
        else:
            session.let_in()
        self._clients.add(connection)
        self._hub.open(member, session.transport)
        over = finish_soon.detached(self) if finish_soon is not None else None
        return await session.run(over)

    def _begin_early(self, connection: ClientConnection[State], workers: TaskPool, *, debug: bool) -> None:
        """Make the session, because ``on_connect`` has accepted the client and may call it."""
        self._make_session(connection, workers, debug=debug).hold()

    @enable_ki_protection
    async def _finish(self, connection: ClientConnection[State], ws: WebSocket) -> None:
        """Finish a connection that continued without a task."""
        session, member = session_of(connection), member_of(connection)
        assert session is not None
        assert member is not None
        try:
            await session.finish()
        finally:
            try:
                await self._run_on_disconnect(connection)
            finally:
                self._leave(connection, member)

    async def _run_on_disconnect(self, connection: ClientConnection[State]) -> None:
        self._clients.discard(connection)
        if has_uid(connection):
            self._limiter.forget(connection.uid)
        with trio.move_on_after(options_of(websocket_of(connection)).close_timeout, shield=True) as scope:
            await self.on_disconnect(connection)
        if scope.cancelled_caught:
            logger.warning(
                "on_disconnect of %r took more than close_timeout",
                connection,
                extra=log_extra(websocket_of(connection)),
            )

    def _on_demand(self, name: str, wanted: bool) -> None:
        try:
            (self.on_first_subscriber if wanted else self.on_last_unsubscribed)(name)
        except BaseException as exc:  # noqa: BLE001 - judged there
            log_failure(logger, "a hook of '%s' failed", shown(name), exc=judged(exc))

    def _discover(self, connection: ClientConnection[State]) -> JSONObject:
        if self._schema is None:
            self._schema = discovery_schema(self)
        return discovered(
            self._schema,
            lambda method: method.source.requires is None or check(method.source.requires, connection),
        )

    def _check_channel_types(self) -> None:
        if not isinstance(self.channel_types, Mapping):
            name = type(self).__name__
            raise TypeError(
                f"{name}.channel_types is a mapping of names to types, not {self.channel_types!r}"
            )
        check_names(list(self.channel_types))

    async def _refresh(self, connection: ClientConnection[State], token: Value) -> float | None:
        """A client wants to stay; for how many seconds it may, or None for as long as it likes."""
        allowed: object = self.may_refresh(connection, token)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if isinstance(allowed, int | float) and not isinstance(allowed, bool) and allowed > 0:
            connection.expires_at = trio.current_time() + allowed
            return float(allowed)
        if allowed is not True:
            raise RPCAccessDeniedError("the connection may not stay longer")
        connection.expires_at = None
        return None

    def _list_methods(self, connection: ClientConnection[State]) -> list[JSONObject]:
        return [
            method.describe()
            for method in self.rpc_methods.values()
            if method.requires is None or check(method.requires, connection)
        ]

    def _make_session(
        self, connection: ClientConnection[State], workers: TaskPool, *, debug: bool
    ) -> RPCSession:
        ws = websocket_of(connection)
        codec = choose(ws.subprotocol, options_of(ws), self.dialects)

        session = RPCSession(
            ws,
            workers,
            codec or plain_dialect(options_of(ws)),
            undecided=codec is None,
            methods=self._methods,
            connection=connection,
            on_packet=self._shared_on_receive(),
            limiter=self._limiter,
            default_limit=self.default_rate_limit,
            debug=debug,
        )
        object.__setattr__(connection, "_session", session)
        if connection.expires_at is not None:
            watch_expiry(session, connection.uid, connection.expires_at)
        return session

    def _shared_on_receive(self) -> OnPacket:
        """Return ``on_receive``, bound only once for all connections, of which each would keep its own."""
        on_receive: OnPacket = self.on_receive
        if self._on_receive != on_receive:
            self._on_receive = on_receive
        return self._on_receive


# -- for servers and clients, which run handlers ------------------------------------------------------------


def prepare(handler: WebSocketHandler) -> None:
    """Initialize a handler before its first use."""
    handler._prepare()


def methods_of(handler: WebSocketHandler) -> dict[str, Method]:
    """Return all methods of a handler, also those of the package, by name."""
    return handler._methods


def serve_handler(
    handler: WebSocketHandler,
    ws: WebSocket,
    workers: TaskPool,
    *,
    debug: bool,
    finish_soon: FinishSoon | None = None,
) -> Awaitable[object]:
    """Serve one connection. The result is that of `WebSocketRoute.serve`."""
    return handler._serve(ws, workers, debug=debug, finish_soon=finish_soon)
