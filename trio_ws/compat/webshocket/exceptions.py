"""The exceptions of webshocket, in its tree.

::

    WebSocketError
    ├── ConnectionError
    │   ├── ConnectionFailedError
    │   ├── ConnectionClosedError
    │   └── InvalidURIError
    ├── MessageError
    │   └── PacketError
    │       └── PacketValidationError
    ├── TimeoutError
    │   ├── ReceiveTimeoutError
    │   └── RPCTimeoutError
    └── RPCError
        ├── RPCMethodNotFoundError
        └── RateLimitError

`WebSocketError`, `MessageError` and those of calls are the classes of trio_ws. The others derive from those
of the same name in trio_ws, where there is one, so that ``except`` with either name catches them.
"""

from __future__ import annotations

import builtins

import trio_ws.errors as engine
from trio_ws.errors import MessageError, RateLimitError, RPCError, RPCMethodNotFoundError, WebSocketError

__all__ = [
    "ConnectionClosedError",
    "ConnectionError",
    "ConnectionFailedError",
    "InvalidURIError",
    "MessageError",
    "PacketError",
    "PacketValidationError",
    "RPCError",
    "RPCMethodNotFoundError",
    "RPCTimeoutError",
    "RateLimitError",
    "ReceiveTimeoutError",
    "TimeoutError",
    "UnserializableError",
    "WebSocketError",
    "closed",
    "failed",
]


class ConnectionError(WebSocketError):  # noqa: A001 - the name that it has there
    """A connection cannot be had, or is over."""


class ConnectionFailedError(ConnectionError, engine.ConnectionFailedError):
    """The client could not connect; the underlying exception is ``__cause__``."""


class ConnectionClosedError(ConnectionError, engine.ConnectionClosedError):
    """The connection is closed, so the operation cannot be done. It has the attributes of the engine's."""

    def __init__(
        self,
        text: str = "the connection is closed",
        code: int = 1006,
        reason: str = "",
        *,
        sent: engine.CloseFrame | None = None,
        received: engine.CloseFrame | None = None,
    ) -> None:
        super().__init__(code, reason, sent=sent, received=received)
        self.args = (text,)


class InvalidURIError(ConnectionError, engine.InvalidURIError):
    """The client's URI names no WebSocket."""


class PacketError(MessageError, engine.PacketError):
    """A packet is malformed, or cannot be made or sent."""


class PacketValidationError(PacketError, engine.PacketValidationError):
    """What was decoded is no packet."""


class UnserializableError(PacketError, TypeError):
    """Data that no packet can carry."""


class TimeoutError(WebSocketError):  # noqa: A001 - as above
    """Something did not happen in time."""


class ReceiveTimeoutError(TimeoutError):
    """``recv()`` got no packet in time."""


class RPCTimeoutError(TimeoutError):
    """A call was not answered in time."""


class _RefusedError(ConnectionFailedError, builtins.ConnectionRefusedError):
    """Nobody listens there. webshocket raises the built-in error."""


def failed(error: engine.ConnectionFailedError, text: str | None = None) -> ConnectionError:
    """The error of this tree for one of the engine's, which is its cause."""
    kind: type[ConnectionError] = ConnectionFailedError
    if isinstance(error, engine.InvalidURIError):
        kind = InvalidURIError
    elif _was_refused(error):
        kind = _RefusedError
    mapped = kind(str(error) if text is None else f"{text} The last one: {error}")
    mapped.__cause__ = error
    return mapped


def _was_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, builtins.ConnectionRefusedError):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(_was_refused(one) for one in error.exceptions)
        error = error.__cause__
    return False


def closed(error: engine.ConnectionClosedError, text: str | None = None) -> ConnectionClosedError:
    """The same for a connection that is over."""
    mapped = ConnectionClosedError(
        str(error) if text is None else text,
        error.code,
        error.reason,
        sent=error.sent,
        received=error.received,
    )
    mapped.may_have_run = error.may_have_run
    mapped.__cause__ = error
    return mapped
