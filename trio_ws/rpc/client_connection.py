"""ClientConnection: one client as a `WebSocketHandler` sees it, and what its session knows.

What always holds: session state can neither hide nor change the API of a connection.
"""

from __future__ import annotations

import secrets
import typing
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

from trio.lowlevel import checkpoint

from trio_ws._blocks import block
from trio_ws.channels.names import check_name, check_names
from trio_ws.channels.subscription import check_policy
from trio_ws.errors import check_close
from trio_ws.websocket.closing import CONNECTING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

    from trio_ws.channels.channel import ConnectionSubscriber
    from trio_ws.channels.hub import Hub
    from trio_ws.channels.subscription import Policy
    from trio_ws.protocol.http import Request
    from trio_ws.rpc.outgoing import RPCResponse
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.streams import ItemStream
    from trio_ws.websocket.connection import WebSocket

__all__ = ["CONNECTION_POLICIES", "ClientConnection", "State"]

#: A connection cannot hold up those who publish.
CONNECTION_POLICIES = ("disconnect", "drop_oldest", "drop_newest")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    State = TypeVar("State", default=Any)
else:
    State = typing.TypeVar("State")
T = typing.TypeVar("T")


class ClientConnection(Generic[State]):
    """One client as a `WebSocketHandler` sees it, and the place for what the session knows of it.

    Session state is free-form: ``connection.username = "alice"`` and ``connection["username"] = "alice"`` are
    the same, and ``"username" in connection``, ``del connection["username"]`` do what they say. A name of the
    API cannot be used for it. The typed form is ``WebSocketHandler[State]`` with ``connection.state``.
    """

    # Session state is the instance's own dict; everything of ours is in a slot, where it cannot reach.
    __slots__ = (
        "__dict__",
        "__weakref__",
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
        set_slot(self, "_uid", secrets.token_hex(8))
        set_slot(self, "_session", None)
        set_slot(self, "_hub", None)
        set_slot(self, "_member", None)
        set_slot(self, "_on_accept", None)
        set_slot(self, "_state", None)

    _ws: WebSocket
    _uid: str
    _session: RPCSession | None
    _hub: Hub | None  # of the server's handler; a client's has none
    _member: ConnectionSubscriber | None
    _on_accept: Callable[[], None] | None  # while on_connect runs: makes the peer
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
        """The peer's socket address: the client's, or a proxy's. None where the stream has none."""
        return self._ws.remote_address

    @property
    def client_address(self) -> Any:
        """The client's address, also behind a trusted proxy. See `WebSocket.client_address`."""
        return self._ws.client_address

    @property
    def subprotocol(self) -> str | None:
        """What was agreed on in the opening handshake."""
        return self._ws.subprotocol

    @property
    def client_type(self) -> str:
        """The dialect in use: ``"trio-ws.v1"``, ``"trio-ws.v1.json"``, ``"webshocket.v1"``, ``"json"`` or
        ``"jsonrpc"``.
        """
        return self._live.codec.name

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
    def _live(self) -> RPCSession:
        if self._session is None:
            raise RuntimeError("the connection is not accepted yet; await connection.accept() first")
        return self._session

    # -- doing --------------------------------------------------------------------------------------

    async def accept(self, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Accept the client from within ``on_connect``, which else happens when that has returned.

        From then on ``on_connect`` may `send`, `call` and `stream`. What the client calls and sends waits
        until ``on_connect`` has returned.

        Raises:
            ConnectionClosedError: the client has left.
        """
        if self._ws._closing.state == CONNECTING:
            await self._ws.accept(headers=headers)
        if self._session is None and self._on_accept is not None and self._ws.connected:
            self._on_accept()

    async def reject(
        self, status: int = 403, body: bytes | str = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Refuse the client from within ``on_connect`` with an HTTP status (RFC 6455 section 4.2.2).

        Args:
            status: an HTTP status from 200 to 599.
            body: the response body; text is sent as UTF-8.
            headers: more response headers.
        """
        await self._ws.reject(status, headers, body)

    async def send(self, data: Any) -> None:
        """Send a packet that is no call. Waits, raises and is cancelled as `WebSocket.send`.

        Data that is a `Packet` is sent as it is.

        Raises:
            PacketError: ``data`` cannot be encoded; nothing was sent.
        """
        if self._session is None:
            await self.accept()
        await self._live.outgoing.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, which cancels its other calls; in ``on_connect`` refuse it with 403."""
        check_close(code, reason)
        self._ws._release_opening()  # on_connect may go on, if it is what closes
        if self._ws._closing.state == CONNECTING:
            await self._ws.reject(403)
        elif self._session is None:
            await self._ws.close(code, reason)
        else:
            await self._session.close(code, reason)

    @overload
    async def call(self, method: str, /, *args: Any, returns: type[T], **kwargs: Any) -> T: ...
    @overload
    async def call(self, method: str, /, *args: Any, returns: Any = ..., **kwargs: Any) -> Any: ...
    async def call(self, method: str, /, *args: Any, returns: Any = Any, **kwargs: Any) -> Any:
        """Call a method of the client's own handler. See `WebSocketClient.call`."""
        return await self._live.outgoing.call(method, args, kwargs, returns)

    async def send_rpc(self, method: str, /, *args: Any, **kwargs: Any) -> RPCResponse:
        """Call a method of the client's own handler and give how it ended."""
        return await self._live.outgoing.send_rpc(method, args, kwargs)

    async def notify(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Send a notification of JSON-RPC. See `WebSocketClient.notify`."""
        await self._live.outgoing.notify(method, args, kwargs)

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
        return self._live.outgoing.stream(method, args, kwargs, items)

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
            ValueError, TypeError: a name is no str, empty, longer than 256 characters (128 with one beyond
                U+FFFF), or a glob with more than 32 wildcards, or the policy cannot be.
            RuntimeError: the connection is not one of a server's, or it is closed.
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
        """Whether it may hold these names too."""
        held = self._member.held if self._member is not None else {}
        limit = self._ws._options.max_subscribed_channels
        return not limit or len(held) + sum(name not in held for name in names) <= limit

    def unsubscribe(self, names: str | Iterable[str]) -> None:
        """Leave channels, by the names or globs that were subscribed to. Others are ignored."""
        names = check_names(names)
        if self._hub is not None and self._member is not None:
            for name in names:
                self._hub.remove(self._member, name)

    @block("async with connection.present(...):")
    async def present(self, name: str, info: Any = None) -> AsyncIterator[None]:
        """Be present in a channel for the length of a block, and no longer than the connection is open.

        ``handler.channels.presence(name)`` shows it, in all processes. A connection need not be subscribed to
        be present, nor the other way round.

        Args:
            name: the channel.
            info: what it says of itself, in up to 4,096 bytes as msgpack.

        Raises:
            PacketError: ``info`` cannot be encoded, or is too large.
            RuntimeError: it is present there already, or the connection is not open or not one of a server's.
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

    def set_present(self, name: str, info: Any = None) -> None:
        """Be present in a channel until `set_absent`, or the end of the connection. Otherwise like `present`.

        If it is present there already, it says something else of itself.
        """
        check_name(name)
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be present")
        self._hub.enter_presence(self._member, name, info)

    def set_absent(self, name: str) -> None:
        """Be present in a channel no more. It does nothing if it is not."""
        if self._hub is not None and self._member is not None:
            self._hub.leave_presence(self._member, check_name(name))

    def identify(self, user: str | None) -> None:
        """Say whose connection it is, for ``channels.send_to_user`` and ``disconnect_user``.

        Args:
            user: a key, such as an account's id, of up to 128 characters. None for nobody.

        Raises:
            ValueError, TypeError: the key is invalid.
            RuntimeError: the connection is not open, or not one of a server's.
        """
        if self._hub is None or self._member is None:
            raise RuntimeError("only a connection of a server, while it is open, can be a user's")
        self._hub.identify(self._member, user)

    @property
    def subscribed_channel(self) -> set[str]:
        """The names and globs that the client is subscribed to: a copy."""
        return set(self._member.held) if self._member is not None else set()

    async def ping(self) -> float:
        """Ping the client; seconds there and back."""
        return await self._ws.ping()

    def __repr__(self) -> str:
        return f"<ClientConnection {self._uid} {self.connection_state} {self._ws.client_address!r}>"
