"""WebSocketHandler and ClientConnection: methods that clients call, and what a server knows of each client.

What always holds:

- Session state can neither hide nor change the API of a connection.
- ``on_disconnect`` runs once for each connection that ``on_connect`` let in, also where the server is
  cancelled: shielded, for at most ``close_timeout`` seconds.
"""

from __future__ import annotations

import logging
import secrets
import types
import typing
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, overload

import trio

from trio_ws.errors import RPCAccessDeniedError, WebSocketException, check_close
from trio_ws.rpc.limits import Limiter
from trio_ws.rpc.methods import Method, collect, let_ctrl_c_strike, make_method
from trio_ws.rpc.peer import Peer
from trio_ws.websocket.endpoint import CONNECTING
from trio_ws.wire.packets import choose, plain_dialect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from trio_ws.rpc.calls import RPCResponse
    from trio_ws.rpc.limits import RateLimit
    from trio_ws.rpc.predicates import PredicateLike
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.rpc.workers import Workers
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.wire.http import Request
    from trio_ws.wire.packets import Packet

__all__ = ["UNFINISHED", "ClientConnection", "WebSocketHandler"]

logger = logging.getLogger("trio_ws.handler")

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
    __slots__ = ("__dict__", "__weakref__", "_peer", "_state", "_uid", "_ws")

    def __init__(self, ws: WebSocket) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_ws", ws)
        set_slot(self, "_uid", secrets.token_hex(8))
        set_slot(self, "_peer", None)
        set_slot(self, "_state", None)

    _ws: WebSocket
    _uid: str
    _peer: Peer | None
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
    """

    default_rate_limit: ClassVar[RateLimit | None] = None
    _state_type: ClassVar[Any] = None
    _methods: dict[str, Method]
    _limiter: Limiter
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

    def make_state(self, connection: ClientConnection[State]) -> State:
        """What ``connection.state`` is at first; by default ``State()``, or None without a type."""
        state: Any = self._state_type() if self._state_type is not None else None
        return state  # type: ignore[no-any-return]

    # -- to be used ---------------------------------------------------------------------------------

    @property
    def rpc_methods(self) -> Mapping[str, Method]:
        """The methods that clients may call, by name; each has ``describe()``."""
        self._prepare()
        return types.MappingProxyType(self._methods)

    @property
    def clients(self) -> frozenset[ClientConnection[State]]:
        """The connections that are open now: a copy."""
        self._prepare()
        return frozenset(self._clients)

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
        finish_soon: Callable[[Callable[[], Awaitable[None]]], None] | None = None,
    ) -> object:
        """The life of one connection.

        With ``finish_soon`` it may return `UNFINISHED`, where the connection lives on without a task. Then
        that is called with the rest, which is to be awaited, when the connection is over.
        """
        self._prepare()
        connection: ClientConnection[State] = ClientConnection(ws)
        object.__setattr__(connection, "_state", self.make_state(connection))
        try:
            await self.on_connect(connection)
        except RPCAccessDeniedError as exc:
            raise WebSocketException(1008, "access denied") from exc
        if ws._state == CONNECTING:
            await ws.accept()
        if not ws.connected:
            return None
        self._clients.add(connection)
        peer = self._make_peer(connection, workers, debug=debug)

        async def finish() -> None:
            try:
                await peer.finish()
            finally:
                await self._see_off(connection)

        over = True
        try:
            over = await peer.run((lambda: finish_soon(finish)) if finish_soon is not None else None)
        finally:
            if over:
                await self._see_off(connection)
        return None if over else UNFINISHED

    async def _see_off(self, connection: ClientConnection[State]) -> None:
        self._clients.discard(connection)
        self._limiter.forget(connection.uid)
        with trio.move_on_after(connection._ws._options.close_timeout, shield=True) as scope:
            await self.on_disconnect(connection)
        if scope.cancelled_caught:
            logger.warning("on_disconnect of %r took more than close_timeout", connection)

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
