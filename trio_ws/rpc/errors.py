"""Errors of calls: from codes to exceptions and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.errors import (
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
)

if TYPE_CHECKING:
    from trio_ws.wire.packets import Response

__all__ = ["error_from"]

_KINDS: dict[int, type[RPCError]] = {
    kind.default_code: kind
    for kind in (
        RPCMethodNotFoundError,
        RPCInvalidParamsError,
        RPCInternalError,
        RPCAccessDeniedError,
        RPCTimeoutError,
        RPCCancelledError,
        RateLimitError,
        RPCError,
    )
}


def error_from(response: Response, text: str | None = None) -> RPCError:
    """The exception that a response stands for."""
    code = RPCError.default_code if response.error is None else response.error
    if text is None:
        text = response.response if isinstance(response.response, str) else str(response.response or "")
    return _KINDS.get(code, RPCError)(text, code=code, data=response.error_data)
