"""Packets, which contain calls and data, and the interface of codecs.

A `Codec` decodes messages to packets, and encodes packets to messages. packets.py contains the codecs of our
own packets, jsonrpc.py the one of JSON-RPC. registry.py selects the codec of a connection.

Invariants of every codec:

- For any bytes, `Codec.decode` returns what is well-formed and within limits, or raises `DecodeError`.
- An encoder returns bytes or raises `PacketError`. `Codec.error` never raises, so every call can be ended.
"""

from __future__ import annotations

import enum
import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeVar

import msgspec

from trio_ws._types import JSONObject, NamedValues, Value
from trio_ws.errors import PacketError

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws.ledger import MemoryLedger

__all__ = [
    "ABORT",
    "CREDIT",
    "DEADLINE",
    "DISCOVER",
    "GOAWAY",
    "MAX_NAME",
    "METHODS",
    "PRESENCE",
    "PUBLISH",
    "RECOVER",
    "REFRESH",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "UNSUBSCRIBED",
    "Codec",
    "DecodeError",
    "Gap",
    "Packet",
    "PacketSource",
    "Position",
    "Request",
    "Response",
    "path_in",
]

PendingT = TypeVar("PendingT")

# Reserved methods. Requests to these have no response.
ABORT = "__abort__"
CREDIT = "__credit__"
DEADLINE = "__deadline__"
GOAWAY = "__goaway__"

# Methods by which clients subscribe to channels. They have a response, like any other method.
SUBSCRIBE = "__subscribe__"
UNSUBSCRIBE = "__unsubscribe__"
# Like `SUBSCRIBE`, for channels that the client continues to receive from a position (trio-ws.v1).
RECOVER = "__recover__"

# Sent by a server when a subscription is no longer allowed. It has no response (trio-ws.v1).
UNSUBSCRIBED = "__unsubscribed__"
# The method by which a client publishes, if the handler allows it.
PUBLISH = "__publish__"
REFRESH = "__refresh__"

# The method that streams the members of a channel to a client (trio-ws.v1).
PRESENCE = "__presence__"

# The methods that return the list of methods, if the handler allows it.
METHODS = "__methods__"
DISCOVER = "rpc.discover"

# The maximum length of method names, and of ids of calls and streams, which are dict keys and are logged.
MAX_NAME = 256

_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Position(NamedTuple):
    """The position of a message in a channel with a history: ``packet.position``.

    It is a tuple, which can be stored and passed to ``subscribe(..., after=position)`` later.

    Attributes:
        epoch: identifies the sequence of offsets. It changes when the history was lost.
        offset: the number of the message, from 1; 0 is the position before the first message.
    """

    epoch: str
    offset: int


# Constraints on the wire. They are not strings, because those could only be resolved in this module, but the
# class is exported from another one.
Position.__annotations__ = {"epoch": Annotated[str, msgspec.Meta(max_length=64)], "offset": _Bytes}


class PacketSource(enum.IntEnum):
    """The kind of a packet."""

    BROADCAST = 1
    CHANNEL = 2
    UNKNOWN = 3
    CUSTOM = 4
    RPC = 5


# gc=False: decoded data contains no reference cycles, so the garbage collector need not track it.
class Request(msgspec.Struct, tag="request", tag_field="type", omit_defaults=True, gc=False):
    """A call.

    Attributes:
        method: the name of the method, at most 256 characters.
        args: positional arguments.
        kwargs: keyword arguments.
        call_id: the id, at most 256 characters; empty if the caller gave none.
        timeout: the remaining seconds of the call (trio-ws.v1).
        credits: the number of items that the caller accepts before it sends more credit, if it expects a
            stream (trio-ws.v1).
        streams: which arguments are streams from the caller: maps position or name to stream id (trio-ws.v1).
        nested: whether it was made within a call of the other side, which may be waiting for it (trio-ws.v1).
        credit_bytes: the number of bytes that the caller accepts, like `credits`; None if the caller does not
            limit the bytes (trio-ws.v1).
    """

    method: _Name
    args: list[Value] = []
    kwargs: JSONObject = {}
    call_id: _Name = ""
    timeout: _Seconds | None = None
    credits: _Count | None = None
    streams: dict[_Name, _Name] | None = None
    nested: bool = False
    credit_bytes: _Bytes | None = None

    @property
    def is_notification(self) -> bool:
        """Whether the caller expects no response, not even an error."""
        return False


class Response(msgspec.Struct, tag="response", tag_field="type", omit_defaults=True, gc=False):
    """A response, or an item or the end of a stream.

    Attributes:
        call_id: the id of the request.
        response: the value; the text of the error if `error` is set.
        error: an error code, or None.
        is_stream: whether it belongs to a stream.
        is_end: whether the stream ends here.
        error_data: data of an error for programs (trio-ws.v1 and JSON-RPC).
    """

    call_id: _Name
    response: Value = None
    error: int | None = None
    is_stream: bool = False
    is_end: bool = False
    error_data: Value = None


class Packet(msgspec.Struct, omit_defaults=True, gc=False):
    """One message.

    Attributes:
        source: the kind of the packet.
        data: the payload, unless it is a call.
        channel: the channel's name; only for CHANNEL packets.
        rpc: the request or response; only for RPC packets.
        timestamp: not interpreted.
        correlation_id: not interpreted.
        position: the position of a CHANNEL packet in its channel, if the channel keeps a history
            (trio-ws.v1).
        gap: for a `Gap`, the number of missing messages up to ``position``, or -1 if it is unknown; None for
            a packet with data (trio-ws.v1).
    """

    source: PacketSource
    data: Value = None
    channel: str | None = None
    rpc: Request | Response | None = None
    timestamp: float | None = None
    correlation_id: Value = None
    position: Position | None = None
    gap: int | None = None

    @property
    def offset(self) -> int | None:
        """The number of a CHANNEL packet in its channel; None if the channel keeps no history."""
        return self.position.offset if self.position is not None else None

    @property
    def epoch(self) -> str | None:
        """The epoch of ``offset``; None if the channel keeps no history."""
        return self.position.epoch if self.position is not None else None


class Gap(Packet):
    """A packet in a subscription that marks the place of missing messages. ``data`` is None.

    ``channel`` is the channel, or the glob that was subscribed to. ``position`` is that of the last missing
    message, if it is known; the next packet of the channel comes after it.
    """

    @property
    def missing(self) -> int | None:
        """The number of missing messages; None if it is unknown."""
        return self.gap if self.gap is not None and self.gap > 0 else None


class DecodeError(PacketError):
    """A message that is not a packet, in whole or in part.

    Attributes:
        answer: a payload to send in response, or None.
        fatal: whether no response is possible. The connection must then be closed with `close_code`, unless
            one of `packets` is the response to a call of this side.
        close_code: 1007 for a malformed message, 1009 for one that is too large.
        packets: the well-formed packets of the same message.
    """

    def __init__(
        self,
        text: str,
        *,
        answer: bytes | None = None,
        fatal: bool = False,
        close_code: int = 1007,
        packets: Sequence[Packet] = (),
    ) -> None:
        super().__init__(text)
        self.answer = answer
        self.fatal = fatal
        self.close_code = close_code
        self.packets = packets


class TakeResponses(Protocol):
    """The type of `PlainCalls.take_responses`."""

    def __call__(
        self,
        messages: deque[str | bytes],
        pending: dict[str, PendingT],
        response: type[Response],
        limit: int,
        most: int,
        /,
    ) -> list[PendingT]:
        """Take responses. ``pending`` are calls with an attribute ``value``."""
        raise NotImplementedError


class PlainCalls(NamedTuple):
    """A fast path of a codec for calls whose requests have nothing but a method, scalar arguments and an id.

    Attributes:
        read: returns method, arguments and id of such a request; None, result and id of a response with a
            scalar; None for any other message.
        encode: encodes a result, or the arguments of a request.
        frame: returns the frame without a mask for an id and an encoded result, which is not null.
        request_frame: returns the frame for a method, its encoded arguments, which are not empty, an id, and
            the key of the mask or b"".
        take_responses: removes plain responses to pending calls from the start of a deque of messages, and
            those calls from their dict, and returns these calls. It stops after a number of them, and at any
            other message, and at one of a number of bytes.
        buffer: the same in one call, for a write buffer, an id and a result: buffers that frame. Its first
            argument is None; see `buffer_item` in C. It returns None if nothing was buffered.
    """

    read: Callable[[str | bytes], tuple[str | None, Value, str] | None]
    encode: Callable[[Value], bytes]
    frame: Callable[[str, bytes], bytes]
    request_frame: Callable[[str, bytes, str, bytes], bytes]
    take_responses: TakeResponses
    buffer: Callable[[None, Any, str, Value], int | None]


class Codec(ABC):
    """Encodes and decodes the packets of one connection.

    The encoders of responses take the `Request` that `decode` returned, and return None if nothing is sent.
    Exactly one of `result`, `error`, `end` and `dropped` is called for each request, including notifications,
    and none of them for `ABORT`, `CREDIT`, `DEADLINE` and `GOAWAY`.

    Attributes:
        name: the name of the subprotocol, or ``"json"``.
        binary: whether messages are sent in binary frames.
        supports_extensions: whether the codec has deadlines, credits, client streams and error data.
        peer_accepts_calls: whether the peer accepts calls.
        calls_at_once: the maximum number of concurrent calls of this side; None for any number.
        plain_calls: the fast path for the plainest calls, or None.
    """

    __slots__ = ("binary", "name", "peer_accepts_calls", "supports_extensions")

    calls_at_once: int | None = None
    plain_calls: PlainCalls | None = None

    def __init__(self, name: str, *, binary: bool, extended: bool = False, calls_back: bool = True) -> None:
        self.name = name
        self.binary = binary
        self.supports_extensions = extended
        self.peer_accepts_calls = calls_back

    @abstractmethod
    def decode(self, payload: str | bytes) -> Packet | list[Value]:
        """Return the packet in one message, or a list of packets, or of batch members for `decode_member`.

        Raises:
            DecodeError: `payload` is malformed, in whole or in part.
        """

    def decode_member(self, member: Value) -> Packet | list[Value]:
        """Return the packet in a member of a batch, or [] if nothing is left to do. Raises as `decode`."""
        raise NotImplementedError

    @abstractmethod
    def measured_from(self, limit: int) -> int:
        """Return the size of payloads from which on `decoded_size` must be checked against `limit`."""

    @abstractmethod
    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        """Return the bytes of Python objects that `payload` decodes to, exact up to `limit`.

        See decoded_size.py. A negative result means that the payload must not be decoded, whatever its size.
        """

    @abstractmethod
    def refusal(self, payload: str | bytes, text: str, *, close_code: int = 1007) -> DecodeError:
        """Return the error for a message that must not be decoded, for the reason in ``text``."""

    def use_ledger(self, ledger: MemoryLedger) -> None:  # noqa: B027 - most hold nothing
        """Charge the memory that the codec holds for the peer to this ledger."""

    @abstractmethod
    def result(self, request: Request, value: Value) -> bytes | None:
        """Encode the result of a call."""

    @abstractmethod
    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes | None:
        """Encode the end of a call that failed. Never raises; omits `data` that cannot be encoded.

        Args:
            request: the call.
            code: the error code; -32001 is sent instead of one that the codec does not support.
            text: the text of the error, for people.
            data: the data of the error, for programs.
            stream: whether the method is a stream; not needed for a request with credits.
        """

    @abstractmethod
    def item(self, request: Request, value: Value) -> bytes | None:
        """Encode one item of a stream."""

    def items(self, request: Request) -> Callable[[Value], bytes | None]:
        """Return a function that encodes the items of one stream."""
        return functools.partial(self.item, request)

    def item_parts(self, request: Request) -> tuple[int, bytes, bytes, bytes, str] | None:
        """Return the fast path for the items of one stream, if there is `plain_calls`.

        These are the first arguments of `result_frame` in C, which makes the frame without a mask of an item
        that `PlainCalls.encode` has encoded.
        """
        return None

    @abstractmethod
    def end(self, request: Request) -> bytes | None:
        """Encode the end of a stream that did not fail."""

    def dropped(self, request: Request) -> bytes | None:
        """Encode the end of a call that its caller has aborted."""
        return None

    @abstractmethod
    def request(
        self,
        call_id: str,
        method: str,
        args: Sequence[Value] = (),
        kwargs: NamedValues | None = None,
        timeout: float | None = None,
        credits: int | None = None,
        streams: Mapping[str, str] | None = None,
        *,
        nested: bool = False,
        credit_bytes: int | None = None,
    ) -> bytes:
        """Encode a call of ours. Without extensions, `timeout` and `credits` are not sent."""

    def notification(
        self, method: str, args: Sequence[Value] = (), kwargs: NamedValues | None = None
    ) -> bytes:
        """Encode a notification. Raises PacketError if the codec has none."""
        raise PacketError(f"there are no notifications in {self.name}; use call() or send()")

    def batch(self, call_ids: Sequence[str], members: Sequence[bytes]) -> bytes:
        """Join encoded calls and notifications to one message. Raises PacketError if the codec has no
        batches.

        Args:
            call_ids: the ids of the calls among the members.
            members: the results of `request` and `notification`.
        """
        raise PacketError(f"there are no batches in {self.name}")

    @abstractmethod
    def abort(self, call_id: str) -> bytes | None:
        """Encode an abort of a call or a stream; None if the codec has no aborts."""

    @abstractmethod
    def credit(self, call_id: str, count: int, size: int) -> bytes:
        """Encode credit for `count` items of `size` bytes. Raises PacketError without extensions."""

    def deadline(self, call_id: str, seconds: float) -> bytes:
        """Encode a new deadline of a call, in seconds from now. Raises PacketError without extensions."""
        raise PacketError(f"there are no deadlines in {self.name}")

    def goaway(self, begun: Sequence[str]) -> bytes:
        """Encode a notice that no more calls are started.

        Args:
            begun: the ids of the calls that were started and have no response yet.

        Raises:
            PacketError: the codec has no extensions.
        """
        raise PacketError(f"there is no goaway in {self.name}")

    @abstractmethod
    def packet(self, packet: Packet) -> bytes:
        """Encode a packet of data."""

    def data(
        self, data: Value, *, source: PacketSource = PacketSource.CUSTOM, channel: str | None = None
    ) -> bytes:
        """Encode a packet of data from its parts. If the data is a `Packet`, it is sent unchanged.

        Raises:
            PacketError: the data cannot be encoded, or the packet is a call or a response.
        """
        if isinstance(data, Packet):
            if data.source is PacketSource.RPC or data.rpc is not None:
                raise PacketError("a packet of source RPC cannot be sent; use call() or stream()")
            return self.packet(data)
        return self.packet(Packet(source, data, channel))


def path_in(text: str) -> str:
    """Return the path in an error of msgspec, such as ``"$.rpc.args"``; ``"$"`` if it has none."""
    _, found, path = text.rpartition(" - at `")
    return path.removesuffix("`") if found else "$"
