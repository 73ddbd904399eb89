"""WebSocket: one connection as its user sees it.

Its methods stand in handshaking.py, receiving.py and sending.py, the machine underneath in endpoint.py and
lifetime.py; here is what there is to look at.

What always holds: each method either waits or checks for cancellation; a cancellation loses no message and
sends no part of one; ``send`` of one task never ends up inside a message of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trio_ws.errors import CloseFrame
from trio_ws.logs import shown
from trio_ws.websocket.lifetime import CLOSED, CLOSING, OPEN
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.receiving import Receiving
from trio_ws.websocket.sending import Sending

if TYPE_CHECKING:
    from trio_ws.protocol.http import Headers, Request
    from trio_ws.protocol.tls import TLSInfo

__all__ = ["WebSocket"]


class WebSocket(Sending, Receiving, trio.abc.Channel[WebSocketMessage]):
    """One WebSocket connection (RFC 6455), a server's or a client's. Made by `connect` and by servers.

    It is a `trio.abc.Channel` of `WebSocketMessage` and an async iterator. Any number of tasks may send, and
    several may receive; each message goes to one of them.

    Raises:
        ConnectionClosedError: by every method that needs an open connection, once the peer has closed it or
            it broke. It is a `trio.BrokenResourceError`, and after our own `close` also a
            `trio.ClosedResourceError`.

    Attributes:
        path_params: what the route's pattern took from the path; empty without a route.
    """

    __slots__ = ()

    # -- state --------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Open for sending and receiving."""
        return self._state == OPEN

    @property
    def accepted(self) -> bool:
        """The opening handshake was completed, whatever came after."""
        return self._frames is not None

    @property
    def closed(self) -> bool:
        """At its end: nothing can come or go any more."""
        return self._state == CLOSED

    @property
    def close_code(self) -> int | None:
        """What the peer's Close frame said, else what ours did, else 1006; None before the end begins."""
        if self._state < CLOSING:
            return None
        return (self._close_received or self._close_sent or CloseFrame(1006, "")).code

    @property
    def close_reason(self) -> str | None:
        """The text beside `close_code`."""
        if self._state < CLOSING:
            return None
        return (self._close_received or self._close_sent or CloseFrame(1006, "")).reason

    @property
    def close_sent(self) -> CloseFrame | None:
        """The Close frame that we sent."""
        return self._close_sent

    @property
    def close_received(self) -> CloseFrame | None:
        """The Close frame that the peer sent."""
        return self._close_received

    @property
    def peer_closed_first(self) -> bool:
        """Whether the closing handshake began with the peer's Close frame."""
        return self._peer_closed_first

    @property
    def subprotocol(self) -> str | None:
        """What both sides agreed on, or None (RFC 6455 section 1.9)."""
        return self._subprotocol

    @property
    def latency(self) -> float | None:
        """Seconds that the last ping, ours or keepalive's, took there and back; None before the first."""
        return self._latency

    @property
    def local_address(self) -> Any:
        """This side's socket address, or None where the stream has none."""
        return self._transport.local_address

    @property
    def remote_address(self) -> Any:
        """The peer's socket address, or None where the stream has none."""
        return self._transport.remote_address

    @property
    def client_address(self) -> Any:
        """The client's socket address: on a server `remote_address`, on a client `local_address`.

        On a server behind a proxy that `Options.trusted_proxies` names it is what that says: a tuple of the
        host and the port, which is 0 where it says none.
        """
        return self.local_address if self._client else self._request.client_address

    @property
    def tls(self) -> TLSInfo | None:
        """What is known of the connection's TLS, such as the peer's certificate; None without."""
        return self._request.tls

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._write_buffer.size

    # -- the request --------------------------------------------------------------------------------

    @property
    def request(self) -> Request:
        """The client's opening request."""
        return self._request

    @property
    def path(self) -> str:
        """The request's path, percent-decoded."""
        return self._request.path

    @property
    def query_string(self) -> str:
        """The request's query as it was sent, without the question mark."""
        return self._request.query_string

    @property
    def query_params(self) -> dict[str, list[str]]:
        """The request's query, decoded; a name may stand there more than once."""
        return self._request.query_params

    @property
    def headers(self) -> Headers:
        """All request headers, in order, duplicates kept."""
        return self._request.headers

    @property
    def response_headers(self) -> Headers | None:
        """On a client, all headers of the server's answer; None on a server."""
        return self._response_headers

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first request header of that name, in any case."""
        return self._request.header(name, default)

    def __repr__(self) -> str:
        state = ("connecting", "open", "closing", "closed")[self._state]
        role = "client" if self._client else "server"
        return (
            f"<WebSocket {self._number} {role} {state} '{shown(self._request.path, 50)}'"
            f" peer={self._transport.peer_address!r}>"
        )
