"""Opening: what a server's connection keeps until its client is accepted, and is freed then.

Theory of operation. A server starts the code that serves a client as soon as its request is complete. This
code accepts or rejects the client. If the client leaves before, the code is cancelled: `Opening.begin` puts a
cancel scope around the rest of the task, and `Opening.end` leaves it in the same task. By default the scope
protects the opening handshake only, and accepting the client leaves it. A handler whose ``on_connect`` may
accept the client lets the scope last until ``on_connect`` has returned: it sets `Opening.held` before, and
calls `let_in` of internals.py after that.

Invariant: an idle connection has no `Opening`. `WebSocket` drops it once `Opening.leave` returns true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws._late_scope import LateScope
from trio_ws.protocol.server_response import answer_refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable

    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["Opening", "write_rejection"]


class Opening:
    """The opening handshake of one client, on the server.

    Args:
        offered: the subprotocols that an implicit accept may select.
        trailing: bytes that came after the request.

    Attributes:
        held: whether the scope lasts beyond the accept.
        offered: the same, after `offer_first`.
        trailing: the same, with what came since.
    """

    __slots__ = ("_scope", "held", "offered", "trailing")

    def __init__(self, offered: tuple[str, ...], trailing: bytes) -> None:
        self._scope: LateScope | None = None
        self.held = False
        self.offered = offered
        self.trailing = trailing

    def begin(self) -> None:
        """Cancel what this task does from now on if the client leaves. Call `end` in the same task."""
        self._scope = LateScope()

    def end(self, exc: BaseException | None) -> bool:
        """Leave the scope with an exception, if any. Return whether it was the scope's cancellation."""
        scope, self._scope = self._scope, None
        return scope is not None and scope.exit(exc)

    def leave(self) -> bool:
        """Leave the scope before `end`, if that is possible. Return whether it was left."""
        self.held = False
        if self._scope is not None and self._scope.leave():
            self._scope = None
        return self._scope is None

    def cancel(self) -> bool:
        """Cancel the code that serves the client. Return whether there is such code."""
        if self._scope is not None:
            self._scope.cancel()
        return self._scope is not None

    def offer_first(self, subprotocols: Iterable[str]) -> None:
        """Let an implicit accept prefer these subprotocols to the others."""
        self.offered = (*subprotocols, *self.offered)

    def keep(self, data: bytes, limit: int) -> bool:
        """Keep bytes that came before the accept. Return False if there are too many."""
        if len(self.trailing) >= limit:
            return False
        self.trailing += data
        return True


async def write_rejection(
    write_buffer: WriteBuffer,
    closing: ClosingHandshake,
    high_water: int,
    status: int,
    headers: Iterable[tuple[str, str]],
    parts: AsyncIterable[bytes | str],
) -> None:
    """Write an HTTP response whose body comes in parts. A failure aborts the connection.

    Without Content-Length, the body ends with the connection (RFC 9112 section 6.3).
    """
    head = answer_refusal(status, headers, b"").replace(b"Content-Length: 0\r\n", b"", 1)
    closing.refuse_messages()
    closing.rejecting()
    try:
        write_buffer.write(head)
        async for part in parts:
            write_buffer.write(part.encode() if isinstance(part, str) else bytes(part))
            while write_buffer.size >= high_water and not write_buffer.broken:
                await write_buffer.writable.wait()
            if write_buffer.broken:
                raise closing.closed_error()
    except BaseException:
        closing.abort(None)
        raise
