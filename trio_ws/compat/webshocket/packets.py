"""Packets of webshocket, and their encoding."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import field

from trio_ws._types import JSONObject, Value
from trio_ws.compat.webshocket.enum import ClientType, PacketSource, RPCErrorCode
from trio_ws.compat.webshocket.exceptions import PacketError, PacketValidationError, UnserializableError
from trio_ws.decoding import UNDECODABLE
from trio_ws.errors import RateLimitError as _RateLimitError

if TYPE_CHECKING:
    from trio_ws.codecs.base import Packet as EnginePacket
    from trio_ws.errors import RPCError

__all__ = [
    "AnyPacket",
    "Packet",
    "PacketSource",
    "RPCRequest",
    "RPCResponse",
    "RawPayload",
    "deserialize",
    "encode",
    "from_engine",
    "response_for",
    "serialize",
]

_prefix = secrets.token_hex(4)
_count = itertools.count(1)


def _new_id() -> str:
    return f"{_prefix}{next(_count):x}"


class RPCRequest(msgspec.Struct, tag="request", gc=False):
    """A call.

    Attributes:
        method: the name of the method.
        args: arguments by position.
        kwargs: arguments by name.
        call_id: the id, which the response repeats. Default: an id that is unique in this process.
    """

    method: str
    args: Sequence[Value] = ()
    kwargs: JSONObject = field(default_factory=dict)
    call_id: str = field(default_factory=_new_id)


class RPCResponse(msgspec.Struct, tag="response", gc=False):
    """The response to a call, or one item of a stream.

    Attributes:
        call_id: the id of the request.
        response: the value that the method returned or yielded, or the text of its error.
        error: the error code, or None.
        is_stream: whether the method is a stream.
        is_end: whether this is the last response.
    """

    call_id: str
    response: Value = None
    error: RPCErrorCode | None = None
    is_stream: bool = False
    is_end: bool = False

    @property
    def data(self) -> Value:
        """The same as ``response``."""
        return self.response


RType = TypeVar("RType", bound=RPCRequest | RPCResponse)


class Packet(msgspec.Struct, Generic[RType], omit_defaults=True, gc=False):
    """One message.

    Attributes:
        source: what kind of message it is.
        data: the payload.
        rpc: the request or response of a call.
        channel: the channel that it was published to.
        timestamp: a time that the sender may set.
        correlation_id: an id that the sender may set.
    """

    source: PacketSource
    data: Value = None
    rpc: RType | None = None
    channel: str | None = None
    timestamp: float | None = None
    correlation_id: str | None = None


#: A packet of either kind, as it is received.
AnyPacket: TypeAlias = Packet[Any]


class RawPayload(bytes):
    """A message that is not a packet of the engine, as the ``data`` of a packet with source UNKNOWN."""

    __slots__ = ()


class _Decoder(Protocol):
    def decode(self, buf: bytes, /) -> Value: ...


_to_msgpack = msgspec.msgpack.Encoder().encode
_to_json = msgspec.json.Encoder().encode
_decoders: dict[ClientType, _Decoder] = {
    ClientType.FRAMEWORK: msgspec.msgpack.Decoder(Packet),
    ClientType.GENERIC: msgspec.json.Decoder(Packet),
}
_plain_decoders: dict[ClientType, _Decoder] = {
    ClientType.FRAMEWORK: msgspec.msgpack.Decoder(),
    ClientType.GENERIC: msgspec.json.Decoder(),
}


def serialize(base_model: msgspec.Struct) -> bytes:
    """Encode a `Packet`, or any other `msgspec.Struct`, as msgpack.

    Raises:
        PacketError: a value cannot be encoded. It is also a TypeError.
    """
    try:
        return _to_msgpack(base_model)
    except Exception as exc:  # encoding a user's object may raise anything
        raise UnserializableError(f"this cannot be sent: {exc}") from exc


def deserialize(data: bytes) -> AnyPacket:
    """Decode a `Packet` from msgpack.

    Raises:
        PacketValidationError: the data is msgpack, but not a packet.
        PacketError: the data is not msgpack.
    """
    try:
        packet: AnyPacket = _decoders[ClientType.FRAMEWORK].decode(data)
    except msgspec.ValidationError as exc:
        raise PacketValidationError(str(exc)) from exc
    except UNDECODABLE as exc:
        raise PacketError(str(exc)) from exc
    return packet


def encode(packet: AnyPacket, client_type: ClientType) -> bytes:
    """Encode a packet for a client of this type. Raises like `serialize`."""
    if client_type is ClientType.FRAMEWORK:
        return serialize(packet)
    try:
        return _to_json(packet)
    except Exception as exc:
        raise UnserializableError(f"this cannot be sent as JSON: {exc}") from exc


def from_engine(packet: EnginePacket, client_type: ClientType, *, plain: bool = False) -> AnyPacket:
    """Convert a packet of the engine to one for users.

    Args:
        packet: the engine's packet.
        client_type: determines how a raw payload is decoded.
        plain: whether JSON or msgpack that is not a packet becomes the data of a packet with source CUSTOM.
            Otherwise it becomes, as bytes, the data of a packet with source UNKNOWN.
    """
    data = packet.data
    if isinstance(data, RawPayload):
        return _from_raw(data, client_type, plain=plain)
    return Packet(
        source=packet.source,
        data=data,
        channel=packet.channel,
        timestamp=packet.timestamp,
        correlation_id=packet.correlation_id,
    )


def _from_raw(data: RawPayload, client_type: ClientType, *, plain: bool) -> AnyPacket:
    try:
        packet: AnyPacket = _decoders[client_type].decode(data)
    except UNDECODABLE:
        pass
    else:
        return packet  # webshocket accepts packets with source RPC but without a call; the engine does not
    if plain:
        try:
            return Packet(PacketSource.CUSTOM, _plain_decoders[client_type].decode(data))
        except UNDECODABLE:
            pass
    return Packet(PacketSource.UNKNOWN, bytes(data))


def response_for(error: RPCError, call_id: str, *, is_stream: bool = False) -> RPCResponse:
    """Return the response for a call that failed."""
    try:
        code = RPCErrorCode(error.code)
    except ValueError:
        code = RPCErrorCode.INTERNAL_SERVER_ERROR
    if isinstance(error, _RateLimitError):
        code = RPCErrorCode.RATE_LIMIT_EXCEEDED
    return RPCResponse(call_id, error.message, code, is_stream, True)
