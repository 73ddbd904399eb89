"""Caller: the half of a peer that asks. Calls, streams of results, and what goes out in general.

What always holds:

- A call that was sent has one slot, and each slot gets one end: the answer, the end of the connection, or
  the caller's cancellation, which sends an abort in the same step.
- Nothing here creates a task, except for arguments that are streams, see uploads.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, current_task, wait_task_rescheduled

from trio_ws.codecs.base import Packet, PacketSource, Response
from trio_ws.errors import ConnectionClosedError, RPCError, RPCTimeoutError
from trio_ws.ledger import size_of
from trio_ws.logs import shown
from trio_ws.protocol.frames import BINARY, TEXT
from trio_ws.rpc.client_streams import assign_stream_ids, find_stream_args, sending_streams
from trio_ws.rpc.deadlines import Lease, Renewals, let_own_deadline_speak
from trio_ws.rpc.errors import error_from
from trio_ws.rpc.pending import PendingCall, PendingCallWithDeadline, ReadDemand
from trio_ws.rpc.streams import ItemStream, convert
from trio_ws.rpc.task_pool import IN_CALL
from trio_ws.websocket.closing import OPEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from trio_ws.codecs.base import Codec
    from trio_ws.rpc.client_streams import ClientStream
    from trio_ws.rpc.pending import ResponseSink
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["OutgoingCalls", "PacketStream", "RPCResponse"]


#: What is never a stream; to look for ``__aiter__`` in each argument costs more than all else about it.
_SCALAR_TYPES = frozenset({bool, int, float, str, bytes, list, tuple, dict, type(None)})


class RPCResponse:
    """How a call ended.

    Attributes:
        call_id: the call's id on the wire.
        data: what the method returned; None where it failed.
        error: why it failed, or None.
    """

    __slots__ = ("call_id", "data", "error")

    def __init__(self, call_id: str, data: Any, error: RPCError | None) -> None:
        self.call_id = call_id
        self.data = data
        self.error = error

    def result(self) -> Any:
        """``data``, or ``error`` raised."""
        if self.error is not None:
            raise self.error
        return self.data

    def __repr__(self) -> str:
        what = f"data={self.data!r}" if self.error is None else f"error={self.error!r}"
        return f"<RPCResponse {shown(self.call_id, 40)} {shown(what, 500)}>"


class PacketStream(AsyncIterator[Packet]):
    """The items of a stream as packets. The request goes out with the first step of the iteration.

    Dropping the iterator, as leaving the loop by ``break`` does, cancels the producer.
    """

    __slots__ = ("_open", "_stream")

    def __init__(self, open_stream: Callable[[], Awaitable[ItemStream[Any]]]) -> None:
        self._open = open_stream
        self._stream: ItemStream[Any] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        if self._stream is None:
            self._stream = await self._open()
        item = await self._stream.__anext__()
        response = Response(str(self._stream.stream_id), item, is_stream=True)
        return Packet(PacketSource.RPC, data=item, rpc=response)

    async def aclose(self) -> None:
        """Take no more: the producer is cancelled."""
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await checkpoint()

    def __del__(self) -> None:
        if self._stream is not None and trio.lowlevel.in_trio_run():
            self._stream.close()


class OutgoingCalls(ABC):
    """See the module's text. `Peer` adds the half that answers.

    Attributes:
        over: nothing can come or go any more.
        window: items of one stream that may be under way.
        window_bytes: bytes of one stream that may be under way.
        granted_bytes: bytes of all streams that may still come.
        needing: a context in which the block waits for what only reading can bring; calls are not counted.
        ledger: what is held for the other side.
        measured: bytes that the packet at hand decodes to, if it is so large that this was measured; else 0.
        progress: rings when less is held or waits to be written, and when somebody begins to need reading.
        woken: callers that one read has woken, and that are likely to call again at once.
    """

    __slots__ = (
        "_begun_there",
        "_burst_at_last_read",
        "_burst_size",
        "_calls",
        "_client_streams",
        "_high_water",
        "_may_call",
        "_measured_from",
        "_next_id",
        "_pending",
        "_renewals",
        "_write_buffer",
        "codec",
        "granted_bytes",
        "ledger",
        "measured",
        "opcode",
        "over",
        "progress",
        "read_demand",
        "stream_window",
        "supports_extensions",
        "window_bytes",
        "ws",
    )

    over: bool
    _task_pool: TaskPool  # set by the half that answers

    def __init__(self, ws: WebSocket, dialect: Codec) -> None:
        self.ws = ws
        self.over = False
        self.ledger = ws._receive_buffer.ledger
        self.measured = 0
        self.progress = ws._write_buffer.writable
        self.read_demand = ReadDemand(self.progress)
        self._burst_size = 0
        self._burst_at_last_read = 0  # of them, at the last read
        self.stream_window = ws._options.stream_window
        self.window_bytes = ws._options.stream_window_bytes
        self.granted_bytes = 0
        self._write_buffer = ws._write_buffer
        self._high_water = ws._options.send_high_water
        self._calls: dict[Any, PendingCall] = {}  # that wait for their one answer, by id
        self._pending: dict[Any, ResponseSink] = {}  # the other requests, streams for the most part
        self._client_streams: dict[str, ClientStream] = {}
        self._renewals: Renewals | None = None  # made by the first call with a deadline
        # Said by a peer that goes away: which calls it has begun, of those without an answer.
        self._begun_there: frozenset[str] | None = None
        self._next_id = 0
        self.set_codec(dialect)

    def set_codec(self, dialect: Codec) -> None:
        """Use this dialect from here on."""
        self.codec = dialect
        dialect.use_ledger(self.ledger)
        self._measured_from = dialect.measured_from(self.ws._options.max_decoded_bytes)
        self.supports_extensions = dialect.supports_extensions
        self._may_call = dialect.peer_accepts_calls or self.ws._client
        self.opcode = BINARY if dialect.binary else TEXT

    # -- what goes out ------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether a sender should wait."""
        return self._write_buffer.size >= self._high_water

    @property
    def pressed(self) -> bool:
        """Whether so much is held for the other side, or waits to be written, that no more is to begin."""
        return self._write_buffer.size >= self._high_water or self.ledger.held >= self.ledger.max_held

    def size_of(self, value: Any) -> int:
        """Bytes that a part of the packet at hand takes, or all of it where that was measured."""
        return self.measured or size_of(value)

    def release(self, size: int) -> None:
        """Less is held for the other side."""
        ledger = self.ledger
        was_full = ledger.held >= ledger.max_held
        ledger.held -= size
        if was_full:
            self.progress.notify_all()

    async def wait_for_room(self) -> None:
        """Wait until the network has taken enough."""
        await self.ws._wait_for_room()

    def post(self, payload: bytes, *, cork: bool) -> None:
        """Send one packet; corked ones go out together, at the end of the scheduler round at the latest."""
        self.ws._post(self.opcode, payload, cork=cork)

    def flush(self) -> None:
        """Send what was corked."""
        if self._write_buffer.flush_scheduled:
            self._write_buffer.flush()

    def _send_request(self, payload: bytes) -> int:
        """Send a request, and give its mark (see waiting.py).

        The last of the callers that one read has woken sends for all of them.
        """
        if self._burst_size > 1:
            self._burst_size -= 1
            self.ws._post(self.opcode, payload, cork=True)
        else:
            self._burst_size = 0
            self.ws._post(self.opcode, payload, cork=False)
        write_buffer = self._write_buffer
        return write_buffer.bytes_sent + write_buffer.size

    def _lost_error(self, call_id: Any, mark: int) -> ConnectionClosedError:
        """What a request gets that was sent with this mark and finds no answer any more."""
        ws, write_buffer = self.ws, self._write_buffer
        error = ws._closed_error()
        # A stream may still be given what waits, if a Close frame is among it.
        if (
            mark > write_buffer.bytes_sent
            and write_buffer.broken
            and (ws.close_sent is None or ws._transport.self_reading)
        ):
            error.may_have_run = False
        if self._begun_there is not None and call_id not in self._begun_there:
            error.may_have_run = False
        return error

    def _decay_burst(self) -> None:
        """At a read: those whom earlier reads woke, and who did not call since the last, will not."""
        if self._burst_size == self._burst_at_last_read:
            self._burst_size = 0
        self._burst_at_last_read = self._burst_size

    def send_credit(self, stream_id: str, count: int, size: int) -> None:
        """The consumer of a stream wants more items, and bytes."""
        self.post(self.codec.credit(stream_id, count, size), cork=True)

    def cancel(self, call_id: Any) -> None:
        """The caller, or the consumer of a stream, has gone."""
        gone = self._calls.pop(call_id, None) or self._pending.pop(call_id, None)
        if gone is not None and not self.over:
            self.post(self.codec.abort(call_id), cork=False)

    async def send(self, data: Any) -> None:
        """Send a packet that is no call."""
        await checkpoint_if_cancelled()
        payload = self.codec.data(data)
        await self._ready()
        self.post(payload, cork=False)

    async def _ready(self) -> None:
        ws = self.ws
        if not ws.connected or self.congested or self.over:
            try:
                await ws._wait_for_room()
                if self.over:
                    raise ws._closed_error()
            except ConnectionClosedError as exc:
                exc.may_have_run = False
                raise

    def misbehaved(self, text: str) -> None:
        """The peer broke the rules of its dialect."""
        self.close_soon(1008, text)

    @abstractmethod
    def close_soon(self, code: int, reason: str) -> None:
        """Begin to close, without waiting."""

    @abstractmethod
    def reply(self, payload: bytes) -> None:
        """Send an answer, with others of the same burst where there are any."""

    async def _ready_in_time(self) -> None:
        """As `_ready`, and with more time left than a trip takes: else wait whether the deadline is moved."""
        await self._ready()
        while self.supports_extensions:
            deadline = trio.current_effective_deadline()
            if deadline - trio.current_time() > self.ws._liveness.one_way():
                return
            await trio.sleep_until(deadline)
            await self._ready()

    # -- calls --------------------------------------------------------------------------------------

    async def call(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], returns: Any = Any
    ) -> Any:
        """Call a method of the other side: its value, or its error raised."""
        await checkpoint_if_cancelled()
        response = await self._exchange(method, args, kwargs)
        if response.error is not None or response.is_stream:
            raise await self._error_of(method, response)
        if returns is Any:
            return response.response
        return convert(response.response, returns, f"the result of {method}")

    async def send_rpc(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RPCResponse:
        """Call a method of the other side and give how it ended."""
        await checkpoint_if_cancelled()
        response = await self._exchange(method, args, kwargs)
        if response.error is not None or response.is_stream:
            return RPCResponse(str(response.call_id), None, await self._error_of(method, response))
        return RPCResponse(str(response.call_id), response.response, None)

    async def _error_of(self, method: str, response: Response) -> RPCError:
        if response.error is None:
            self.post(self.codec.abort(response.call_id), cork=False)
            return RPCError(f"{method} is a stream; use stream()")
        error = error_from(response, ours=self.supports_extensions)
        if isinstance(error, RPCTimeoutError):
            await let_own_deadline_speak()
        return error

    def _exchange(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Coroutine[Any, Any, Response]:
        """Send a request and wait for its response; to be awaited at once, after a look for a cancellation.

        A cancellation aborts the call on the other side. It is no coroutine of its own, since each costs as
        much as to encode the request.
        """
        self._next_id += 1
        call_id = str(self._next_id)
        if kwargs or not _SCALAR_TYPES.issuperset(map(type, args)):
            streams = find_stream_args(args, kwargs)
            if streams:
                return self._exchange_with_uploads(call_id, method, args, kwargs, streams)
        if self.over or self.ws._closing.state != OPEN or self._write_buffer.size >= self._high_water:
            return self._exchange_later(call_id, method, args, kwargs)
        return self._answer_to(call_id, method, args, kwargs)

    async def _exchange_later(
        self, call_id: str, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Response:
        await self._ready_in_time()
        return await self._answer_to(call_id, method, args, kwargs)

    def _answer_to(
        self,
        call_id: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: dict[str, str] | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """Send a request for this task, which is to wait at once for what this gives."""
        lease = self._lease() if self.supports_extensions else None
        if lease is not None and lease.seconds <= 0:
            return self._exchange_later(call_id, method, args, kwargs)
        payload = self._encode_request(call_id, method, args, kwargs, lease, None, streams)
        if not self._calls:
            self.progress.notify_all()
        if lease is None:
            slot = self._calls[call_id] = PendingCall()
        else:
            slot = self._calls[call_id] = PendingCallWithDeadline()
            slot.lease = lease
        slot.outgoing = self
        slot.call_id = call_id
        slot.task = current_task()
        slot.sent_offset = self._send_request(payload)
        return wait_task_rescheduled(slot.abort)  # noqa: ASYNC105 - the caller does

    def ask_soon(self, waiting: ResponseSink, method: str, args: Sequence[Any]) -> None:
        """Send a request at once, whatever the high-water mark, for those who keep a bound of their own."""
        self._next_id += 1
        call_id = str(self._next_id)
        payload = self.codec.request(call_id, method, args)
        self._pending[call_id] = waiting
        waiting.sent_offset = self._send_request(payload)

    def _encode_request(
        self,
        call_id: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        lease: Lease | None,
        credits: int | None,
        streams: dict[str, str] | None,
        credit_bytes: int | None = None,
    ) -> bytes:
        if not self._may_call:
            raise RPCError(f"a client that speaks {self.codec.name} cannot be called")
        timeout = None if lease is None else lease.seconds
        nested = IN_CALL.get() if self.supports_extensions else False
        return self.codec.request(
            call_id, method, args, kwargs, timeout, credits, streams, nested=nested, credit_bytes=credit_bytes
        )

    def _lease(self) -> Lease | None:
        """The time that this task has for a call sent now, less a trip; None if it has no deadline."""
        deadline = trio.current_effective_deadline()
        if deadline == math.inf:
            return None
        now = trio.current_time()
        lease = Lease(max(0.0, deadline - now - self.ws._liveness.one_way()), now)
        renewals = self._renewals
        if renewals is None:
            renewals = self._renewals = Renewals(self, self._task_pool)
        if lease.renew_at < renewals.due:  # spares a call
            renewals.look_at(lease.renew_at)
        return lease

    # -- streams ------------------------------------------------------------------------------------

    async def open_stream(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], items: Any
    ) -> ItemStream[Any]:
        """Send a request for a stream."""
        await checkpoint_if_cancelled()
        if find_stream_args(args, kwargs):
            raise TypeError("an argument that is a stream needs an owner; use: async with stream(...)")
        await self._ready_in_time()
        self._next_id += 1
        return self._open_stream(str(self._next_id), method, args, kwargs, items, None)

    def _open_stream(
        self,
        call_id: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        items: Any,
        streams: dict[str, str] | None,
    ) -> ItemStream[Any]:
        window = self.stream_window if self.supports_extensions else 0
        lease = self._lease() if self.supports_extensions else None
        stream: ItemStream[Any] = ItemStream(self, call_id, items, f"an item of {method}")
        size = stream.grant_first(window) if window else None
        try:
            payload = self._encode_request(
                call_id, method, args, kwargs, lease, self.stream_window, streams, credit_bytes=size
            )
        except BaseException:
            stream.close()
            raise
        self._pending[call_id] = stream
        stream.lease = lease
        stream.sent_offset = self._send_request(payload)
        return stream

    @asynccontextmanager
    async def stream(
        self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], items: Any = Any
    ) -> AsyncIterator[ItemStream[Any]]:
        """A stream for the length of a block; leaving it early cancels the producer."""
        streams = find_stream_args(args, kwargs)
        if not streams:
            results = await self.open_stream(method, args, kwargs, items)
            try:
                yield results
            finally:
                results.close()
            return
        await checkpoint_if_cancelled()
        await self._ready_in_time()
        self._next_id += 1
        call_id = str(self._next_id)
        ids, plain_args, plain_kwargs = assign_stream_ids(self, call_id, args, kwargs, streams)
        async with sending_streams(self, ids, streams):
            results = self._open_stream(call_id, method, plain_args, plain_kwargs, items, ids)
            try:
                yield results
            finally:
                results.close()

    # -- arguments that are streams -----------------------------------------------------------------

    async def _exchange_with_uploads(
        self,
        call_id: str,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: dict[str, AsyncIterable[Any]],
    ) -> Response:
        ids, plain_args, plain_kwargs = assign_stream_ids(self, call_id, args, kwargs, streams)
        await self._ready_in_time()
        async with sending_streams(self, ids, streams):
            return await self._answer_to(call_id, method, plain_args, plain_kwargs, ids)
