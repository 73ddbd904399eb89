"""The parts of a WebSocket, for the layers above.

`WebSocket` is public, so that its parts are private attributes. Only this module and the fast paths listed in
tests/test_typing.py read these from outside; everything else takes the parts from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_ws.errors import ConnectionClosedError
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.protocol.http import Headers
    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.liveness import Liveness
    from trio_ws.websocket.opening import Opening
    from trio_ws.websocket.readers import Reader
    from trio_ws.websocket.receive_buffer import ReceiveBuffer
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = [
    "Parts",
    "accept_now",
    "begin_opening",
    "close_for_application",
    "close_for_shutdown",
    "closed_error",
    "closing_of",
    "deflate_of",
    "end_opening",
    "hold_opening",
    "is_client",
    "is_fragmenting",
    "let_in",
    "message_waiter",
    "offer_first",
    "open_client",
    "opening_of",
    "options_of",
    "parts_of",
    "post",
    "reader_of",
    "release_opening",
    "send",
    "wait_for_room",
]


class Parts(NamedTuple):
    """The parts of a WebSocket. They stay the same for its whole life."""

    closing: ClosingHandshake
    reader: Reader
    receive_buffer: ReceiveBuffer
    write_buffer: WriteBuffer
    liveness: Liveness
    options: Options


def parts_of(ws: WebSocket) -> Parts:
    """Return the parts of a WebSocket."""
    return Parts(ws._closing, ws._reader, ws._receive_buffer, ws._write_buffer, ws._liveness, ws._options)


def closing_of(ws: WebSocket) -> ClosingHandshake:
    """Return the closing handshake of a WebSocket, which takes a sixth of the time of all parts."""
    return ws._closing


def reader_of(ws: WebSocket) -> Reader:
    """Return the reader of a WebSocket."""
    return ws._reader


def options_of(ws: WebSocket) -> Options:
    """Return the options of a WebSocket."""
    return ws._options


def closed_error(ws: WebSocket) -> ConnectionClosedError:
    """Return the error for methods that need an open connection, after it was closed."""
    return closing_of(ws).closed_error()


def close_for_application(ws: WebSocket, code: int, reason: str) -> None:
    """Start to close for the application, without waiting."""
    ws._start_application_close(code, reason)


def close_for_shutdown(ws: WebSocket, code: int, reason: str) -> None:
    """Close or reject, because the server shuts down."""
    ws._shutdown(code, reason)


def post(ws: WebSocket, opcode: int, payload: bytes, *, cork: bool) -> None:
    """Send one message regardless of the high-water mark, for callers that have their own limit.

    Nothing is sent if the connection is closing.
    """
    ws._post(opcode, payload, cork=cork)


def send(ws: WebSocket, opcode: int, payload: bytes) -> Awaitable[None]:
    """Send one message, once there is room."""
    return ws._send(opcode, payload)


def is_fragmenting(ws: WebSocket) -> bool:
    """Whether a message is being sent in parts, so that no other can be sent."""
    return ws._fragmenting is not None


def wait_for_room(ws: WebSocket) -> Awaitable[None]:
    """Wait until the connection is open, no message is being sent in parts, and there is room."""
    return ws._wait_for_room()


def message_waiter(ws: WebSocket) -> Callable[[], Awaitable[bool]]:
    """Return the function that waits for a message if none is here; it returns False after a clean end."""
    return ws._wait_for_message


def deflate_of(ws: WebSocket) -> PerMessageDeflate | None:
    """Return the compression of an open WebSocket, or None."""
    return ws._deflate


def is_client(ws: WebSocket) -> bool:
    """Whether it is the client's end, whose frames are masked."""
    return ws._write_buffer.client


# -- the opening handshake ----------------------------------------------------------------------------------


def open_client(
    ws: WebSocket,
    subprotocol: str | None,
    response_headers: Headers,
    deflate: PerMessageDeflate | None,
    trailing: bytes,
) -> None:
    """Open the connection of a client, after the server's response."""
    ws._opened(subprotocol, response_headers, deflate, trailing)


def opening_of(ws: WebSocket) -> Opening | None:
    """Return the opening handshake of a server's WebSocket; None once the client is accepted."""
    return ws._opening


def accept_now(ws: WebSocket) -> None:
    """Accept the client as `WebSocket.accept` does without arguments. Raises ConnectionClosedError."""
    ws._accept(None, ())


def begin_opening(ws: WebSocket) -> None:
    """Cancel what this task does from now on if the client leaves before it is accepted.

    Call `end_opening` in the same task.
    """
    opening = opening_of(ws)
    if opening is not None:
        opening.begin()
        reader_of(ws).watch_soon()


def end_opening(ws: WebSocket, exc: BaseException | None) -> bool:
    """Leave that scope with an exception, if any. Return whether it was the scope's cancellation."""
    opening = opening_of(ws)
    return opening is not None and opening.end(exc)


def hold_opening(ws: WebSocket) -> None:
    """Let `begin_opening` last beyond the accept, until `let_in`."""
    opening = opening_of(ws)
    if opening is not None:
        opening.held = True


def let_in(ws: WebSocket) -> None:
    """Let the end of the connection cancel nothing any more."""
    ws._let_in()


def release_opening(ws: WebSocket) -> None:
    """Cancel nothing any more after the accept."""
    opening = opening_of(ws)
    if opening is not None:
        opening.held = False


def offer_first(ws: WebSocket, subprotocols: Iterable[str]) -> None:
    """Let an implicit ``accept()`` prefer these subprotocols to the others."""
    opening = opening_of(ws)
    if opening is not None:
        opening.offer_first(subprotocols)
