"""WebSocketMessage: one message, or one control frame, as a value."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import msgspec
from trio.lowlevel import checkpoint

from trio_ws._types import ANY_VALUE
from trio_ws.decoding import decode_json
from trio_ws.errors import check_close
from trio_ws.protocol.frames import BINARY, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import Value

__all__ = [
    "ENCODED_AT_ONCE",
    "BytesLike",
    "MessageType",
    "WebSocketMessage",
    "control_payload",
    "encode_large",
    "payload_bytes",
    "raw_text",
    "whole_message",
]

MessageType = Literal["text", "binary", "ping", "pong", "close"]
BytesLike = bytes | bytearray | memoryview
T = TypeVar("T")

#: Characters of text that are encoded at once: about a millisecond where they are not ASCII.
ENCODED_AT_ONCE = 256 * 1024


class _Text:
    """``WebSocketMessage.text``: a factory on the class, the text or None on an instance."""

    @overload
    def __get__(self, message: None, owner: type[WebSocketMessage]) -> Callable[[str], WebSocketMessage]: ...
    @overload
    def __get__(self, message: WebSocketMessage, owner: type[WebSocketMessage]) -> str | None: ...
    def __get__(
        self, message: WebSocketMessage | None, owner: type[WebSocketMessage]
    ) -> Callable[[str], WebSocketMessage] | str | None:
        if message is None:
            return _text_message
        payload = message.payload
        return payload if isinstance(payload, str) and message.msg_type == "text" else None


class WebSocketMessage(msgspec.Struct, frozen=True, gc=False):
    """One message, as received or to be sent; compares by value.

    It never equals its text: compare ``message.text``. Python warns where it is compared with a str or bytes.

    Build one with the factories ``WebSocketMessage.text("hi")``, `binary`, `ping`, `pong` and `close`.

    Attributes:
        msg_type: ``"text"``, ``"binary"``, ``"ping"``, ``"pong"`` or ``"close"``.
        payload: the text as ``str``, else ``bytes``; for ``"close"`` the reason.
        close_code: the code of a ``"close"`` message, else None.
    """

    msg_type: MessageType
    payload: str | bytes
    close_code: int | None = None

    text = _Text()

    @property
    def data(self) -> bytes | None:
        """The payload of a binary, ping or pong message; None for text and close."""
        payload = self.payload
        return payload if isinstance(payload, bytes) else None

    @staticmethod
    def binary(data: BytesLike = b"") -> WebSocketMessage:
        """A binary message."""
        return WebSocketMessage("binary", _as_bytes("a binary message", data))

    @staticmethod
    def ping(data: BytesLike = b"") -> WebSocketMessage:
        """A ping; at most 125 bytes (RFC 6455 section 5.5)."""
        return WebSocketMessage("ping", control_payload("a ping", data))

    @staticmethod
    def pong(data: BytesLike = b"") -> WebSocketMessage:
        """An unasked pong; at most 125 bytes (RFC 6455 section 5.5.3)."""
        return WebSocketMessage("pong", control_payload("a pong", data))

    @staticmethod
    def close(code: int = 1000, reason: str = "") -> WebSocketMessage:
        """A close with this code and reason (RFC 6455 section 7.4)."""
        check_close(code, reason)
        return WebSocketMessage("close", reason, code)

    def __eq__(self, other: object) -> bool:
        _warn_of_text(other)
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        _warn_of_text(other)
        return super().__ne__(other)

    __hash__ = msgspec.Struct.__hash__

    def is_text(self) -> bool:
        """Whether it is a text message."""
        return self.msg_type == "text"

    def is_binary(self) -> bool:
        """Whether it is a binary message."""
        return self.msg_type == "binary"

    def is_ping(self) -> bool:
        """Whether it is a ping."""
        return self.msg_type == "ping"

    def is_pong(self) -> bool:
        """Whether it is a pong."""
        return self.msg_type == "pong"

    def is_close(self) -> bool:
        """Whether it is a close."""
        return self.msg_type == "close"

    @overload
    def json(self) -> Value: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: object = ANY_VALUE) -> Value:
        """The payload decoded from JSON, and validated against ``type`` by msgspec.

        Raises:
            MessageError: it is not JSON, or not of that type; the text has the path to the bad value.
        """
        return decode_json("message", self.payload, type, self.payload)


def _warn_of_text(other: object) -> None:
    """Warn where a message is compared with its text or data, which is never equal."""
    if isinstance(other, str | bytes):
        name, attribute = ("str", "text") if isinstance(other, str) else ("bytes", "data")
        text = f"a WebSocketMessage never equals a {name}; compare its {attribute}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _text_message(text: str) -> WebSocketMessage:
    """A text message."""
    if not isinstance(text, str):
        raise TypeError(f"a text message is a str, not {type(text).__name__}; for bytes use binary()")
    return WebSocketMessage("text", text)


def _as_bytes(what: str, data: BytesLike) -> bytes:
    if isinstance(data, str):
        raise TypeError(f"{what} is bytes-like, not str; encode it, or use text()")
    if not isinstance(data, BytesLike):
        raise TypeError(f"{what} is bytes-like, not {type(data).__name__}")
    return bytes(data)


def control_payload(what: str, data: BytesLike) -> bytes:
    """Check the payload of a control frame (RFC 6455 section 5.5)."""
    payload = _as_bytes(what, data)
    if len(payload) > 125:
        raise ValueError(f"{what} carries at most 125 bytes, not {len(payload)}")
    return payload


async def encode_large(text: str) -> bytes:
    """Encode, and let other tasks run in between."""
    pieces: list[bytes] = []
    for start in range(0, len(text), ENCODED_AT_ONCE):
        pieces.append(text[start : start + ENCODED_AT_ONCE].encode())
        await checkpoint()
    return b"".join(pieces)


def whole_message(value: object, taker: str, hint: str = "") -> tuple[int, bytes]:
    """The opcode and the payload of a value that can be sent without waiting for parts of it.

    Raises:
        TypeError: it is neither ``str`` nor bytes-like, nor a message of these.
        UnicodeDecodeError: it is a text message of bytes that are not UTF-8.
    """
    data = value
    is_text = isinstance(data, str)
    if isinstance(data, WebSocketMessage) and data.msg_type in ("text", "binary"):
        is_text = data.msg_type == "text"
        data = data.payload
    if not isinstance(data, str | BytesLike):
        kind = data.msg_type if isinstance(data, WebSocketMessage) else type(data).__name__
        raise TypeError(f"{taker} takes str, bytes-like or a message of these, not {kind}{hint}")
    if is_text and not isinstance(data, str):
        return TEXT, raw_text(data)
    return (TEXT if is_text else BINARY), payload_bytes(data)


def raw_text(data: BytesLike) -> bytes:
    """Return the payload of a text message that is UTF-8 already. Raises UnicodeDecodeError if it is not."""
    payload = bytes(data)
    if not payload.isascii():
        payload.decode()  # the peer would close the connection because of invalid text
    return payload


def payload_bytes(payload: BytesLike | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else bytes(payload)
