"""The objects of JSON-RPC 2.0: requests, notifications, responses, and answers to what is none of these.

Nothing here knows which calls are under way; see jsonrpc.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trio_ws._types import JSONObject, Value
from trio_ws.codecs.base import (
    ABORT,
    CREDIT,
    DEADLINE,
    GOAWAY,
    MAX_NAME,
    DecodeError,
    Packet,
    PacketSource,
    Request,
    Response,
    path_in,
)
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError, RPCError
from trio_ws.models import encode_model

__all__ = [
    "BAD_ID",
    "CANCEL",
    "CANCELLED",
    "EXTENSIONS",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "ITEM",
    "METHOD_NOT_FOUND",
    "NOTIFICATIONS",
    "NULL",
    "PARSE_ERROR",
    "RESERVED",
    "SOURCES",
    "TOO_MUCH",
    "ForeignObject",
    "Glimpse",
    "RPCObject",
    "call_id_of",
    "decode_any",
    "decode_foreign",
    "decode_object",
    "encode",
    "extension",
    "failure",
    "foreign_error",
    "glimpse",
    "id_at_an_end",
    "notification_of",
    "own_id",
    "read_error",
    "refusal",
    "refused_unread",
    "success",
    "to_json",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
CANCELLED = -32004
TOO_MUCH = -32000

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

NULL = Raw(b"null")
_Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]


class RPCObject(msgspec.Struct, gc=False):
    """A request, a notification or a response."""

    jsonrpc: Literal["2.0"]
    method: _Name | UnsetType = UNSET
    params: list[Value] | JSONObject | None = None
    id: Raw | UnsetType = UNSET
    result: Value = UNSET
    error: Value = None


class ForeignObject(RPCObject, gc=False):
    """An object of a foreign peer, which may omit ``jsonrpc``, or use another name for ``method``."""

    jsonrpc: Value = None
    notification: _Name | UnsetType = UNSET  # of the npm package rpc-websockets


class Glimpse(msgspec.Struct, gc=False):
    """The parts of a malformed object that are needed to answer it, or to end its call."""

    id: Raw | UnsetType = UNSET
    method: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


encode = msgspec.json.Encoder(enc_hook=encode_model).encode
decode_object = msgspec.json.Decoder(RPCObject).decode
decode_foreign = msgspec.json.Decoder(ForeignObject).decode
glimpse = msgspec.json.Decoder(Glimpse).decode
# Strict: neither a bool nor a string is a number.
_decode_id = msgspec.json.Decoder(_Name | int | float).decode
decode_any = msgspec.json.Decoder().decode
# The id of an object that is nested too deeply to be parsed, if it is the first or the last member.
_ID = rb'"id"\s*:\s*("[^"\\]{1,256}"|\d{1,256})\s*'
_first_id = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID + rb"[,}]").match
_last_id = re.compile(_ID + rb"\}\s*\Z").search

BAD_ID = f"an id is null, a number, or a string of at most {MAX_NAME} characters"


def call_id_of(request_id: bytes) -> str | None:
    """Return the fixed form of a raw id, empty for null; None if the id is invalid."""
    if request_id.isdigit() and len(request_id) < 16:
        return request_id.decode()
    if request_id == b"null":
        return ""
    if len(request_id) > 6 * MAX_NAME + 2:  # every character as \uXXXX, and the quotes
        return None
    try:
        return encode(_decode_id(request_id)).decode()
    except UNDECODABLE:
        return None


def own_id(request_id: Raw | UnsetType) -> str | None:
    """Return the id of a response to a call of ours; some peers change it from a string to a number."""
    try:
        found = _decode_id(b"" if request_id is UNSET else request_id)
        if isinstance(found, float):
            return str(int(found)) if found.is_integer() else None
        return str(found)
    except UNDECODABLE:
        return None


def foreign_error(payload: str | bytes, exc: Exception) -> DecodeError:
    """Return the error for a message of a foreign peer that is neither a request nor a response."""
    text = f"this is not JSON-RPC: {describe(exc)}"
    try:
        found = glimpse(payload)
    except msgspec.ValidationError:
        return DecodeError(text)  # JSON, but not an object
    except UNDECODABLE:
        return DecodeError(text, fatal=True)
    if found.method is not UNSET and found.id is not UNSET and call_id_of(bytes(found.id)):
        return DecodeError(text, answer=refusal(payload, exc))
    return DecodeError(text)


def id_at_an_end(payload: str | bytes | Raw) -> Raw | UnsetType:
    data = payload.encode() if isinstance(payload, str) else bytes(payload)
    found = _first_id(data[:600]) or _last_id(data[-600:])
    return UNSET if found is None else Raw(found[1])


def read_error(error: Value) -> tuple[int, str, Value]:
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


def extension(method: str, params: Value, id_type: type) -> Packet | None:
    """Return the packet of one of our notifications; None for another method or wrong parameters.

    ``id_type`` is the type of ids of our calls.
    """
    if method == CANCEL:
        if isinstance(params, dict):
            params = [params.get("id")]
        if isinstance(params, list) and len(params) == 1 and type(params[0]) in {str, int, float}:
            return Packet(PacketSource.RPC, rpc=Request(ABORT, [encode(params[0]).decode()]))
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


def refusal(payload: str | bytes | Raw, exc: Exception) -> bytes:
    """Return the answer to a message that is not a JSON-RPC object."""
    request_id = b"null"
    try:
        found = glimpse(payload).id
    except msgspec.ValidationError:
        pass  # JSON, but not an object
    except UNDECODABLE:
        return failure(PARSE_ERROR, "parse error", request_id)
    else:
        if found is not UNSET and call_id_of(bytes(found)) is not None:
            request_id = bytes(found)
    text = describe(exc)
    return failure(INVALID_REQUEST, text, request_id, {"path": path_in(text)})


def refused_unread(payload: str | bytes | Raw, code: int, text: str) -> bytes | None:
    """Return the answer to an object that is not decoded; None for a notification or a response."""
    try:
        found = glimpse(payload)
    except UNDECODABLE:
        return failure(INVALID_REQUEST, text, b"null")
    if found.id is UNSET or found.method is UNSET:
        return None
    request_id = bytes(found.id)
    return failure(code, text, request_id if call_id_of(request_id) is not None else b"null")


def to_json(value: Value) -> bytes:
    try:
        return encode(value)
    # The application's own types may raise any exception while they are encoded.
    except Exception as exc:
        raise PacketError(f"this cannot be sent in JSON-RPC: {exc}") from exc


def success(value: Value, request_id: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","result":' + to_json(value) + b',"id":' + request_id + b"}"


def failure(code: int, text: str, request_id: bytes, data: Value = None) -> bytes:
    error: JSONObject = {"code": code, "message": text}
    if data is not None:
        error["data"] = data
    try:
        encoded = to_json(error)
    except PacketError:
        encoded = to_json({"code": code, "message": text.encode(errors="replace").decode()})
    return b'{"jsonrpc":"2.0","error":' + encoded + b',"id":' + request_id + b"}"


def notification_of(method: str, params: Value) -> bytes:
    return to_json({"jsonrpc": "2.0", "method": method, "params": params})
