"""The codecs that write packets: trio-ws.v1, trio-ws.v1.json, webshocket.v1 and plain JSON.

Each message is one packet: a map with string keys, as msgpack or as JSON; docs/protocol.md defines it.

Invariant: extensions of trio-ws.v1 are never sent by another codec. webshocket 0.5.2 drops packets with an
unknown code or source, so the call would hang.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from trio_ws.codecs.base import (
    ABORT,
    CREDIT,
    DEADLINE,
    GOAWAY,
    MAX_NAME,
    Codec,
    DecodeError,
    Packet,
    PacketSource,
    PlainCalls,
    Request,
    Response,
    path_in,
)
from trio_ws.codecs.decoded_size import json_size, msgpack_size
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.ledger import MOST_GROWTH
from trio_ws.models import encode_model
from trio_ws.protocol.frames import BINARY, FIN
from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws._types import NamedValues, Value

__all__ = ["JSONPacketCodec", "TrioWSCodec", "TrioWSJSONCodec", "WebshocketCodec"]

_INVALID_PARAMS = -32602
_UNREADABLE = -32603
_APPLICATION_ERROR = -32001
# The codes that every peer knows.
_PLAIN_CODES = frozenset({-32601, -32602, -32603, -32000, -32001, -32002})

# Looking up a member of an enum takes half as long as all other processing of a packet here.
_RPC = PacketSource.RPC


# In a map of this many bytes of msgpack, keys that were chosen to collide cost a quarter of a millisecond.
_COLLIDING = 1024


class _CallToEnd(msgspec.Struct, gc=False):
    type: Literal["request", "response"]
    call_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)] | int


class _Glimpse(msgspec.Struct, gc=False):
    """The parts of a malformed packet that are needed to end its call. The rest is skipped."""

    rpc: _CallToEnd


_to_msgpack = msgspec.msgpack.Encoder(enc_hook=encode_model).encode
_from_msgpack = msgspec.msgpack.Decoder(Packet).decode
_glimpse_msgpack = msgspec.msgpack.Decoder(_Glimpse).decode
_to_json = msgspec.json.Encoder(enc_hook=encode_model).encode
_from_json = msgspec.json.Decoder(Packet).decode
_glimpse_json = msgspec.json.Decoder(_Glimpse).decode
_any_json = msgspec.json.Decoder().decode


class PacketCodec(Codec):
    """The base class of codecs for packets. It has no state, so one instance may serve many connections."""

    __slots__ = (
        "_after",
        "_before",
        "_between",
        "_decode",
        "_encode",
        "_glimpse",
        "_item_parts",
        "_request_parts",
        "plain_calls",
    )

    def __init__(
        self,
        name: str,
        encode: Callable[[Value], bytes],
        decode: Callable[[Value], Packet],
        glimpse: Callable[[Value], _Glimpse],
        *,
        binary: bool,
        extended: bool = False,
        calls_back: bool = True,
    ) -> None:
        super().__init__(name, binary=binary, extended=extended, calls_back=calls_back)
        self._encode = encode
        self._decode = decode
        self._glimpse = glimpse
        # The bytes around the id and the value of every result. Encoding them each time takes twice as long.
        whole = encode({"source": _RPC, "rpc": {"type": "response", "call_id": "", "response": None}})
        key, no_id, null = encode("call_id"), encode(""), encode(None)
        id_at, value_at = whole.index(no_id, whole.index(key) + len(key)), whole.rindex(null)
        self._before = whole[:id_at]
        self._between = whole[id_at + len(no_id) : value_at]
        self._after = whole[value_at + len(null) :]
        # The same of a request with positional arguments and nothing else.
        rpc = {"type": "request", "method": "", "args": None, "call_id": ""}
        whole = encode({"source": _RPC, "rpc": rpc})
        method_at = whole.index(no_id, whole.index(encode("method")) + len(encode("method")))
        args_at, id_at = whole.index(null, method_at), whole.rindex(no_id)
        self._request_parts = (
            whole[:method_at],
            whole[method_at + len(no_id) : args_at],
            whole[args_at + len(null) : id_at],
            whole[id_at + len(no_id) :],
        )
        # The same of an item of a stream.
        item = {"type": "response", "call_id": "", "is_stream": True, "response": None}
        whole = encode({"source": _RPC, "rpc": item})
        id_at = whole.index(no_id, whole.index(key) + len(key))
        value_at = whole.rindex(null)
        start, middle = whole[:id_at], whole[id_at + len(no_id) : value_at]
        self._item_parts = FIN | BINARY, start, middle, whole[value_at + len(null) :]
        self.plain_calls = None
        if encode is _to_msgpack and extension is not None:
            first = FIN | BINARY
            self.plain_calls = PlainCalls(
                extension.plain_call,
                encode,
                functools.partial(extension.result_frame, first, self._before, self._between, self._after),
                functools.partial(extension.request_frame, first, *self._request_parts),
                extension.take_responses,
                functools.partial(
                    extension.buffer_item, encode, first, self._before, self._between, self._after
                ),
            )

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
            and not self.supports_extensions
            and (
                rpc.timeout is not None
                or rpc.credits is not None
                or rpc.streams is not None
                or rpc.nested
                or rpc.credit_bytes is not None
            )
        ):
            rpc.timeout = rpc.credits = rpc.streams = rpc.credit_bytes = None
            rpc.nested = False
        return packet

    def measured_from(self, limit: int) -> int:
        return min(_COLLIDING, limit // MOST_GROWTH)

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return msgpack_size(payload, limit) if isinstance(payload, bytes) else 0  # text is not msgpack

    def refusal(self, payload: str | bytes, text: str, *, close_code: int = 1007) -> DecodeError:
        broken = self._broken(payload, text)
        broken.close_code = close_code
        return broken

    def _without_packet(self, payload: str | bytes, exc: Exception) -> Packet:
        raise self._broken(payload, describe(exc)) from exc

    def _broken(self, payload: str | bytes, text: str) -> DecodeError:
        try:
            rpc = self._glimpse(payload).rpc
        except UNDECODABLE:
            return DecodeError(f"not a {self.name} packet: {text}", fatal=True)
        call_id = rpc.call_id
        if rpc.type == "response":
            error = Response(str(call_id), f"the answer cannot be read: {text}", _UNREADABLE)
            return DecodeError(
                f"not a {self.name} response: {text}", fatal=True, packets=(Packet(_RPC, rpc=error),)
            )
        if isinstance(call_id, int):
            return DecodeError(f"not a {self.name} packet: {text}", fatal=True)
        answer = self.error(Request("", call_id=call_id), _INVALID_PARAMS, text, {"path": path_in(text)})
        return DecodeError(f"not a {self.name} request: {text}", answer=answer)

    # The application's own types may raise any exception while they are encoded.
    def _unsendable(self, exc: Exception) -> PacketError:
        return PacketError(f"this cannot be sent in {self.name}: {exc}")

    def _send(self, packet: Packet) -> bytes:
        try:
            return self._encode(packet)
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def result(self, request: Request, value: Value) -> bytes:
        if value is None:
            return self._send(Packet(_RPC, rpc=Response(request.call_id)))
        encode = self._encode
        try:
            return self._before + encode(request.call_id) + self._between + encode(value) + self._after
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes:
        in_stream = stream or request.credits is not None
        if not self.supports_extensions:
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

    def item(self, request: Request, value: Value) -> bytes:
        try:
            return self._encode(Packet(_RPC, None, None, Response(request.call_id, value, None, True)))
        except Exception as exc:
            raise self._unsendable(exc) from exc

    def items(self, request: Request) -> Callable[[Value], bytes]:
        # Everything except the value is the same for each item, and is encoded only once: a third of the
        # time.
        rpc = {"type": "response", "call_id": request.call_id, "is_stream": True, "response": None}
        encode, after = self._encode, self._after
        before = encode({"source": _RPC, "rpc": rpc}).removesuffix(encode(None) + after)

        def item(value: Value) -> bytes:
            try:
                return before + encode(value) + after
            except Exception as exc:
                raise self._unsendable(exc) from exc

        return item

    def item_parts(self, request: Request) -> tuple[int, bytes, bytes, bytes, str] | None:
        return None if self.plain_calls is None else (*self._item_parts, request.call_id)

    def end(self, request: Request) -> bytes:
        response = Response(request.call_id, is_stream=True, is_end=True)
        return self._send(Packet(_RPC, rpc=response))

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
        if (
            args
            and not (kwargs or streams or nested)
            and timeout is None
            and credits is None
            and credit_bytes is None
        ):
            encode = self._encode
            start, before_args, before_id, end = self._request_parts
            try:
                encoded = encode(args if type(args) is tuple else list(args))
                return start + encode(method) + before_args + encoded + before_id + encode(call_id) + end
            except Exception as exc:
                raise self._unsendable(exc) from exc
        request = Request(method, list(args), dict(kwargs) if kwargs else {}, call_id)
        if self.supports_extensions:
            request.timeout = timeout
            request.credits = credits
            request.credit_bytes = credit_bytes
            request.streams = dict(streams) if streams else None
            request.nested = nested
        elif streams:
            raise PacketError(f"an argument cannot be a stream in {self.name}; that takes trio-ws.v1")
        return self._send(Packet(_RPC, rpc=request))

    def abort(self, call_id: str) -> bytes:
        return self._send(Packet(_RPC, rpc=Request(ABORT, [call_id])))

    def credit(self, call_id: str, count: int, size: int) -> bytes:
        if not self.supports_extensions:
            raise PacketError(f"there are no credits in {self.name}")
        return self._send(Packet(_RPC, rpc=Request(CREDIT, [call_id, count], {"bytes": size})))

    def deadline(self, call_id: str, seconds: float) -> bytes:
        if not self.supports_extensions:
            return super().deadline(call_id, seconds)
        return self._send(Packet(_RPC, rpc=Request(DEADLINE, [call_id, seconds])))

    def goaway(self, begun: Sequence[str]) -> bytes:
        if not self.supports_extensions:
            return super().goaway(begun)
        return self._send(Packet(_RPC, rpc=Request(GOAWAY, [list(begun)])))

    def packet(self, packet: Packet) -> bytes:
        return self._send(packet)


class TrioWSCodec(PacketCodec):
    """``trio-ws.v1``: msgpack, with all extensions."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            "trio-ws.v1", _to_msgpack, _from_msgpack, _glimpse_msgpack, binary=True, extended=True
        )


class WebshocketCodec(PacketCodec):
    """``webshocket.v1``: msgpack, without extensions. The client of webshocket 0.5.2 accepts no calls."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(
            "webshocket.v1", _to_msgpack, _from_msgpack, _glimpse_msgpack, binary=True, calls_back=False
        )


class _JSONCodec(PacketCodec):
    """The packets in JSON. Bytes are base64, and frames of both kinds are accepted."""

    __slots__ = ()

    def __init__(self, name: str, *, binary: bool = False, extended: bool = False) -> None:
        super().__init__(name, _to_json, _from_json, _glimpse_json, binary=binary, extended=extended)

    def measured_from(self, limit: int) -> int:
        return limit // MOST_GROWTH  # the hashes of text keys cannot be predicted

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return json_size(payload, limit)


class TrioWSJSONCodec(_JSONCodec):
    """``trio-ws.v1.json``: all of ``trio-ws.v1``, in JSON, for browsers."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("trio-ws.v1.json", extended=True)


class JSONPacketCodec(_JSONCodec):
    """The packets of ``webshocket.v1`` in JSON, for a browser without a library.

    Args:
        binary: whether to send in binary frames; both kinds are accepted.
    """

    __slots__ = ()

    def __init__(self, *, binary: bool = False) -> None:
        super().__init__("json", binary=binary)

    def _without_packet(self, payload: str | bytes, exc: Exception) -> Packet:
        """Return JSON that does not look like a packet as data of an unknown source."""
        broken = self._broken(payload, describe(exc))
        if broken.fatal:
            try:
                data = _any_json(payload)
            except UNDECODABLE:
                raise broken from exc
            if not (isinstance(data, dict) and "source" in data):
                if broken.packets:  # a response without a source ends its call nevertheless
                    raise DecodeError(str(broken), packets=broken.packets) from exc
                return Packet(PacketSource.UNKNOWN, data)
        raise broken from exc
