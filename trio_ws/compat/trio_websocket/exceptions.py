"""Exceptions, and the reason for the end of a connection."""

from __future__ import annotations

import contextlib

from wsproto.frame_protocol import CloseReason as _Code

__all__ = [
    "CloseReason",
    "ConnectionClosed",
    "ConnectionRejected",
    "ConnectionTimeout",
    "DisconnectionTimeout",
    "HandshakeError",
]


class HandshakeError(Exception):
    """Connecting or disconnecting failed."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)


class ConnectionTimeout(HandshakeError):  # noqa: N818 - trio-websocket's name, like those below
    """The connection did not open in time."""


class DisconnectionTimeout(HandshakeError):  # noqa: N818
    """The connection did not close in time."""


class ConnectionClosed(Exception):  # noqa: N818
    """The connection is closed or closing.

    Attributes:
        reason: a `CloseReason`, or None.
    """

    def __init__(self, reason: CloseReason | None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}<{self.reason}>"


class ConnectionRejected(HandshakeError):  # noqa: N818
    """The server responded with an HTTP status other than 101.

    Attributes:
        status_code: the status.
        headers: pairs of names, in lower case, and values.
        body: the part of the body that was received, or None.
    """

    def __init__(
        self, status_code: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes | None
    ) -> None:
        super().__init__(status_code, headers, body)
        self.status_code = status_code
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"{type(self).__name__}<status_code={self.status_code}>"


class CloseReason:
    """Why a connection was closed."""

    def __init__(self, code: int, reason: str | None) -> None:
        self._code = code
        self._reason = reason

    @property
    def code(self) -> int:
        """The close code (RFC 6455 section 7.4)."""
        return self._code

    @property
    def name(self) -> str:
        """The name of the code, or of its range."""
        with contextlib.suppress(ValueError):
            return _Code(self._code).name
        ranges = {1: "RFC_RESERVED", 2: "RFC_RESERVED", 3: "IANA_RESERVED", 4: "PRIVATE_RESERVED"}
        return ranges.get(self._code // 1000, "INVALID_CODE")

    @property
    def reason(self) -> str | None:
        """The reason text, or None."""
        return self._reason

    def __repr__(self) -> str:
        return f"{type(self).__name__}<code={self.code}, name={self.name}, reason={self.reason}>"
