"""Ask an HTTP proxy for a tunnel with CONNECT (RFC 9110 section 9.3.6).

Invariants:

- The size of the response's head is limited, and it may arrive in parts of any size.
- Data that the proxy sends before the tunnel is used is never passed on.
- No exception of h11 escapes.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import NoReturn

import h11

from trio_ws.protocol.http_parser import GarbageError, HeadReader, HeadTooLongError

__all__ = ["Tunnel", "TunnelError"]

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] [0-9]{3}[ \r\n]")


class TunnelError(Exception):
    """The proxy did not open a tunnel. The text completes a sentence that begins with the proxy. Internal.

    Attributes:
        status: the HTTP status of a refusal, or None.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Tunnel:
    """One CONNECT request and its response.

    Args:
        authority: host and port to reach, such as ``"example.com:443"``.
        authorization: the value of ``Proxy-Authorization``, or None.
        max_header_bytes: maximum size of the response's head, including any 1xx before it.

    Attributes:
        request: the bytes to send.
    """

    __slots__ = ("_h11", "_heads", "_max_header_bytes", "request")

    def __init__(self, authority: str, authorization: str | None, max_header_bytes: int) -> None:
        headers = [("Host", authority)]
        if authorization is not None:
            headers.append(("Proxy-Authorization", authorization))
        self._heads = HeadReader(max_header_bytes, _STATUS_LINE, b"HTTP/1.")
        self._max_header_bytes = max_header_bytes
        # h11 needs the request to judge the response, so it also encodes it.
        self._h11 = h11.Connection(h11.CLIENT)
        self.request = self._h11.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b""
        self._h11.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> bool:
        """Add `data`, and return whether the tunnel is established.

        Raises:
            TunnelError: the proxy refuses, or does not answer in HTTP.
        """
        while True:
            try:
                head = self._heads.feed(data)
            except HeadTooLongError:
                raise TunnelError(
                    f"sent a head of more than max_header_bytes={self._max_header_bytes}"
                ) from None
            except GarbageError:
                raise TunnelError("does not answer in HTTP") from None
            if head is None:
                return False
            self._h11.receive_data(head)
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                raise TunnelError("sent malformed HTTP") from exc
            if isinstance(event, h11.Response):
                self._check(event.status_code)
                return True
            data = b""  # an interim 1xx response

    def eof(self) -> NoReturn:
        """Handle the end of the stream before the proxy agreed.

        Raises:
            TunnelError: always.
        """
        raise TunnelError(
            "closed the connection in the middle of its response"
            if self._heads
            else "closed the connection without a response"
        )

    def _check(self, status: int) -> None:
        if not 200 <= status <= 299:
            try:
                phrase = f" ({HTTPStatus(status).phrase})"
            except ValueError:
                phrase = ""
            hint = "; add user:password@ to its URL, or correct it" if status == 407 else ""
            raise TunnelError(f"refuses with HTTP status {status}{phrase}{hint}", status)
        if self._heads:
            # Clients send first in TLS and in WebSocket, so this data is not from the server.
            raise TunnelError("sent data before the tunnel was used")
