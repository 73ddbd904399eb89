"""The codec of JSON-RPC 2.0 (https://www.jsonrpc.org/specification).

A JSON-RPC object is decoded into the packet of the same meaning, so the layers above handle only packets.
Both sides may call. Streams, cancellation and data are sent as notifications whose names begin with ``rpc.``,
which the specification reserves for extensions (section 8). The form of the objects is in
jsonrpc_objects.py, batches are in jsonrpc_batches.py.

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

from typing import TYPE_CHECKING

from msgspec import UNSET, Raw, UnsetType

from trio_ws.codecs.base import (
    Codec,
    DecodeError,
    Packet,
    PacketSource,
    Request,
    Response,
)
from trio_ws.codecs.decoded_size import json_size
from trio_ws.codecs.jsonrpc_batches import MAX_BATCH, Batch, is_batch, split_batch
from trio_ws.codecs.jsonrpc_objects import (
    BAD_ID,
    CANCEL,
    CANCELLED,
    EXTENSIONS,
    INVALID_PARAMS,
    INVALID_REQUEST,
    ITEM,
    METHOD_NOT_FOUND,
    NOTIFICATIONS,
    NULL,
    PARSE_ERROR,
    RESERVED,
    SOURCES,
    TOO_MUCH,
    ForeignObject,
    Glimpse,
    RPCObject,
    call_id_of,
    decode_any,
    decode_foreign,
    decode_object,
    extension,
    failure,
    foreign_error,
    glimpse,
    id_at_an_end,
    notification_of,
    own_id,
    read_error,
    refusal,
    refused_unread,
    success,
    to_json,
)
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError
from trio_ws.ledger import MOST_GROWTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws._types import JSONObject, NamedValues, Value
    from trio_ws.codecs.jsonrpc_batches import BatchMember
    from trio_ws.ledger import MemoryLedger

__all__ = ["EXTENSIONS", "MAX_BATCH", "JSONRPCCodec"]

_TOO_LARGE_BATCH = "the answers to this batch take more than max_queue_bytes"


class _Request(Request, tag="request", tag_field="type", gc=False):
    """A received request; `id` is its raw id, or None for a notification."""

    id: bytes | None = None
    batch: Batch | None = None

    @property
    def is_notification(self) -> bool:
        return self.id is None


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
        self._decode: Callable[[Value], RPCObject] = decode_foreign if foreign else decode_object
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
                raise foreign_error(payload, exc) from exc
            raise DecodeError(f"this is not JSON-RPC: {describe(exc)}", answer=refusal(payload, exc)) from exc
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
            return DecodeError(text, answer=failure(INVALID_REQUEST, text, b"null"))
        response = self._unread_response(payload, text)
        if response is not None:
            return DecodeError(text, packets=[response])
        return DecodeError(text, answer=refused_unread(payload, INVALID_PARAMS, text))

    def _unread_response(self, payload: str | bytes, text: str) -> Packet | None:
        """Return the end of our call if the payload is its response, which is not decoded; else None."""
        found = self._own_response(payload)
        if found is None:
            return None
        return self._response(found.id, UNSET, {"code": PARSE_ERROR, "message": text})[0]

    def _own_response(self, payload: str | bytes | Raw) -> Glimpse | None:
        """Return what can be read of a response to a call of ours; None if it is something else."""
        try:
            found = glimpse(payload)
        except RecursionError:
            found = Glimpse(id_at_an_end(payload))
        except UNDECODABLE:
            return None
        return found if found.method is UNSET and own_id(found.id) in self._asked else None

    def _decode_batch(self, payload: str | bytes) -> list[BatchMember]:
        try:
            members = split_batch(payload)
        except UNDECODABLE as exc:
            raise DecodeError(
                f"this is not a JSON-RPC batch: {describe(exc)}",
                answer=None if self._foreign else failure(PARSE_ERROR, "parse error", b"null"),
                fatal=self._foreign,
            ) from exc
        if not members:
            text = f"a batch has 1 to {MAX_BATCH} members"
            if self._foreign:
                raise DecodeError(text, fatal=True, close_code=1002)
            raise DecodeError(text, answer=failure(INVALID_REQUEST, text, b"null"))
        return members

    def decode_member(self, member: BatchMember) -> Packet | list[Packet]:
        batch, raw = member.batch, member.raw
        packet: Packet | None = None
        answer: bytes | None
        if batch.full:
            answer = refused_unread(raw, TOO_MUCH, _TOO_LARGE_BATCH)
        else:
            try:
                message = self._decode(raw)
            except UNDECODABLE as exc:
                packet = self._broken_response(raw, exc)
                answer = None if packet is not None or self._foreign else refusal(raw, exc)
            else:
                packet, answer = self._packet(message, batch)
                if packet is not None and type(packet.rpc) is _Request:
                    return packet  # its response is sent when the call has ended
        whole = batch.end_member(answer, self._ledger)
        packets = [] if packet is None else [packet]
        if whole is not None:
            raise DecodeError("this JSON-RPC batch is complete", answer=whole, packets=packets)
        return packets

    def _packet(self, message: RPCObject, batch: Batch | None) -> tuple[Packet | None, bytes | None]:
        """Return the packet of an object, and an answer to send immediately. Either may be None."""
        method = message.method
        if method is UNSET and isinstance(message, ForeignObject):
            method = message.notification
        if method is UNSET:
            return self._response(message.id, message.result, message.error)
        request_id: bytes | None = None
        call_id = ""
        if message.id is not UNSET and not (self._foreign and message.id == NULL):
            request_id = bytes(message.id)
            usable = call_id_of(request_id)
            if usable is None:
                return None, failure(INVALID_REQUEST, BAD_ID, b"null")
            call_id = usable
        params = message.params
        if method.startswith("rpc.") and self._extensions:
            packet = extension(method, params, int if self._foreign else str)
            if packet is not None:
                # It should be a notification. If it has an id, it is answered nevertheless.
                return packet, None if request_id is None else success(None, request_id)
            if method == CANCEL or method in SOURCES:
                text = f"{method} has other parameters"
                return None, None if request_id is None else failure(INVALID_PARAMS, text, request_id)
        elif method in RESERVED:
            # JSON-RPC uses rpc.cancel instead of __abort__, and has no equivalents of the others.
            text = f"there is no method {method}"
            return None, None if request_id is None else failure(METHOD_NOT_FOUND, text, request_id)
        request = _Request(method, call_id=call_id, id=request_id, batch=batch)
        if type(params) is list:
            request.args = params
        elif params is not None:
            request.kwargs = params  # type: ignore[assignment]
        return Packet(PacketSource.RPC, rpc=request), None

    def _response(
        self, raw_id: Raw | UnsetType, result: Value, error: Value
    ) -> tuple[Packet | None, bytes | None]:
        call_id = own_id(raw_id)
        if self._foreign and call_id not in self._asked:
            self._foreign_response(raw_id, call_id, error)
            return None, None
        if error is None and result is UNSET:
            if call_id not in self._asked:
                request_id = bytes(raw_id) if isinstance(raw_id, Raw) else b"null"
                if call_id_of(request_id) is None:
                    request_id = b"null"
                text = "a request has `method`, a response `result` or `error`"
                return None, failure(INVALID_REQUEST, text, request_id)
            error = "the answer has neither a result nor an error"
        if call_id is None:
            return None, None
        in_stream = self._asked.pop(call_id, False)
        if self._batch_of:
            self._batch_of.pop(call_id, None)
        if error is None:
            response = Response(call_id, result, None, in_stream, in_stream)
        else:
            code, text, data = read_error(error)
            response = Response(call_id, text, code, in_stream, in_stream, data)
        return Packet(PacketSource.RPC, rpc=response), None

    def _foreign_response(self, raw_id: Raw | UnsetType, call_id: str | None, error: Value) -> None:
        """Handle a response whose id is not that of an unanswered call of ours.

        Raises:
            DecodeError: the response ends calls or the connection, or is not a JSON-RPC message.
        """
        if raw_id is UNSET and error is None:
            raise DecodeError("this is neither a request nor a response")  # such as a greeting: ignored
        if raw_id is UNSET or raw_id == NULL:
            code, text, data = read_error(error)
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
        found = self._own_response(payload)
        if found is None:
            return None
        try:
            result: Value = UNSET if found.result is UNSET else decode_any(found.result)
            error: Value = None if found.error is UNSET else decode_any(found.error)
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
        return self._ended(request, None if request_id is None else success(value, request_id))

    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes | None:
        assert isinstance(request, _Request)
        answer = None if request.id is None else failure(code, text, request.id, data)
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
            answer = failure(TOO_MUCH, _TOO_LARGE_BATCH, request.id)
        return batch.end_member(answer, ledger)

    def item(self, request: Request, value: Value) -> bytes | None:
        assert isinstance(request, _Request)
        if request.id is None:
            return None
        return notification_of(ITEM, {"id": Raw(request.id), "item": value})

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
        payload = to_json(message)
        self._asked[call_id] = credits is not None
        return payload

    def notification(
        self, method: str, args: Sequence[Value] = (), kwargs: NamedValues | None = None
    ) -> bytes:
        if args and kwargs:
            raise PacketError("JSON-RPC carries arguments by position or by name, not both")
        if not args and not kwargs:
            return to_json({"jsonrpc": "2.0", "method": method})
        return notification_of(method, args or kwargs)

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
        return notification_of(CANCEL, [int(call_id) if self._foreign else call_id])

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
        return notification_of(NOTIFICATIONS[packet.source], params)
