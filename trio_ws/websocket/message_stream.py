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

    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.receive_buffer import ReceiveBuffer

__all__ = ["MessageStream"]


class MessageStream(AsyncIterator[str | bytes]):
    """The parts of one message, as they arrive.

    Args:
        receive_buffer: of the connection.
        closing: of the connection.
        wait_for_more: waits for input, and returns False after a clean end.
        fragments: whether the parts are the fragments that the peer has sent.
    """

    __slots__ = ("_closing", "_ended", "_fragments", "_receive_buffer", "_wait_for_more")

    def __init__(
        self,
        receive_buffer: ReceiveBuffer,
        closing: ClosingHandshake,
        wait_for_more: Callable[[], Awaitable[bool]],
        *,
        fragments: bool,
    ) -> None:
        self._receive_buffer = receive_buffer
        self._closing = closing
        self._wait_for_more = wait_for_more
        self._fragments = fragments
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        if self._ended:
            await checkpoint_if_cancelled()
            raise StopAsyncIteration
        buffer = self._receive_buffer
        begun = buffer.parts_open
        part = await (self._next_fragment() if self._fragments else self._next_part())
        self._ended = not buffer.parts_open
        # A fragmented message may end with nothing new; an empty message has one part, which tells its kind.
        if part is None or (self._ended and begun and not part):
            raise StopAsyncIteration
        return part

    async def _next_fragment(self) -> str | bytes | None:
        """Wait for the next complete fragment; None after a clean end."""
        buffer = self._receive_buffer
        await checkpoint_if_cancelled()
        while (fragment := buffer.next_fragment()) is None:
            if not await self._wait_for_more():
                if buffer.parts_open:
                    raise self._closing.closed_error()
                return None
        return fragment

    async def _next_part(self) -> str | bytes | None:
        """Wait for the next part of the current message, or of the next one; None after a clean end."""
        buffer = self._receive_buffer
        while True:
            if buffer.fragments:  # of the same message, asked for as fragments before
                return await self._next_fragment()
            if buffer.messages:
                await checkpoint_if_cancelled()
                buffer.parts_open = False
                return buffer.messages.popleft()
            part = buffer.frames.take_part() if buffer.frames is not None else None
            if part:
                buffer.parts_open = True
                return part
            if not await self._wait_for_more():
                if buffer.parts_open:
                    raise self._closing.closed_error()
                return None
