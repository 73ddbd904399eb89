"""Sending of messages from synchronous code, without waiting, in frames of a given size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_ws.channels.broadcast import broadcast
from trio_ws.protocol.frames import BINARY, CONTINUATION, FIN
from trio_ws.protocol.framing import make_frame
from trio_ws.websocket.internals import deflate_of, is_client, is_fragmenting, options_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from trio_ws.websocket.connection import WebSocket

__all__ = ["CHUNK_SIZE", "Sent", "post"]

#: Bytes of a frame's payload.
CHUNK_SIZE = 65536


class Sent:
    """The result of a method that sends. The data was sent already, and awaiting this object is optional.

    Awaiting it is a checkpoint. The result of a connection's ``send()`` also waits until there is room for
    more.
    """

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint) -> None:
        self._wait = wait

    def __await__(self) -> Generator[object, object, None]:
        return self._wait().__await__()


def post(ws: WebSocket, payload: bytes, chunk_size: int = CHUNK_SIZE) -> bool:
    """Send one binary message without waiting; return whether it was accepted.

    If more than ``channel_max_bytes`` wait to be written, the connection is closed with code 1013.

    Args:
        ws: the connection.
        payload: the payload of the message.
        chunk_size: bytes in one frame (RFC 6455 section 5.4). With compression, the message is one frame.
    """
    if len(payload) <= chunk_size or deflate_of(ws) is not None:
        return broadcast((ws,), payload) == 1
    if (
        not ws.connected
        or is_fragmenting(ws)
        or parts_of(ws).write_buffer.size > options_of(ws).channel_max_bytes
    ):
        return broadcast((ws,), b"") == 1  # which handles the reason
    opcode = BINARY
    for start in range(0, len(payload), chunk_size):
        fin = FIN if start + chunk_size >= len(payload) else 0
        frame = make_frame(opcode | fin, payload[start : start + chunk_size], masked=is_client(ws))
        parts_of(ws).write_buffer.buffer(frame)
        opcode = CONTINUATION
    return True
