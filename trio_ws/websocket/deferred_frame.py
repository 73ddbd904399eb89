"""DeferredFrame: a frame that synchronous code adds to a write buffer now, and that is made later.

To deflate a megabyte takes tens of milliseconds, and code that publishes, answers or sends without waiting
cannot let other tasks run meanwhile. So a write buffer takes such a message as it is and keeps its place.
The task that comes to write it deflates it, a piece in each turn. Where several write buffers hold one
frame, one task does it for all of them.

Invariants:

- It counts for the bytes of its message, deflated or not, so that bounds hold before it is made.
- It refers to nothing that its connections sent before. Code that adds it to a write buffer calls `restart`
  of that connection's `PerMessageDeflate`.
- A task that is cancelled while it makes the frame leaves the work to another that waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio.lowlevel import ParkingLot, checkpoint

from trio_ws.protocol.frames import RSV1
from trio_ws.protocol.framing import frame_pair, server_frame

if TYPE_CHECKING:
    from trio_ws.protocol.deflate import PerMessageDeflate

__all__ = ["DEFLATED_AT_ONCE", "DeferredFrame", "deflated_frame"]

#: Larger messages are deflated by this much at a time, about a millisecond, with other tasks in between.
DEFLATED_AT_ONCE = 32 * 1024
#: Tasks that are woken in one turn when it is made: each of them writes a large frame.
_WOKEN_AT_ONCE = 4


class DeferredFrame:
    """A large message that is deflated when it is written. See the head of the module.

    Args:
        first: the frame's first byte, but for RSV1.
        payload: the message.
        deflate: of a connection that has the settings of all that get it.
        masked: whether it is a client's.
    """

    __slots__ = (
        "_deflate",
        "_first",
        "_frame",
        "_making",
        "_masked",
        "_payload",
        "_size",
        "_waiting",
        "_woken",
    )

    def __init__(
        self, first: int, payload: bytes, deflate: PerMessageDeflate, *, masked: bool = False
    ) -> None:
        self._first = first | RSV1
        self._payload = payload
        self._size = len(payload)
        self._deflate = deflate
        self._masked = masked
        self._frame = b""
        self._making = False
        self._waiting = ParkingLot()
        self._woken = 0  # tasks that were woken and have not run yet

    def __len__(self) -> int:
        return self._size

    async def frame(self) -> bytes:
        """Make it, or wait for the task that does."""
        while not self._frame:
            if not self._making:
                await self._make()
                self._wake()
                break
            await self._waiting.park()
            if self._frame:
                self._woken -= 1
                if not self._woken:
                    self._wake()
        return self._frame

    async def _make(self) -> None:
        self._making = True
        pieces: list[bytes] = []
        try:
            for piece in self._deflate.alone_in_pieces(self._payload, DEFLATED_AT_ONCE):
                pieces.append(piece)
                await checkpoint()
        except BaseException:
            self._making = False
            self._waiting.unpark()
            raise
        self._frame = b"".join(frame_pair(self._first, b"".join(pieces), masked=self._masked))
        self._payload = b""

    def _wake(self) -> None:
        self._woken = len(self._waiting.unpark(count=_WOKEN_AT_ONCE))


def deflated_frame(first: int, payload: bytes, deflate: PerMessageDeflate) -> bytes | DeferredFrame:
    """A frame for all of a server's connections with these settings, made now if that takes no time."""
    if len(payload) > DEFLATED_AT_ONCE:
        return DeferredFrame(first, payload, deflate)
    return server_frame(first | RSV1, deflate.alone(payload))
