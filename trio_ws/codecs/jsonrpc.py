"""The codec of JSON-RPC 2.0 (https://www.jsonrpc.org/specification).

A JSON-RPC object is decoded into the packet of the same meaning, so the layers above handle only packets.
Both sides may call. Streams, cancellation and data are sent as notifications whose names begin with ``rpc.``,
which the specification reserves for extensions (section 8). Batches are in jsonrpc_batches.py.

Invariants:

- No message is fatal: a malformed one is answered with -32700 or -32600, and with its id if that is readable.
- A notification or a response is never answered, so two peers never answer each other's errors.
- A response has the id of its request, byte for byte. `call_id` is the JSON text of the id in one fixed form,
  so ``1`` and ``"1"`` are different ids.
- A malformed object without a method ends a call of ours if it has the id of that call, even if the id was
  changed to a number.

A client uses ``foreign=True``, because its server may be written by others: our ids are numbers, ``jsonrpc``
may be missing, as in JSON-RPC 1.0, and only calls are answered. The connection ends after a response with an
id that we never used, or a message that is not JSON. Without ``extensions``, names that begin with ``rpc.``
have no special meaning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trio_ws._types import JSONObject, NamedValues, Value
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
    Request,
    Response,
    path_in,
)
from trio_ws.codecs.decoded_size import json_size
from trio_ws.codecs.jsonrpc_batches import MAX_BATCH, Batch, is_batch, split_batch
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError, RPCError
from trio_ws.ledger import MOST_GROWTH
from trio_ws.models import encode_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws.codecs.jsonrpc_batches import BatchMember
    from trio_ws.ledger import MemoryLedger

__all__ = ["EXTENSIONS", "MAX_BATCH", "JSONRPCCodec"]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
CANCELLED = -32004
TOO_MUCH = -32000
_TOO_LARGE_BATCH = "the answers to this batch take more than max_queue_bytes"

# The names of our notifications, and the sources of the packets that the three with data are decoded to.
CANCEL = "rpc.cancel"
ITEM = "rpc.item"
SOURCES = {
    "rpc.data": PacketSource.CUSTOM,
    "rpc.channel": PacketSource.CHANNEL,
    "rpc.broadcast": PacketSource.BROADCAST,
}
EXTENSIONS = frozenset({CANCEL, ITEM, *SOURCES})
NOTIFICATIONS = {source: name for name, source in SOURCES.items()} | {PacketSource.UNKNOWN: "rpc.data"}
RESERVED = frozenset({ABORT, CREDIT, DEADLINE, GOAWAY})

_NULL = Raw(b"null")
_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]


class _Request(Request, tag="request", tag_field="type", gc=False):
    """A received request; `id` is its raw id, or None for a notification."""

    id: bytes | None = None
    batch: Batch | None = None

    @property
    def is_notification(self) -> bool:
        return self.id is None


class _Object(msgspec.Struct, gc=False):
    """A request, a notification or a response."""

    jsonrpc: Literal["2.0"]
    method: _Name | UnsetType = UNSET
    params: list[Value] | JSONObject | None = None
    id: Raw | UnsetType = UNSET
    result: Value = UNSET
    error: Value = None


class _ForeignObject(_Object, gc=False):
    """An object of a foreign peer, which may omit ``jsonrpc``, or use another name for ``method``."""

    jsonrpc: Value = None
    notification: _Name | UnsetType = UNSET  # of the npm package rpc-websockets


class _Glimpse(msgspec.Struct, gc=False):
    """The parts of a malformed object that are needed to answer it, or to end its call."""

    id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_encode = msgspec.json.Encoder(enc_hook=encode_model).encode
_decode = msgspec.json.Decoder(_Object).decode
_decode_foreign = msgspec.json.Decoder(_ForeignObject).decode
_glimpse = msgspec.json.Decoder(_Glimpse).decode
# Strict: neither a bool nor a string is a number.
_decode_id = msgspec.json.Decoder(_Name | int | float).decode
_decode_any = msgspec.json.Decoder().decode
# The id of an object that is nested too deeply to be parsed, if it is the first or the last member.
_ID = rb'"id"\s*:\s*("[^"\\]{1,256}"|\d{1,256})\s*'
_first_id = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"[,}]").match
_last_id = re.compile(_ID + rb"\}\s*\Z").search


class JSONRPCCodec(Codec):
    """The codec of ``jsonrpc``, in text frames. Each connection has its own.

    It stores which of our unanswered calls are streams, because a response does not contain that.

    Args:
        foreign: whether the peer is a server that may be written by others.
        extensions: whether the peer may know our notifications.
    """

    __slots__ = ("_asked", "_batch_of", "_decode", "_extensions", "_foreign", "_last_id", "_ledger")

    def __init__(self, *, foreign: bool = False, extensions: bool = True) -> None:
        super().__init__("jsonrpc", binary=False)
        self._asked: dict[str, bool] = {}  # by id: whether the call is a stream
        self._batch_of: dict[str, Sequence[str]] = {}  # by id: the ids of all calls of the same batch
        self._ledger: MemoryLedger | None = None
        self._foreign = foreign
        self._extensions = extensions
        self._decode: Callable[[Value], _Object] = _decode_foreign if foreign else _decode
        self._last_id = 0

    def use_ledger(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    # ---- Decoding --------------------------------------------------------------------------------------

    def decode(self, payload: str | bytes) -> Packet | list[Value]:
        try:
            message = self._decode(payload)
        except UNDECODABLE as exc:
            if is_batch(payload):
                return self._decode_batch(payload)
            response = self._broken_response(payload, exc)
            if response is not None:
                return response
            if self._foreign:
                raise _foreign_error(payload, exc) from exc
            raise DecodeError(
                f"this is not JSON-RPC: {describe(exc)}", answer=_refusal(payload, exc)
            ) from exc
        packet, answer = self._packet(message, None)
        if answer is not None:
            raise DecodeError(
                "this JSON-RPC object is answered at once",
                answer=answer,
                packets=() if packet is None else (packet,),
            )
        return [] if packet is None else packet

    def measured_from(self, limit: int) -> int:
        return limit // MOST_GROWTH

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return json_size(payload, limit)

    def refusal(self, payload: str | bytes, text: str, *, close_code: int = 1007) -> DecodeError:
        if is_batch(payload):
            if self._foreign:
                return DecodeError(text, fatal=True, close_code=close_code)
            return DecodeError(text, answer=_failure(INVALID_REQUEST, text, b"null"))
        response = self._unread_response(payload, text)
        if response is not None:
            return DecodeError(text, packets=[response])
        return DecodeError(text, answer=_refused_unread(payload, INVALID_PARAMS, text))

    def _unread_response(self, payload: str | bytes, text: str) -> Packet | None:
        """Return the end of our call if the payload is its response, which is not decoded; else None."""
        try:
            found = _glimpse(payload)
        except RecursionError:
            found = _Glimpse(_id_at_an_end(payload))
        except UNDECODABLE:
            return None
        if found.method is not UNSET or _own_id(found.id) not in self._asked:
            return None
        return self._response(found.id, UNSET, {"code": PARSE_ERROR, "message": text})[0]

    def _decode_batch(self, payload: str | bytes) -> list[BatchMember]:
        try:
            members = split_batch(payload)
        except UNDECODABLE as exc:
            raise DecodeError(
                f"this is not a JSON-RPC batch: {describe(exc)}",
                answer=None if self._foreign else _failure(PARSE_ERROR, "parse error", b"null"),
                fatal=self._foreign,
            ) from exc
        if not members:
            text = f"a batch has 1 to {MAX_BATCH} members"
            if self._foreign:
                raise DecodeError(text, fatal=True, close_code=1002)
            raise DecodeError(text, answer=_failure(INVALID_REQUEST, text, b"null"))
        return members

    def decode_member(self, member: BatchMember) -> Packet | list[Packet]:
        batch, raw = member.batch, member.raw
        packet: Packet | None = None
        answer: bytes | None
        if batch.full:
            answer = _refused_unread(raw, TOO_MUCH, _TOO_LARGE_BATCH)
        else:
            try:
                message = self._decode(raw)
            except UNDECODABLE as exc:
                packet = self._broken_response(raw, exc)
                answer = None if packet is not None or self._foreign else _refusal(raw, exc)
            else:
                packet, answer = self._packet(message, batch)
                if packet is not None and type(packet.rpc) is _Request:
                    return packet  # its response is sent when the call has ended
        whole = batch.end_member(answer, self._ledger)
        packets = [] if packet is None else [packet]
        if whole is not None:
            raise DecodeError("this JSON-RPC batch is complete", answer=whole, packets=packets)
        return packets

    def _packet(self, message: _Object, batch: Batch | None) -> tuple[Packet | None, bytes | None]:
        """Return the packet of an object, and an answer to send immediately. Either may be None."""
        method = message.method
        if method is UNSET and isinstance(message, _ForeignObject):
            method = message.notification
        if method is UNSET:
            return self._response(message.id, message.result, message.error)
        request_id: bytes | None = None
        call_id = ""
        if message.id is not UNSET and not (self._foreign and message.id == _NULL):
            request_id = bytes(message.id)
            usable = _call_id(request_id)
            if usable is None:
                return None, _failure(INVALID_REQUEST, _BAD_ID, b"null")
            call_id = usable
        params = message.params
        if method.startswith("rpc.") and self._extensions:
            packet = _extension(method, params, int if self._foreign else str)
            if packet is not None:
                # It should be a notification. If it has an id, it is answered nevertheless.
                return packet, None if request_id is None else _success(None, request_id)
            if method == CANCEL or method in SOURCES:
                text = f"{method} has other parameters"
                return None, None if request_id is None else _failure(INVALID_PARAMS, text, request_id)
        elif method in RESERVED:
            # JSON-RPC uses rpc.cancel instead of __abort__, and has no equivalents of the others.
            text = f"there is no method {method}"
            return None, None if request_id is None else _failure(METHOD_NOT_FOUND, text, request_id)
        request = _Request(method, call_id=call_id, id=request_id, batch=batch)
        if type(params) is list:
            request.args = params
        elif params is not None:
            request.kwargs = params  # type: ignore[assignment]
        return Packet(PacketSource.RPC, rpc=request), None

    def _response(
        self, raw_id: Raw | UnsetType, result: Value, error: Value
    ) -> tuple[Packet | None, bytes | None]:
        call_id = _own_id(raw_id)
        if self._foreign and call_id not in self._asked:
            self._foreign_response(raw_id, call_id, error)
            return None, None
        if error is None and result is UNSET:
            if call_id not in self._asked:
                request_id = bytes(raw_id) if isinstance(raw_id, Raw) else b"null"
                if _call_id(request_id) is None:
                    request_id = b"null"
                text = "a request has `method`, a response `result` or `error`"
                return None, _failure(INVALID_REQUEST, text, request_id)
            error = "the answer has neither a result nor an error"
        if call_id is None:
            return None, None
        in_stream = self._asked.pop(call_id, False)
        if self._batch_of:
            self._batch_of.pop(call_id, None)
        if error is None:
            response = Response(call_id, result, None, in_stream, in_stream)
        else:
            code, text, data = _read_error(error)
            response = Response(call_id, text, code, in_stream, in_stream, data)
        return Packet(PacketSource.RPC, rpc=response), None

    def _foreign_response(self, raw_id: Raw | UnsetType, call_id: str | None, error: Value) -> None:
        """Handle a response whose id is not that of an unanswered call of ours.

        Raises:
            DecodeError: the response ends calls or the connection, or is not a JSON-RPC message.
        """
        if raw_id is UNSET and error is None:
            raise DecodeError("this is neither a request nor a response")  # such as a greeting: ignored
        if raw_id is UNSET or raw_id == _NULL:
            code, text, data = _read_error(error)
            if code not in (PARSE_ERROR, INVALID_REQUEST) or not self._asked:
                return
            # The server could not read one of our messages. If we sent several, it is unknown which one.
            first = next(iter(self._asked))
            ids = [one for one in self._batch_of.get(first, (first,)) if one in self._asked]
            if len(ids) < len(self._asked):
                raise DecodeError(
                    f"the server could not read one of {len(self._asked)} calls: {text}",
                    fatal=True,
                    close_code=1002,
                )
            packets = [
                Packet(PacketSource.RPC, rpc=Response(one, text, code, error_data=data)) for one in ids
            ]
            for one in ids:
                self.abort(one)
            raise DecodeError("the server could not read what was sent", packets=packets)
        if call_id is None or not call_id.isdecimal() or not 0 < int(call_id[:20]) <= self._last_id:
            shown_id = bytes(raw_id)[:40].decode(errors="replace")
            raise DecodeError(f"no call has the id {shown_id} of this response", fatal=True, close_code=1002)
        # The response to a call that was cancelled.

    def _broken_response(self, payload: str | bytes | Raw, exc: Exception) -> Packet | None:
        """Return the end of our call from a malformed object; None if the object has no id of a call."""
        try:
            found = _glimpse(payload)
        except RecursionError:
            found = _Glimpse(_id_at_an_end(payload))
        except UNDECODABLE:
            return None
        if found.method is not UNSET or _own_id(found.id) not in self._asked:
            return None
        try:
            result: Value = UNSET if found.result is UNSET else _decode_any(found.result)
            error: Value = None if found.error is UNSET else _decode_any(found.error)
            if found.result is UNSET and isinstance(exc, RecursionError):
                raise exc
        except UNDECODABLE as undecodable:
            text = f"the answer does not decode: {describe(undecodable)}"
            result, error = UNSET, {"code": PARSE_ERROR, "message": text}
        return self._response(found.id, result, error)[0]

    # ---- Encoding --------------------------------------------------------------------------------------

    def result(self, request: Request, value: Value) -> bytes | None:
        assert isinstance(request, _Request)
        request_id = request.id
        return self._ended(request, None if request_id is None else _success(value, request_id))

    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes | None:
        assert isinstance(request, _Request)
        answer = None if request.id is None else _failure(code, text, request.id, data)
        return self._ended(request, answer)

    def _ended(self, request: _Request, answer: bytes | None) -> bytes | None:
        """Return the message to send when a call has ended: its answer, or all of its batch, or None."""
        batch, ledger = request.batch, self._ledger
        if batch is None:
            return answer
        if answer is None or request.id is None or ledger is None:
            return batch.end_member(answer, ledger)
        if batch.exceeds(answer, ledger):
            batch.full = True
            answer = _failure(TOO_MUCH, _TOO_LARGE_BATCH, request.id)
        return batch.end_member(answer, ledger)

    def item(self, request: Request, value: Value) -> bytes | None:
        assert isinstance(request, _Request)
        if request.id is None:
            return None
        return _notification(ITEM, {"id": Raw(request.id), "item": value})

    def end(self, request: Request) -> bytes | None:
        return self.result(request, None)

    def dropped(self, request: Request) -> bytes | None:
        """Return an error, because every JSON-RPC request has a response, and its batch waits for that."""
        return self.error(request, CANCELLED, "cancelled")

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
        if streams:
            raise PacketError("an argument cannot be a stream in JSON-RPC; that takes trio-ws.v1")
        message: JSONObject = {"jsonrpc": "2.0", "method": method}
        if args and kwargs:
            raise PacketError("JSON-RPC carries arguments by position or by name, not both")
        if args:
            message["params"] = args
        elif kwargs:
            message["params"] = kwargs
        if self._foreign:
            message["id"] = self._last_id = int(call_id)
        else:
            message["id"] = call_id
        payload = _json(message)
        self._asked[call_id] = credits is not None
        return payload

    def notification(
        self, method: str, args: Sequence[Value] = (), kwargs: NamedValues | None = None
    ) -> bytes:
        if args and kwargs:
            raise PacketError("JSON-RPC carries arguments by position or by name, not both")
        if not args and not kwargs:
            return _json({"jsonrpc": "2.0", "method": method})
        return _notification(method, args or kwargs)

    def batch(self, call_ids: Sequence[str], members: Sequence[bytes]) -> bytes:
        if not 0 < len(members) <= MAX_BATCH:
            raise PacketError(f"a batch has 1 to {MAX_BATCH} members, not {len(members)}")
        self._batch_of.update(dict.fromkeys(call_ids, call_ids))
        return b"[" + b",".join(members) + b"]"

    def abort(self, call_id: str) -> bytes | None:
        self._asked.pop(call_id, None)
        self._batch_of.pop(call_id, None)
        if not self._extensions:
            return None
        return _notification(CANCEL, [int(call_id) if self._foreign else call_id])

    def credit(self, call_id: str, count: int, size: int) -> bytes:
        raise PacketError("there are no credits in JSON-RPC")

    def packet(self, packet: Packet) -> bytes:
        params: JSONObject = {}
        if packet.channel is not None:
            params["channel"] = packet.channel
        params["data"] = packet.data
        if packet.timestamp is not None:
            params["timestamp"] = packet.timestamp
        if packet.correlation_id is not None:
            params["correlation_id"] = packet.correlation_id
        return _notification(NOTIFICATIONS[packet.source], params)


_BAD_ID = f"an id is null, a number, or a string of at most {MAX_NAME} characters"


def _call_id(request_id: bytes) -> str | None:
    """Return the fixed form of a raw id, empty for null; None if the id is invalid."""
    if request_id.isdigit() and len(request_id) < 16:
        return request_id.decode()
    if request_id == b"null":
        return ""
    if len(request_id) > 6 * MAX_NAME + 2:  # every character as \uXXXX, and the quotes
        return None
    try:
        return _encode(_decode_id(request_id)).decode()
    except UNDECODABLE:
        return None


def _own_id(request_id: Raw | UnsetType) -> str | None:
    """Return the id of a response to a call of ours; some peers change it from a string to a number."""
    try:
        found = _decode_id(b"" if request_id is UNSET else request_id)
        if isinstance(found, float):
            return str(int(found)) if found.is_integer() else None
        return str(found)
    except UNDECODABLE:
        return None


def _foreign_error(payload: str | bytes, exc: Exception) -> DecodeError:
    """Return the error for a message of a foreign peer that is neither a request nor a response."""
    text = f"this is not JSON-RPC: {describe(exc)}"
    try:
        found = _glimpse(payload)
    except msgspec.ValidationError:
        return DecodeError(text)  # JSON, but not an object
    except UNDECODABLE:
        return DecodeError(text, fatal=True)
    if found.method is not UNSET and found.id is not UNSET and _call_id(bytes(found.id)):
        return DecodeError(text, answer=_refusal(payload, exc))
    return DecodeError(text)


def _id_at_an_end(payload: str | bytes | Raw) -> Raw | UnsetType:
    data = payload.encode() if isinstance(payload, str) else bytes(payload)
    found = _first_id(data[:600]) or _last_id(data[-600:])
    return UNSET if found is None else Raw(found[1])


def _read_error(error: Value) -> tuple[int, str, Value]:
    """Return code, text and data of a response's ``error``, with defaults for missing ones."""
    if isinstance(error, str):
        return RPCError.default_code, error, None
    if not isinstance(error, dict):
        return RPCError.default_code, "the error of the answer is not an object", error
    code, message, data = error.get("code"), error.get("message"), error.get("data")
    if isinstance(code, float) and code.is_integer():
        code = int(code)
    if type(code) is not int:
        code, data = RPCError.default_code, error
    return code, message if isinstance(message, str) else "the error of the answer has no message", data


def _extension(method: str, params: Value, id_type: type) -> Packet | None:
    """Return the packet of one of our notifications; None for another method or wrong parameters.

    ``id_type`` is the type of ids of our calls.
    """
    if method == CANCEL:
        if isinstance(params, dict):
            params = [params.get("id")]
        if isinstance(params, list) and len(params) == 1 and type(params[0]) in {str, int, float}:
            return Packet(PacketSource.RPC, rpc=Request(ABORT, [_encode(params[0]).decode()]))
    elif method == ITEM:
        if isinstance(params, dict) and type(params.get("id")) is id_type and "item" in params:
            response = Response(str(params["id"]), params["item"], is_stream=True)
            return Packet(PacketSource.RPC, rpc=response)
    elif method in SOURCES:
        packet = Packet(SOURCES[method])
        if not (isinstance(params, dict) and "data" in params):
            # All other parameters are the data.
            packet.data = params
            return packet if method == "rpc.data" else None
        packet.data = params["data"]
        channel, timestamp = params.get("channel"), params.get("timestamp")
        packet.channel = channel if isinstance(channel, str) else None
        if isinstance(timestamp, int | float):
            try:
                packet.timestamp = float(timestamp)
            except OverflowError:
                return None
        packet.correlation_id = params.get("correlation_id")
        return packet
    return None


def _refusal(payload: str | bytes | Raw, exc: Exception) -> bytes:
    """Return the answer to a message that is not a JSON-RPC object."""
    request_id = b"null"
    try:
        found = _glimpse(payload).id
    except msgspec.ValidationError:
        pass  # JSON, but not an object
    except UNDECODABLE:
        return _failure(PARSE_ERROR, "parse error", request_id)
    else:
        if found is not UNSET and _call_id(bytes(found)) is not None:
            request_id = bytes(found)
    text = describe(exc)
    return _failure(INVALID_REQUEST, text, request_id, {"path": path_in(text)})


def _refused_unread(payload: str | bytes | Raw, code: int, text: str) -> bytes | None:
    """Return the answer to an object that is not decoded; None for a notification or a response."""
    try:
        found = _glimpse(payload)
    except UNDECODABLE:
        return _failure(INVALID_REQUEST, text, b"null")
    if found.id is UNSET or found.method is UNSET:
        return None
    request_id = bytes(found.id)
    return _failure(code, text, request_id if _call_id(request_id) is not None else b"null")


def _json(value: Value) -> bytes:
    try:
        return _encode(value)
    # The application's own types may raise any exception while they are encoded.
    except Exception as exc:
        raise PacketError(f"this cannot be sent in JSON-RPC: {exc}") from exc


def _success(value: Value, request_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","result":' + _json(value) + b',"id":' + request_id + b"}"


def _failure(code: int, text: str, request_id: bytes, data: Value = None) -> bytes:
    error: JSONObject = {"code": code, "message": text}
    if data is not None:
        error["data"] = data
    try:
        encoded = _json(error)
    except PacketError:
        encoded = _json({"code": code, "message": text.encode(errors="replace").decode()})
    return b'{"jsonrpc":"2.0","error":' + encoded + b',"id":' + request_id + b"}"


def _notification(method: str, params: Value) -> bytes:
    return _json({"jsonrpc": "2.0", "method": method, "params": params})
