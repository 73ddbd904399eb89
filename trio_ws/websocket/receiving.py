"""Receiving: everything in which a `WebSocket` hands out messages.

What always holds: a cancellation loses no message and no part of one; each message goes to one task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.decoding import decode_json
from trio_ws.errors import MessageError
from trio_ws.websocket.handshaking import Handshaking
from trio_ws.websocket.lifetime import CONNECTING, OPEN
from trio_ws.websocket.message import WebSocketMessage
from trio_ws.websocket.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Receiving"]

T = TypeVar("T")


class Receiving(Handshaking):
    """The half of a `WebSocket` that receives."""

    __slots__ = ()

    async def recv(self) -> WebSocketMessage | None:
        """Wait for the next message.

        Returns:
            The message, or None once the peer has closed cleanly (with code 1000, 1001 or none).

        Raises:
            ConnectionClosedError: the connection ended in any other way.

        A cancellation loses no message.
        """
        # The common cases of _next(), a message that is here and one that a single read brings, without its
        # coroutine, which would be made for each message and kept while none comes. __anext__ has the same.
        inbox = self._messages
        if inbox:
            await checkpoint_if_cancelled()
        elif self._state == OPEN and not (
            self._write_buffer.flush_scheduled
            or self._parts_open
            or self._reading_paused
            or self._deferred_close
        ):
            self._ledger.received = 0
            await (self._input_arrived.wait() if self._epoll_driven else self._wait_for_input())
            self._sends_since_yield = 0
        if inbox and not self._parts_open and not self._reading_paused:
            item = inbox.popleft()
        else:
            next_item = await self._next_message()
            if next_item is None:
                return None
            item = next_item
        return WebSocketMessage("text" if type(item) is str else "binary", item)

    async def receive(self) -> WebSocketMessage:
        """As `recv`, but raises `trio.EndOfChannel` where that returns None, as trio's channels do."""
        message = await self.recv()
        if message is None:
            raise trio.EndOfChannel
        return message

    async def __anext__(self) -> WebSocketMessage:
        inbox = self._messages
        if inbox:
            await checkpoint_if_cancelled()
        elif self._state == OPEN and not (
            self._write_buffer.flush_scheduled
            or self._parts_open
            or self._reading_paused
            or self._deferred_close
        ):
            self._ledger.received = 0
            await (self._input_arrived.wait() if self._epoll_driven else self._wait_for_input())
            self._sends_since_yield = 0
        if inbox and not self._parts_open and not self._reading_paused:
            item = inbox.popleft()
        else:
            next_item = await self._next_message()
            if next_item is None:
                raise StopAsyncIteration
            item = next_item
        return WebSocketMessage("text" if type(item) is str else "binary", item)

    async def receive_text(self) -> str:
        """Wait for the next message, which must be text.

        Raises:
            MessageError: it is binary; ``error.message`` has it.
            ConnectionClosedError: the connection ended, cleanly or not.
        """
        item = await self._next_or_raise()
        if isinstance(item, str):
            return item
        raise MessageError("expected a text message and got a binary one", WebSocketMessage("binary", item))

    async def receive_bytes(self) -> bytes:
        """Wait for the next message, which must be binary. Raises as `receive_text` does."""
        item = await self._next_or_raise()
        if isinstance(item, bytes):
            return item
        raise MessageError("expected a binary message and got a text one", WebSocketMessage("text", item))

    @overload
    async def receive_json(self) -> Any: ...
    @overload
    async def receive_json(self, type: type[T]) -> T: ...
    async def receive_json(self, type: Any = Any) -> Any:
        """Wait for the next message, text or binary, and decode it as JSON straight into ``type`` by msgspec.

        Raises:
            MessageError: it is no JSON, or not of that type; the text has the path to the bad value.
            ConnectionClosedError: the connection ended, cleanly or not.
        """
        payload = await self._next_or_raise()
        return decode_json("message", payload, type, payload)

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Iterate over the parts of one message as they arrive: ``str`` of text, ``bytes`` of a binary one.

        A part is what has come so far, not a fragment as the peer cut it. ``max_message_size`` holds for the
        whole message. Once the peer has closed cleanly, the iteration ends without a part.

        A cancellation between parts loses none: another `recv_streaming` goes on in the same message. Until
        that message is at its end, the other ways to receive raise `MessageError`.

        Raises:
            ConnectionClosedError: the connection ended within the message, or not cleanly.
        """
        return MessageStream(self)

    async def _next_message(self) -> str | bytes | None:
        """The next message's payload; None after a clean end."""
        if self._parts_open:
            raise MessageError("a message is half received; finish it by iterating over recv_streaming()")
        inbox = self._messages
        if inbox:
            await checkpoint_if_cancelled()
        elif not await self._wait_for_message():
            return None
        item = inbox.popleft()
        if self._reading_paused and not inbox:
            self._queue_emptied()
        return item

    async def _wait_for_message(self) -> bool:
        """With the inbox empty, wait for a message to be there; False after a clean end."""
        inbox = self._messages
        waited = False
        while not inbox:
            if self._write_buffer.flush_scheduled:
                self._write_buffer.flush()
            if self._state == OPEN and not self._reading_paused and self._deferred_close is None:
                self._ledger.received = 0
                await self._wait_for_input()
            elif not await self._wait_for_more(waited=waited):
                return False
            waited = True
        self._sends_since_yield = 0
        return True

    async def _wait_for_more(self, *, waited: bool = False) -> bool:
        """With the inbox empty, wait for something to come; False after a clean end.

        Args:
            waited: the caller did so before, so that the end needs no checkpoint of its own.
        """
        self._queue_emptied()
        if self._deferred_close is not None:
            self._send_deferred_close()
        if self._state == OPEN:
            await self._wait_for_input()
        elif self._state == CONNECTING:
            await self.accept()
        elif not self._no_more_messages:
            await self._wait_for_input()
        else:
            if not waited:
                await checkpoint()
            if self._ended_cleanly:
                return False
            raise self._closed_error()
        return True

    async def _next_part(self) -> str | bytes | None:
        """What has come of the next message, or of the one that was begun; None after a clean end."""
        while True:
            if self._messages:
                await checkpoint_if_cancelled()
                self._parts_open = False
                return self._messages.popleft()
            part = self._frames.take_part() if self._frames is not None else None
            if part:
                self._parts_open = True
                return part
            if not await self._wait_for_more():
                if self._parts_open:
                    raise self._closed_error()
                return None

    async def _next_or_raise(self) -> str | bytes:
        item = await self._next_message()
        if item is None:
            raise self._closed_error()
        return item
