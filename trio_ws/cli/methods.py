"""The methods that a server lists if its handler has ``list_methods = True``."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import msgspec

import trio_ws
from trio_ws.codecs.base import METHODS

if TYPE_CHECKING:
    from trio_ws import WebSocketClient

#: Dialects in which a server may list its methods.
_OURS = frozenset({"trio-ws.v1", "trio-ws.v1.json", "webshocket.v1", "json", "jsonrpc"})

__all__ = ["Listed", "Parameter", "list_methods", "not_found"]


class Parameter(msgspec.Struct):
    """One parameter; docs/protocol.md lists the fields."""

    name: str
    type: str = "Any"
    required: bool = True
    default: object = msgspec.UNSET
    kind: str = ""


class Listed(msgspec.Struct):
    """One method; docs/protocol.md lists the fields."""

    name: str
    kind: str = "async"
    parameters: list[Parameter] = []
    returns: str = "Any"
    doc: str = ""

    @property
    def signature(self) -> str:
        """The signature, such as ``add(a: int, b: int = 1) -> int``."""
        written = []
        for one in self.parameters:
            stars = {"variadic positional": "*", "variadic keyword": "**"}.get(one.kind, "")
            default = "" if one.default is msgspec.UNSET else f" = {one.default!r}"
            written.append(f"{stars}{one.name}: {one.type}{default}")
        prefix = "*" if self.kind == "stream" else ""
        return f"{prefix}{self.name}({', '.join(written)}) -> {self.returns}"


async def list_methods(client: WebSocketClient) -> dict[str, Listed] | None:
    """Return the methods by name; None if the server does not list them."""
    if client.dialect not in _OURS:
        return None
    try:
        found = await client.call(METHODS, returns=list[Listed])
    except (trio_ws.RPCError, trio_ws.PacketValidationError):
        return None  # the server does not list them, or has another method with this name
    return {one.name: one for one in found}


async def not_found(client: WebSocketClient, method: str, exc: trio_ws.RPCError) -> trio_ws.RPCError:
    """Return the error with similar names added."""
    listed = await list_methods(client)
    if not listed:
        return exc
    close = difflib.get_close_matches(method, listed, n=3) or sorted(listed)[:20]
    return trio_ws.RPCMethodNotFoundError(f"{exc.message}; there is: {', '.join(close)}", data=exc.data)
