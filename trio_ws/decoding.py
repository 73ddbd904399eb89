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

__all__ = ["UNDECODABLE", "JSONAdapter", "decode_json", "describe"]

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


class JSONAdapter:
    """What encodes and decodes the JSON of an `App`.

    Args:
        library: a module, or an object, with ``dumps`` and ``loads``, as json and orjson have them, or with
            ``encode`` and ``decode``, as msgspec.json has them.

    Raises:
        TypeError: it has neither.
    """

    __slots__ = ("_decode", "_encode")

    def __init__(self, library: Any) -> None:
        for encode, decode in (("dumps", "loads"), ("encode", "decode")):
            self._encode = getattr(library, encode, None)
            self._decode = getattr(library, decode, None)
            if callable(self._encode) and callable(self._decode):
                return
        raise TypeError(f"json takes a library with dumps and loads, or encode and decode, not {library!r}")

    def encode(self, obj: Any) -> bytes:
        """JSON as UTF-8. Raises what the library raises."""
        assert self._encode is not None
        encoded = self._encode(obj)
        return encoded.encode() if isinstance(encoded, str) else bytes(encoded)

    def decode(self, payload: str | bytes) -> Any:
        """What JSON says. Raises what the library raises."""
        assert self._decode is not None
        return self._decode(payload)


def decode_json(
    what: str, payload: str | bytes, type: Any, source: object, adapter: JSONAdapter | None = None
) -> Any:
    """Decode and validate JSON.

    Args:
        what: ``"message"`` or ``"body"``, for the error.
        payload: the JSON.
        type: what msgspec is to make of it.
        source: for the error's ``message``.
        adapter: decodes in place of msgspec, which then only validates.

    Raises:
        MessageError: it does not decode, or not to that type.
        TypeError: ``type`` is none that msgspec knows.
    """
    if adapter is not None:
        return _decode_adapted(what, payload, type, source, adapter)
    try:
        decoder = _json_decoder(type)
    except TypeError:  # it cannot be hashed, or is no type
        decoder = msgspec.json.Decoder(type, dec_hook=decode_model)
    try:
        return decoder.decode(payload)
    except UNDECODABLE as exc:
        raise MessageError(f"the {what} is not the JSON that was asked for: {describe(exc)}", source) from exc


def _decode_adapted(what: str, payload: str | bytes, type: Any, source: object, adapter: JSONAdapter) -> Any:
    try:
        value = adapter.decode(payload)
        return value if type is Any else msgspec.convert(value, type, dec_hook=decode_model)
    except Exception as exc:  # whatever a library raises for what is no JSON
        raise MessageError(f"the {what} is not the JSON that was asked for: {describe(exc)}", source) from exc
