"""Decoding what a peer sent: what can be wrong with it, written once.

A document may be nested too deeply, have numbers of any size, or have as a key what cannot be one. Wherever
something is decoded, `UNDECODABLE` is what that raises.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from trio_ws.errors import MessageError
from trio_ws.logs import shown
from trio_ws.models import decode_model

__all__ = ["UNDECODABLE", "decode_json", "describe"]

# ValueErrors are msgspec's own errors and UnicodeError; TypeErrors a list in a set, and text where bytes are
# wanted; ArithmeticErrors come of numbers, Decimal's among them; deep nesting is a RecursionError.
UNDECODABLE = (ValueError, TypeError, ArithmeticError, RecursionError)


def describe(exc: BaseException) -> str:
    """What an error of decoding says, shortened: it may quote what the peer sent."""
    text = str(exc)
    return shown(text, 300) if len(text) <= 300 else f"{shown(text, 150)} {shown(text[-150:], 150)}"


@functools.lru_cache(maxsize=256)
def _json_decoder(type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type, dec_hook=decode_model)


def decode_json(what: str, payload: str | bytes, type: Any, source: object) -> Any:
    """Decode and validate JSON.

    Args:
        what: ``"message"`` or ``"body"``, for the error.
        payload: the JSON.
        type: what msgspec is to make of it.
        source: for the error's ``message``.

    Raises:
        MessageError: it does not decode, or not to that type.
        TypeError: ``type`` is none that msgspec knows.
    """
    try:
        decoder = _json_decoder(type)
    except TypeError:  # it cannot be hashed, or is no type
        decoder = msgspec.json.Decoder(type, dec_hook=decode_model)
    try:
        return decoder.decode(payload)
    except UNDECODABLE as exc:
        raise MessageError(f"the {what} is not the JSON that was asked for: {describe(exc)}", source) from exc
