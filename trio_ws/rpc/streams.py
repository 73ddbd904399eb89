"""Streams: the items of one call, either way round, as a bounded channel over the wire.

`ItemStream` is the receiving end. `Producer` is what the sending end knows of it: how many items the other
side still wants. Both ends of one stream hold at most ``stream_window`` items together, where the dialect has
credits (``trio-ws.v1``); in the others a stream that nobody takes from stops the reading of its connection.

What always holds: a producer stands at its ``yield`` while it has no credit; a cancellation that comes while
it stands there goes through the generator, as if it had been waiting itself (PEP 789).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.errors import PacketError, PacketValidationError
from trio_ws.ledger import OVERHEAD, size_of
from trio_ws.rpc.errors import error_from
from trio_ws.websocket.bell import Bell
from trio_ws.wire.decoding import UNDECODABLE, describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws.errors import WebSocketError
    from trio_ws.rpc.calls import Caller
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.wire.packets import Request, Response

__all__ = ["ItemStream", "Producer", "convert", "produce"]

T = TypeVar("T")

#: Bytes that may come in one burst before the task that waits for them has run.
_BURST = 65536
#: Items in a row after which a producer that never waits gives way to other tasks.
_ITEMS_IN_A_ROW = 256


def convert(value: Any, type: Any, what: str) -> Any:
    """Validate and convert what came by the wire, with an error of ours."""
    if type is Any:
        return value
    try:
        return msgspec.convert(value, type)
    except UNDECODABLE as exc:
        if isinstance(exc, TypeError):
            msgspec.msgpack.Decoder(type)  # a type that msgspec does not know is the caller's mistake
        raise PacketValidationError(f"{what} is not what was asked for: {describe(exc)}") from exc


class ItemStream(trio.abc.ReceiveChannel[T], Generic[T]):
    """The items of a stream, in order, as they come: a `trio.abc.ReceiveChannel` and an async iterator.

    Closing it before the end cancels the producer on the other side. A cancellation loses no item.
    """

    __slots__ = (
        "_arrived",
        "_credit",
        "_ended",
        "_error",
        "_granted",
        "_items",
        "_peer",
        "_since",
        "_taken",
        "_type",
        "_what",
        "lease",
        "mark",
        "stream_id",
    )

    def __init__(self, peer: Caller, stream_id: Any, type: Any, what: str, *, granted: int) -> None:
        self._peer = peer
        self._type = type
        self._what = what
        self._items: deque[tuple[Any, int]] = deque()
        self._arrived = Bell()
        self._ended = False
        self._error: WebSocketError | None = None
        self._granted = granted  # items that may still come
        self._taken = 0  # since credit was last sent
        self._since = 0  # items since a checkpoint
        self.mark = 0  # see waiting.py
        self.lease: Lease | None = None
        self.stream_id = stream_id

    async def receive(self) -> T:
        """Wait for the next item.

        Raises:
            trio.EndOfChannel: the producer came to its end.
            trio.ClosedResourceError: this stream was closed here.
            RPCError: the producer failed.
            ConnectionClosedError: the connection ended before the stream did.
            PacketValidationError: the item is not of the type that was asked for.
        """
        if self._items and self._since < _ITEMS_IN_A_ROW:
            await checkpoint_if_cancelled()
            self._since += 1
        else:
            self._since = 0
            if self._items:
                await checkpoint()
            else:
                await self._wait()
        return self.receive_nowait()

    async def _wait(self) -> None:
        await checkpoint_if_cancelled()
        peer = self._peer
        self._grant()
        while not self._items and not self._ended:
            with peer.needing:
                await self._arrived.wait()

    def receive_nowait(self) -> T:
        """The next item, if it is here. Raises as `receive`, and `trio.WouldBlock` where it is not."""
        if not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise trio.EndOfChannel
            raise trio.WouldBlock
        item, size = self._items.popleft()
        peer = self._peer
        ledger = peer.ledger
        if ledger.held >= ledger.max_held:
            peer.release(size)
        else:
            ledger.held -= size
        if peer.extended:
            self._taken += 1
            if self._taken >= peer.window // 2:
                self._grant()
        if self._type is Any:
            return item  # type: ignore[no-any-return]
        value: T = convert(item, self._type, self._what)
        return value

    def _grant(self) -> None:
        """Tell the producer how much more may come."""
        peer = self._peer
        if not self._ended and peer.extended:
            missing = peer.window - self._granted - len(self._items)
            if missing > 0:
                self._granted += missing
                self._taken = 0
                peer.send_credit(self.stream_id, missing)

    def close(self) -> None:
        """As `aclose`, without waiting for anything."""
        if self._ended and not self._items:
            if self._error is None:
                self._error = _closed()
            return
        if not self._ended:
            self._ended = True
            self._peer.abandon(self.stream_id)
        size = sum(size for _, size in self._items)
        self._items.clear()
        self._peer.release(size)
        self._error = _closed()
        self._arrived.ring()

    async def aclose(self) -> None:
        """Take no more: the producer is cancelled, if it still runs. Closing again does nothing."""
        self.close()
        await checkpoint()

    # -- what the peer calls ------------------------------------------------------------------------

    def answered(self, response: Response, size: int) -> bool:
        """Take a packet of this stream; give whether it was the last."""
        if response.error is not None:
            self._finish(error_from(response, ours=self._peer.extended))
        elif response.is_end:
            self._finish(None)
        elif not response.is_stream:
            self._finish(error_from(response, "it is no stream; use call()", ours=self._peer.extended))
        else:
            peer = self._peer
            if peer.extended:
                if self._granted <= 0:
                    peer.misbehaved("more items of a stream than there was credit for")
                    return False
                self._granted -= 1
            item = response.response
            kind = type(item)
            if kind is list or kind is dict:
                size = max(size, size_of(item))
            size += OVERHEAD
            ledger = peer.ledger
            ledger.held += size
            self._items.append((item, size))
            self._arrived.ring()
            if ledger.held > 2 * ledger.max_held + _BURST and not peer.extended:
                # Reading could not stop, since somebody waits for what it brings.
                peer.post(peer.dialect.abort(self.stream_id), cork=False)
                self._finish(PacketError("nobody took the items of this stream: max_held_bytes is exceeded"))
        return self._ended

    def lost(self, error: WebSocketError) -> None:
        """The connection ended. What came before can still be taken."""
        self._finish(error)

    def _finish(self, error: WebSocketError | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._arrived.ring()


def _closed() -> Any:
    return trio.ClosedResourceError("this stream was closed here")


class Producer:
    """What the sending end of a stream knows of the other; ``credit`` is None in dialects without."""

    __slots__ = ("bell", "credit", "request")

    def __init__(self, request: Request, credit: int | None) -> None:
        self.request = request
        self.credit = credit
        self.bell: Bell | None = None

    def add_credit(self, count: int) -> None:
        if self.credit is not None:
            self.credit += count
            if self.bell is not None:
                self.bell.ring()


async def produce(peer: Caller, producer: Producer, items: AsyncIterator[Any]) -> None:
    """Send all ``items``, and then the end. What they raise is left to the caller."""
    request = producer.request
    encode = peer.dialect.items(request)
    send, opcode = peer.ws._post, peer.opcode
    outbox, high_water = peer.ws._outbox, peer.ws._options.send_high_water
    count = 0
    try:
        await _may_send(peer, producer, 0)
        async for item in items:
            to_send = item
            while not peer.over:
                payload = encode(to_send)
                if payload is not None:
                    send(opcode, payload, cork=True)
                count += 1
                if producer.credit is None:
                    if outbox.size < high_water and count % _ITEMS_IN_A_ROW:
                        break
                else:
                    producer.credit -= 1
                    if producer.credit > 0 and outbox.size < high_water:
                        break
                try:
                    await _may_send(peer, producer, count)
                    break
                except trio.Cancelled as exc:
                    # The generator stands at its yield inside a scope that may be the one that was cancelled.
                    throw = getattr(items, "athrow", None)
                    if throw is None:
                        raise
                    to_send = await throw(exc)
                await _may_send(peer, producer, count)
            else:
                return
    except StopAsyncIteration:
        pass  # it took the cancellation for its end
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    await checkpoint_if_cancelled()  # what a cancellation has cut short is not at its end
    payload = peer.dialect.end(request)
    if payload is not None:
        peer.reply(payload)


async def _may_send(peer: Caller, producer: Producer, count: int) -> None:
    """Wait until the other side wants an item and the network takes it."""
    if producer.credit is not None and producer.credit <= 0:
        producer.bell = producer.bell or Bell()
        peer.flush()
        while producer.credit <= 0:
            with peer.needing:
                await producer.bell.wait()
    if peer.congested:
        await peer.wait_for_room()
    elif count and count % _ITEMS_IN_A_ROW == 0:
        peer.flush()
        await checkpoint()
