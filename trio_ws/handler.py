"""WebSocketHandler and ClientConnection: methods that clients call, and what a server knows of each client.

What always holds:

- Session state can neither hide nor change the API of a connection.
- ``on_disconnect`` runs once for each connection that ``on_connect`` let in, also where the server is
  cancelled: shielded, for at most ``close_timeout`` seconds.
"""

from __future__ import annotations

import inspect
import logging
import secrets
import types
import typing
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, overload

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.channels.hub import Hub
from trio_ws.channels.inbox import check_policy
from trio_ws.channels.log import Member
from trio_ws.channels.names import check_names, is_glob
from trio_ws.errors import RPCAccessDeniedError, RPCInvalidParamsError, WebSocketException, check_close
from trio_ws.predicates import holds
from trio_ws.rpc.limits import Limiter
from trio_ws.rpc.methods import Method, collect, let_ctrl_c_strike, make_method
from trio_ws.rpc.peer import Peer
from trio_ws.websocket.endpoint import CONNECTING
from trio_ws.wire.packets import METHODS, SUBSCRIBE, UNSUBSCRIBE, choose, plain_dialect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from trio_ws.channels.inbox import Policy
    from trio_ws.predicates import PredicateLike
    from trio_ws.rpc.calls import RPCResponse
    from trio_ws.rpc.limits import RateLimit
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.rpc.workers import Workers
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.wire.http import Request
    from trio_ws.wire.packets import Packet

__all__ = ["UNFINISHED", "ClientConnection", "WebSocketHandler"]

logger = logging.getLogger("trio_ws.handler")

_RESERVED = frozenset({SUBSCRIBE, UNSUBSCRIBE, METHODS})

#: A connection cannot hold up those who publish.
CONNECTION_POLICIES = ("disconnect", "drop_oldest", "drop_newest")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    State = TypeVar("State", default=Any)
else:
    State = typing.TypeVar("State")
T = typing.TypeVar("T")

#: What serving a connection gives that lives on without the task.
UNFINISHED = object()


class ClientConnection(Generic[State]):
    """One client as a `WebSocketHandler` sees it, and the place for what the session knows of it.

    Session state is free-form: ``connection.username = "alice"`` and ``connection["username"] = "alice"`` are
    the same, and ``"username" in connection``, ``del connection["username"]`` do what they say. A name of the
    API cannot be used for it. The typed form is ``WebSocketHandler[State]`` with ``connection.state``.
    """

    # Session state is the instance's own dict; everything of ours is in a slot, where it cannot reach.
    __slots__ = ("__dict__", "__weakref__", "_hub", "_member", "_peer", "_state", "_uid", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_ws", ws)
        set_slot(self, "_uid", secrets.token_hex(8))
        set_slot(self, "_peer", None)
        set_slot(self, "_hub", None)
        set_slot(self, "_member", None)
        set_slot(self, "_state", None)

    _ws: WebSocket
    _uid: str
    _peer: Peer | None
    _hub: Hub | None  # of the server's handler; a client's has none
    _member: Member | None
    _state: Any

    # -- session state ------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "state":
            object.__setattr__(self, "_state", value)
            return
        if hasattr(ClientConnection, key):
            raise AttributeError(
                f"{key!r} is part of the API of a connection; use another name for session state"
            )
        self.__dict__[key] = value

    def __getitem__(self, key: str) -> Any:
        return self.__dict__[key]

    def __delitem__(self, key: str) -> None:
        del self.__dict__[key]

    def __contains__(self, key: object) -> bool:
        return key in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def get(self, key: str, default: Any = None) -> Any:
        """The session's value under ``key``, or ``default``."""
        return self.__dict__.get(key, default)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __delattr__(self, name: str) -> None: ...

    @property
    def state(self) -> State:
        """The typed state of the session, see `WebSocketHandler.make_state`."""
        return self._state  # type: ignore[no-any-return]

    # -- what is known of the client ----------------------------------------------------------------

    @property
    def uid(self) -> str:
        """A random name of this connection, for logs and dicts."""
        return self._uid

    @property
    def request(self) -> Request:
        """The opening request: path, query, headers."""
        return self._ws.request

    @property
    def path_params(self) -> dict[str, Any]:
        """What the route's pattern took from the path."""
        return self._ws.path_params

    @property
    def remote_address(self) -> Any:
        """The client's socket address, or None where the stream has none."""
        return self._ws.remote_address

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on in the opening handshake."""
        return self._ws.subprotocol

    @property
    def client_type(self) -> str:
        """The dialect in use: ``"trio-ws.v1"``, ``"webshocket.v1"``, ``"json"`` or ``"jsonrpc"``."""
        return self._live.dialect.name

    @property
    def connection_state(self) -> Literal["connecting", "connected", "closing", "closed"]:
        """Where the connection is in its life."""
        ws = self._ws
        if ws.closed:
            return "closed"
        if ws.connected:
            return "connected"
        return "closing" if ws.accepted else "connecting"

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping took there and back; None before the first."""
        return self._ws.latency

    @property
    def _live(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("the connection is not accepted yet; await connection.accept() first")
        return self._peer

    # -- doing --------------------------------------------------------------------------------------

    async def accept(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Accept the client from within ``on_connect``, which else happens when that has returned."""
        if self._ws._state == CONNECTING:
            await self._ws.accept(headers=headers)

    async def reject(self, status: int = 403, body: bytes | str = b"") -> None:
        """Refuse the client from within ``on_connect`` with an HTTP status (RFC 6455 section 4.2.2)."""
        await self._ws.reject(status, body=body)

    async def send(self, data: Any) -> None:
        """Send a packet that is no call. Waits, raises and is cancelled as `WebSocket.send`.

        Raises:
            PacketError: ``data`` cannot be encoded; nothing was sent.
        """
        if self._ws._state == CONNECTING:
            await self._ws.accept()
        await self._live.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, which cancels its other calls; in ``on_connect`` refuse it with 403."""
        check_close(code, reason)
        if self._ws._state == CONNECTING:
            await self._ws.reject(403)
        elif self._peer is None:
            await self._ws.close(code, reason)
        else:
            await self._peer.close(code, reason)

    @overload
    async def call(self, method: str, /, *args: Any, returns: type[T], **kwargs: Any) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Any, returns: Any = ..., **kwargs: Any) -> Any: ...
    async def call(self, method: str, /, *args: Any, returns: Any = Any, **kwargs: Any) -> Any:
        """Call a method of the client's own handler. See `WebSocketClient.call`."""
        return await self._live.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, /, *args: Any, **kwargs: Any) -> RPCResponse:
        """Call a method of the client's own handler and give how it ended."""
        return await self._live.send_rpc(method, args, kwargs)

    @overload
    def stream(
        self, method: str, /, *args: Any, items: type[T], **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[T]]: ...
    @overload
    def stream(
        self, method: str, /, *args: Any, items: Any = ..., **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[Any]]: ...
    def stream(
        self, method: str, /, *args: Any, items: Any = Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[ItemStream[Any]]:
        """A stream of the client's own handler. See `WebSocketClient.stream`."""
        return self._live.stream(method, args, kwargs, items)

    # -- channels -----------------------------------------------------------------------------------

    def subscribe(self, names: str | Iterable[str], *, policy: Policy | None = None) -> bool:
        """Subscribe the client to channels, by their names or by globs. It is unsubscribed when it goes.

        Args:
            names: one, or many. ``*``, ``?`` and ``[...]`` make a glob.
            policy: what to do when more than ``channel_max_items`` or ``channel_max_bytes`` wait for it:
                ``"disconnect"`` (with 1013), ``"drop_oldest"`` or ``"drop_newest"``. Default: the handler's
                ``channel_policy``.

        Returns:
            True; False where it would then hold more than ``max_subscribed_channels``, and nothing changed.

        Raises:
            ValueError, TypeError: a name is empty, longer than 256 characters or no str, or the policy cannot
                be.
            RuntimeError: the connection is not one of a server's, or it is closed.
        """
        names = check_names(names)
        if policy is not None:
            check_policy(policy, CONNECTION_POLICIES)
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be subscribed")
        held = self._member.held
        limit = self._ws._options.max_subscribed_channels
        if limit and len(held) + sum(name not in held for name in names) > limit:
            return False
        for name in names:
            self._hub.add(self._member, name, policy or self._member.default_policy)
        return True

    def unsubscribe(self, names: str | Iterable[str]) -> None:
        """Leave channels, by the names or globs that were subscribed to. Others are ignored."""
        names = check_names(names)
        if self._hub is not None and self._member is not None:
            for name in names:
                self._hub.remove(self._member, name)

    @property
    def subscribed_channel(self) -> set[str]:
        """The names and globs that the client is subscribed to: a copy."""
        return set(self._member.held) if self._member is not None else set()

    async def ping(self) -> float:
        """Ping the client; seconds there and back."""
        return await self._ws.ping()

    def __repr__(self) -> str:
        return f"<ClientConnection {self._uid} {self.connection_state} {self._ws.remote_address!r}>"


class WebSocketHandler(Generic[State]):
    """Methods that clients call, and what happens around them. Subclass it, and serve the class.

    One instance serves all connections of a server. ``WebSocketHandler[State]`` types ``connection.state``,
    which `make_state` makes; ``State()`` by default.

    Attributes:
        default_rate_limit: holds for methods without ``@rate_limit``, and for names that do not exist. None,
            the default, for no limit.
        channel_policy: what to do with a connection that is too slow for its channels, unless ``subscribe``
            says otherwise: ``"disconnect"``, the default, ``"drop_oldest"`` or ``"drop_newest"``.
        client_globs: whether `may_subscribe` is asked about a client's own globs. Default False: they are
            refused.
        list_methods: whether clients are told, when they ask, which methods they may call, with parameters
            and docstrings, as `trio-ws connect` does for its completion. Default False.
    """

    default_rate_limit: ClassVar[RateLimit | None] = None
    channel_policy: ClassVar[Policy] = "disconnect"
    client_globs: ClassVar[bool] = False
    list_methods: ClassVar[bool] = False
    _state_type: ClassVar[Any] = None
    _methods: dict[str, Method]
    _limiter: Limiter
    _hub: Hub
    _clients: set[ClientConnection[State]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = typing.get_origin(base)
            if isinstance(origin, type) and issubclass(origin, WebSocketHandler):
                (state,) = typing.get_args(base)
                cls._state_type = None if isinstance(state, typing.TypeVar) else state

    def _prepare(self) -> None:
        """What ``__init__`` would do, if subclasses could be trusted to call it."""
        if "_methods" not in self.__dict__:
            self._methods = collect(self)
            self._limiter = Limiter()
            self._clients = set()
            self._hub = Hub()
            check_policy(self.channel_policy, CONNECTION_POLICIES)
            self._methods[SUBSCRIBE] = make_method(self._subscribe)
            self._methods[UNSUBSCRIBE] = make_method(self._unsubscribe)
            if self.list_methods:
                self._methods[METHODS] = make_method(self._list_methods)
            for hook in (self.on_connect, self.on_receive, self.on_disconnect):
                let_ctrl_c_strike(hook)

    # -- to be overridden ---------------------------------------------------------------------------

    async def on_connect(self, connection: ClientConnection[State]) -> None:
        """Called for each client before it is accepted.

        Raising refuses the client: with 403 for an `RPCAccessDeniedError` or a `WebSocketException`, else
        with 500 and the traceback in the log. So does ``connection.reject()`` or ``connection.close()``.
        """

    async def on_receive(self, connection: ClientConnection[State], packet: Packet) -> None:
        """Called with each packet that is no call, one after the other."""

    async def on_disconnect(self, connection: ClientConnection[State]) -> None:
        """Called once when a client that was let in has gone: shielded, for at most ``close_timeout``."""

    def may_subscribe(self, connection: ClientConnection[State], name: str) -> bool | Awaitable[bool]:
        """Whether a client may subscribe itself to this channel, with ``client.subscribe``. Default: no.

        It may be ``async def``. Globs are asked about only where ``client_globs`` is true: mind that ``*``
        matches every name.
        """
        return False

    def make_state(self, connection: ClientConnection[State]) -> State:
        """What ``connection.state`` is at first; by default ``State()``, or None without a type."""
        state: Any = self._state_type() if self._state_type is not None else None
        return state  # type: ignore[no-any-return]

    # -- to be used ---------------------------------------------------------------------------------

    @property
    def rpc_methods(self) -> Mapping[str, Method]:
        """The methods that clients may call, by name; each has ``describe()``."""
        self._prepare()
        return types.MappingProxyType(
            {name: method for name, method in self._methods.items() if name not in _RESERVED}
        )

    @property
    def clients(self) -> frozenset[ClientConnection[State]]:
        """The connections that are open now: a copy."""
        self._prepare()
        return frozenset(self._clients)

    @property
    def channels(self) -> Hub:
        """The channels: ``subscribe`` for tasks of the server, ``publish_wait``, and ``statistics``."""
        self._prepare()
        return self._hub

    def publish(
        self,
        name: str,
        data: Any,
        *,
        exclude: Iterable[ClientConnection[State]] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Give ``data`` to all that are subscribed to ``name``, without waiting. See `Hub.publish`."""
        return self.channels.publish(name, data, exclude=exclude, predicate=predicate)

    def broadcast(
        self,
        data: Any,
        *,
        exclude: Iterable[ClientConnection[State]] = (),
        predicate: PredicateLike | None = None,
    ) -> int:
        """Give ``data`` to all connections, without waiting. See `Hub.broadcast`."""
        return self.channels.broadcast(data, exclude=exclude, predicate=predicate)

    def register_rpc_method(
        self,
        func: Callable[..., Any],
        alias_name: str | None = None,
        *,
        requires: PredicateLike | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        """Let clients call ``func(connection, ...)``, from now on.

        Raises:
            ValueError: the name is taken, or reserved.
            TypeError: ``func`` cannot be called that way, or is annotated with what cannot be validated.
        """
        self._prepare()
        method = make_method(func, alias_name, requires, limit)
        if method.name in self._methods:
            raise ValueError(f"there is a method {method.name!r} already; give another alias_name")
        self._methods[method.name] = method

    # -- what a server calls ------------------------------------------------------------------------

    async def _serve(
        self,
        ws: WebSocket,
        workers: Workers,
        *,
        debug: bool,
        finish_soon: Callable[[Callable[[WebSocket], Awaitable[None]]], None] | None = None,
    ) -> object:
        """The life of one connection.

        With ``finish_soon`` it may return `UNFINISHED`, where the connection lives on without a task. Then
        that is called with the rest, which is to be awaited, when the connection is over.
        """
        self._prepare()
        connection: ClientConnection[State] = ClientConnection(ws)
        object.__setattr__(connection, "_state", self.make_state(connection))
        member = Member(connection, ws._options, self.channel_policy)
        object.__setattr__(connection, "_hub", self._hub)
        object.__setattr__(connection, "_member", member)
        over = True
        try:
            over = await self._serve_member(connection, member, ws, workers, finish_soon, debug=debug)
        finally:
            if over:
                self._leave(connection, member)
        return None if over else UNFINISHED

    def _leave(self, connection: ClientConnection[State], member: Member) -> None:
        object.__setattr__(connection, "_member", None)
        self._hub.leave(member)

    async def _serve_member(
        self,
        connection: ClientConnection[State],
        member: Member,
        ws: WebSocket,
        workers: Workers,
        finish_soon: Callable[[Callable[[WebSocket], Awaitable[None]]], None] | None,
        *,
        debug: bool,
    ) -> bool:
        try:
            await self.on_connect(connection)
        except RPCAccessDeniedError as exc:
            raise WebSocketException(1008, "access denied") from exc
        if ws._state == CONNECTING:
            await ws.accept()
        if not ws.connected:
            return True
        self._clients.add(connection)
        peer = self._make_peer(connection, workers, debug=debug)
        self._hub.open(member, peer)

        @enable_ki_protection
        async def finish(_: WebSocket) -> None:
            try:
                await peer.finish()
            finally:
                try:
                    await self._see_off(connection)
                finally:
                    self._leave(connection, member)

        over = True
        try:
            over = await peer.run((lambda: finish_soon(finish)) if finish_soon is not None else None)
        finally:
            if over:
                await self._see_off(connection)
        return over

    async def _see_off(self, connection: ClientConnection[State]) -> None:
        self._clients.discard(connection)
        self._limiter.forget(connection.uid)
        with trio.move_on_after(connection._ws._options.close_timeout, shield=True) as scope:
            await self.on_disconnect(connection)
        if scope.cancelled_caught:
            logger.warning("on_disconnect of %r took more than close_timeout", connection)

    async def _subscribe(self, connection: ClientConnection[State], names: list[str]) -> bool:
        """A client subscribes itself: all of it, or nothing."""
        try:
            checked = check_names(names)
        except ValueError as exc:
            raise RPCInvalidParamsError(str(exc), data={"path": "names"}) from None
        for name in checked:
            allowed: Any = self.client_globs or not is_glob(name)
            if allowed:
                allowed = self.may_subscribe(connection, name)
                if inspect.isawaitable(allowed):
                    allowed = await allowed
            if not allowed:
                raise RPCAccessDeniedError(f"access to the channel {name!r} denied")
        return connection._member is not None and connection.subscribe(checked)

    def _unsubscribe(self, connection: ClientConnection[State], names: list[str]) -> bool:
        connection.unsubscribe([name for name in names if name])
        return True

    def _list_methods(self, connection: ClientConnection[State]) -> list[dict[str, Any]]:
        return [
            method.describe()
            for method in self.rpc_methods.values()
            if method.requires is None or holds(method.requires, connection)
        ]

    def _make_peer(self, connection: ClientConnection[State], workers: Workers, *, debug: bool) -> Peer:
        ws = connection._ws
        dialect = choose(ws.subprotocol, ws._options)

        async def on_packet(packet: Packet) -> None:
            await self.on_receive(connection, packet)

        peer = Peer(
            ws,
            workers,
            dialect or plain_dialect(ws._options),
            undecided=dialect is None,
            methods=self._methods,
            connection=connection,
            on_packet=on_packet,
            limiter=self._limiter,
            default_limit=self.default_rate_limit,
            debug=debug,
        )
        object.__setattr__(connection, "_peer", peer)
        return peer
