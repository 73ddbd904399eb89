"""MessageParts: the iterator behind `WebSocket.recv_streaming`.

It is an object and no async generator, so that leaving it in the middle needs no clean-up and a
cancellation finds all state in the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

from trio.lowlevel import checkpoint_if_cancelled

if TYPE_CHECKING:
    from trio_ws.websocket.receiving import Receiving

__all__ = ["MessageStream"]


class MessageStream(AsyncIterator[str | bytes]):
    """The parts of one message of ``ws``, as they arrive."""

    __slots__ = ("_ended", "_ws")

    def __init__(self, ws: Receiving) -> None:
        self._ws = ws
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | bytes:
        if self._ended:
            await checkpoint_if_cancelled()
            raise StopAsyncIteration
        ws = self._ws
        begun = ws._parts_open
        part = await ws._next_part()
        self._ended = not ws._parts_open
        # A fragmented message may end with nothing new; an empty message has one part, which tells its kind.
        if part is None or (self._ended and begun and not part):
            raise StopAsyncIteration
        return part
