"""The exception hierarchy of webshocket.

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

`WebSocketError`, `MessageError`, `RPCError` and its subclasses are the classes of trio_ws. The others derive
from the class with the same name in trio_ws, if there is one, so ``except`` with either class catches them.
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


class ConnectionError(WebSocketError):  # noqa: A001 - webshocket's name
    """A connection could not be opened, or has ended."""


class ConnectionFailedError(ConnectionError, engine.ConnectionFailedError):
    """The client could not connect; the underlying exception is ``__cause__``."""


class ConnectionClosedError(ConnectionError, engine.ConnectionClosedError):
    """The connection is closed. It has the attributes of `trio_ws.ConnectionClosedError`."""

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
    """The URI is not that of a WebSocket."""


class PacketError(MessageError, engine.PacketError):
    """A packet is malformed, or cannot be encoded."""


class PacketValidationError(PacketError, engine.PacketValidationError):
    """The decoded data is not a packet."""


class UnserializableError(PacketError, TypeError):
    """The data cannot be encoded."""


class TimeoutError(WebSocketError):  # noqa: A001 - webshocket's name
    """An operation timed out."""


class ReceiveTimeoutError(TimeoutError):
    """``recv()`` timed out."""


class RPCTimeoutError(TimeoutError):
    """A call timed out."""


class _RefusedError(ConnectionFailedError, builtins.ConnectionRefusedError):
    """The TCP connection was refused. webshocket raises the built-in exception."""


_RefusedError.__qualname__ = _RefusedError.__name__ = ConnectionFailedError.__name__  # as tracebacks show it


def failed(error: engine.ConnectionFailedError, text: str | None = None) -> ConnectionError:
    """Return webshocket's exception for one of the engine, which becomes its cause."""
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
    """Return webshocket's exception for a closed connection."""
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
