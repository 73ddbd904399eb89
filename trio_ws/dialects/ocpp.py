"""OCPP-J: the protocol between charging stations and their central systems (https://openchargealliance.org).

A call is ``[2, id, action, payload]``, its result ``[3, id, payload]``, its failure ``[4, id, code, text,
details]``. The two sides are equal. A payload is an object; its members are the arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws._types import NamedValues, Value
from trio_ws.codecs.dialect import Answer, Call, Dialect, Failure, Refusal, params_of
from trio_ws.errors import RPCError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OCPP16", "OCPP201", "OCPPError"]

_CALL, _RESULT, _ERROR = 2, 3, 4
_APPLICATION_ERROR = RPCError.default_code
#: The codes of `RPCError` for the codes of OCPP.
_NUMBERS = {
    "NotImplemented": -32601,
    "NotSupported": -32601,
    "PropertyConstraintViolation": -32602,
    "OccurenceConstraintViolation": -32602,
    "OccurrenceConstraintViolation": -32602,
    "TypeConstraintViolation": -32602,
    "InternalError": -32603,
}
#: The code of a failure here, in OCPP.
_NAMES = {
    -32601: "NotImplemented",
    -32602: "PropertyConstraintViolation",
    -32603: "InternalError",
    -32002: "SecurityError",
}
_LONGEST_TEXT = 255


class OCPPError(RPCError):
    """Raise it in a method to fail a call of OCPP with a certain code.

    Args:
        code: such as ``"SecurityError"``.
        message: a description, of which 255 characters are sent.
        details: an object.
    """

    def __init__(self, code: str, message: str = "", details: NamedValues | None = None) -> None:
        super().__init__(
            message,
            code=_NUMBERS.get(code, _APPLICATION_ERROR),
            data={"code": code, "details": dict(details or {})},
        )


class _OCPP(Dialect):
    message_type = list[Value]
    calls_at_once = 1

    def read(self, message: list[Value]) -> Call | Answer | Failure | Refusal:
        kind, message_id, *rest = message
        if not isinstance(message_id, str):
            raise TypeError("the id of a message is a string")
        if kind == _CALL:
            action, payload = rest if len(rest) == 2 else (None, None)
            if isinstance(action, str) and isinstance(payload, dict):
                return Call(action, [], payload, message_id)
            text = "a call is [2, id, action, payload]"
            return Refusal(Call("", [], {}, message_id), -32600, text)
        if kind == _RESULT:
            (payload,) = rest
            return Answer(message_id, payload)
        if kind == _ERROR:
            code, text, details = [*rest, "", {}][:3]
            number = _NUMBERS.get(code, _APPLICATION_ERROR)
            return Failure(message_id, number, str(text) or str(code), {"code": code, "details": details})
        raise ValueError("a message is of type 2, 3 or 4")

    def call(self, call_id: str, method: str, args: Sequence[Value], kwargs: NamedValues) -> list[Value]:
        return [_CALL, call_id, method, params_of(args, kwargs, "OCPP")]

    def answer(self, call: Call, value: Value) -> list[Value]:
        return [_RESULT, call.id, {} if value is None else value]

    def failure(self, call: Call, code: int, text: str, data: Value) -> list[Value]:
        name, details = self._unreadable if code == -32600 else _NAMES.get(code, "GenericError"), {}
        if isinstance(data, dict):
            name, details = data.get("code", name), data.get("details", data)
        return [_ERROR, call.id, name, text[:_LONGEST_TEXT], details]

    _unreadable = "FormationViolation"


class OCPP16(_OCPP):
    """OCPP-J 1.6: ``await client.call("Heartbeat")``, ``@rpc_method("BootNotification")``.

    The members of a payload are the named arguments; a payload may also be the only argument, as a dict, a
    dataclass or a struct. The codes of failures are in ``error.data["code"]``, and `OCPPError` raises one.
    Each side has one call under way at a time; others wait for their turn.
    """

    name = "ocpp1.6"
    subprotocols = ("ocpp1.6",)


class OCPP201(_OCPP):
    """OCPP-J 2.0.1; see `OCPP16`."""

    name = "ocpp2.0.1"
    subprotocols = ("ocpp2.0.1",)
    _unreadable = "RpcFrameworkError"
