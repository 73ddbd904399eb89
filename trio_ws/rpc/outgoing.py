"""OutgoingCalls: the calls of one connection that this side makes.

Invariants:

- A call that was sent is pending, and ends once: with its response, with the end of the connection, or with
  the caller's cancellation, which sends an abort in the same step.
- Nothing here creates a task, except for arguments that are streams; see client_streams.py.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, NoReturn, Self

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, current_task

from trio_ws._blocks import block
from trio_ws._types import ANY_VALUE
from trio_ws.codecs.base import Packet, PacketSource, Response
from trio_ws.errors import ConnectionClosedError, RPCError, RPCTimeoutError
from trio_ws.logs import shown
from trio_ws.protocol.framing import new_key
from trio_ws.protocol.masking import extension
from trio_ws.rpc.client_streams import assign_stream_ids, find_stream_args, sending_streams
from trio_ws.rpc.deadlines import Lease, Renewals, let_own_deadline_speak
from trio_ws.rpc.errors import error_from
from trio_ws.rpc.pending import PendingCall, PendingCallWithDeadline
from trio_ws.rpc.streams import ItemStream, convert
from trio_ws.rpc.task_pool import IN_CALL
from trio_ws.rpc.transport import PacketTransport
from trio_ws.websocket._checkpoint import passed_checkpoint
from trio_ws.websocket._wait import wait_task
from trio_ws.websocket.closing import OPEN
from trio_ws.websocket.internals import closed_error, post, wait_for_room
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from trio_ws._types import NamedValues, Value, Values
    from trio_ws.rpc.batch import CallBatch
    from trio_ws.rpc.client_streams import ClientStream
    from trio_ws.rpc.pending import ResponseSink
    from trio_ws.rpc.task_pool import TaskPool

__all__ = ["OutgoingCalls", "PacketStream", "RPCResponse"]


#: Types that are never streams. Looking for ``__aiter__`` in each argument costs more than encoding it.
_SCALAR_TYPES = frozenset({bool, int, float, str, bytes, list, tuple, dict, type(None)})


# The tables of all connections that have not called yet. Nothing is ever added to them. A connection has its
# own from its first call on.
_NO_CALLS: dict[str, PendingCall] = {}
_NO_SINKS: dict[str, ResponseSink] = {}
_NO_STREAMS: dict[str, ClientStream] = {}


class RPCResponse:
    """The outcome of a call.

    Attributes:
        call_id: the call's id on the wire.
        data: the method's return value; None if the call failed.
        error: the error of the call, or None.
    """

    __slots__ = ("call_id", "data", "error")

    def __init__(self, call_id: str, data: Value, error: RPCError | None) -> None:
        self.call_id = call_id
        self.data = data
        self.error = error

    def result(self) -> Value:
        """Return ``data``, or raise ``error``."""
        if self.error is not None:
            raise self.error
        return self.data

    def __repr__(self) -> str:
        what = f"data={self.data!r}" if self.error is None else f"error={self.error!r}"
        return f"<RPCResponse {shown(self.call_id, 40)} {shown(what, 500)}>"


_STREAM_LOOP = "async for packet in client.stream_rpc(...): ..."


class PacketStream(AsyncIterator[Packet]):
    """The items of a stream as packets. The request goes out with the first step of the iteration.

    Dropping the iterator, as leaving the loop by ``break`` does, cancels the producer.
    """

    __slots__ = ("_open", "_stream")

    def __init__(self, open_stream: Callable[[], Awaitable[ItemStream[Value]]]) -> None:
        self._open = open_stream
        self._stream: ItemStream[Value] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Packet:
        if self._stream is None:
            self._stream = await self._open()
        item = await self._stream.__anext__()
        response = Response(str(self._stream.stream_id), item, is_stream=True)
        return Packet(PacketSource.RPC, data=item, rpc=response)

    async def aclose(self) -> None:
        """Stop receiving. The producer is cancelled."""
        if self._stream is not None:
            await self._stream.aclose()
        else:
            await checkpoint()

    if not TYPE_CHECKING:  # type checkers report these mistakes themselves

        def __await__(self) -> NoReturn:
            raise TypeError(f"stream_rpc() is not awaited; write: {_STREAM_LOOP}")

        def __aenter__(self) -> NoReturn:
            raise TypeError(f"stream_rpc() is a loop, and stream() a block; write: {_STREAM_LOOP}")

        def __aexit__(self, *_: object) -> None:
            """Never called; `async with` looks for it before it enters."""

        def __iter__(self) -> NoReturn:
            raise TypeError(f"stream_rpc() needs 'async for'; write: {_STREAM_LOOP}")

    def __del__(self) -> None:
        if self._stream is not None and trio.lowlevel.in_trio_run():
            self._stream.close()


class OutgoingCalls:
    """The calls that this side makes. See the module docstring.

    Args:
        transport: sends the requests.
        pool: provides the task that renews deadlines.

    Attributes:
        pending_calls: calls that wait for their one response, by id.
        sinks: the receivers of the responses to all other requests, by id. Most are streams.
        client_streams: arguments that are streams and are being sent, by stream id.
        stream_window: items of one stream that may be under way.
        window_bytes: bytes of one stream that may be under way.
        granted_bytes: bytes that all received streams may still bring.
        burst_size: callers that one read has woken. They are likely to call again at once.
        begun_there: sent by a peer that goes away: of the calls without a response, those that it began.
    """

    __slots__ = (
        "_burst_at_last_read",
        "_next_id",
        "_pool",
        "_renewals",
        "_turns",
        "begun_there",
        "burst_size",
        "client_streams",
        "granted_bytes",
        "pending_calls",
        "sinks",
        "stream_window",
        "transport",
        "window_bytes",
    )

    def __init__(self, transport: PacketTransport, pool: TaskPool) -> None:
        options = transport.options
        self.transport = transport
        self._pool = pool
        self.burst_size = 0
        self._burst_at_last_read = 0
        self.stream_window = options.stream_window
        self.window_bytes = options.stream_window_bytes
        self.granted_bytes = 0
        self.pending_calls = _NO_CALLS
        self.sinks = _NO_SINKS
        self.client_streams = _NO_STREAMS
        self._renewals: Renewals | None = None  # made by the first call with a deadline
        self.begun_there: frozenset[str] | None = None
        self._next_id = 0
        at_once = transport.codec.calls_at_once
        self._turns = None if at_once is None else trio.CapacityLimiter(at_once)

    # -- responses and the end ----------------------------------------------------------------------

    @property
    def needs_reading(self) -> bool:
        """Whether a task waits for data that only reading can provide."""
        return bool(self.pending_calls) or self.transport.is_awaited

    def handle_response(self, response: Response, size: int) -> None:
        """Take a response that is not one to a pending call."""
        sink = self.sinks.get(response.call_id)
        if sink is not None and sink.on_response(response, size):
            self.sinks.pop(response.call_id, None)

    def add_sink(self, call_id: str, sink: ResponseSink) -> None:
        """Pass the responses with this id to ``sink`` from now on."""
        if self.sinks is _NO_SINKS:
            self._make_tables()
        self.sinks[call_id] = sink

    def _make_tables(self) -> None:
        if self.pending_calls is _NO_CALLS:
            self.pending_calls, self.sinks = {}, {}

    def is_waiting(self, call_id: str | None) -> bool:
        """Whether a request with this id waits for a response."""
        return call_id in self.pending_calls or call_id in self.sinks

    def decay_burst(self) -> None:
        """Update the estimate at a read: callers woken earlier that have not called again will not."""
        if self.burst_size == self._burst_at_last_read:
            self.burst_size = 0
        self._burst_at_last_read = self.burst_size

    def end(self) -> None:
        """End all calls and streams, because the connection is over."""
        # Emptied, not replaced: the renewals see the same tables.
        calls, sinks = list(self.pending_calls.items()), list(self.sinks.items())
        self.pending_calls.clear()
        self.sinks.clear()
        for call_id, call in calls:
            call.on_connection_lost(self._lost_error(call_id, call.sent_offset))
        for call_id, sink in sinks:
            sink.on_connection_lost(self._lost_error(call_id, sink.sent_offset))
        for stream in self.client_streams.values():
            stream.scope.cancel()
        if self._renewals is not None:
            self._renewals.end()
            self._renewals = None

    def _lost_error(self, call_id: str, sent_offset: int) -> ConnectionClosedError:
        """Return the error for a request that the end of the connection has left without a response."""
        transport = self.transport
        ws, write_buffer = transport.ws, transport.write_buffer
        error = closed_error(ws)
        # Bytes that still wait may yet be written to the stream, if a Close frame is among them.
        if (
            sent_offset > write_buffer.bytes_sent
            and write_buffer.broken
            and (ws.close_sent is None or transport.reader.transport.self_reading)
        ):
            error.may_have_run = False
        if self.begun_there is not None and call_id not in self.begun_there:
            error.may_have_run = False
        return error

    # -- sending ------------------------------------------------------------------------------------

    def _send_request(self, payload: bytes) -> int:
        """Send a request and return its ``sent_offset`` (see `ResponseSink`).

        The last caller of a burst that one read has woken sends the requests of all.
        """
        transport = self.transport
        if self.burst_size > 1:
            self.burst_size -= 1
            post(transport.ws, transport.opcode, payload, cork=True)
        else:
            self.burst_size = 0
            post(transport.ws, transport.opcode, payload, cork=False)
        write_buffer = transport.write_buffer
        return write_buffer.bytes_sent + write_buffer.size

    def cancel(self, call_id: str) -> None:
        """Cancel a call or a stream, and send that to the other side."""
        transport = self.transport
        gone = self.pending_calls.pop(call_id, None) or self.sinks.pop(call_id, None)
        if gone is not None and not transport.over:
            transport.abort(call_id)

    async def send(self, data: Value) -> None:
        """Send a packet that is not a call."""
        await checkpoint_if_cancelled()
        payload = self.transport.codec.data(data)
        await self.wait_writable()
        self.transport.post(payload, cork=False)

    async def notify(self, method: str, args: Values, kwargs: NamedValues) -> None:
        """Send a call that expects no answer."""
        await checkpoint_if_cancelled()
        payload = self.transport.codec.notification(method, args, kwargs)
        await self.wait_writable()
        self.transport.post(payload, cork=False)

    async def wait_writable(self) -> None:
        """Wait until the connection has room for a request.

        Raises:
            ConnectionClosedError: the connection is closing or over. Nothing was sent.
        """
        transport = self.transport
        ws = transport.ws
        if not ws.connected or transport.congested or transport.over:
            try:
                await wait_for_room(ws)
                if transport.over:
                    raise closed_error(ws)
            except ConnectionClosedError as exc:
                exc.may_have_run = False
                raise

    async def _wait_writable_in_time(self) -> None:
        """Like `wait_writable`, but also wait while the deadline is closer than the one-way latency."""
        await self.wait_writable()
        while self.transport.supports_extensions:
            deadline = trio.current_effective_deadline()
            if deadline - trio.current_time() > self.transport.liveness.one_way():
                return
            await trio.sleep_until(deadline)  # the caller may move it meanwhile
            await self.wait_writable()

    # -- calls --------------------------------------------------------------------------------------

    async def call(
        self, method: str, args: Values, kwargs: NamedValues, returns: object = ANY_VALUE
    ) -> Value:
        """Call a method of the other side; return its value, or raise its error."""
        if not passed_checkpoint():
            await checkpoint_if_cancelled()
        response = await self._exchange(method, args, kwargs)
        if response.error is not None or response.is_stream:
            raise await self._error_of(method, response)
        if returns is ANY_VALUE:
            return response.response
        return convert(response.response, returns, f"the result of {method}")

    async def send_rpc(self, method: str, args: Values, kwargs: NamedValues) -> RPCResponse:
        """Call a method of the other side and return how it ended."""
        await checkpoint_if_cancelled()
        response = await self._exchange(method, args, kwargs)
        if response.error is not None or response.is_stream:
            return RPCResponse(str(response.call_id), None, await self._error_of(method, response))
        return RPCResponse(str(response.call_id), response.response, None)

    async def _error_of(self, method: str, response: Response) -> RPCError:
        if response.error is None:
            self.transport.abort(response.call_id)
            return RPCError(f"{method} is a stream; use stream()")
        error = error_from(response, ours=self.transport.supports_extensions)
        if isinstance(error, RPCTimeoutError):
            await let_own_deadline_speak()
        return error

    def _exchange(
        self, method: str, args: Values, kwargs: NamedValues
    ) -> Coroutine[object, object, Response]:
        """Send a request and wait for its response.

        The caller checks for a cancellation first and awaits the result at once. A cancellation aborts the
        call on the other side. This is not a coroutine function, because each coroutine costs as much as
        encoding the request.
        """
        transport = self.transport
        if (
            transport.plain_requests is not None
            and args
            and not kwargs
            and (
                not transport.supports_extensions
                or (trio.current_effective_deadline() == math.inf and not IN_CALL.get())
            )
        ):
            # Fast path: the extension does the same as _send_and_wait() for a small request of positional
            # arguments and nothing else, in a third of the instructions. What is not so is left to that.
            key = new_key() if transport.write_buffer.client else b""
            wait = begin_call(self, method, tuple(args), key)
            if wait is not None:
                return wait
        if self._turns is not None and not IN_CALL.get():
            return self._exchange_in_turn(self._turns, method, args, kwargs)
        return self._exchange_at_once(method, args, kwargs)

    async def _exchange_in_turn(
        self, turns: trio.CapacityLimiter, method: str, args: Values, kwargs: NamedValues
    ) -> Response:
        """Like `_exchange`, but first wait until fewer calls are under way than the dialect allows.

        A call from within an incoming call does not wait, which could be a deadlock.
        """
        async with turns:
            return await self._exchange_at_once(method, args, kwargs)

    def _exchange_at_once(
        self, method: str, args: Values, kwargs: NamedValues
    ) -> Coroutine[object, object, Response]:
        self._next_id += 1
        call_id = str(self._next_id)
        if kwargs or not _SCALAR_TYPES.issuperset(map(type, args)):
            streams = find_stream_args(args, kwargs)
            if streams:
                return self._exchange_with_streams(call_id, method, args, kwargs, streams)
        transport = self.transport
        if (
            transport.over
            or transport.closing.state != OPEN
            or transport.write_buffer.size >= transport.high_water
        ):
            return self._exchange_later(call_id, method, args, kwargs)
        return self._send_and_wait(call_id, method, args, kwargs)

    async def _exchange_later(self, call_id: str, method: str, args: Values, kwargs: NamedValues) -> Response:
        await self._wait_writable_in_time()
        return await self._send_and_wait(call_id, method, args, kwargs)

    def _send_and_wait(
        self,
        call_id: str,
        method: str,
        args: Values,
        kwargs: NamedValues,
        streams: dict[str, str] | None = None,
    ) -> Coroutine[object, object, Response]:
        """Send a request of this task, which awaits the result at once."""
        lease = self._lease() if self.transport.supports_extensions else None
        if lease is not None and lease.seconds <= 0:
            return self._exchange_later(call_id, method, args, kwargs)
        payload = self._encode_request(call_id, method, args, kwargs, lease, None, streams)
        call = self._add_pending(call_id, lease)
        call.sent_offset = self._send_request(payload)
        return wait_task(call.abort)

    def first_call(self) -> None:
        """Called before a call becomes pending while no other is, also by the extension."""
        self.transport.notify_progress()
        self._make_tables()

    def _add_pending(self, call_id: str, lease: Lease | None = None) -> PendingCall:
        """Add a call of this task to those that wait for a response."""
        if not self.pending_calls:
            self.first_call()
        pending = self.pending_calls
        if lease is None:
            call = pending[call_id] = PendingCall()
        else:
            call = pending[call_id] = PendingCallWithDeadline()
            call.lease = lease
        call.outgoing = self
        call.call_id = call_id
        call.task = current_task()
        return call

    def request_nowait(self, sink: ResponseSink, method: str, args: Sequence[Value]) -> None:
        """Send a request at once, even above the high-water mark. The caller bounds how many there are."""
        self._next_id += 1
        call_id = str(self._next_id)
        payload = self.transport.codec.request(call_id, method, args)
        self.add_sink(call_id, sink)
        sink.sent_offset = self._send_request(payload)

    async def send_batch(self, batch: CallBatch) -> None:
        """Send a batch of calls in one message, and wait for all responses."""
        await checkpoint_if_cancelled()
        await self.wait_writable()
        first = self._next_id + 1
        self._next_id += len(batch.calls)
        ids = [str(number) for number in range(first, self._next_id + 1)]
        codec = self.transport.codec
        try:
            payload = codec.batch(ids, batch.encode(codec, ids))
        except BaseException:
            for call_id in ids:
                codec.abort(call_id)  # it was not sent, and is forgotten
            raise
        batch.begin(self.transport)
        for call_id, call in zip(ids, batch.calls, strict=True):
            self.add_sink(call_id, call)
        offset = self._send_request(payload)
        for call in batch.calls:
            call.sent_offset = offset
        try:
            await batch.finished(self.transport.read_demand)
        finally:
            for call_id in ids:
                self.cancel(call_id)  # those without a response

    def _encode_request(
        self,
        call_id: str,
        method: str,
        args: Values,
        kwargs: NamedValues,
        lease: Lease | None,
        credits: int | None,
        streams: dict[str, str] | None,
        credit_bytes: int | None = None,
    ) -> bytes:
        codec = self.transport.codec
        if not isinstance(method, str):
            raise TypeError(f"the name of a method must be a str, not {method!r}")
        if not self.transport.may_call:
            raise RPCError(f"a client that speaks {codec.name} cannot be called")
        timeout = None if lease is None else lease.seconds
        nested = IN_CALL.get() if self.transport.supports_extensions else False
        return codec.request(
            call_id, method, args, kwargs, timeout, credits, streams, nested=nested, credit_bytes=credit_bytes
        )

    def _lease(self) -> Lease | None:
        """Return the time left for a call, less the one-way latency; None if this task has no deadline."""
        deadline = trio.current_effective_deadline()
        if deadline == math.inf:
            return None
        now = trio.current_time()
        lease = Lease(max(0.0, deadline - now - self.transport.liveness.one_way()), now)
        renewals = self._renewals
        if renewals is None:
            self._make_tables()
            renewals = self._renewals = Renewals(self.transport, (self.pending_calls, self.sinks), self._pool)
        if lease.renew_at < renewals.due:  # saves a method call
            renewals.schedule(lease.renew_at)
        return lease

    # -- streams ------------------------------------------------------------------------------------

    async def open_stream(
        self, method: str, args: Values, kwargs: NamedValues, items: object
    ) -> ItemStream[Value]:
        """Send a request for a stream."""
        await checkpoint_if_cancelled()
        if find_stream_args(args, kwargs):
            raise TypeError("an argument that is a stream needs a block; use: async with stream(...)")
        await self._wait_writable_in_time()
        self._next_id += 1
        return self._open_stream(str(self._next_id), method, args, kwargs, items, None)

    def _open_stream(
        self,
        call_id: str,
        method: str,
        args: Values,
        kwargs: NamedValues,
        items: object,
        streams: dict[str, str] | None,
    ) -> ItemStream[Value]:
        window = self.stream_window if self.transport.supports_extensions else 0
        lease = self._lease() if self.transport.supports_extensions else None
        stream: ItemStream[Value] = ItemStream(self, call_id, items, f"an item of {method}")
        size = stream.grant_first(window) if window else None
        try:
            payload = self._encode_request(
                call_id, method, args, kwargs, lease, self.stream_window, streams, credit_bytes=size
            )
        except BaseException:
            stream.close()
            raise
        self.add_sink(call_id, stream)
        stream.lease = lease
        stream.sent_offset = self._send_request(payload)
        return stream

    @block("async with client.stream(...) as items: async for item in items: ...")
    async def stream(
        self, method: str, args: Values, kwargs: NamedValues, items: object = ANY_VALUE
    ) -> AsyncIterator[ItemStream[Value]]:
        """Open a stream for a block. Leaving the block early cancels the producer."""
        streams = find_stream_args(args, kwargs)
        if not streams:
            results = await self.open_stream(method, args, kwargs, items)
            try:
                yield results
            finally:
                results.close()
            return
        await checkpoint_if_cancelled()
        await self._wait_writable_in_time()
        self._next_id += 1
        call_id = str(self._next_id)
        ids, plain_args, plain_kwargs = assign_stream_ids(self.transport, call_id, args, kwargs, streams)
        async with sending_streams(self.transport, self._uploads(), ids, streams):
            results = self._open_stream(call_id, method, plain_args, plain_kwargs, items, ids)
            try:
                yield results
            finally:
                results.close()

    # -- arguments that are streams -----------------------------------------------------------------

    def _uploads(self) -> dict[str, ClientStream]:
        if self.client_streams is _NO_STREAMS:
            self.client_streams = {}
        return self.client_streams

    async def _exchange_with_streams(
        self,
        call_id: str,
        method: str,
        args: Values,
        kwargs: NamedValues,
        streams: dict[str, AsyncIterable[object]],
    ) -> Response:
        ids, plain_args, plain_kwargs = assign_stream_ids(self.transport, call_id, args, kwargs, streams)
        await self._wait_writable_in_time()
        async with sending_streams(self.transport, self._uploads(), ids, streams):
            return await self._send_and_wait(call_id, method, plain_args, plain_kwargs, ids)


def _begin_no_call(
    _outgoing: OutgoingCalls, _method: str, _args: tuple[Value, ...], _key: bytes
) -> Coroutine[object, object, Response] | None:
    return None


begin_call = _begin_no_call
if extension is not None and wait_task is extension.wait_task:
    extension.watch_requests(OutgoingCalls, PacketTransport, WriteBuffer, PendingCall, current_task)
    begin_call = extension.begin_call
