"""The messages between processes as msgpack: data, predicate, and other fields of a publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from trio_ws._types import Value
from trio_ws.codecs.base import Packet, PacketSource
from trio_ws.errors import PacketError
from trio_ws.predicates import pack_predicate, unpack_predicate

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_ws.predicates import Predicate, PredicateLike

__all__ = ["SharedMessage", "pack_message", "unpack_message"]

_NO_PREDICATE = msgspec.Raw(b"\xc0")  # nil
#: Limit on the bytes of a predicate that is sent to other processes.
_MAX_PREDICATE = 65_536


class SharedMessage(NamedTuple):
    """A message that another process has published.

    Attributes:
        data: the published data.
        encoded: the same as msgpack.
        predicate: which connections it is meant for.
        given: its timestamp and correlation id, if it was published as a `Packet`.
        exclude: the uids of connections that do not receive it.
    """

    data: Value
    encoded: bytes
    predicate: Predicate | None
    given: Packet | None
    exclude: frozenset[str]


class _Short(msgspec.Struct, array_like=True):
    """The common form."""

    data: msgspec.Raw
    predicate: msgspec.Raw = _NO_PREDICATE


class _Long(_Short, array_like=True):
    """The form of a message that was a `Packet`, or that some connections do not receive."""

    timestamp: float | None = None
    correlation_id: Value = None
    exclude: list[str] = []


_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder(_Long).decode
_any_msgpack = msgspec.msgpack.Decoder().decode


def pack_message(
    encoded: bytes, predicate: PredicateLike | None, given: Packet | None, exclude: Collection[str] = ()
) -> bytes:
    """Return a message for other processes.

    Args:
        encoded: its data as msgpack.
        predicate: which connections it is meant for.
        given: the packet that it was, if it was one.
        exclude: the uids of connections that do not receive it.

    Raises:
        PacketError: the predicate, or a field of the packet other than its data, cannot be sent.
        TypeError: the predicate is not one that can be sent.
    """
    packed = _NO_PREDICATE
    if predicate is not None:
        parts = pack_predicate(predicate)
        try:
            packed = msgspec.Raw(_to_msgpack(parts))
        except Exception as exc:
            raise PacketError(f"cannot send {predicate!r} to other processes: {exc}") from exc
        if len(packed) > _MAX_PREDICATE:
            raise PacketError(f"the predicate exceeds {_MAX_PREDICATE} bytes, the limit with a broker")
    if given is None and not exclude:
        return _to_msgpack(_Short(msgspec.Raw(encoded), packed))
    timestamp = given.timestamp if given is not None else None
    correlation_id = given.correlation_id if given is not None else None
    try:
        return _to_msgpack(_Long(msgspec.Raw(encoded), packed, timestamp, correlation_id, list(exclude)))
    except Exception as exc:
        raise PacketError(f"cannot publish this packet: {exc}") from exc


def unpack_message(payload: bytes) -> SharedMessage:
    """Return a message that another process has sent. Raises one of `UNDECODABLE` if it is invalid."""
    shared = _from_msgpack(payload)
    given = None
    if shared.timestamp is not None or shared.correlation_id is not None:
        given = Packet(PacketSource.CHANNEL, None, None, None, shared.timestamp, shared.correlation_id)
    return SharedMessage(
        _any_msgpack(shared.data),
        bytes(shared.data),
        _unpack(shared.predicate),
        given,
        frozenset(shared.exclude),
    )


def _unpack(packed: msgspec.Raw) -> Predicate | None:
    if len(packed) > _MAX_PREDICATE:
        raise ValueError(f"a predicate of {len(packed)} bytes")
    parts = _any_msgpack(packed)
    return None if parts is None else unpack_predicate(parts)
