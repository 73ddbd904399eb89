"""ClientConnection of webshocket: one client of a handler."""

from __future__ import annotations

import math
import typing
import uuid
from typing import TYPE_CHECKING, Any, Generic, Protocol

import trio

import trio_ws.errors as engine_errors
from trio_ws.channels.names import check_names
from trio_ws.compat.webshocket._sending import CHUNK_SIZE, Sent, post
from trio_ws.compat.webshocket.enum import ClientType, ConnectionState, PacketSource
from trio_ws.compat.webshocket.exceptions import ReceiveTimeoutError, closed
from trio_ws.compat.webshocket.packets import AnyPacket, Packet, encode, from_engine
from trio_ws.errors import check_close
from trio_ws.logs import logger_for
from trio_ws.rpc.client_connection import is_setting_up, live_session_of, websocket_of
from trio_ws.websocket.internals import closed_error, release_opening

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable

    from trio_ws._types import Value
    from trio_ws.rpc.client_connection import ClientConnection as EngineConnection
    from trio_ws.rpc.session import RPCSession
    from trio_ws.websocket.connection import WebSocket

__all__ = ["ClientConnection"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    TState = TypeVar("TState", default=Any)
else:
    TState = typing.TypeVar("TState")

_set = object.__setattr__
_NOT_CONNECTED = "Cannot receive data: client is not connected."


class ConnectionOwner(Protocol):
    """The part of a `WebSocketHandler` that its connections use."""

    def subscribe(self, client: ClientConnection, channel: str | Iterable[str]) -> None:
        """Subscribe a client to channels."""

    def unsubscribe(self, client: ClientConnection, channel: str | Iterable[str]) -> None:
        """Unsubscribe a client from channels."""

    @property
    def _keeps_packets(self) -> bool:
        """Whether packets wait for `ClientConnection.recv`."""
        ...


class ClientConnection(Generic[TState]):
    """One client of a server, which creates these objects.

    Assigned attributes are session state: ``connection.username = "alice"`` is the same as
    ``connection["username"] = "alice"`` and ``connection.session_state["username"] = "alice"``. Names of the
    API may be used too, but are then only available in ``session_state``. All other attributes are those of
    the underlying `trio_ws.ClientConnection`, such as ``request`` and ``latency``.

    Args:
        websocket_protocol: the `trio_ws.ClientConnection`.
        handler: the server's handler.
        client_type: the encoding that the client uses.
        packet_qsize: accepted and ignored; see `WebSocketServer`.
        max_subscribed_channels: the maximum number of names and globs that `subscribe` allows; 0 for no
            limit.

    Attributes:
        client_type: the encoding that the client uses.
        session_state: the session state as a dict.
        max_subscribed_channels: the argument.
        uid: a random UUID.
        logger: the logger ``webshocket.connection``.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_handler",
        "_protocol",
        "_subscribed",
        "client_type",
        "logger",
        "max_subscribed_channels",
        "session_state",
        "uid",
    )

    client_type: ClientType
    logger: logging.Logger
    max_subscribed_channels: int
    session_state: dict[str, Any]
    uid: uuid.UUID
    _closed: bool  # by this side
    _handler: ConnectionOwner
    _protocol: EngineConnection
    _subscribed: set[str]

    def __init__(
        self,
        websocket_protocol: EngineConnection,
        handler: ConnectionOwner,
        client_type: ClientType,
        packet_qsize: int = 128,
        max_subscribed_channels: int = 5,
    ) -> None:
        _set(self, "_protocol", websocket_protocol)
        _set(self, "_handler", handler)
        _set(self, "_closed", False)
        _set(self, "_subscribed", set())
        _set(self, "client_type", client_type)
        _set(self, "session_state", {})
        _set(self, "uid", uuid.uuid4())
        _set(self, "logger", logger_for("webshocket.connection"))
        _set(self, "max_subscribed_channels", max_subscribed_channels)

    # -- about the client ---------------------------------------------------------------------------

    @property
    def connection_state(self) -> ConnectionState:
        """CONNECTED while it is open, CLOSED after `close`, DISCONNECTED if the client has left."""
        if self._closed:
            return ConnectionState.CLOSED
        state = self._protocol.connection_state
        if state == "connected":
            return ConnectionState.CONNECTED
        return ConnectionState.CONNECTING if state == "connecting" else ConnectionState.DISCONNECTED

    @property
    def remote_address(self) -> tuple[str, int]:
        """The peer's address and port."""
        address: tuple[str, int] = self._protocol.remote_address[:2]
        return address

    @property
    def subscribed_channel(self) -> set[str]:
        """The names and globs that the client is subscribed to, as a copy."""
        return set(self._subscribed)

    # -- packets ------------------------------------------------------------------------------------

    def send(self, data: Value, chunk_size: int = CHUNK_SIZE) -> Sent:
        """Send data or a `Packet` without waiting, as msgpack to a FRAMEWORK client or JSON to a GENERIC one.

        If more than ``channel_max_bytes`` wait to be written, the connection is closed with code 1013. A
        program that sends a lot should await the returned object, which waits until there is room.

        Args:
            data: anything that msgspec can encode, or a `Packet`, which is sent unchanged.
            chunk_size: the maximum number of payload bytes in a frame. A longer message is fragmented.

        Raises:
            ConnectionClosedError: the connection is closed.
            PacketError: the data cannot be encoded, and nothing was sent. It is also a TypeError.
        """
        packet = data if isinstance(data, Packet) else Packet(PacketSource.CUSTOM, data)
        payload = encode(packet, self.client_type)
        ws = websocket_of(self._protocol)
        if self.connection_state is not ConnectionState.CONNECTED or not post(ws, payload, chunk_size):
            raise closed(closed_error(ws))
        return Sent(self._wait_for_room)

    async def _wait_for_room(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self._peer.transport.wait_for_room()
        except engine_errors.ConnectionClosedError as exc:
            raise closed(exc) from exc

    @property
    def _peer(self) -> RPCSession:
        return live_session_of(self._protocol)

    async def recv(self, timeout: float | None = 30.0) -> AnyPacket:  # noqa: ASYNC109
        """Wait for the next packet. A cancellation or a timeout loses none.

        It can be used with the `DefaultWebSocketHandler`, and within ``on_connect`` of any handler. JSON or
        msgpack that is not a packet becomes the data of a packet with source CUSTOM. Any other message
        becomes, as bytes, the data of a packet with source UNKNOWN. Up to ``max_held_bytes`` of packets wait
        to be received; then reading from the connection stops.

        Args:
            timeout: seconds; None for no limit. Default 30.

        Raises:
            ReceiveTimeoutError: no packet arrived in time.
            ConnectionClosedError: the connection has ended, and no packet is left.
            TypeError: the handler's ``on_receive`` gets the packets.
        """
        peer = self._peer
        if self._handler._keeps_packets:
            return await self._recv(peer, timeout)
        if not is_setting_up(self._protocol):
            raise TypeError("recv() is for the DefaultWebSocketHandler; here on_receive gets the packets")
        # on_connect is running. Nothing is delivered to on_receive before it has returned.
        on_packet, peer.delivery.on_packet = peer.delivery.on_packet, None
        try:
            return await self._recv(peer, timeout)
        finally:
            peer.delivery.on_packet = on_packet

    async def _recv(self, peer: RPCSession, timeout: float | None) -> AnyPacket:  # noqa: ASYNC109
        if timeout is None or peer.delivery.packets:
            timeout = math.inf
        packet = None
        try:
            with trio.move_on_after(max(timeout, 0)) as scope:
                packet = await peer.recv()
        except engine_errors.ConnectionClosedError as exc:
            raise closed(exc, _NOT_CONNECTED) from exc
        if scope.cancelled_caught:
            raise ReceiveTimeoutError(f"Receive operation timed out after {timeout} seconds.")
        if packet is None:
            raise closed(closed_error(peer.ws), _NOT_CONNECTED)
        return from_engine(packet, self.client_type, plain=True)

    def close(self, code: int = 1000, reason: bytes | str = b"") -> Sent:
        """Close the connection without waiting for the closing handshake. Its other calls are cancelled.

        Args:
            code: a close code that may be sent (RFC 6455 section 7.4). Default 1000.
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        text = reason if isinstance(reason, str) else reason.decode()
        check_close(code, text)
        _set(self, "_closed", True)
        release_opening(websocket_of(self._protocol))  # so that on_connect is not cancelled if it closes
        self._peer.close_soon(int(code), text)
        return Sent()

    # -- channels -----------------------------------------------------------------------------------

    def subscribe(self, channel: str | Iterable[str]) -> bool:
        """Subscribe the client to one or many channels, by names or globs (``*``, ``?``, ``[...]``).

        Returns:
            True if the client is subscribed. False, and nothing has changed, if it would have more than
            ``max_subscribed_channels`` subscriptions.

        Raises:
            ValueError, TypeError: a name is not a str, is empty or too long, or has too many wildcards.
        """
        names = check_names(channel)
        limit = self.max_subscribed_channels
        if limit and len(self._subscribed.union(names)) > limit:
            return False
        self._handler.subscribe(self, names)
        return True

    def unsubscribe(self, channel: str | Iterable[str]) -> None:
        """Unsubscribe the client from names or globs. Those that it is not subscribed to are ignored."""
        self._handler.unsubscribe(self, channel)

    # -- session state ------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: object) -> None:
        self.session_state[name] = value

    def __getattr__(self, name: str) -> Any:
        # Called for names that are not part of the API.
        try:
            return object.__getattribute__(self, "session_state")[name]
        except KeyError:
            pass
        if name.startswith("_") or name in _NOT_PASSED_ON:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            return getattr(self._protocol, name)
        except AttributeError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __delattr__(self, name: str) -> None:
        try:
            del self.session_state[name]
        except KeyError:
            raise AttributeError(f"the session state has no {name!r}") from None

    def __setitem__(self, name: str, value: object) -> None:
        self.session_state[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.session_state[name]

    def __delitem__(self, name: str) -> None:
        del self.session_state[name]

    def __contains__(self, name: object) -> bool:
        return name in self.session_state

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}(uid={self.uid}, remote_address={self._protocol.remote_address!r},"
            f" session_state={self.session_state})>"
        )


#: Attributes of the engine's connection that would conflict with session state or bypass this class.
_NOT_PASSED_ON = frozenset({"accept", "call", "get", "reject", "send_rpc", "state", "stream"})


# -- for handlers and servers -----------------------------------------------------------------------------


def session_of(client: ClientConnection) -> RPCSession:
    """Return the session of the engine."""
    return client._peer


def client_websocket(client: ClientConnection) -> WebSocket:
    """Return the WebSocket of a client."""
    return websocket_of(client._protocol)


def note_subscription(client: ClientConnection, name: str, *, subscribed: bool) -> None:
    """Note that a handler has subscribed a client, or has unsubscribed it."""
    if subscribed:
        client._subscribed.add(name)
    else:
        client._subscribed.discard(name)
