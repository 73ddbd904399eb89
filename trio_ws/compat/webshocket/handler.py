"""Handlers of webshocket: the methods and hooks of a server, and the subscriptions of its clients."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import trio

from trio_ws.channels.broadcast import broadcast as broadcast_raw
from trio_ws.channels.names import Globs, check_names, is_glob
from trio_ws.compat.webshocket._sending import Sent
from trio_ws.compat.webshocket.connection import client_websocket, note_subscription
from trio_ws.compat.webshocket.enum import ClientType, PacketSource
from trio_ws.compat.webshocket.exceptions import PacketError
from trio_ws.compat.webshocket.packets import AnyPacket, Packet, encode
from trio_ws.compat.webshocket.rpc import CallSlots, is_rpc_method, make_method
from trio_ws.predicates import check, check_predicate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ws._types import Value
    from trio_ws.compat.webshocket.connection import ClientConnection
    from trio_ws.predicates import PredicateLike
    from trio_ws.rpc.methods import Method
    from trio_ws.websocket.connection import WebSocket

__all__ = ["DefaultWebSocketHandler", "WebSocketHandler"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    TState = TypeVar("TState", default=Any)
else:
    TState = typing.TypeVar("TState")


class _Subscribers(dict[str, "set[ClientConnection]"]):
    """Connections by channel. For a channel without subscribers it returns an empty set."""

    def __missing__(self, name: str) -> set[ClientConnection]:
        return set()

    def discard(self, name: str, client: ClientConnection) -> bool:
        """Remove a subscriber; return whether it was the last one."""
        subscribers = self.get(name)
        if subscribers is None:
            return False
        subscribers.discard(client)
        if not subscribers:
            del self[name]
        return not subscribers


class WebSocketHandler(Generic[TState]):
    """Methods that clients call, and the hooks of their connections. Subclass it, and serve the class.

    Attributes:
        clients: the open connections.
        channels: the subscribers by channel name. A name without subscribers is not a key, but looking it up
            returns an empty set.
        patterns: the subscribers by glob, in the same form.
        send_error_text: whether the text of an unexpected exception of a method is sent to the client, as
            webshocket does. With False, the client gets an opaque id, which is also in the server's log.
            Default True.
    """

    send_error_text: ClassVar[bool] = True

    clients: set[ClientConnection[TState]]
    channels: _Subscribers
    patterns: _Subscribers
    _globs: Globs  # the patterns
    _methods: dict[str, Method]
    _slots: CallSlots

    def __init__(self) -> None:
        self._set_up()

    def _set_up(self) -> None:
        """Initialize. The server calls this, because a subclass's ``__init__`` may not call ours."""
        if "_methods" in self.__dict__:
            return
        self.clients = set()
        self.channels = _Subscribers()
        self.patterns = _Subscribers()
        self._globs = Globs()
        self._slots = CallSlots()
        self._methods = {}
        cls = type(self)
        for name in dir(cls):
            if inspect.isfunction(inspect.getattr_static(cls, name)) and is_rpc_method(getattr(cls, name)):
                method = make_method(getattr(self, name), self, self._slots)
                self._methods[method.name] = method

    # -- to be overridden ---------------------------------------------------------------------------

    async def on_connect(self, connection: ClientConnection[TState]) -> None:
        """Called with each new client, after the opening handshake.

        Calls and packets from the client wait until this returns. An exception closes the connection with
        code 1011.
        """

    async def on_disconnect(self, connection: ClientConnection[TState]) -> None:
        """Called once with each client that has gone, if ``on_connect`` returned for it."""

    async def on_receive(self, connection: ClientConnection[TState], packet: AnyPacket) -> None:
        """Called with each packet that is not a call, one at a time.

        A message that is not a packet becomes, as bytes, the data of a packet with source UNKNOWN.
        """

    # -- to be used ---------------------------------------------------------------------------------

    def register_rpc_method(self, func: Callable[..., object], alias_name: str | None = None) -> None:
        """Let clients call ``func(connection, ...)`` from now on. It replaces a method with the same name.

        Args:
            func: an async function with ``@rpc_method()``.
            alias_name: the name that clients call. Default: that of ``@rpc_method``, or the function's name.

        Raises:
            ValueError: ``func`` has no ``@rpc_method()``.
        """
        if not is_rpc_method(func):
            raise ValueError("Function is a non-RPC method.")
        method = make_method(func, self, self._slots, alias_name)
        self._methods[method.name] = method

    def broadcast(
        self,
        data: Value,
        exclude: Iterable[ClientConnection] | None = None,
        predicate: PredicateLike | None = None,
        **kwargs: Any,
    ) -> Sent:
        """Send data to all clients without waiting. A client that is too slow is closed with code 1013.

        Args:
            data: anything that msgspec can encode, or a `Packet` with source BROADCAST.
            exclude: clients that do not get the data.
            predicate: selects the clients that get the data. If it raises for a client, that client does not.
            **kwargs: further fields of the `Packet`, such as ``correlation_id``.

        Raises:
            PacketError: the packet has another source, or cannot be encoded.
        """
        packet = data if isinstance(data, Packet) else Packet(PacketSource.BROADCAST, data, **kwargs)
        if packet.source != PacketSource.BROADCAST:
            raise PacketError("Cannot broadcast non-broadcast packet.")
        self._send_to(self.clients, packet, exclude, predicate)
        return Sent()

    def publish(
        self,
        channel: str | Iterable[str],
        data: Value,
        exclude: Iterable[ClientConnection] | None = None,
        predicate: PredicateLike | None = None,
    ) -> Sent:
        """Send data to all subscribers of one or many channels, without waiting.

        For each of the channels, a client gets one packet, even if several of its names and globs match.

        Args:
            channel: the name of a channel, or several names.
            data: anything that msgspec can encode, or a `Packet` with source CHANNEL.
            exclude: clients that do not get the data.
            predicate: selects the clients that get the data. If it raises for a client, that client does not.

        Raises:
            PacketError: the packet has another source, or cannot be encoded.
        """
        if isinstance(data, Packet) and data.source != PacketSource.CHANNEL:
            raise PacketError("Cannot publish non-channel packet.")
        for name in [channel] if isinstance(channel, str) else dict.fromkeys(channel):
            recipients = set(self.channels.get(name, ()))
            for glob in self._globs.matching(name):
                recipients |= self.patterns[glob.text]
            packet = data if isinstance(data, Packet) else Packet(PacketSource.CHANNEL, data, channel=name)
            self._send_to(recipients, packet, exclude, predicate)
        return Sent()

    def _send_to(
        self,
        clients: Iterable[ClientConnection],
        packet: AnyPacket,
        exclude: Iterable[ClientConnection] | None,
        predicate: PredicateLike | None,
    ) -> None:
        excluded = frozenset(exclude or ())
        if predicate is not None:
            check_predicate(predicate)
        found: dict[ClientType, list[WebSocket]] = {}
        for client in clients:
            if client not in excluded and (predicate is None or check(predicate, client)):
                found.setdefault(client.client_type, []).append(client_websocket(client))
        for client_type, websockets in found.items():
            broadcast_raw(websockets, encode(packet, client_type))

    def subscribe(self, client: ClientConnection, channel: str | Iterable[str]) -> None:
        """Subscribe a client to one or many channels, regardless of its ``max_subscribed_channels``.

        Raises:
            ValueError, TypeError: a name is not a str, is empty or too long, or has too many wildcards.
        """
        for name in check_names(channel):
            if is_glob(name):
                self._globs.add(name)
                self.patterns.setdefault(name, set()).add(client)
            else:
                self.channels.setdefault(name, set()).add(client)
            note_subscription(client, name, subscribed=True)

    def unsubscribe(self, client: ClientConnection, channel: str | Iterable[str]) -> None:
        """Unsubscribe a client from names or globs. Those that it is not subscribed to are ignored."""
        for name in [channel] if isinstance(channel, str) else list(channel):
            self.channels.discard(name, client)
            if self.patterns.discard(name, client):
                self._globs.discard(name)
            note_subscription(client, name, subscribed=False)

    # -- what a server calls ------------------------------------------------------------------------

    @property
    def _keeps_packets(self) -> bool:
        """Whether packets wait for ``connection.recv()`` instead of being passed to ``on_receive``."""
        return False


class DefaultWebSocketHandler(WebSocketHandler[TState]):
    """The handler of servers without ``clientHandler``, with which ``server.accept()`` returns connections.

    Packets wait for ``connection.recv()``, unless a subclass overrides ``on_receive``.
    """

    @property
    def _keeps_packets(self) -> bool:
        return type(self).on_receive is DefaultWebSocketHandler.on_receive

    async def on_receive(self, connection: ClientConnection[TState], packet: AnyPacket) -> None:
        """Not called, because packets wait for ``connection.recv()``."""


# -- for servers ------------------------------------------------------------------------------------------


def limit_tasks(handler: WebSocketHandler, most: int) -> None:
    """Initialize a handler, and limit the calls that run at the same time."""
    handler._set_up()
    handler._slots.limit = trio.Semaphore(most)


def methods_of(handler: WebSocketHandler) -> dict[str, Method]:
    """Return the methods of a handler by name."""
    return handler._methods


def keeps_packets(handler: WebSocketHandler) -> bool:
    """Whether packets wait for ``connection.recv()`` instead of being passed to ``on_receive``."""
    return handler._keeps_packets
