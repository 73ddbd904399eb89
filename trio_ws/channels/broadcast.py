"""One message to many WebSockets that are in no channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.protocol.frames import FIN
from trio_ws.protocol.framing import server_frame
from trio_ws.websocket.deferred_frame import DeferredFrame, deflated_frame
from trio_ws.websocket.lifetime import OPEN
from trio_ws.websocket.sending import whole_message
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

    The messages of one scheduler round go out together. What a slow one does not take waits in memory; once
    more than its ``channel_max_bytes`` wait it is closed with 1013. Those that are not open, and those in the
    middle of sending a fragmented message, are passed over.

    Args:
        websockets: those that get it.
        message: ``str`` as text, bytes-like as binary, or a `WebSocketMessage` of these.
        exclude: those that do not.

    Returns:
        How many took it.

    Raises:
        TypeError: ``message`` is of no such type.
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
        if ws._fast_send_limit and write_buffer.size <= ws._options.channel_max_bytes:
            # The common case of all that follows: open, neither a client nor compressed, between messages.
            ordinary.append(write_buffer)
            continue
        if ws._state != OPEN or ws._fragmenting is not None:
            continue
        if write_buffer.size > ws._options.channel_max_bytes:
            ws._start_application_close(1013, "too slow for what is broadcast")
            continue
        count += 1
        deflate = ws._deflate
        if ws._client:  # each masks for itself (RFC 6455 section 5.3)
            ws._post(opcode, payload, cork=True)
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
