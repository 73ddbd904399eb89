"""Streams: the items of one call, either way round, as a bounded channel over the wire.

`ItemStream` is the receiving end. `Producer` is what the sending end knows of it: how many items and bytes
the other side still wants, where the dialect has credits (``trio-ws.v1``). In the others a stream that nobody
takes from stops the reading of its connection.

Invariants:

- Both ends of one stream hold at most ``stream_window`` items together, and the bytes of its window with one
  item on top. What may still come, what waits and what is owed to the producer are the window.
- A consumer that waits has granted an item, and at least one byte.
- A producer stands at its ``yield`` while it has no credit; a cancellation that comes while it stands there
  goes through the generator, as if it had been waiting itself (PEP 789).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled

from trio_ws.decoding import UNDECODABLE, describe
from trio_ws.errors import PacketError, PacketValidationError, RPCTimeoutError
from trio_ws.ledger import OVERHEAD
from trio_ws.models import decode_model
from trio_ws.rpc.deadlines import let_own_deadline_speak
from trio_ws.rpc.errors import error_from
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws.codecs.base import Request, Response
    from trio_ws.errors import WebSocketError
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.outgoing import OutgoingCalls

__all__ = ["LIMITLESS", "ItemStream", "StreamSender", "convert", "produce"]

T = TypeVar("T")

#: Bytes that may come in one burst before the task that waits for them has run.
_BURST = 65536
#: Bytes of a stream's first window. It doubles up to ``stream_window_bytes`` while the producer uses it.
_FIRST_WINDOW = 64 * 1024
#: Bytes that each stream may have whatever others hold, the largest of its items on top.
_LEAST_GRANT = 32 * 1024
#: The credit in bytes of a consumer that does not count them.
LIMITLESS = 1 << 62
#: Items in a row after which a producer that never waits gives way to other tasks.
_ITEMS_IN_A_ROW = 256


def convert(value: Any, type: Any, what: str) -> Any:
    """Validate and convert what came by the wire, with an error of ours."""
    if type is Any:
        return value
    try:
        return msgspec.convert(value, type, dec_hook=decode_model)
    except UNDECODABLE as exc:
        if isinstance(exc, TypeError):
            msgspec.msgpack.Decoder(type)  # a type that msgspec does not know is the caller's mistake
        raise PacketValidationError(f"{what} is not what was asked for: {describe(exc)}") from exc


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
        "_session",
        "_since",
        "_taken",
        "_type",
        "_what",
        "_window_bytes",
        "lease",
        "sent_offset",
        "stream_id",
    )

    def __init__(self, session: OutgoingCalls, stream_id: Any, type: Any, what: str) -> None:
        self._session = session
        self._type = type
        self._what = what
        self._items: deque[tuple[Any, int, int]] = deque()  # with what they are charged, and their bytes
        self._item_arrived = Notification()
        self._ended = False
        self._error: WebSocketError | None = None
        self._granted = 0  # items that may still come
        self._taken = 0  # since credit was last sent
        self._window_bytes = min(_FIRST_WINDOW, session.window_bytes)
        # So much taken or owed, more is granted.
        self._many = session.stream_window // 2
        self._many_bytes = self._window_bytes // 2
        # What may still come, what waits and what is owed are the window together.
        self._granted_bytes = 0  # below 0 where an item came on top
        self._owed_bytes = self._window_bytes
        self._largest = 0  # of its items
        self._since = 0  # items since a checkpoint
        self.sent_offset = 0  # see waiting.py
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
                if isinstance(self._error, RPCTimeoutError) and not self._items:
                    await let_own_deadline_speak()
        return self.receive_nowait()

    async def _wait(self) -> None:
        await checkpoint_if_cancelled()
        session = self._session
        while not self._items and not self._ended:
            self._grant(waiting=True)
            with session.read_demand:
                await self._item_arrived.wait()

    def receive_nowait(self) -> T:
        """The next item, if it is here. Raises as `receive`, and `trio.WouldBlock` where it is not."""
        if not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise trio.EndOfChannel
            self._grant(waiting=True)  # for the next try
            raise trio.WouldBlock
        item, charge, size = self._items.popleft()
        session = self._session
        ledger = session.ledger
        if ledger.held >= ledger.max_held:
            session.release(charge)
        else:
            ledger.held -= charge
        if session.supports_extensions:
            self._taken += 1
            self._owed_bytes += size
            if self._taken >= self._many or self._owed_bytes >= self._many_bytes:
                self._grant()
        if self._type is Any:
            return item  # type: ignore[no-any-return]
        value: T = convert(item, self._type, self._what)
        return value

    def grant_first(self, count: int) -> int:
        """The request goes out with credit for so many items; give the bytes."""
        self._granted = count
        return self._take_grant(waiting=True)

    def _take_grant(self, *, waiting: bool) -> int:
        """Bytes that may come beside those that were granted before.

        All streams share half of what the connection may hold, so that they alone hold up no call. Each gets
        half of what is left, if an item on top has room there. A consumer that waits gets credit anyhow.
        """
        session = self._session
        used = self._largest > 0 and self._granted_bytes < self._window_bytes // 4
        if used and self._window_bytes < session.window_bytes:
            larger = min(2 * self._window_bytes, session.window_bytes)
            self._owed_bytes += larger - self._window_bytes
            self._window_bytes = larger
            self._many_bytes = larger // 2
        size = (session.ledger.max_held // 2 - session.ledger.held - session.granted_bytes) // 2
        if size < self._largest:
            size = 0
        least = max(_LEAST_GRANT - self._largest, int(waiting)) - self._granted_bytes
        size = max(0, min(self._owed_bytes, max(size, least)))
        before = self._granted_bytes
        if before + size <= 0:
            return 0  # it would allow nothing
        self._owed_bytes -= size
        self._granted_bytes += size
        session.granted_bytes += max(0, before + size) - max(0, before)
        return size

    def _grant(self, *, waiting: bool = False) -> None:
        """Tell the producer how much more may come."""
        session = self._session
        if not self._ended and session.supports_extensions:
            missing = session.stream_window - self._granted - len(self._items)
            if missing > 0:
                size = self._take_grant(waiting=waiting)
                if self._granted_bytes <= 0:
                    return  # items would be of no use yet; and bytes need items to be granted with
                self._granted += missing
                self._taken = 0
                session.send_credit(self.stream_id, missing, size)

    def close(self) -> None:
        """As `aclose`, without waiting for anything."""
        if self._ended and not self._items:
            if self._error is None:
                self._error = _closed()
            return
        if not self._ended:
            self._end()
            self._session.cancel(self.stream_id)
        charge = sum(charge for _, charge, _ in self._items)
        self._items.clear()
        self._session.release(charge)
        self._error = _closed()
        self._item_arrived.notify_all()

    async def aclose(self) -> None:
        """Take no more: the producer is cancelled, if it still runs. Closing again does nothing."""
        self.close()
        await checkpoint()

    # -- what the peer calls ------------------------------------------------------------------------

    def on_response(self, response: Response, size: int) -> bool:
        """Take a packet of this stream; give whether it was the last."""
        if response.error is not None:
            self._finish(error_from(response, ours=self._session.supports_extensions))
        elif response.is_end:
            self._finish(None)
        elif not response.is_stream:
            self._finish(
                error_from(response, "it is no stream; use call()", ours=self._session.supports_extensions)
            )
        else:
            session = self._session
            if session.supports_extensions:
                left = self._granted_bytes
                if self._granted > 0 and left >= size:
                    self._granted_bytes = left - size
                    session.granted_bytes -= size
                elif not self._take_on_top(size):
                    return False
                self._granted -= 1
                if size > self._largest:  # noqa: PLR1730 - max() takes thrice as long
                    self._largest = size
            item = response.response
            kind = type(item)
            charge = OVERHEAD + (max(size, session.size_of(item)) if kind is list or kind is dict else size)
            ledger = session.ledger
            ledger.held += charge
            self._items.append((item, charge, size))
            self._item_arrived.notify_all()
            if ledger.held > ledger.max_held and ledger.held > 2 * ledger.max_held + _BURST:
                # Reading could not stop, since somebody waits for what it brings.
                session.post(session.codec.abort(self.stream_id), cork=False)
                self._finish(PacketError("nobody took the items of this stream: max_held_bytes is exceeded"))
        return self._ended

    def _take_on_top(self, size: int) -> bool:
        """Take an item of more bytes than are granted, as one may be, and an older producer's are."""
        session = self._session
        if self._granted <= 0:
            session.misbehaved("more items of a stream than there was credit for (stream_window)")
            return False
        if self._granted_bytes <= 0 and session.ledger.full:
            session.misbehaved("more bytes of a stream than there was credit for (stream_window_bytes)")
            return False
        session.granted_bytes -= max(0, self._granted_bytes)
        self._granted_bytes -= size
        return True

    def on_connection_lost(self, error: WebSocketError) -> None:
        """The connection ended. What came before can still be taken."""
        self._finish(error)

    def _finish(self, error: WebSocketError | None) -> None:
        if not self._ended:
            self._end()
            self._error = error
            self._item_arrived.notify_all()

    def _end(self) -> None:
        """Nothing more may come."""
        self._ended = True
        self._session.granted_bytes -= max(0, self._granted_bytes)
        self._granted_bytes = 0


def _closed() -> Any:
    return trio.ClosedResourceError("this stream was closed here")


class StreamSender:
    """What the sending end of a stream knows of the other.

    Attributes:
        credit: items that it takes for now; None in dialects without credit.
        credit_bytes: bytes that it takes for now, the last item on top. A consumer that counts none takes
            `LIMITLESS` of them.
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
        """Items and bytes to send before the next look; what is left of them is given back then."""
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


async def produce(session: OutgoingCalls, producer: StreamSender, items: AsyncIterator[Any]) -> None:
    """Send all ``items``, and then the end. What they raise is left to the caller."""
    request = producer.request
    encode = session.codec.items(request)
    send, opcode = session.ws._post, session.opcode
    write_buffer, high_water = session.ws._write_buffer, session.ws._options.send_high_water
    try:
        await _may_send(session, producer)
        count, size = producer.take_credit()
        async for item in items:
            to_send = item
            while not session.over:
                payload = encode(to_send)
                if payload is not None:
                    send(opcode, payload, cork=True)
                    size -= len(payload)
                count -= 1
                if count > 0 and size > 0 and write_buffer.size < high_water:
                    break
                producer.give_back(count, size)
                try:
                    await _may_send(session, producer, tired=count <= 0 and producer.credit != 0)
                except trio.Cancelled as exc:
                    # The generator stands at its yield inside a scope that may be the one that was cancelled.
                    throw = getattr(items, "athrow", None)
                    if throw is None:
                        raise
                    to_send = await throw(exc)
                    await _may_send(session, producer)
                    count, size = producer.take_credit()
                else:
                    count, size = producer.take_credit()
                    break
            else:
                return
    except StopAsyncIteration:
        pass  # it took the cancellation for its end
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    await checkpoint_if_cancelled()  # what a cancellation has cut short is not at its end
    payload = session.codec.end(request)
    if payload is not None:
        session.reply(payload)


async def _may_send(session: OutgoingCalls, producer: StreamSender, *, tired: bool = False) -> None:
    """Wait until the other side wants an item and the network takes it."""
    if producer.credit is not None and (producer.credit <= 0 or producer.credit_bytes <= 0):
        producer.credit_arrived = producer.credit_arrived or Notification()
        session.flush()
        while producer.credit <= 0 or producer.credit_bytes <= 0:
            with session.read_demand:
                await producer.credit_arrived.wait()
    if session.congested:
        await session.wait_for_room()
    elif tired:
        session.flush()
        await checkpoint()
