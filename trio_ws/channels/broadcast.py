"""Send one message to many WebSockets without channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.protocol.frames import FIN
from trio_ws.protocol.framing import server_frame
from trio_ws.websocket.deferred_frame import DeferredFrame, deflated_frame
from trio_ws.websocket.internals import close_for_application, deflate_of, is_client, is_fragmenting, post
from trio_ws.websocket.message import whole_message
from trio_ws.websocket.write_buffer import buffer_many

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.message import WebSocketMessage
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["broadcast"]


def broadcast(
    websockets: Iterable[WebSocket],
    message: str | bytes | bytearray | memoryview | WebSocketMessage,
    exclude: Iterable[WebSocket] = (),
) -> int:
    """Send one message to many WebSockets, framed once, without waiting.

    All messages of one scheduler round are written together. Bytes that a slow peer does not accept wait in
    memory; a WebSocket with more than its ``channel_max_bytes`` waiting is closed with 1013. WebSockets that
    are not open, and those in the middle of sending a fragmented message, are skipped.

    Args:
        websockets: the receivers.
        message: ``str`` is sent as text, bytes-like as binary; a `WebSocketMessage` holds either.
        exclude: WebSockets to skip.

    Returns:
        The number of WebSockets that accepted the message.

    Raises:
        TypeError: ``message`` has another type.
    """
    opcode, payload = whole_message(message, "broadcast()")
    plain = server_frame(FIN | opcode, payload)
    deflated: dict[object, bytes | DeferredFrame] = {}
    excluded = frozenset(exclude)
    ordinary: list[WriteBuffer] = []
    count = 0
    for ws in websockets:
        if excluded and ws in excluded:
            continue
        write_buffer = ws._write_buffer
        if write_buffer.fast_send_limit and write_buffer.size <= ws._options.channel_max_bytes:
            # Fast path for the usual case: an open, uncompressed server connection between messages.
            ordinary.append(write_buffer)
            continue
        if not ws.connected or is_fragmenting(ws):
            continue
        if write_buffer.size > ws._options.channel_max_bytes:
            close_for_application(ws, 1013, "too slow for the broadcast")
            continue
        count += 1
        deflate = deflate_of(ws)
        # A client masks each frame with its own key (RFC 6455 section 5.3), and a host takes no frames.
        if is_client(ws) or write_buffer.whole is not None:
            post(ws, opcode, payload, cork=True)
        elif deflate is None or len(payload) < ws._threshold:
            write_buffer.buffer(plain)
        else:
            frame = deflated.get(deflate.settings)
            if frame is None:
                frame = deflated[deflate.settings] = deflated_frame(FIN | opcode, payload, deflate)
            deflate.restart()
            if isinstance(frame, DeferredFrame):
                write_buffer.write_deferred(frame)
            else:
                write_buffer.buffer(frame)
    buffer_many(ordinary, plain)
    return count + len(ordinary)
