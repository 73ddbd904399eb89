"""The registry of codecs: select the codec of a connection by its subprotocol or its first message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trio_ws.codecs.dialect import DialectCodec
from trio_ws.codecs.jsonrpc import JSONRPCCodec
from trio_ws.codecs.packets import JSONPacketCodec, TrioWSCodec, TrioWSJSONCodec, WebshocketCodec
from trio_ws.decoding import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws.codecs.base import Codec
    from trio_ws.codecs.dialect import Dialect
    from trio_ws.options import Options

__all__ = ["SUBPROTOCOLS", "choose", "detect", "plain_dialect"]

# The subprotocols that a server accepts, most preferred first.
SUBPROTOCOLS = ("trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "jsonrpc")

_TRIO_WS = TrioWSCodec()
_TRIO_WS_JSON = TrioWSJSONCodec()
_WEBSHOCKET = WebshocketCodec()
_JSON_IN_TEXT = JSONPacketCodec()
_JSON_IN_BINARY = JSONPacketCodec(binary=True)


class _Probe(msgspec.Struct, gc=False):
    jsonrpc: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_probe = msgspec.json.Decoder(_Probe).decode


def choose(
    subprotocol: str | None,
    options: Options,  # noqa: ARG001 - as detect() has it
    dialects: Iterable[Dialect] = (),
) -> Codec | None:
    """Return the codec for the negotiated subprotocol; None if the first message decides.

    Args:
        subprotocol: the negotiated subprotocol, or None.
        options: the options of the connection.
        dialects: additional dialects. One without subprotocols is used if no subprotocol was negotiated.
    """
    for dialect in dialects:
        if subprotocol in dialect.subprotocols or (subprotocol is None and not dialect.subprotocols):
            return DialectCodec(dialect)
    if subprotocol == "trio-ws.v1":
        return _TRIO_WS
    if subprotocol == "trio-ws.v1.json":
        return _TRIO_WS_JSON
    if subprotocol == "webshocket.v1":
        return _WEBSHOCKET
    if subprotocol == "jsonrpc":
        return JSONRPCCodec()
    return None


def detect(payload: str | bytes, options: Options) -> Codec:
    """Return the codec, without a subprotocol, for the first message: of JSON-RPC or JSON packets."""
    start, mark = ("[", '"jsonrpc"') if isinstance(payload, str) else (b"[", b'"jsonrpc"')
    try:
        is_jsonrpc = _probe(payload).jsonrpc is not msgspec.UNSET
    except UNDECODABLE:
        # A batch or malformed JSON; JSON-RPC has a response for both.
        is_jsonrpc = payload.lstrip().startswith(start) or mark in payload  # type: ignore[arg-type, operator]
    if is_jsonrpc:
        return JSONRPCCodec()
    return plain_dialect(options)


def plain_dialect(options: Options) -> Codec:
    """Return the codec, without a subprotocol, before the first message: of JSON packets."""
    return _JSON_IN_BINARY if options.json_in_binary else _JSON_IN_TEXT
