"""The parts that connect this package to trio_ws, the engine: a handler, a client, and codecs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.client.client import WebSocketClient
from trio_ws.codecs.base import DecodeError, Packet, Request
from trio_ws.codecs.packets import JSONPacketCodec, PacketCodec, TrioWSCodec, WebshocketCodec
from trio_ws.compat.webshocket.connection import ClientConnection
from trio_ws.compat.webshocket.enum import ClientType, PacketSource, RPCErrorCode
from trio_ws.compat.webshocket.handler import keeps_packets, methods_of
from trio_ws.compat.webshocket.packets import RawPayload, from_engine
from trio_ws.logs import shown
from trio_ws.rpc.client_connection import websocket_of
from trio_ws.rpc.handler import WebSocketHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio_ws.rpc.client_connection as engine
    from trio_ws._types import Value
    from trio_ws.compat.webshocket.handler import WebSocketHandler as UserHandler
    from trio_ws.rpc.session import RPCSession
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.runtime import ConnectionRuntime
from trio_ws.codecs.base import Codec

__all__ = ["SUBPROTOCOLS", "EngineClient", "EngineHandler"]

SUBPROTOCOLS = ("trio-ws.v1", "webshocket.v1")


class _HandsOn(PacketCodec):
    """Decodes a message that is not a packet as a `RawPayload`, unless it is or needs a response."""

    __slots__ = ()

    def decode(self, payload: str | bytes) -> Packet:
        try:
            return super().decode(payload)
        except DecodeError as exc:
            if exc.answer is not None or exc.packets:
                raise
            raw = payload.encode() if isinstance(payload, str) else payload
            return Packet(PacketSource.UNKNOWN, RawPayload(raw))

    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes:
        # Programs may check for the texts of webshocket.
        method = f"RPC method '{shown(request.method)}'"
        if code == RPCErrorCode.METHOD_NOT_FOUND and text.startswith("there is no method"):
            text = f"{method} not found."
        elif code == RPCErrorCode.ACCESS_DENIED and text == f"access to {request.method} denied":
            text = f"Access denied for {method}."
        elif code == RPCErrorCode.RATE_LIMIT_EXCEEDED and text.startswith("rate limit of"):
            text = f"Rate limit exceeded for {method}."
        return super().error(request, code, text, data, stream=stream)

    def _without_packet(self, payload: str | bytes, exc: Exception) -> Packet:
        # JSONPacketCodec would decode JSON that is not a packet.
        raise self._broken(payload, str(exc)) from exc


class _TrioWS(_HandsOn, TrioWSCodec):
    __slots__ = ()


class _Webshocket(_HandsOn, WebshocketCodec):
    __slots__ = ()


class _JSON(_HandsOn, JSONPacketCodec):
    __slots__ = ()


_CODECS: dict[str, Codec] = {"trio-ws.v1": _TrioWS(), "webshocket.v1": _Webshocket()}
_JSON_IN_BINARY = _JSON(binary=True)


def _hand_on(peer: RPCSession) -> RPCSession:
    peer.undecided = False
    peer.transport.set_codec(_CODECS.get(peer.ws.subprotocol or "", _JSON_IN_BINARY))
    return peer


class EngineHandler(WebSocketHandler[ClientConnection]):
    """An engine handler that passes everything to a handler with webshocket's interface.

    Args:
        handler: the user's handler.
        max_subscribed_channels: the limit for each connection.
        arrived: called with each new connection.
        left: called with each connection that has ended.
    """

    def __init__(
        self,
        handler: UserHandler,
        max_subscribed_channels: int,
        arrived: Callable[[ClientConnection], None],
        left: Callable[[ClientConnection], None],
    ) -> None:
        self._user = handler
        self._limit = max_subscribed_channels
        self._arrived = arrived
        self._left = left

    def _prepare(self) -> None:
        super()._prepare()
        self._methods = methods_of(self._user)

    def make_state(self, connection: engine.ClientConnection) -> ClientConnection:
        kind = ClientType.GENERIC if websocket_of(connection).subprotocol is None else ClientType.FRAMEWORK
        return ClientConnection(connection, self._user, kind, max_subscribed_channels=self._limit)

    def _make_session(
        self, connection: engine.ClientConnection, workers: TaskPool, *, debug: bool
    ) -> RPCSession:
        peer = _hand_on(super()._make_session(connection, workers, debug=debug))
        kind = ClientType.GENERIC if peer.ws.subprotocol is None else ClientType.FRAMEWORK
        object.__setattr__(connection.state, "client_type", kind)
        if keeps_packets(self._user):
            peer.delivery.on_packet = None
        return peer

    async def on_connect(self, connection: engine.ClientConnection) -> None:
        session: ClientConnection = connection.state
        await connection.accept()
        self._user.clients.add(session)
        self._arrived(session)
        try:
            await self._user.on_connect(session)
        except BaseException:
            self._gone(session)
            raise

    async def on_receive(self, connection: engine.ClientConnection, packet: Packet) -> None:
        session: ClientConnection = connection.state
        await self._user.on_receive(session, from_engine(packet, session.client_type))

    async def on_disconnect(self, connection: engine.ClientConnection) -> None:
        self._gone(connection.state)
        await self._user.on_disconnect(connection.state)

    def _gone(self, session: ClientConnection) -> None:
        self._user.clients.discard(session)
        self._user.unsubscribe(session, session.subscribed_channel)
        self._left(session)


class EngineClient(WebSocketClient):
    """An engine client with the codecs of this module."""

    async def _open_session(self, runtime: ConnectionRuntime) -> RPCSession:
        return _hand_on(await super()._open_session(runtime))
