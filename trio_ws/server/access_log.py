"""The access log: one line for each request and each connection, when it has ended.

A server writes it if the logger ``trio_ws.access`` is at DEBUG when the server starts. Paths are logged
without their query, which may contain secrets.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from trio_ws.logs import logger_for, shown
from trio_ws.websocket.frame_log import log_extra

if TYPE_CHECKING:
    from trio_ws._types import SocketAddress
    from trio_ws.protocol.http import Request
    from trio_ws.websocket.connection import WebSocket

__all__ = ["AccessLog", "enable_access_log", "wants_access_log"]

#: Records at DEBUG are not limited per peer, so the access log is complete.
logger = logger_for("trio_ws.access")


def wants_access_log() -> bool:
    """Whether the logger is at DEBUG now."""
    return logger.isEnabledFor(logging.DEBUG)


def enable_access_log() -> None:
    """Enable the access log for servers that start from now on."""
    logger.setLevel(logging.DEBUG)


class AccessLog:
    """The access log of one server."""

    def __init__(self) -> None:
        self._opened: dict[WebSocket, float] = {}

    def opened(self, ws: WebSocket) -> None:
        """Store the time when an opening request was read."""
        self._opened[ws] = time.monotonic()

    def closed(self, ws: WebSocket) -> None:
        """Log a connection that has ended, or was rejected by its handler."""
        started = self._opened.pop(ws, None)
        seconds = 0.0 if started is None else time.monotonic() - started
        end = f"101, closed with {ws.close_code}" if ws.accepted else "rejected"
        logger.debug(
            '%s "%s %s" %s, %.3f s',
            _where(ws.client_address),
            ws.request.method,
            shown(ws.path),
            end,
            seconds,
            extra=log_extra(ws),
        )

    def answered(
        self, request: Request, address: SocketAddress, response: bytes | None, started: float
    ) -> None:
        """Log a plain request, with the response that was sent or None."""
        end = "left before the response" if response is None else _status(response)
        seconds = time.monotonic() - started
        logger.debug(
            '%s "%s %s" %s, %.3f s',
            _where(address),
            shown(request.method),
            shown(request.path),
            end,
            seconds,
            extra={"peer": address},
        )

    def refused(self, request: Request | None, address: SocketAddress, status: int) -> None:
        """Log an invalid request, or one without a route."""
        line = "-" if request is None else f"{shown(request.method)} {shown(request.path)}"
        logger.debug('%s "%s" %d', _where(address), line, status, extra={"peer": address})


def _where(address: SocketAddress) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    return str(address) if address else "-"


def _status(response: bytes) -> str:
    body = len(response) - response.find(b"\r\n\r\n") - 4
    return f"{response[9:12].decode('ascii', 'replace')}, {body} bytes"
