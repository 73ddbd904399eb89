"""Logging of a connection, and of its frames if the logger is at DEBUG.

Each record about a connection has the attributes ``connection``, its number, and ``peer``, its address. If
the logger ``trio_ws.frames`` is at DEBUG when a connection opens, each frame that comes or goes is logged.
A connection that opens while it is not pays nothing for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from trio_ws.logs import logger_for
from trio_ws.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from trio_ws.protocol.masking import mask

if TYPE_CHECKING:
    from trio_ws._types import JSONObject
    from trio_ws.websocket.transport import Transport

__all__ = ["Logged", "log_extra", "log_message", "with_frame_logging"]

logger = logger_for("trio_ws.frames")

_NAMES = {
    CONTINUATION: "CONTINUATION",
    TEXT: "TEXT",
    BINARY: "BINARY",
    CLOSE: "CLOSE",
    PING: "PING",
    PONG: "PONG",
}
_MASKED = 0x80
#: Bytes of a payload that are shown.
_SHOWN = 64


class Logged(Protocol):
    """A connection, as logs see it."""

    def _log_extra(self) -> JSONObject:
        """Its number and the peer's address."""
        ...


def log_extra(ws: Logged) -> JSONObject:
    """The ``extra`` of a log record that is about a connection."""
    return ws._log_extra()


def with_frame_logging(ws: Logged, transport: Transport, unsent: int) -> Any:
    """The transport, wrapped so that frames are logged, if that is wanted now.

    Args:
        ws: the connection.
        transport: the same without.
        unsent: bytes of the answer to the opening request that wait to be written.
    """
    if not logger.isEnabledFor(logging.DEBUG):
        return transport
    return FrameLoggingTransport(ws, transport, unsent)


def log_message(ws: Logged, direction: str, message: str | bytes) -> None:
    """Show a whole message of a connection without frames."""
    payload = message.encode("utf-8", "replace") if isinstance(message, str) else message
    logger.debug(
        "%r %s %s, %d bytes: %r%s",
        ws,
        direction,
        _NAMES[TEXT if isinstance(message, str) else BINARY],
        len(payload),
        payload[:_SHOWN],
        "..." if len(payload) > _SHOWN else "",
        extra=log_extra(ws),
    )


class FrameLoggingTransport:
    """A transport that logs its frames."""

    direct = False

    def __init__(self, ws: Logged, transport: Transport, unsent: int) -> None:
        self._transport = transport
        self._socket: Any = transport  # what only a SocketTransport is asked for
        self._came = _FrameScanner(ws, "<")
        self._went = _FrameScanner(ws, ">")
        self._went.skip(unsent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def recv_now(self, size: int) -> bytes:
        data: bytes = self._socket.recv_now(size)
        self._came.see(data)
        return data

    def read_now(self, size: int) -> bytes | memoryview:
        data: bytes | memoryview = self._socket.read_now(size)
        self._came.see(bytes(data))
        return data

    async def receive(self) -> bytes:
        data = await self._transport.receive()
        self._came.see(data)
        return data

    def send_now(self, data: bytes | memoryview) -> int:
        sent = self._transport.send_now(data)
        self._went.see(data[:sent])
        return sent

    def send_last_now(self, data: bytes) -> int:
        sent = self._transport.send_last_now(data)
        self._went.see(data[:sent])
        return sent

    def send_pair_now(self, head: bytes, payload: bytes) -> int:
        sent = self._transport.send_pair_now(head, payload)
        self._went.see(head[:sent])
        self._went.see(payload[: max(0, sent - len(head))])
        return sent

    async def send_some(self, data: memoryview) -> int:
        sent = await self._transport.send_some(data)
        self._went.see(data[:sent])
        return sent


class _FrameScanner:
    """Finds the frames in bytes that go one way (RFC 6455 section 5.2)."""

    def __init__(self, ws: Logged, direction: str) -> None:
        self._ws = ws
        self._direction = direction
        self._seen = bytearray()  # of a frame, up to where its payload is shown
        self._skip = 0  # bytes to pass over

    def skip(self, size: int) -> None:
        """So many bytes come first that do not belong to a frame."""
        self._skip = size

    def see(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            if self._skip:
                step = min(self._skip, len(rest))
                self._skip -= step
            else:
                step = min(self._lacking(), len(rest))
                self._seen += rest[:step]
            rest = rest[step:]
            if not self._skip and not self._lacking():
                self._show()

    def _head_size(self) -> int:
        seen = self._seen
        if len(seen) < 2:
            return 2
        return 2 + {126: 2, 127: 8}.get(seen[1] & 0x7F, 0) + (4 if seen[1] & _MASKED else 0)

    def _payload_size(self) -> int:
        seen = self._seen
        size = seen[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(seen[2 : 4 if size == 126 else 10], "big")
        return size

    def _lacking(self) -> int:
        head = self._head_size()
        if len(self._seen) < head or len(self._seen) < 2:
            return head - len(self._seen)
        return head + min(self._payload_size(), _SHOWN) - len(self._seen)

    def _show(self) -> None:
        seen, head, size = self._seen, self._head_size(), self._payload_size()
        payload = bytes(seen[head:])
        if seen[1] & _MASKED:
            payload = bytes(mask(payload, bytes(seen[head - 4 : head])))
        first = seen[0]
        kind = _NAMES.get(first & 0xF, f"opcode {first & 0xF}")
        marks = ("" if first & 0x80 else " more follow") + (" compressed" if first & 0x40 else "")
        logger.debug(
            "%r %s %s%s, %d bytes: %r%s",
            self._ws,
            self._direction,
            kind,
            marks,
            size,
            payload,
            "..." if size > _SHOWN else "",
            extra=log_extra(self._ws),
        )
        self._skip = size - len(payload)
        self._seen.clear()
