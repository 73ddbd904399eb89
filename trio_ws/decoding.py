"""Decode data from a peer, and name the errors that this may raise in one place.

A document may be nested too deeply, contain numbers of any size, or have invalid keys. Decoders raise
`UNDECODABLE`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from trio_ws._types import ANY_VALUE
from trio_ws.errors import MessageError
from trio_ws.logs import shown
from trio_ws.models import decode_model

if TYPE_CHECKING:
    from trio_ws._types import Value

__all__ = ["UNDECODABLE", "JSONAdapter", "decode_json", "describe"]

# ValueErrors: msgspec's own errors and UnicodeError. TypeErrors: a list in a set, text instead of bytes.
# ArithmeticErrors: numbers, including Decimal. RecursionError: deep nesting.
UNDECODABLE = (ValueError, TypeError, ArithmeticError, RecursionError)


def describe(exc: BaseException) -> str:
    """Return the message of a decoding error, truncated, since it may quote the peer."""
    text = str(exc)
    return shown(text, 300) if len(text) <= 300 else f"{shown(text, 150)} {shown(text[-150:], 150)}"


@functools.lru_cache(maxsize=256)
def _json_decoder(type: object) -> msgspec.json.Decoder[object]:
    return msgspec.json.Decoder(type, dec_hook=decode_model)


class JSONAdapter:
    """Encodes and decodes the JSON of an `App` with a library.

    Args:
        library: a module or an object with ``dumps`` and ``loads``, as json and orjson have them, or with
            ``encode`` and ``decode``, as msgspec.json has them.

    Raises:
        TypeError: it has neither.
    """

    __slots__ = ("_decode", "_encode")

    def __init__(self, library: object) -> None:
        for encode, decode in (("dumps", "loads"), ("encode", "decode")):
            self._encode = getattr(library, encode, None)
            self._decode = getattr(library, decode, None)
            if callable(self._encode) and callable(self._decode):
                return
        raise TypeError(f"json must have dumps and loads, or encode and decode, not {library!r}")

    def encode(self, obj: Value) -> bytes:
        """Encode as JSON in UTF-8. Raises what the library raises."""
        assert self._encode is not None
        encoded = self._encode(obj)
        return encoded.encode() if isinstance(encoded, str) else bytes(encoded)

    def decode(self, payload: str | bytes) -> Value:
        """Decode JSON. Raises what the library raises."""
        assert self._decode is not None
        return self._decode(payload)


def decode_json(
    what: str, payload: str | bytes, type: object, source: object, adapter: JSONAdapter | None = None
) -> Value:
    """Decode and validate JSON.

    Args:
        what: ``"message"`` or ``"body"``, for the error.
        payload: the JSON.
        type: the type that msgspec validates against.
        source: the error's ``message``.
        adapter: decodes instead of msgspec, which then only validates.

    Raises:
        MessageError: it cannot be decoded, or is not of that type.
        TypeError: msgspec does not support ``type``.
    """
    if adapter is not None:
        return _decode_adapted(what, payload, type, source, adapter)
    try:
        decoder = _json_decoder(type)
    except TypeError:  # unhashable, or not a type
        decoder = msgspec.json.Decoder(type, dec_hook=decode_model)
    try:
        return decoder.decode(payload)
    except UNDECODABLE as exc:
        raise MessageError(f"the {what} is not the requested JSON: {describe(exc)}", source) from exc


def _decode_adapted(
    what: str, payload: str | bytes, type: object, source: object, adapter: JSONAdapter
) -> Value:
    try:
        value = adapter.decode(payload)
        return value if type is ANY_VALUE else msgspec.convert(value, type, dec_hook=decode_model)
    except Exception as exc:  # a library may raise anything for invalid JSON
        raise MessageError(f"the {what} is not the requested JSON: {describe(exc)}", source) from exc
