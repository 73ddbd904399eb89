"""Streams: the items of one call, in either direction, with flow control.

`ItemStream` is the receiving end. `StreamSender` is the sending end's credit: how many items and bytes the
other side still accepts, if the codec has credits (``trio-ws.v1``). With other codecs, a stream that nobody
receives from stops the reading of its connection.

Invariants:

- Both ends of one stream together hold at most ``stream_window`` items, and at most the bytes of its window
  plus one item. The window is the sum of the bytes that are granted, that wait and that are owed.
- A consumer that waits has granted an item, and at least one byte.
- A producer is suspended at its ``yield`` while it has no credit. A cancellation that comes meanwhile is
  raised in the generator, as if it had been waiting itself (PEP 789).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec
import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws._types import ANY_VALUE
from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError, PacketValidationError, RPCTimeoutError
from trio_ws.ledger import OVERHEAD
from trio_ws.models import decode_model
from trio_ws.rpc.deadlines import let_own_deadline_speak
from trio_ws.rpc.errors import error_from
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws._types import Value
    from trio_ws.codecs.base import Request, Response
    from trio_ws.errors import WebSocketError
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["LIMITLESS", "ItemStream", "StreamSender", "convert", "produce"]

T = TypeVar("T")

#: Bytes that may arrive in one burst before the task that waits for them has run.
_BURST = 65536
#: Bytes of a stream's first window. It doubles up to ``stream_window_bytes`` while the producer fills it.
_FIRST_WINDOW = 64 * 1024
#: Bytes that each stream is granted whatever others hold, in addition to its largest item.
_LEAST_GRANT = 32 * 1024
#: The credit in bytes of a consumer that does not count bytes.
LIMITLESS = 1 << 62
#: Items in a row after which a producer that never waits yields to other tasks.
_ITEMS_IN_A_ROW = 256


def convert(value: Value, type: object, what: str) -> Value:
    """Validate and convert a value that was received.

    Raises:
        PacketValidationError: the value is not of this type.
    """
    if type is ANY_VALUE:
        return value
    try:
        return msgspec.convert(value, type, dec_hook=decode_model)
    except UNDECODABLE as exc:
        if isinstance(exc, TypeError):
            _check_type(type, what)
        raise PacketValidationError(f"{what} is not of the expected type: {describe(exc)}") from exc


def _check_type(type: object, what: str) -> None:
    """Raise TypeError if the caller gave a type that nothing can be validated against."""
    try:
        msgspec.msgpack.Decoder(type)
    except TypeError as exc:
        raise TypeError(f"{what} cannot be validated against {type!r}: {exc}") from None


class StreamOwner(Protocol):
    """The part of the calls that a received stream uses.

    Attributes:
        transport: sends credit.
        stream_window: items of one stream that may be under way.
        window_bytes: bytes of one stream that may be under way.
        granted_bytes: bytes that all received streams of the connection may still bring.
    """

    transport: PacketTransport
    stream_window: int
    window_bytes: int
    granted_bytes: int

    def cancel(self, call_id: str) -> None:
        """Remove a stream, and send an abort to the other side."""


class ItemStream(trio.abc.ReceiveChannel[T], Generic[T]):
    """The items of a stream, in order, as they come: a `trio.abc.ReceiveChannel` and an async iterator.

    Closing it before the end cancels the producer on the other side. A cancellation loses no item.
    """

    __slots__ = (
        "_ended",
        "_error",
        "_granted",
        "_granted_bytes",
        "_item_arrived",
        "_items",
        "_largest",
        "_many",
        "_many_bytes",
        "_owed_bytes",
        "_owner",
        "_since",
        "_taken",
        "_transport",
        "_type",
        "_what",
        "_window_bytes",
        "lease",
        "sent_offset",
        "stream_id",
    )

    def __init__(self, owner: StreamOwner, stream_id: str, type: object, what: str) -> None:
        self._owner = owner
        self._transport = owner.transport
        self._type = type
        self._what = what
        self._items: deque[tuple[Value, int, int]] = deque()  # each with its charge and its bytes
        self._item_arrived = Notification()
        self._ended = False
        self._error: WebSocketError | trio.ClosedResourceError | None = None
        self._granted = 0  # items that may still arrive
        self._taken = 0  # items taken since credit was last sent
        self._window_bytes = min(_FIRST_WINDOW, owner.window_bytes)
        # More is granted once this number of items was received, or this number of bytes.
        self._many = owner.stream_window // 2
        self._many_bytes = self._window_bytes // 2
        # The window is the sum of the bytes granted, waiting and owed.
        self._granted_bytes = 0  # negative after an item that exceeded it
        self._owed_bytes = self._window_bytes
        self._largest = 0  # bytes of the largest item
        self._since = 0  # items since a checkpoint
        self.sent_offset = 0  # see ResponseSink
        self.lease: Lease | None = None
        self.stream_id = stream_id

    async def receive(self) -> T:
        """Wait for the next item.

        Raises:
            trio.EndOfChannel: the stream has ended.
            trio.ClosedResourceError: this stream was closed here.
            RPCError: the producer failed.
            ConnectionClosedError: the connection ended before the stream did.
            PacketValidationError: the item is not of the expected type.
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
                if isinstance(self._error, RPCTimeoutError) and not self._items:
                    await let_own_deadline_speak()
        return self.receive_nowait()

    async def _wait(self) -> None:
        await checkpoint_if_cancelled()
        read_demand = self._transport.read_demand
        while not self._items and not self._ended:
            self._grant(waiting=True)
            with read_demand:
                await self._item_arrived.wait()

    def receive_nowait(self) -> T:
        """Return the next item. Raises as `receive`, and `trio.WouldBlock` if no item has arrived."""
        if not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise trio.EndOfChannel
            self._grant(waiting=True)  # for the next try
            raise trio.WouldBlock
        item, charge, size = self._items.popleft()
        transport = self._transport
        ledger = transport.ledger
        if ledger.held >= ledger.max_held:
            transport.release(charge)
        else:
            ledger.held -= charge
        if transport.supports_extensions:
            self._taken += 1
            self._owed_bytes += size
            if self._taken >= self._many or self._owed_bytes >= self._many_bytes:
                self._grant()
        if self._type is ANY_VALUE:
            return item  # type: ignore[no-any-return]
        value: T = convert(item, self._type, self._what)
        return value

    def grant_first(self, count: int) -> int:
        """Grant this number of items with the request. Return the bytes to grant."""
        self._granted = count
        return self._take_grant(waiting=True)

    def _take_grant(self, *, waiting: bool) -> int:
        """Return the bytes to grant in addition to those that were granted before.

        All streams share half of what the connection may hold, so that they alone delay no call. Each is
        granted half of what is left, if one more item has room there. A waiting consumer always gets credit.
        """
        owner, ledger = self._owner, self._transport.ledger
        used = self._largest > 0 and self._granted_bytes < self._window_bytes // 4
        if used and self._window_bytes < owner.window_bytes:
            larger = min(2 * self._window_bytes, owner.window_bytes)
            self._owed_bytes += larger - self._window_bytes
            self._window_bytes = larger
            self._many_bytes = larger // 2
        size = (ledger.max_held // 2 - ledger.held - owner.granted_bytes) // 2
        if size < self._largest:
            size = 0
        least = max(_LEAST_GRANT - self._largest, int(waiting)) - self._granted_bytes
        size = max(0, min(self._owed_bytes, max(size, least)))
        before = self._granted_bytes
        if before + size <= 0:
            return 0  # it would allow nothing
        self._owed_bytes -= size
        self._granted_bytes += size
        owner.granted_bytes += max(0, before + size) - max(0, before)
        return size

    def _grant(self, *, waiting: bool = False) -> None:
        """Tell the producer how much more it may send."""
        transport = self._transport
        if not self._ended and transport.supports_extensions:
            missing = self._owner.stream_window - self._granted - len(self._items)
            if missing > 0:
                size = self._take_grant(waiting=waiting)
                if self._granted_bytes <= 0:
                    return  # items without bytes are of no use yet, and bytes are only granted with items
                self._granted += missing
                self._taken = 0
                transport.post(transport.codec.credit(self.stream_id, missing, size), cork=True)

    def close(self) -> None:
        """Close without waiting for anything. See `aclose`."""
        if self._ended and not self._items:
            if self._error is None:
                self._error = _closed()
            return
        if not self._ended:
            self._end()
            self._owner.cancel(self.stream_id)
        charge = sum(charge for _, charge, _ in self._items)
        self._items.clear()
        self._transport.release(charge)
        self._error = _closed()
        self._item_arrived.notify_all()

    async def aclose(self) -> None:
        """Stop receiving. The producer is cancelled if it still runs. Closing again does nothing."""
        self.close()
        await checkpoint()

    # -- called by the session ----------------------------------------------------------------------

    def on_response(self, response: Response, size: int) -> bool:
        """Take a packet of this stream; return whether it was the last."""
        if response.error is not None:
            self._finish(error_from(response, ours=self._transport.supports_extensions))
        elif response.is_end:
            self._finish(None)
        elif not response.is_stream:
            self._finish(
                error_from(
                    response,
                    "this method is not a stream; use call()",
                    ours=self._transport.supports_extensions,
                )
            )
        else:
            transport = self._transport
            if transport.supports_extensions:
                left = self._granted_bytes
                if self._granted > 0 and left >= size:
                    self._granted_bytes = left - size
                    self._owner.granted_bytes -= size
                elif not self._take_on_top(size):
                    return False
                self._granted -= 1
                if size > self._largest:  # noqa: PLR1730 - max() takes three times as long
                    self._largest = size
            item = response.response
            kind = type(item)
            charge = OVERHEAD + (max(size, transport.size_of(item)) if kind is list or kind is dict else size)
            ledger = transport.ledger
            ledger.held += charge
            self._items.append((item, charge, size))
            self._item_arrived.notify_all()
            if ledger.held > ledger.max_held and ledger.held > 2 * ledger.max_held + _BURST:
                # Reading could not stop, because a task waits for something that it brings.
                transport.abort(self.stream_id)
                self._finish(
                    PacketError("max_held_bytes exceeded: nothing receives the items of this stream")
                )
        return self._ended

    def _take_on_top(self, size: int) -> bool:
        """Accept an item of more bytes than are granted. One is allowed, and older producers count none."""
        transport = self._transport
        if self._granted <= 0:
            transport.misbehaved("a stream exceeded its credit in items (stream_window)")
            return False
        if self._granted_bytes <= 0 and transport.ledger.exhausted:
            transport.misbehaved("a stream exceeded its credit in bytes (stream_window_bytes)")
            return False
        self._owner.granted_bytes -= max(0, self._granted_bytes)
        self._granted_bytes -= size
        return True

    def on_connection_lost(self, error: WebSocketError) -> None:
        """The connection ended. Items that arrived before can still be received."""
        self._finish(error)

    def _finish(self, error: WebSocketError | None) -> None:
        if not self._ended:
            self._end()
            self._error = error
            self._item_arrived.notify_all()

    def _end(self) -> None:
        """Accept no more items."""
        self._ended = True
        self._owner.granted_bytes -= max(0, self._granted_bytes)
        self._granted_bytes = 0


def _closed() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this stream was closed here")


class StreamSender:
    """The sending end's credit on a stream.

    Attributes:
        credit: items that the receiving end accepts now; None with codecs that have no credits.
        credit_bytes: bytes that the receiving end accepts now; the last item may exceed them. `LIMITLESS` for
            a consumer that does not count bytes.
    """

    __slots__ = ("credit", "credit_arrived", "credit_bytes", "request")

    def __init__(self, request: Request, credit: int | None) -> None:
        self.request = request
        self.credit = credit
        self.credit_bytes = LIMITLESS
        self.credit_arrived: Notification | None = None

    def add_credit(self, count: int, size: int | None) -> None:
        if self.credit is None:
            return
        self.credit += count
        if size is not None:
            self.credit_bytes = size if self.credit_bytes == LIMITLESS else self.credit_bytes + size
        if self.credit_arrived is not None:
            self.credit_arrived.notify_all()

    def take_credit(self) -> tuple[int, int]:
        """Take items and bytes to send before the next check. `give_back` returns the unused ones."""
        if self.credit is None:
            return _ITEMS_IN_A_ROW, LIMITLESS
        count, size = min(self.credit, _ITEMS_IN_A_ROW), self.credit_bytes
        self.credit -= count
        self.credit_bytes = 0
        return count, size

    def give_back(self, count: int, size: int) -> None:
        if self.credit is not None:
            self.credit += count
            self.credit_bytes += size


async def produce(transport: PacketTransport, producer: StreamSender, items: AsyncIterator[Value]) -> None:
    """Send all ``items``, and then the end. Exceptions of ``items`` are raised."""
    request = producer.request
    send_item = transport.item_sender(request)
    write_buffer, high_water = transport.write_buffer, transport.high_water
    try:
        await _may_send(transport, producer)
        count, size = producer.take_credit()
        async for item in items:
            to_send = item
            while not transport.over:
                size -= send_item(to_send)
                count -= 1
                if count > 0 and size > 0 and write_buffer.size < high_water:
                    break
                producer.give_back(count, size)
                try:
                    await _may_send(transport, producer, tired=count <= 0 and producer.credit != 0)
                except trio.Cancelled as exc:
                    # The generator is suspended inside a scope that may be the one that was cancelled.
                    throw = getattr(items, "athrow", None)
                    if throw is None:
                        raise
                    to_send = await throw(exc)
                    await _may_send(transport, producer)
                    count, size = producer.take_credit()
                else:
                    count, size = producer.take_credit()
                    break
            else:
                return
    except StopAsyncIteration:
        pass  # the generator ended when it was cancelled
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    await checkpoint_if_cancelled()  # a stream that was cancelled has not reached its end
    payload = transport.codec.end(request)
    if payload is not None:
        transport.reply(payload)


async def _may_send(transport: PacketTransport, producer: StreamSender, *, tired: bool = False) -> None:
    """Wait until the other side accepts an item and the network has room for it."""
    if producer.credit is not None and (producer.credit <= 0 or producer.credit_bytes <= 0):
        producer.credit_arrived = producer.credit_arrived or Notification()
        transport.flush()
        while producer.credit <= 0 or producer.credit_bytes <= 0:
            with transport.read_demand:
                await producer.credit_arrived.wait()
    if transport.congested:
        await transport.wait_for_room()
    elif tired:
        transport.flush()
        await checkpoint()
