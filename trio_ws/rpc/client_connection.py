"""ClientConnection: one client of a `WebSocketHandler`, and its session state.

Invariant: session state can neither hide nor change the API of a connection.
"""

from __future__ import annotations

import secrets
import typing
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from trio.lowlevel import checkpoint

from trio_ws._blocks import block
from trio_ws._types import ANY_VALUE
from trio_ws.channels.names import check_name, check_names
from trio_ws.channels.subscription import check_policy
from trio_ws.errors import SubscriptionError, check_close
from trio_ws.rpc.expiry import check_expiry, watch_expiry
from trio_ws.websocket.closing import CONNECTING
from trio_ws.websocket.internals import closing_of, options_of, release_opening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from trio_ws._types import JSONObject, SocketAddress, Value
    from trio_ws.channels.channel import ConnectionSubscriber
    from trio_ws.channels.hub import Hub
    from trio_ws.channels.subscription import Policy
    from trio_ws.protocol.http import Request
    from trio_ws.rpc.outgoing import RPCResponse
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.websocket.connection import WebSocket

__all__ = ["CONNECTION_POLICIES", "ClientConnection", "State"]

#: There is no "block": a slow connection must not delay publishers.
CONNECTION_POLICIES = ("disconnect", "drop_oldest", "drop_newest")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    State = TypeVar("State", default=Any)
else:
    State = typing.TypeVar("State")
T = typing.TypeVar("T")


class ClientConnection(Generic[State]):
    """One client of a `WebSocketHandler`, and its session state.

    Session state is free-form: ``connection.username = "alice"`` and ``connection["username"] = "alice"`` are
    the same. ``"username" in connection`` and ``del connection["username"]`` work as in a dict. Names of the
    API cannot be used: assigning to one raises AttributeError. For typed session state, see
    ``WebSocketHandler[State]`` and ``connection.state``.
    """

    # Session state is in the instance's dict. Our own attributes are slots, so it cannot overwrite them.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_expires_at",
        "_hub",
        "_member",
        "_on_accept",
        "_session",
        "_state",
        "_uid",
        "_ws",
    )

    def __init__(self, ws: WebSocket) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_ws", ws)
        set_slot(self, "_uid", "")
        set_slot(self, "_session", None)
        set_slot(self, "_hub", None)
        set_slot(self, "_member", None)
        set_slot(self, "_on_accept", None)
        set_slot(self, "_state", None)
        set_slot(self, "_expires_at", None)

    _ws: WebSocket
    _uid: str  # empty until it is asked for
    _session: RPCSession | None
    _hub: Hub | None  # of the server's handler; None in a client
    _member: ConnectionSubscriber | None
    _on_accept: Callable[[], None] | None  # while on_connect runs: makes the session
    _state: Any
    _expires_at: float | None

    # -- session state ------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Value) -> None:
        if name == "expires_at":
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def __setitem__(self, key: str, value: Value) -> None:
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

    def get(self, key: str, default: object = None) -> Any:
        """Return the session state under ``key``, or ``default``."""
        return self.__dict__.get(key, default)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __delattr__(self, name: str) -> None: ...

    @property
    def state(self) -> State:
        """The typed session state; see `WebSocketHandler.make_state`."""
        return self._state  # type: ignore[no-any-return]

    # -- about the client ---------------------------------------------------------------------------

    @property
    def uid(self) -> str:
        """A random id of this connection, 16 hexadecimal digits, for logs and as a key."""
        if not self._uid:
            object.__setattr__(self, "_uid", secrets.token_hex(8))
        return self._uid

    @property
    def request(self) -> Request:
        """The opening request, with path, query and headers."""
        return self._ws.request

    @property
    def path_params(self) -> JSONObject:
        """The path parameters of the route."""
        return self._ws.path_params

    @property
    def remote_address(self) -> SocketAddress:
        """The peer's socket address: the client's, or a proxy's. None if the stream has none."""
        return self._ws.remote_address

    @property
    def client_address(self) -> SocketAddress:
        """The client's address, even behind a trusted proxy. See `WebSocket.client_address`."""
        return self._ws.client_address

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was negotiated (RFC 6455 section 1.9); None if there is none."""
        return self._ws.subprotocol

    @property
    def client_type(self) -> str:
        """The codec in use: ``"trio-ws.v1"``, ``"trio-ws.v1.json"``, ``"webshocket.v1"``, ``"json"``,
        ``"jsonrpc"``, or the name of a dialect.
        """
        return self._live.codec.name

    @property
    def connection_state(self) -> Literal["connecting", "connected", "closing", "closed"]:
        """The state of the connection."""
        ws = self._ws
        if ws.closed:
            return "closed"
        if ws.connected:
            return "connected"
        return "closing" if ws.accepted else "connecting"

    @property
    def latency(self) -> float | None:
        """The round-trip time of the last ping, in seconds; None before the first."""
        return self._ws.latency

    @property
    def _live(self) -> RPCSession:
        if self._session is None:
            raise RuntimeError("the connection is not accepted yet; await connection.accept() first")
        return self._session

    @property
    def expires_at(self) -> float | None:
        """The time of `trio.current_time` at which the connection is closed, with 1008; None for never.

        Set it at any time: ``connection.expires_at = trio.current_time() + 600``. The client can stay longer
        with ``client.refresh``, which asks the handler's ``may_refresh``.
        """
        return self._expires_at

    @expires_at.setter
    def expires_at(self, value: float | None) -> None:
        object.__setattr__(self, "_expires_at", check_expiry(value))
        if self._session is not None:
            watch_expiry(self._session, self.uid, self._expires_at)

    # -- sending and calling ------------------------------------------------------------------------

    async def accept(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Accept the client within ``on_connect``. Otherwise it is accepted when ``on_connect`` returns.

        After this, ``on_connect`` may `send`, `call` and `stream`. Calls and packets from the client wait
        until ``on_connect`` has returned.

        Args:
            headers: more response headers.

        Raises:
            ConnectionClosedError: the client has left.
        """
        if closing_of(self._ws).state == CONNECTING:
            await self._ws.accept(headers=headers)
        if self._session is None and self._on_accept is not None and self._ws.connected:
            self._on_accept()

    async def reject(
        self, status: int = 403, body: bytes | str = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Reject the client within ``on_connect`` with an HTTP response (RFC 6455 section 4.2.2).

        Args:
            status: an HTTP status from 200 to 599. Default 403.
            body: the response body; text is sent as UTF-8.
            headers: more response headers.
        """
        await self._ws.reject(status, headers, body)

    async def send(self, data: Value) -> None:
        """Send a packet that is not a call. Waits, raises and is cancelled like `WebSocket.send`.

        If ``data`` is a `Packet`, it is sent unchanged.

        Raises:
            PacketError: ``data`` cannot be encoded. Nothing was sent.
        """
        if self._session is None:
            await self.accept()
        await self._live.outgoing.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and cancel its other calls (RFC 6455 section 7.1.1).

        In ``on_connect``, before `accept`, it is rejected with status 403.
        """
        check_close(code, reason)
        release_opening(self._ws)  # so that on_connect is not cancelled if it closes the connection
        if closing_of(self._ws).state == CONNECTING:
            await self._ws.reject(403)
        elif self._session is None:
            await self._ws.close(code, reason)
        else:
            await self._session.close(code, reason)

    @overload
    async def call(self, method: str, /, *args: Value, returns: type[T], **kwargs: Value) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Value, returns: object = ..., **kwargs: Value) -> Value: ...
    async def call(self, method: str, /, *args: Value, returns: object = ANY_VALUE, **kwargs: Value) -> Value:
        """Call a method of the client's own handler. See `WebSocketClient.call`."""
        return await self._live.outgoing.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, /, *args: Value, **kwargs: Value) -> RPCResponse:
        """Call a method of the client's own handler, and return the response, or the error, as an object."""
        return await self._live.outgoing.send_rpc(method, args, kwargs)

    async def notify(self, method: str, /, *args: Value, **kwargs: Value) -> None:
        """Send a JSON-RPC notification. See `WebSocketClient.notify`."""
        await self._live.outgoing.notify(method, args, kwargs)

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
        """Open a stream of the client's own handler. See `WebSocketClient.stream`."""
        return self._live.outgoing.stream(method, args, kwargs, items)

    # -- channels -----------------------------------------------------------------------------------

    def subscribe(self, names: str | Iterable[str], *, policy: Policy | None = None) -> bool:
        """Subscribe the client to channels until it unsubscribes or the connection ends.

        Args:
            names: one name or glob, or many. ``*``, ``?`` and ``[...]`` make a glob.
            policy: what to do when more than ``channel_max_items`` or ``channel_max_bytes`` are waiting for
                the client: ``"disconnect"`` (with code 1013), ``"drop_oldest"`` or ``"drop_newest"``.
                Default: the handler's ``channel_policy``.

        Returns:
            True if the client is subscribed. False, and nothing has changed, if it would have more than
            ``max_subscribed_channels`` subscriptions.

        Raises:
            ValueError, TypeError: a name is not a str, is empty, is longer than 256 characters (128 if one of
                them is beyond U+FFFF), or is a glob with more than 32 wildcards; or the policy is invalid.
            RuntimeError: the connection is closed, or belongs to a client instead of a server.
        """
        names = check_names(names)
        if policy is not None:
            check_policy(policy, CONNECTION_POLICIES)
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be subscribed")
        if not self._has_room(names):
            return False
        for name in names:
            self._hub.add(self._member, name, policy or self._member.default_policy)
        return True

    def _has_room(self, names: list[str]) -> bool:
        """Whether subscriptions to these names fit into ``max_subscribed_channels``."""
        return self._fit(names, self._member.held if self._member is not None else ())

    def _fit(self, names: Iterable[str], held: Collection[str]) -> bool:
        limit = options_of(self._ws).max_subscribed_channels
        return not limit or len(held) + sum(name not in held for name in names) <= limit

    def unsubscribe(self, names: str | Iterable[str]) -> None:
        """Unsubscribe the client from names or globs. Those that it is not subscribed to are ignored."""
        names = check_names(names)
        if self._hub is not None and self._member is not None:
            for name in names:
                self._hub.remove(self._member, name)

    @block("async with connection.present(...):")
    async def present(self, name: str, info: Value = None) -> AsyncIterator[None]:
        """Make the client present in a channel for the duration of a block, or until the connection ends.

        ``handler.channels.presence(name)`` shows the client, in all processes. Presence and subscription are
        independent of each other.

        Args:
            name: the channel.
            info: data that other members see, of up to 4,096 bytes as msgpack.

        Raises:
            PacketError: ``info`` cannot be encoded, or is too large.
            SubscriptionError: the client is present in ``max_subscribed_channels`` channels already.
            RuntimeError: the client is present in the channel already; or the connection is closed, or
                belongs to a client instead of a server.
            ValueError, TypeError: the name is invalid.
        """
        await checkpoint()
        if self._member is not None and name in self._member.present:
            raise RuntimeError(f"the connection is present in {name!r} already")
        self.set_present(name, info)
        try:
            yield
        finally:
            self.set_absent(name)

    def set_present(self, name: str, info: Value = None) -> None:
        """Make the client present in a channel until `set_absent` or the end of the connection.

        If the client is present in the channel already, its ``info`` is replaced. Otherwise like `present`.
        """
        check_name(name)
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be present")
        present = self._member.present
        if not self._fit([name], present):
            raise SubscriptionError(f"present in {len(present)} channels already (max_subscribed_channels)")
        self._hub.enter_presence(self._member, name, info)

    def set_absent(self, name: str) -> None:
        """End the client's presence in a channel. Does nothing if the client is not present there."""
        if self._hub is not None and self._member is not None:
            self._hub.leave_presence(self._member, check_name(name))

    def identify(self, user: str | None) -> None:
        """Set the user of this connection, for ``channels.send_to_user`` and ``disconnect_user``.

        Args:
            user: a key, such as an account's id, of up to 128 characters. None for no user.

        Raises:
            ValueError, TypeError: the key is invalid.
            RuntimeError: the connection is closed, or belongs to a client instead of a server.
        """
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be a user's")
        self._hub.identify(self._member, user)

    @property
    def subscribed_channel(self) -> set[str]:
        """The names and globs that the client is subscribed to, as a copy."""
        return set(self._member.held) if self._member is not None else set()

    async def ping(self) -> float:
        """Ping the client (RFC 6455 section 5.5.2), and return the round-trip time in seconds."""
        return await self._ws.ping()

    def __repr__(self) -> str:
        return f"<ClientConnection {self.uid} {self.connection_state} {self._ws.client_address!r}>"


# -- for the other parts of the package -------------------------------------------------------------------


def websocket_of(connection: ClientConnection) -> WebSocket:
    """Return the WebSocket of a connection."""
    return connection._ws


def session_of(connection: ClientConnection) -> RPCSession | None:
    """Return the session of a connection; None before it is accepted."""
    return connection._session


def live_session_of(connection: ClientConnection) -> RPCSession:
    """Return the session of a connection.

    Raises:
        RuntimeError: the connection is not accepted yet.
    """
    return connection._live


def has_uid(connection: ClientConnection) -> bool:
    """Whether the id of a connection was asked for."""
    return connection._uid != ""


def member_of(connection: ClientConnection) -> ConnectionSubscriber | None:
    """Return the subscriptions of a connection; None once it has ended."""
    return connection._member


def is_setting_up(connection: ClientConnection) -> bool:
    """Whether ``on_connect`` is running."""
    return connection._on_accept is not None


def has_room(connection: ClientConnection, names: list[str]) -> bool:
    """Whether these names fit into ``max_subscribed_channels``."""
    return connection._has_room(names)
