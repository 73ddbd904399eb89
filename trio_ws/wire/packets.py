"""The packets that calls and data travel in, and the dialects they are written in.

One message is one packet: a map with string keys, as msgpack or as JSON; docs/protocol.md has the exact form.
A `Dialect` turns messages into packets and back; `trio_ws.wire.jsonrpc` has the one that writes no packets.

What always holds here:

- For any bytes `Dialect.decode` gives what is well-formed and within limits, or raises `BrokenPacketError`.
- An encoder gives bytes or raises `PacketError`. `Dialect.error` never raises: every call can be ended.
- Nothing that only trio-ws.v1 knows is ever sent in another dialect: webshocket 0.5.2 drops a packet with a
  code or a source that it does not know, and the call would hang.
"""

from __future__ import annotations

import enum
import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from trio_ws.errors import PacketError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws.options import Options

__all__ = [
    "ABORT",
    "CREDIT",
    "MAX_NAME",
    "METHODS",
    "SUBPROTOCOLS",
    "SUBSCRIBE",
    "UNDECODABLE",
    "UNSUBSCRIBE",
    "BrokenPacketError",
    "Dialect",
    "JSONPackets",
    "Packet",
    "PacketSource",
    "Request",
    "Response",
    "TrioWS",
    "Webshocket",
    "choose",
    "describe",
    "detect",
    "path_in",
    "plain_dialect",
]

# What a server takes, the best first; a client offers the first two.
SUBPROTOCOLS = ("trio-ws.v1", "webshocket.v1", "jsonrpc")

# The reserved methods. Requests to them have no answer.
ABORT = "__abort__"
CREDIT = "__credit__"

# What a client asks to subscribe itself to channels. These are answered, as any other method.
SUBSCRIBE = "__subscribe__"
UNSUBSCRIBE = "__unsubscribe__"

# What a client asks for the list of methods; answered where the handler allows it.
METHODS = "__methods__"

# Characters of a method's name, a call's id or a stream's id: they are keys here and stand in logs.
MAX_NAME = 256

# What msgspec raises for bytes that it cannot take: its own errors and UnicodeError are ValueErrors, deep
# nesting is a RecursionError, and TypeError is text where it wants bytes.
UNDECODABLE = (ValueError, RecursionError, OverflowError, TypeError)

_INVALID_PARAMS = -32602
_APPLICATION_ERROR = -32001
# The codes that every peer knows.
_PLAIN_CODES = frozenset({-32601, -32602, -32603, -32000, -32001, -32002})

_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class PacketSource(enum.IntEnum):
    """What a packet is."""

    BROADCAST = 1
    CHANNEL = 2
    UNKNOWN = 3
    CUSTOM = 4
    RPC = 5


# Looking a member up in an enum costs as much as half of all else that is done to a packet here.
_RPC = PacketSource.RPC


# gc=False: what comes out of bytes holds no cycle, so the collector need not look at it.
class Request(msgspec.Struct, tag="request", tag_field="type", omit_defaults=True, gc=False):
    """A call.

    Attributes:
        method: its name, at most 256 characters.
        args: arguments by position.
        kwargs: arguments by name.
        call_id: at most 256 characters; empty where the caller gave none.
        timeout: seconds that are left for it (trio-ws.v1).
        credits: the caller expects a stream, and takes so many items before it sends more credit
            (trio-ws.v1).
        streams: which arguments are streams of the caller's: position or name to stream id (trio-ws.v1).
    """

    method: _Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    call_id: _Name = ""
    timeout: _Seconds | None = None
    credits: _Count | None = None
    streams: dict[_Name, _Name] | None = None


class Response(msgspec.Struct, tag="response", tag_field="type", omit_defaults=True, gc=False):
    """An answer, or an item or the end of a stream.

    Attributes:
        call_id: the request's.
        response: the value; the text for a person, where `error` is set.
        error: a code, or None.
        is_stream: this belongs to a stream.
        is_end: the stream ends here.
        error_data: for a program, beside an error's text (trio-ws.v1 and JSON-RPC).
    """

    call_id: _Name
    response: Any = None
    error: int | None = None
    is_stream: bool = False
    is_end: bool = False
    error_data: Any = None


class Packet(msgspec.Struct, omit_defaults=True, gc=False):
    """One message.

    Attributes:
        source: what it is.
        data: the payload, where it is no call.
        channel: the channel's name, of a CHANNEL packet.
        rpc: the call or answer, of an RPC packet and of no other.
        timestamp: passed through.
        correlation_id: passed through.
    """

    source: PacketSource
    data: Any = None
    channel: str | None = None
    rpc: Request | Response | None = None
    timestamp: float | None = None
    correlation_id: Any = None


class BrokenPacketError(PacketError):
    """A message that is no packet, in whole or in part.

    Attributes:
        answer: what is to be sent now, or None.
        fatal: nobody can be told, so the connection must end (close code 1007).
        packets: what is good in the same message all the same.
    """

    def __init__(
        self, text: str, *, answer: bytes | None = None, fatal: bool = False, packets: Sequence[Packet] = ()
    ) -> None:
        super().__init__(text)
        self.answer = answer
        self.fatal = fatal
        self.packets = packets


class Dialect(ABC):
    """How packets are written on one connection.

    What answers a call takes the `Request` that `decode` gave, and returns None where nothing is to be sent.
    Each such request, notifications too, is ended by exactly one of `result`, `error`, `end` and `dropped`;
    those to `ABORT` and `CREDIT` by none.

    Attributes:
        name: the subprotocol's, or ``"json"``.
        binary: send in binary frames.
        extended: there are deadlines, credits, client streams and error data.
        calls_back: the peer can be called.
    """

    __slots__ = ("binary", "calls_back", "extended", "name")

    def __init__(self, name: str, *, binary: bool, extended: bool = False, calls_back: bool = True) -> None:
        self.name = name
        self.binary = binary
        self.extended = extended
        self.calls_back = calls_back

    @abstractmethod
    def decode(self, payload: str | bytes) -> Packet | list[Packet]:
        """The packets in one message.

        Raises:
            BrokenPacketError: what `payload` says is not, or not only, packets.
        """

    @abstractmethod
    def result(self, request: Request, value: Any) -> bytes | None:
        """The answer to a call."""

    @abstractmethod
    def error(
        self, request: Request, code: int, text: str, data: Any = None, *, stream: bool = False
    ) -> bytes | None:
        """The end of a call that failed; never raises, and leaves out `data` that cannot be encoded.

        Args:
            request: the call.
            code: what the dialect cannot carry becomes -32001.
            text: for a person.
            data: for a program.
            stream: the method is a stream's; a request with credits is one anyhow.
        """

    @abstractmethod
    def item(self, request: Request, value: Any) -> bytes | None:
        """One item of a stream."""

    def items(self, request: Request) -> Callable[[Any], bytes | None]:
        """What encodes the items of one stream, one by one."""
        return functools.partial(self.item, request)

    @abstractmethod
    def end(self, request: Request) -> bytes | None:
        """The end of a stream that did not fail."""

    def dropped(self, request: Request) -> bytes | None:
        """What is to be sent for a call that its caller has aborted."""
        return None

    @abstractmethod
    def request(
        self,
        call_id: str,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        credits: int | None = None,
        streams: Mapping[str, str] | None = None,
    ) -> bytes:
        """A call of ours. Where the dialect is not extended, `timeout` and `credits` are not sent."""

    @abstractmethod
    def abort(self, call_id: str) -> bytes:
        """That a call or a stream is given up."""

    @abstractmethod
    def credit(self, call_id: str, count: int) -> bytes:
        """That `count` more items are wanted. PacketError where the dialect is not extended."""

    @abstractmethod
    def packet(self, packet: Packet) -> bytes:
        """A packet of data."""

    def data(
        self, data: Any, *, source: PacketSource = PacketSource.CUSTOM, channel: str | None = None
    ) -> bytes:
        """A packet of data, from its parts."""
        return self.packet(Packet(source, data, channel))


class _CallToAnswer(msgspec.Struct, gc=False):
    type: Literal["request"]
    call_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


class _Glimpse(msgspec.Struct, gc=False):
    """So much of a broken packet as it takes to answer it. The rest is skipped, whatever it is."""

    rpc: _CallToAnswer


_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder(Packet).decode
_glimpse_msgpack = msgspec.msgpack.Decoder(_Glimpse).decode
_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(Packet).decode
_glimpse_json = msgspec.json.Decoder(_Glimpse).decode
_any_json = msgspec.json.Decoder().decode


class _Packets(Dialect):
    """What the three dialects of packets have in common. Without state, so one may serve many connections."""

    __slots__ = ("_after", "_before", "_between", "_decode", "_encode", "_glimpse")

    def __init__(
        self,
        name: str,
        encode: Callable[[Any], bytes],
        decode: Callable[[Any], Packet],
        glimpse: Callable[[Any], _Glimpse],
        *,
        binary: bool,
        extended: bool = False,
        calls_back: bool = True,
    ) -> None:
        super().__init__(name, binary=binary, extended=extended, calls_back=calls_back)
        self._encode = encode
        self._decode = decode
        self._glimpse = glimpse
        # What stands around the id and the value of every result: half the time of encoding it each time.
        whole = encode({"source": _RPC, "rpc": {"type": "response", "call_id": "", "response": None}})
        key, no_id, null = encode("call_id"), encode(""), encode(None)
        id_at, value_at = whole.index(no_id, whole.index(key) + len(key)), whole.rindex(null)
        self._before = whole[:id_at]
        self._between = whole[id_at + len(no_id) : value_at]
        self._after = whole[value_at + len(null) :]

    def decode(self, payload: str | bytes) -> Packet:
        try:
            packet = self._decode(payload)
        except UNDECODABLE as exc:
            return self._without_packet(payload, exc)
        rpc = packet.rpc
        if (rpc is None) is (packet.source is _RPC):
            raise self._broken(payload, "source 5 and `rpc` go together - at `$.rpc`")
        if (
            type(rpc) is Request
            and not self.extended
            and (rpc.timeout is not None or rpc.credits is not None or rpc.streams is not None)
        ):
            rpc.timeout = rpc.credits = rpc.streams = None
        return packet

    def _without_packet(self, payload: str | bytes, exc: Exception) -> Packet:
        raise self._broken(payload, describe(exc)) from exc

    def _broken(self, payload: str | bytes, text: str) -> BrokenPacketError:
        try:
            call_id = self._glimpse(payload).rpc.call_id
        except UNDECODABLE:
            return BrokenPacketError(f"this is no {self.name} packet: {text}", fatal=True)
        answer = self.error(Request("", call_id=call_id), _INVALID_PARAMS, text, {"path": path_in(text)})
        return BrokenPacketError(f"this is no {self.name} request: {text}", answer=answer)

    # What an application gives us may raise anything while it is encoded.
    def _unsendable(self, exc: Exception) -> PacketError:
        return PacketError(f"this cannot be sent in {self.name}: {exc}")

    def _send(self, packet: Packet) -> bytes:
        try:
            return self._encode(packet)
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def result(self, request: Request, value: Any) -> bytes:
        if value is None:
            return self._send(Packet(_RPC, rpc=Response(request.call_id)))
        encode = self._encode
        try:
            return self._before + encode(request.call_id) + self._between + encode(value) + self._after
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def error(
        self, request: Request, code: int, text: str, data: Any = None, *, stream: bool = False
    ) -> bytes:
        in_stream = stream or request.credits is not None
        if not self.extended:
            data = None
            if code not in _PLAIN_CODES:
                code = _APPLICATION_ERROR
        response = Response(request.call_id, text, code, in_stream, in_stream, data)
        packet = Packet(_RPC, rpc=response)
        try:
            return self._send(packet)
        except PacketError:
            response.error_data = None
            response.response = text.encode(errors="replace").decode()
            if not -(2**63) <= code < 2**63:
                response.error = _APPLICATION_ERROR
            return self._send(packet)

    def item(self, request: Request, value: Any) -> bytes:
        try:
            return self._encode(Packet(_RPC, None, None, Response(request.call_id, value, None, True)))
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def items(self, request: Request) -> Callable[[Any], bytes]:
        # All but the value is the same for each item, so it is encoded once: a third of the time.
        rpc = {"type": "response", "call_id": request.call_id, "is_stream": True, "response": None}
        encode, after = self._encode, self._after
        before = encode({"source": _RPC, "rpc": rpc}).removesuffix(encode(None) + after)

        def item(value: Any) -> bytes:
            try:
                return before + encode(value) + after
            except Exception as exc:
                raise self._unsendable(exc) from exc

        return item

    def end(self, request: Request) -> bytes:
        response = Response(request.call_id, is_stream=True, is_end=True)
        return self._send(Packet(_RPC, rpc=response))

    def request(
        self,
        call_id: str,
        method: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        credits: int | None = None,
        streams: Mapping[str, str] | None = None,
    ) -> bytes:
        request = Request(method, list(args), dict(kwargs) if kwargs else {}, call_id)
        if self.extended:
            request.timeout = timeout
            request.credits = credits
            request.streams = dict(streams) if streams else None
        elif streams:
            raise PacketError(f"an argument cannot be a stream in {self.name}; that takes trio-ws.v1")
        try:
            return self._encode(Packet(_RPC, None, None, request))
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def abort(self, call_id: str) -> bytes:
        return self._send(Packet(_RPC, rpc=Request(ABORT, [call_id])))

    def credit(self, call_id: str, count: int) -> bytes:
        if not self.extended:
            raise PacketError(f"there are no credits in {self.name}")
        return self._send(Packet(_RPC, rpc=Request(CREDIT, [call_id, count])))

    def packet(self, packet: Packet) -> bytes:
        return self._send(packet)


class TrioWS(_Packets):
    """``trio-ws.v1``: msgpack, and all there is."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            "trio-ws.v1", _to_msgpack, _from_msgpack, _glimpse_msgpack, binary=True, extended=True
        )


class Webshocket(_Packets):
    """``webshocket.v1``: msgpack, no more than webshocket 0.5.2 knows, whose client takes no calls."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            "webshocket.v1", _to_msgpack, _from_msgpack, _glimpse_msgpack, binary=True, calls_back=False
        )


class JSONPackets(_Packets):
    """The same packets in JSON, for a browser without a library; bytes are base64.

    Args:
        binary: send in binary frames; both kinds are taken.
    """

    __slots__ = ()

    def __init__(self, *, binary: bool = False) -> None:
        super().__init__("json", _to_json, _from_json, _glimpse_json, binary=binary)

    def _without_packet(self, payload: str | bytes, exc: Exception) -> Packet:
        """JSON that does not look like a packet is data of an unknown source."""
        broken = self._broken(payload, describe(exc))
        if broken.fatal:
            try:
                data = _any_json(payload)
            except UNDECODABLE:
                raise broken from exc
            if not (isinstance(data, dict) and "source" in data):
                return Packet(PacketSource.UNKNOWN, data)
        raise broken from exc


_TRIO_WS = TrioWS()
_WEBSHOCKET = Webshocket()
_JSON_IN_TEXT = JSONPackets()
_JSON_IN_BINARY = JSONPackets(binary=True)


class _Probe(msgspec.Struct, gc=False):
    jsonrpc: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_probe = msgspec.json.Decoder(_Probe).decode


def choose(subprotocol: str | None, options: Options) -> Dialect | None:  # noqa: ARG001, as detect() has it
    """The dialect that the opening handshake agreed on, or None: the first message decides, see `detect`."""
    from trio_ws.wire.jsonrpc import JSONRPC  # noqa: PLC0415, that module builds on this one

    if subprotocol == "trio-ws.v1":
        return _TRIO_WS
    if subprotocol == "webshocket.v1":
        return _WEBSHOCKET
    if subprotocol == "jsonrpc":
        return JSONRPC()
    return None


def detect(payload: str | bytes, options: Options) -> Dialect:
    """The dialect of a peer that agreed on none, from its first message: JSON-RPC or JSON packets."""
    from trio_ws.wire.jsonrpc import JSONRPC  # noqa: PLC0415, see choose()

    start, mark = ("[", '"jsonrpc"') if isinstance(payload, str) else (b"[", b'"jsonrpc"')
    try:
        is_jsonrpc = _probe(payload).jsonrpc is not msgspec.UNSET
    except UNDECODABLE:
        # A batch, or broken JSON: JSON-RPC has an answer to that too.
        is_jsonrpc = payload.lstrip().startswith(start) or mark in payload  # type: ignore[arg-type, operator]
    if is_jsonrpc:
        return JSONRPC()
    return plain_dialect(options)


def plain_dialect(options: Options) -> Dialect:
    """What is spoken with a peer that agreed on no dialect and has not said anything yet: JSON packets."""
    return _JSON_IN_BINARY if options.json_in_binary else _JSON_IN_TEXT


def describe(exc: Exception) -> str:
    """What an error of msgspec's says, shortened: it may quote what the peer sent."""
    text = str(exc)
    return text if len(text) <= 300 else f"{text[:150]} ... {text[-150:]}"


def path_in(text: str) -> str:
    """The path in an error of msgspec's, such as ``"$.rpc.args"``; ``"$"`` where it has none."""
    _, found, path = text.rpartition(" - at `")
    return path.removesuffix("`") if found else "$"
