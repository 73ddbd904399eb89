"""MessageStream: the iterator behind `WebSocket.recv_streaming`.

It is an object instead of an async generator, so that leaving it in the middle needs no clean-up, and a
cancellation finds all state in the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from trio.lowlevel import checkpoint_if_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.websocket.receive_buffer import ReceiveBuffer

__all__ = ["MessageStream"]


class MessageStream(AsyncIterator[str | bytes]):
    """The parts of one message, as they arrive.

    Args:
        receive_buffer: of the connection.
        next_part: waits for what has come of the next message, or of the one that was begun. It returns None
            after a clean end.
    """

    __slots__ = ("_ended", "_next_part", "_receive_buffer")

    def __init__(
        self, receive_buffer: ReceiveBuffer, next_part: Callable[[], Awaitable[str | bytes | None]]
    ) -> None:
        self._receive_buffer = receive_buffer
        self._next_part = next_part
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        if self._ended:
            await checkpoint_if_cancelled()
            raise StopAsyncIteration
        buffer = self._receive_buffer
        begun = buffer.parts_open
        part = await self._next_part()
        self._ended = not buffer.parts_open
        # A fragmented message may end with nothing new; an empty message has one part, which tells its kind.
        if part is None or (self._ended and begun and not part):
            raise StopAsyncIteration
        return part
