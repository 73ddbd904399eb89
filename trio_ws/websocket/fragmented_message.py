"""FragmentedMessage: sending one message in fragments (RFC 6455 section 5.4), from an async iterable.

Invariants:

- Nothing is written before the first item. A cancellation before it sends nothing.
- A fragment is written as a whole, and no other message between two fragments.
- A message that was begun and cannot be finished closes the connection with code 1011.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from trio.lowlevel import cancel_shielded_checkpoint

from trio_ws.protocol.frames import BINARY, CONTINUATION, TEXT
from trio_ws.websocket.closing import OPEN
from trio_ws.websocket.deferred_frame import DEFLATED_AT_ONCE
from trio_ws.websocket.message import BytesLike, payload_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable

    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.closing import ClosingHandshake

__all__ = ["FragmentedMessage"]


class FragmentedMessage:
    """One message that is sent in fragments. No other message may be sent meanwhile.

    Args:
        items: its parts, all str or all bytes-like.
        closing: of the connection.
        deflate: compresses it, or None.
        wait_for_room: waits until a fragment can be sent.
        write: writes a fragment, from its opcode, its payload, and whether it is the last one.
    """

    def __init__(
        self,
        items: AsyncIterable[str] | AsyncIterable[BytesLike],
        closing: ClosingHandshake,
        deflate: PerMessageDeflate | None,
        wait_for_room: Callable[[], Awaitable[None]],
        write: Callable[[int, bytes, bool], None],
    ) -> None:
        self._items = items
        self._closing = closing
        self._deflate = deflate
        self._wait_for_room = wait_for_room
        self._write = write
        self._kind = ""  # of the items, once one was written
        self._finished = False

    async def send(self) -> None:
        """Send all items. Await `aclose` afterwards."""
        opcode = CONTINUATION
        async for item in self._items:
            if not isinstance(item, str | BytesLike):
                raise TypeError(f"a fragment is str or bytes-like, not {type(item).__name__}")
            if self._kind and (self._kind == "str") is not isinstance(item, str):
                raise TypeError("the fragments of one message are all str or all bytes-like")
            await self._wait_for_room()
            if not self._kind:
                self._kind = "str" if isinstance(item, str) else "bytes"
                opcode = TEXT if self._kind == "str" else BINARY
            self._write(opcode, await self._compressed(payload_bytes(item)), False)
            opcode = CONTINUATION
            await cancel_shielded_checkpoint()
        if self._kind:
            self._check_open()
            last = self._deflate.compress(b"", fin=True) if self._deflate is not None else b""
            self._write(CONTINUATION, last, True)
        self._finished = True

    async def aclose(self) -> None:
        """Close the iterable, and the connection if the message was begun and not finished."""
        if self._kind and not self._finished:
            self._closing.start(1011, "a fragmented message was not finished")
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()

    async def _compressed(self, payload: bytes) -> bytes:
        """Compress a fragment in pieces, with checkpoints that cannot be cancelled."""
        if self._deflate is None:
            return payload
        pieces = [self._deflate.compress(payload[:DEFLATED_AT_ONCE], fin=False)]
        for start in range(DEFLATED_AT_ONCE, len(payload), DEFLATED_AT_ONCE):
            await cancel_shielded_checkpoint()
            pieces.append(self._deflate.compress(payload[start : start + DEFLATED_AT_ONCE], fin=False))
        self._check_open()
        return b"".join(pieces)

    def _check_open(self) -> None:
        if self._closing.state != OPEN:
            raise self._closing.closed_error()
