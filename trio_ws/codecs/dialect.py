"""Dialect: an RPC protocol of other authors, and the codec of a connection that uses it.

A dialect has two parts. Its `Format` encodes and decodes plain values, as JSON, msgpack, or in another way.
The dialect itself interprets these values: as a call, an answer, or a failure.

Invariants:

- A dialect has no state of a connection, so one instance serves many. That state is in `DialectCodec`.
- An exception of a dialect while it reads ends the connection, and nothing else.
- A response with the id of a cancelled call is ignored. One with an id that no call had ends the connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec

from trio_ws._types import ANY_VALUE
from trio_ws.codecs.base import MAX_NAME, Codec, DecodeError, Packet, PacketSource, Request, Response
from trio_ws.codecs.decoded_size import json_size, msgpack_size
from trio_ws.decoding import describe
from trio_ws.errors import PacketError
from trio_ws.ledger import MOST_GROWTH
from trio_ws.logs import logger_for
from trio_ws.models import encode_model
from trio_ws.wall import log_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trio_ws._types import JSONObject, NamedValues, Value

__all__ = [
    "JSON",
    "Answer",
    "Call",
    "Dialect",
    "DialectCodec",
    "Failure",
    "Format",
    "JSONFormat",
    "MsgPackFormat",
    "Refusal",
    "params_of",
]

_RPC = PacketSource.RPC
_encode_json = msgspec.json.Encoder(enc_hook=encode_model).encode
_encode_msgpack = msgspec.msgpack.Encoder(enc_hook=encode_model).encode

logger = logger_for("trio_ws.rpc")


class Call(NamedTuple):
    """A call of the peer, or a notification.

    Attributes:
        method: the name of the method, at most 256 characters.
        args: positional arguments.
        kwargs: keyword arguments.
        id: the id for the response, any value; None for a notification, which has no response.
    """

    method: str
    args: list[Value]
    kwargs: JSONObject
    id: Value = None


class Answer(NamedTuple):
    """The result of a call that this side has made.

    Attributes:
        call_id: the id that was passed to `Dialect.call`.
        value: the result.
    """

    call_id: str
    value: Value


class Failure(NamedTuple):
    """The failure of a call that this side has made, which raises a `trio_ws.RPCError`.

    Attributes:
        call_id: the id that was passed to `Dialect.call`.
        code: the error code. -32601, -32602 and -32603 have exception classes of their own.
        text: the text of the error.
        data: data of the error for programs.
    """

    call_id: str
    code: int
    text: str
    data: Value = None


class Refusal(NamedTuple):
    """An invalid call of the peer, which is answered with a failure. No method is called.

    Attributes:
        call: the call, as far as it could be read.
        code: the code for `Dialect.failure`.
        text: the text for `Dialect.failure`.
    """

    call: Call
    code: int
    text: str


class Format(ABC):
    """Encodes values as messages, and decodes them.

    Attributes:
        binary: whether messages are binary.
    """

    binary: ClassVar[bool] = False

    @abstractmethod
    def encode(self, value: Value) -> bytes:
        """Return the payload of a value; UTF-8, if it is not `binary`. May raise any exception."""

    @abstractmethod
    def decoder(self, message_type: object) -> Callable[[str | bytes], Value]:
        """Return a function that decodes a payload to ``message_type``, and may raise any exception."""

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        """Return the bytes of Python objects that a payload decodes to, exact up to ``limit``.

        It is called for large payloads, because of ``Options.max_decoded_bytes``. A negative result means
        that the payload must not be decoded. The default is 0, for a format whose objects are not larger than
        the payload.
        """
        return 0


class JSONFormat(Format):
    """JSON in text messages."""

    def encode(self, value: Value) -> bytes:
        return _encode_json(value)

    def decoder(self, message_type: object) -> Callable[[str | bytes], Value]:
        return msgspec.json.Decoder(message_type).decode

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return json_size(payload, limit)


class MsgPackFormat(Format):
    """msgpack in binary messages."""

    binary = True

    def encode(self, value: Value) -> bytes:
        return _encode_msgpack(value)

    def decoder(self, message_type: object) -> Callable[[str | bytes], Value]:
        decoder: Any = msgspec.msgpack.Decoder(message_type)
        decode: Callable[[str | bytes], Value] = decoder.decode
        return decode

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return msgpack_size(payload, limit) if isinstance(payload, bytes) else 0


JSON = JSONFormat()


class Dialect(ABC):
    """An RPC protocol over WebSocket. Subclass it; one instance serves many connections.

    A client requires `read` and `call`. Servers, and clients that are called by their peer, also require
    `answer` and `failure`.

    Attributes:
        name: the name in errors, and of ``client.dialect``.
        subprotocols: the subprotocols, one of which must be negotiated. Default: none.
        format: the encoding of values. Default JSON.
        message_type: the type that msgspec decodes messages to, such as a `msgspec.Struct`. Default: any
            value.
        calls_at_once: the maximum number of concurrent calls of one side. Others wait, except for calls
            within a call of the peer, which may be waiting for them. Default None: any number.
    """

    name: ClassVar[str]
    subprotocols: ClassVar[tuple[str, ...]] = ()
    format: ClassVar[Format] = JSON
    message_type: ClassVar[object] = ANY_VALUE
    calls_at_once: ClassVar[int | None] = None

    @abstractmethod
    def read(self, message: Value) -> Call | Answer | Failure | Refusal | None:
        """Interpret a message; return None to ignore it. Any exception closes the connection with 1002."""

    @abstractmethod
    def call(self, call_id: str, method: str, args: Sequence[Value], kwargs: NamedValues) -> Value:
        """Return the message for a call.

        Args:
            call_id: a number from 1, as text, which is unique among the calls of a connection.
            method: the name of the method.
            args: positional arguments.
            kwargs: keyword arguments. `params_of` combines both to one value.

        Raises:
            trio_ws.PacketError: the arguments cannot be sent.
        """

    def notification(self, method: str, args: Sequence[Value], kwargs: NamedValues) -> Value:
        """Return the message for a notification. By default, PacketError is raised."""
        raise PacketError(f"there are no notifications in {self.name}; use call()")

    def answer(self, call: Call, value: Value) -> Value:
        """Return the message with the result of a call of the peer. The default None sends nothing."""
        return None

    def failure(self, call: Call, code: int, text: str, data: Value) -> Value:
        """Return the message with the failure of a call of the peer. The default None sends nothing."""
        return None

    def cancel(self, call_id: str) -> Value:
        """Return the message that cancels a call of this side. The default None sends nothing."""
        return None


def params_of(args: Sequence[Value], kwargs: NamedValues, dialect: str) -> Value:
    """Return the keyword arguments, or the only positional argument if it contains all arguments.

    Raises:
        trio_ws.PacketError: there are any other positional arguments.
    """
    if not args:
        return kwargs
    if len(args) == 1 and not kwargs:
        return args[0]
    raise PacketError(f"{dialect} carries arguments by name; or pass one mapping or struct that has them all")


def _check(found: Call | Answer | Failure | Refusal) -> None:
    """Raise TypeError if a dialect returned parts of wrong types, since they come from the peer."""
    if type(found) is Refusal:
        fits = type(found.call.method) is str and type(found.code) is int and type(found.text) is str
    elif type(found) is Call:
        fits = type(found.method) is str and type(found.args) is list and type(found.kwargs) is dict
    elif type(found) is Failure:
        fits = type(found.call_id) is str and type(found.code) is int and type(found.text) is str
    else:
        fits = type(found) is Answer and type(found.call_id) is str
    if not fits:
        raise TypeError("a part of it is of another type")


class _Request(Request, tag="request", tag_field="type", gc=False):
    """A received request, with the call that the dialect returned."""

    call: Any = None

    @property
    def is_notification(self) -> bool:
        return self.call.id is None


class DialectCodec(Codec):
    """The codec of one connection that uses a dialect."""

    __slots__ = ("_asked", "_decode", "_encode", "_last_id", "_read", "calls_at_once", "dialect")

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect.name, binary=dialect.format.binary)
        self.dialect = dialect
        self.calls_at_once = dialect.calls_at_once
        self._read = dialect.read
        self._encode = dialect.format.encode
        self._decode = dialect.format.decoder(dialect.message_type)
        self._asked: set[str] = set()
        self._last_id = 0

    # ---- Decoding --------------------------------------------------------------------------------------

    def decode(self, payload: str | bytes) -> Packet | list[Value]:
        try:
            message = self._decode(payload)
        # Formats of users may raise any exception.
        except Exception as exc:
            raise self.refusal(payload, f"this is not a message of {self.name}: {describe(exc)}") from exc
        try:
            found = self._read(message)
            if found is not None:
                _check(found)
        except Exception as exc:
            text = f"this is not a message of {self.name}: {describe(exc)}"
            raise DecodeError(text, fatal=True, close_code=1002) from exc
        if type(found) is Answer:
            if found.call_id in self._asked:
                self._asked.discard(found.call_id)
                return Packet(_RPC, rpc=Response(found.call_id, found.value))
        elif type(found) is Call:
            return self._called(found)
        elif type(found) is Failure:
            if found.call_id in self._asked:
                self._asked.discard(found.call_id)
                response = Response(found.call_id, found.text, found.code, error_data=found.data)
                return Packet(_RPC, rpc=response)
        else:
            return self._refused(found) if type(found) is Refusal else []
        call_id = found.call_id
        if not call_id.isdecimal() or not 0 < int(call_id[:20]) <= self._last_id:
            raise DecodeError(
                f"no call has the id {call_id[:40]} of this answer", fatal=True, close_code=1002
            )
        return []  # the call was cancelled

    def _called(self, call: Call) -> Packet | list[Value]:
        call_id = ""
        if call.id is not None:
            call_id = "=" + msgspec.json.encode(call.id).decode()
        if len(call_id) > MAX_NAME or len(call.method) > MAX_NAME:
            return self._refused(
                Refusal(call, -32602, f"an id or a name has more than {MAX_NAME} characters")
            )
        if call.method[:2] == "__":
            return self._refused(Refusal(call, -32601, f"there is no method {call.method}"))
        return Packet(_RPC, rpc=_Request(call.method, call.args, call.kwargs, call_id, call=call))

    def _refused(self, refusal: Refusal) -> list[Value]:
        call, code, text = refusal
        answer = None if call.id is None else self._failure(call, code, text, None)
        raise DecodeError(text, answer=answer)

    def measured_from(self, limit: int) -> int:
        return min(1024, limit // MOST_GROWTH) if self.binary else limit // MOST_GROWTH

    def decoded_size(self, payload: str | bytes, limit: int) -> int:
        return self.dialect.format.decoded_size(payload, limit)

    def refusal(self, payload: str | bytes, text: str, *, close_code: int = 1007) -> DecodeError:
        return DecodeError(text, fatal=True, close_code=close_code)

    # ---- Encoding --------------------------------------------------------------------------------------

    def _encoded(self, message: Value) -> bytes:
        try:
            return self._encode(message)
        # The application's own types may raise any exception while they are encoded.
        except Exception as exc:
            raise PacketError(f"this cannot be sent in {self.name}: {exc}") from exc

    def result(self, request: Request, value: Value) -> bytes | None:
        assert isinstance(request, _Request)
        if request.call.id is None:
            return None
        message = self.dialect.answer(request.call, value)
        return None if message is None else self._encoded(message)

    def error(
        self, request: Request, code: int, text: str, data: Value = None, *, stream: bool = False
    ) -> bytes | None:
        assert isinstance(request, _Request)
        return None if request.call.id is None else self._failure(request.call, code, text, data)

    def _failure(self, call: Call, code: int, text: str, data: Value) -> bytes | None:
        try:
            message = self.dialect.failure(call, code, text, data)
            return None if message is None else self._encoded(message)
        except Exception as exc:  # noqa: BLE001 - of the application's data, or of the dialect
            if data is not None:
                return self._failure(call, code, text, None)
            log_failure(logger, "%s cannot tell of the failure of a call", self.name, exc=exc)
            return None

    def item(self, request: Request, value: Value) -> bytes | None:
        raise PacketError(f"there are no streams in {self.name}")

    def end(self, request: Request) -> bytes | None:
        return self.result(request, None)

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
        if streams or credits is not None:
            raise PacketError(f"there are no streams in {self.name}; use call()")
        payload = self._encoded(self.dialect.call(call_id, method, args, kwargs or {}))
        self._asked.add(call_id)
        self._last_id = int(call_id)
        return payload

    def notification(
        self, method: str, args: Sequence[Value] = (), kwargs: NamedValues | None = None
    ) -> bytes:
        return self._encoded(self.dialect.notification(method, args, kwargs or {}))

    def abort(self, call_id: str) -> bytes | None:
        self._asked.discard(call_id)
        message = self.dialect.cancel(call_id)
        return None if message is None else self._encoded(message)

    def credit(self, call_id: str, count: int, size: int) -> bytes:
        raise PacketError(f"there are no streams in {self.name}")

    def packet(self, packet: Packet) -> bytes:
        raise PacketError(f"{self.name} carries calls only")
