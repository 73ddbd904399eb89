"""Every exception of trio_ws, in one tree.

::

    WebSocketError
    ├── ConnectionFailedError              connect() failed
    │   ├── InvalidURIError                (also ValueError)
    │   └── HandshakeRejectedError         .status .headers .body
    ├── ConnectionClosedError              (also trio.BrokenResourceError) .code .reason .sent .received
    │   │                                  .may_have_run
    │   ├── ConnectionClosedLocallyError   (also trio.ClosedResourceError) used after our own close
    │   └── ConnectionEndedError           (also trio.EndOfChannel) the peer closed cleanly
    ├── MessageError                       a message of another kind, or one that cannot be decoded
    ├── SubprotocolError                   (also ValueError) accept() with one that was not offered
    ├── PacketError                        an invalid packet, or data that cannot be encoded
    │   └── PacketValidationError          a result is not of the requested type
    ├── RPCError                           a call failed: .code .data
    │   ├── RPCMethodNotFoundError         -32601
    │   ├── RPCInvalidParamsError          -32602
    │   ├── RPCInternalError               -32603
    │   ├── RateLimitError                 -32000 .retry_after
    │   ├── RPCAccessDeniedError           -32002
    │   ├── RPCTimeoutError                -32003 (also TimeoutError) its deadline expired on the other side
    │   ├── RPCCancelledError              -32004 the other side is shutting down
    │   └── SubscriptionError              the server allows this client no more channels
    ├── BrokerError                        the broker of channels cannot be reached
    ├── WorkerError                        the workers of serve_processes do not start: .exit_code
    ├── CloseConnection                    raised *by* a handler to close with a code of its choice
    └── Reconnect                          raised *by* the set-up of a connection to try another

    HandlerWarning (a UserWarning)         a method has probably no parameter for the connection

Invariants: no exception of wsproto, h11, ssl or the socket module reaches a user; it is chained as
``__cause__``. Errors are plain data that can be built, compared by attribute and logged without an event
loop. They can be pickled and copied, including subclasses of users: text, attributes and notes are preserved,
and ``__init__`` is not called again. The cause and the traceback are lost, as with all exceptions.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import trio

from trio_ws.logs import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trio_ws._types import JSONObject, Value, Values

__all__ = [
    "BrokerError",
    "CloseCode",
    "CloseConnection",
    "CloseFrame",
    "ConnectionClosedError",
    "ConnectionClosedLocallyError",
    "ConnectionEndedError",
    "ConnectionFailedError",
    "HandlerWarning",
    "HandshakeRejectedError",
    "InvalidURIError",
    "MessageError",
    "PacketError",
    "PacketValidationError",
    "RPCAccessDeniedError",
    "RPCCancelledError",
    "RPCError",
    "RPCInternalError",
    "RPCInvalidParamsError",
    "RPCMethodNotFoundError",
    "RPCTimeoutError",
    "RateLimitError",
    "Reconnect",
    "SubprotocolError",
    "SubscriptionError",
    "WebSocketError",
    "WebSocketException",
    "WorkerError",
]


class CloseCode(enum.IntEnum):
    """Names of close codes (RFC 6455 section 7.4.1, and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class CloseFrame(NamedTuple):
    """The contents of a Close frame (RFC 6455 section 5.5.1).

    A Close frame without a payload has code 1005 (section 7.4.1), which is never sent.
    """

    code: int
    reason: str


class WebSocketError(Exception):
    """The base class of all errors of this library."""

    # Exception's own has no signature that `inspect` could show.
    def __init__(self, *args: object) -> None:
        super().__init__(*args)

    # Exception's own would call the class with ``args`` only, and so build the text again from the text.
    def __reduce__(self) -> tuple[object, ...]:
        return _without_init, (type(self), self.args), self.__getstate__()

    def __setstate__(self, state: Any) -> None:
        slots: JSONObject | None = None
        if isinstance(state, tuple):
            state, slots = state
        super().__setstate__(state)
        for name, value in (slots or {}).items():
            setattr(self, name, value)


def _without_init(kind: type[WebSocketError], args: Values) -> WebSocketError:
    """Create an error for `pickle` and `copy`, which then add the attributes."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class HeaderFields(Protocol):
    """The part of `trio_ws.Headers`, which is in a higher layer, that errors use."""

    def get(self, name: str, default: str | None = None) -> str | None: ...
    def get_all(self, name: str) -> list[str]: ...
    def __contains__(self, name: object) -> bool: ...
    def __iter__(self) -> Iterator[tuple[str, str]]: ...
    def __len__(self) -> int: ...


class ConnectionFailedError(WebSocketError):
    """The connection could not be opened: DNS, TCP, TLS, a proxy, a timeout, or an invalid response.

    The underlying exception, if there is one, is ``__cause__``.
    """

    _hint: str = ""  # the advice at the end of the text


def give_hint(error: ConnectionFailedError, hint: str) -> None:
    """Store the advice that the text of an error ends with. The command line may replace it."""
    error._hint = hint


def hint_of(error: ConnectionFailedError) -> str:
    """Return the advice that `give_hint` stored, or an empty string."""
    return error._hint


class InvalidURIError(ConnectionFailedError, ValueError):
    """The URI is not a WebSocket URI (RFC 6455 section 3), or that of the proxy is invalid."""


class HandshakeRejectedError(ConnectionFailedError):
    """The server answered the opening handshake with an HTTP status other than 101 (RFC 6455 section 4.1).

    Attributes:
        status: the HTTP status code.
        headers: the response's `trio_ws.Headers` in order, duplicates included.
        body: the part of the body that arrived within 0.1 seconds after its head, truncated to 64 KiB.
    """

    def __init__(self, status: int, headers: HeaderFields, body: bytes = b"") -> None:
        text = _excerpt(headers, body)
        said = f": {text}" if text else ""
        super().__init__(f"the server rejected the WebSocket handshake with HTTP status {status}{said}")
        self.status = status
        self.headers = headers
        self.body = body


def _excerpt(headers: HeaderFields, body: bytes) -> str:
    """Return the body of a response as one short line: its text, or the title of a page."""
    kind = next((value for name, value in headers if name.lower() == "content-type"), "").lower()
    start = body[:4096].lstrip()
    if "html" in kind or start[:1] == b"<":
        title = re.search(rb"<title[^>]*>([^<]*)</title>", start, re.IGNORECASE)
        start = title[1] if title else b""
    elif kind and not kind.startswith("text/") and "json" not in kind:
        return ""
    return shown(b" ".join(start.split()), 200)


class ConnectionClosedError(WebSocketError, trio.BrokenResourceError):
    """The WebSocket is closed or broken, so the operation failed.

    Attributes:
        code: the close code that the peer sent, or else that we sent, or else 1006 (RFC 6455 section 7.1.5).
        reason: the reason that came with the code.
        sent: the Close frame that we sent, or None.
        received: the Close frame that the peer sent, or None.
        may_have_run: for a call or a stream, whether the other side may have received the request. False only
            if it was certainly not sent, so that it can be repeated safely.
    """

    may_have_run: bool = True

    def __init__(
        self,
        code: int = 1006,
        reason: str = "",
        *,
        sent: CloseFrame | None = None,
        received: CloseFrame | None = None,
    ) -> None:
        text = f"the WebSocket is closed: code {code}"
        if reason:
            text += f" ({shown(reason, 150)})"
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.sent = sent
        self.received = received


class ConnectionClosedLocallyError(ConnectionClosedError, trio.ClosedResourceError):
    """The WebSocket was used after it was closed locally."""


class ConnectionEndedError(ConnectionClosedError, trio.EndOfChannel):
    """The peer has closed cleanly, with 1000, 1001 or no code, and all of its messages were received.

    Raised by methods that must return a message, such as ``receive_text``.
    """


class MessageError(WebSocketError):
    """A message is of another kind than requested, or its payload cannot be decoded.

    Attributes:
        message: the message, which was removed from the queue; None if there is none.
        close_code: the close code if a handler does not catch this error: 1002 for a message of another kind.
            None for 1011, as for any other exception.
    """

    close_code: int | None = None

    def __init__(self, text: str, message: object = None) -> None:
        super().__init__(text)
        self.message = message


class SubprotocolError(WebSocketError, ValueError):
    """``accept()`` was called with a subprotocol that the client did not offer (RFC 6455 section 4.2.2).

    Attributes:
        subprotocol: the argument.
        offered: the subprotocols that the client offered.
    """

    def __init__(self, subprotocol: str, offered: Sequence[str]) -> None:
        super().__init__(
            f"the client did not offer the subprotocol {subprotocol!r}; it offered"
            f" {shown(', '.join(offered), 150) or 'none'}"
        )
        self.subprotocol = subprotocol
        self.offered = offered


class PacketError(WebSocketError):
    """Bytes are not a valid packet of the dialect in use, or data cannot be encoded in it."""


class PacketValidationError(PacketError):
    """A result, or an item of a stream, is not of the requested type; the message contains the path."""


class RPCError(WebSocketError):
    """A call failed. Raise it in a method to fail the call; the caller's ``call`` raises it.

    Args:
        message: text for people, sent to the caller unchanged.
        code: default -32001, an application error. Peers with other dialects than ``trio-ws.v1`` know only
            the codes of the tree above; any other code reaches them as -32001.
        data: any value that can be encoded, for the caller's program; supported by ``trio-ws.v1`` and
            JSON-RPC.

    Attributes:
        message: the original text. ``str()`` returns it on one line, without control characters and truncated
            to 1,000 bytes; ``repr()`` is truncated, too.
        code: the code, see the tree in `trio_ws.errors`.
        data: the data that the other side sent, or None.
    """

    default_code: ClassVar[int] = -32001

    def __init__(self, message: str = "", *, code: int | None = None, data: Value = None) -> None:
        if code is not None and not isinstance(code, int):
            raise TypeError(f"the code of an RPCError must be an int, not {type(code).__name__}")
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.data = data

    # Both may come from the other side, and are printed in logs and on terminals.
    def __str__(self) -> str:
        return shown(super().__str__(), 1000)

    def __repr__(self) -> str:
        return shown(super().__repr__(), 1000)


class RPCMethodNotFoundError(RPCError):
    """The other side has no method of that name."""

    default_code = -32601


class RPCInvalidParamsError(RPCError):
    """The arguments are invalid; ``data["path"]`` says where, as in ``"$.a"``."""

    default_code = -32602


class RPCInternalError(RPCError):
    """The method raised an unexpected exception; ``data["id"]`` appears in the other side's log."""

    default_code = -32603


class RateLimitError(RPCError):
    """Too many calls."""

    default_code = -32000

    def __init__(
        self,
        message: str = "rate limit exceeded",
        *,
        code: int | None = None,
        data: Value = None,
        retry_after: float | None = None,
    ) -> None:
        if retry_after is not None:
            data = (
                {**data, "retry_after": retry_after}
                if isinstance(data, dict)
                else {"retry_after": retry_after}
            )
        super().__init__(message, code=code, data=data)

    @property
    def retry_after(self) -> float:
        """Seconds after which a retry may succeed; 0.0 if the other side did not say."""
        value = self.data.get("retry_after") if isinstance(self.data, dict) else None
        return float(value) if isinstance(value, int | float) else 0.0


class RPCAccessDeniedError(RPCError):
    """The method's ``requires`` denied the call."""

    default_code = -32002


class RPCTimeoutError(RPCError, TimeoutError):
    """The caller's deadline, which is sent with a call, expired on the other side."""

    default_code = -32003


class RPCCancelledError(RPCError):
    """The other side cancelled the call, because it is shutting down."""

    default_code = -32004


class SubscriptionError(RPCError):
    """The client has ``max_subscribed_channels`` subscriptions already, or is present in as many channels."""


class BrokerError(WebSocketError):
    """A server's broker could not be reached when the server started, or refused the connection."""


class WorkerError(WebSocketError):
    """The workers of `trio_ws.serve_processes` do not start.

    Attributes:
        exit_code: the exit code of the worker, or the negative number of the signal that killed it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CloseConnection(WebSocketError):
    """Raise it in a handler to close the connection with this code and reason.

    Args:
        code: a valid close code: 1000 to 1003, 1007 to 1014, 3000 to 4999 (RFC 6455 section 7.4).
        reason: at most 123 bytes of UTF-8.

    Raises:
        ValueError: the code is invalid, or the reason is too long.
    """

    def __init__(self, code: int = 1008, reason: str = "") -> None:
        check_close(code, reason)
        super().__init__(f"close with code {code}" + (f" ({shown(reason, 150)})" if reason else ""))
        self.code = code
        self.reason = reason


class Reconnect(WebSocketError):
    """Raise it in ``on_connection`` of a `session` to abandon this connection and try another one."""


#: The name of `CloseConnection` in webshocket, which remains as an alias.
WebSocketException = CloseConnection


# RFC 6455 section 7.4.1 and the IANA registry: 1004 to 1006 and 1015 are never sent.
_SENDABLE = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def check_close(code: int, reason: str) -> None:
    """Validate a close code and reason (RFC 6455 sections 5.5 and 7.4)."""
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"a close code must be an int, not {type(code).__name__}")
    if code not in _SENDABLE and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code} cannot be sent; use 1000 for a normal close, or 3000..4999")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason must be a str, not {type(reason).__name__}")
    if len(reason.encode()) > 123:
        raise ValueError("a close reason must not exceed 123 bytes of UTF-8; shorten it")


class HandlerWarning(UserWarning):
    """A method of a handler has probably forgotten its parameter for the connection.

    Its first parameter gets the connection, but is named like an argument, and neither it nor another one
    has an annotation. The class statement of the handler gives this warning, and works nevertheless. To say
    that the parameter is the connection, annotate it, or name it ``connection``.
    """

    # UserWarning's own has no signature that `inspect` could show.
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
