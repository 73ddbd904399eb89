"""Errors of calls: from codes to exceptions, and from exceptions to responses."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from trio_ws.errors import (
    ConnectionClosedError,
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
)
from trio_ws.logs import logger_for, shown
from trio_ws.wall import close_of, error_of, judged, log_failure, text_of
from trio_ws.websocket.frame_log import log_extra

if TYPE_CHECKING:
    from trio_ws._types import Value
    from trio_ws.codecs.base import Request, Response
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["answer_error", "error_from"]

logger = logger_for("trio_ws.rpc")

#: The codes whose meaning the specification of JSON-RPC defines, and so every codec's.
_COMMON: dict[int, type[RPCError]] = {
    kind.default_code: kind for kind in (RPCMethodNotFoundError, RPCInvalidParamsError, RPCInternalError)
}
#: The codes of ``trio-ws.v1``. In other codecs an application may use some of them for itself.
_OURS: dict[int, type[RPCError]] = _COMMON | {
    kind.default_code: kind
    for kind in (RPCAccessDeniedError, RPCTimeoutError, RPCCancelledError, RateLimitError)
}


def error_from(response: Response, text: str | None = None, *, ours: bool) -> RPCError:
    """Return the exception for an error response.

    Args:
        response: the response.
        text: used in place of the response's own text.
        ours: whether the codec is ``trio-ws.v1``, in which more codes have a meaning.
    """
    code = RPCError.default_code if response.error is None else response.error
    if text is None:
        text = response.response if isinstance(response.response, str) else str(response.response or "")
    kind = (_OURS if ours else _COMMON).get(code, RPCError)
    return kind(text, code=code, data=response.error_data)


def answer_error(
    transport: PacketTransport,
    request: Request,
    exc: BaseException,
    *,
    stream: bool = False,
    debug: bool = False,
) -> None:
    """Send an error to the caller, without details that it should not know.

    Args:
        transport: sends the response.
        request: the call that failed.
        exc: why. A `CloseConnection` closes the connection in place of a response.
        stream: whether the method is a stream.
        debug: whether the text of an unexpected exception is sent too.
    """
    close = close_of(exc)
    if close is not None:
        transport.close_soon(*close)
        return
    if isinstance(exc, ConnectionClosedError) and (transport.over or not transport.ws.connected):
        return  # the method noticed the end of its own connection, so no response can be sent
    payload = _error_payload(transport, request, exc, stream=stream, debug=debug)
    if payload is not None:
        transport.reply(payload)


def _error_payload(
    transport: PacketTransport, request: Request, exc: BaseException, *, stream: bool, debug: bool
) -> bytes | None:
    error = error_of(exc)
    if error is not None:
        try:
            return transport.codec.error(request, *error, stream=stream)
        except BaseException as second:  # noqa: BLE001 - raised by the application's data
            judged(second)
    return transport.codec.error(request, *_internal(transport, request, exc, debug), stream=stream)


def _internal(
    transport: PacketTransport, request: Request, exc: BaseException, debug: bool
) -> tuple[int, str, Value]:
    mark = secrets.token_hex(4)
    log_failure(
        logger,
        "call of %s failed [%s]",
        shown(request.method, 80),
        mark,
        exc=exc,
        extra=log_extra(transport.ws),
    )
    text = text_of(exc) if debug else "internal error"
    return RPCInternalError.default_code, f"{text} [{mark}]", {"id": mark}
