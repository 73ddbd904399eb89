"""Handshaking: how a connection begins and ends, as its user says it.

What always holds: an accept or a reject comes once; a close ends within ``close_timeout``, and cancelled at
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint_if_cancelled

from trio_ws.errors import check_close
from trio_ws.logs import logger_for
from trio_ws.protocol.server_response import answer_refusal, answer_upgrade
from trio_ws.websocket.endpoint import Endpoint
from trio_ws.websocket.lifetime import CLOSED, CLOSING, CONNECTING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.protocol.http import Headers, Request
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["Handshaking"]

logger = logger_for("trio_ws.websocket")


class Handshaking(Endpoint):
    """Both handshakes of a `WebSocket`: accept and reject, close and wait for the end."""

    __slots__ = (
        "_offered",
        "_request",
        "_response_headers",
        "_subprotocol",
        "path_params",
    )

    def __init__(
        self,
        transport: Transport,
        runtime: ConnectionRuntime,
        options: Options,
        *,
        client: bool,
        request: Request,
        subprotocols: tuple[str, ...] = (),
        trailing: bytes = b"",
    ) -> None:
        super().__init__(transport, runtime, options, client=client)
        self._request = request
        self._trailing = trailing  # what came behind the request
        self._offered = subprotocols  # those that an implicit accept() may choose from
        self._subprotocol: str | None = None
        self._response_headers: Headers | None = None
        self.path_params: dict[str, Any] = {}

    # -- opening ------------------------------------------------------------------------------------

    def _opened(
        self,
        subprotocol: str | None,
        response_headers: Headers,
        deflate: PerMessageDeflate | None,
        trailing: bytes,
    ) -> None:
        """As a client, the handshake was answered."""
        self._subprotocol = subprotocol
        self._response_headers = response_headers
        self._open(deflate, trailing)

    async def accept(self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Accept the client (RFC 6455 section 4.2.2). Sending or receiving does it where this was not called.

        Args:
            subprotocol: one of those that the client offered. Default: the first of the server's own list
                that it offered, or none.
            headers: more response headers.

        Raises:
            RuntimeError: it was accepted or rejected already.
            ValueError: the client did not offer that subprotocol, or a header is not legal.
        """
        await checkpoint_if_cancelled()
        self._check_connecting("accept")
        answer, self._subprotocol, deflate = answer_upgrade(
            self._request, subprotocol, self._offered, headers, self._options
        )
        self._write_buffer.write(answer)
        if self._write_buffer.broken:
            raise self._closed_error()
        trailing, self._trailing = self._trailing, b""
        self._open(deflate, trailing)

    async def reject(
        self, status: int = 403, headers: Iterable[tuple[str, str]] = (), body: bytes | str = b""
    ) -> None:
        """Refuse the client with an HTTP response (RFC 6455 section 4.2.2), and close the connection.

        Args:
            status: an HTTP status from 200 to 599.
            headers: the response headers; Content-Length and Connection are added.
            body: the response body; text is sent as UTF-8.

        Raises:
            RuntimeError: it was accepted or rejected already.
        """
        await checkpoint_if_cancelled()
        self._check_connecting("reject")
        response = answer_refusal(status, headers, body)
        self._closed_locally = True
        self._reject_with(response)

    def _check_connecting(self, what: str) -> None:
        if self._state != CONNECTING:
            if self._frames is None and not self._closed_locally:
                raise self._closed_error()  # by a server that goes away
            raise RuntimeError(f"{what}() comes once, before anything else")

    def _came_early(self, data: bytes) -> None:
        if self._state != CONNECTING:
            return  # it was rejected, and talks on
        limit = self._options.max_queue_bytes
        if len(self._trailing) < limit:
            self._trailing += data
            return
        logger.info("refused %r: more than max_queue_bytes (%d) came before it was let in", self, limit)
        self._reject_with(answer_refusal(413, (), "too much came before the WebSocket was open\n"))
        self._cancel_opening()

    def _reject_with(self, response: bytes) -> None:
        self._write_buffer.write(response)
        self._state = CLOSING
        self._runtime.keepalive.start_close_timer(self)
        self._write_buffer.close_when_empty()
        if not self._write_buffer.blocked:
            self._abort(None)

    def _shutdown(self, code: int, reason: str) -> None:
        """The server stops, and says so in whatever state the connection is."""
        if self._state == CONNECTING:
            self._reject_with(answer_refusal(503, [("Retry-After", "1")], "the server is going away\n"))
        elif self._observer is not None:
            self._observer.shutdown(code, reason)
        else:
            self._start_close(code, reason)

    # -- closing ------------------------------------------------------------------------------------

    def _start_application_close(self, code: int, reason: str) -> None:
        """Close on behalf of the application, up to where that would have to wait."""
        if self._close_received is None and not self._no_more_messages:
            self._closed_locally = True
        if self._deferred_close is not None:
            self._send_deferred_close()
        self._start_close(code, reason)
        if self._closed_locally:
            self._messages.clear()
            self._queue_emptied()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake (RFC 6455 section 7.1.2), in at most ``close_timeout`` seconds.

        Messages that were received and not yet taken are dropped, unless the peer was the one to close.
        Closing again is fine and waits for the same end. A connection that was not yet accepted is rejected
        with 403.

        Cancelled, it closes the transport at once: what is lost is the grace, never the closing.

        Args:
            code: 1000, or another that may be sent (section 7.4).
            reason: at most 123 bytes of UTF-8.

        Raises:
            ValueError: the code may not be sent, or the reason is too long.
        """
        check_close(code, reason)
        if self._state == CLOSED:
            # What the peer sent before it closed stays, for whoever comes to take it.
            await self._transport.wait_closed()
            return
        if self._state == CONNECTING:
            try:
                await self.reject()
            except BaseException:
                self._abort(None)
                raise
        self._start_application_close(code, reason)
        # A peer that broke the protocol may be unable to end the handshake, so it gets less time.
        failed = self._frames is not None and self._frames.done and self._close_received is None
        grace = min(1.0, self._options.close_timeout) if failed else self._options.close_timeout
        try:
            with trio.move_on_after(grace) as scope:
                while self._state != CLOSED:
                    await self._wait_for_input()
            if scope.cancelled_caught:
                self._close_timed_out()
        finally:
            self._abort(None)
        await self._transport.wait_closed()

    async def aclose(self) -> None:
        """The same as ``close()``, under the name that trio's resources have."""
        await self.close()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, in whatever way. Messages stay where they are."""
        await checkpoint_if_cancelled()
        if self._state == CONNECTING:
            await self.accept()
        while self._state != CLOSED:
            if await self._wait_for_input() and self._state != CLOSED:
                # Others waited for what was just read: the next read is theirs.
                await self._input_arrived.wait()
