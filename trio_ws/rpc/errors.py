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
    from trio_ws.codecs.base import Response

__all__ = ["error_from"]

#: What the specification of JSON-RPC means by a code, and so does everybody.
_COMMON: dict[int, type[RPCError]] = {
    kind.default_code: kind for kind in (RPCMethodNotFoundError, RPCInvalidParamsError, RPCInternalError)
}
#: What ``trio-ws.v1`` means by the codes that others use as they like.
_OURS: dict[int, type[RPCError]] = _COMMON | {
    kind.default_code: kind
    for kind in (RPCAccessDeniedError, RPCTimeoutError, RPCCancelledError, RateLimitError)
}


def error_from(response: Response, text: str | None = None, *, ours: bool) -> RPCError:
    """The exception that a response stands for.

    Args:
        response: what came.
        text: in place of the response's own.
        ours: the dialect is ``trio-ws.v1``.
    """
    code = RPCError.default_code if response.error is None else response.error
    if text is None:
        text = response.response if isinstance(response.response, str) else str(response.response or "")
    kind = (_OURS if ours else _COMMON).get(code, RPCError)
    return kind(text, code=code, data=response.error_data)
