"""RPCSession: calls in both directions over one WebSocket.

A session owns the calls of this side (`OutgoingCalls`), those of the other side (`IncomingCalls`), and the
packets that are not calls (`PacketDelivery`). The parts share a `PacketTransport`. The session itself reads,
and passes the packets to its parts.

One task at a time runs the read loop, and starts every call itself (see inline_call.py). When a call waits,
it keeps that task, and another one continues the read loop: the connection's own task if that is free, else a
task of the pool. Where the shared reader (see websocket/epoll_reader.py) reads for the connection, it takes
over whenever the read loop would only wait for bytes. Then a call that does not wait needs no switch of
tasks, and an idle connection needs no task at all.

Invariants:

- Every request ends once: with its response, an error, its abort, or the end of the connection.
- A call runs inside the cancel scope of the task that it started on, and that scope is used for one call at a
  time. Aborts, deadlines and the end of the connection cancel that scope.
- While ``max_held_bytes`` are held for the other side, or ``send_high_water`` bytes of responses wait to be
  written, no call starts and nothing is read. The exception: while a task here waits for something that only
  reading can bring (see `OutgoingCalls.needs_reading`), reading goes on. Then requests are deferred or
  refused, until even the refusals would be too many.
- When `run` returns or raises, no call of this connection runs any more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import trio
from trio.lowlevel import checkpoint, current_task, reschedule

from trio_ws.codecs.base import DecodeError, Packet, PacketSource, Request, Response
from trio_ws.codecs.decoded_size import ODD_KEYS
from trio_ws.codecs.registry import detect
from trio_ws.errors import ConnectionClosedError
from trio_ws.ledger import OVERHEAD
from trio_ws.logs import logger_for, shown
from trio_ws.protocol.masking import extension
from trio_ws.rpc.incoming import IncomingCalls
from trio_ws.rpc.methods import Method
from trio_ws.rpc.outgoing import OutgoingCalls
from trio_ws.rpc.packet_delivery import PacketDelivery
from trio_ws.rpc.task_pool import PooledTask
from trio_ws.rpc.transport import PacketTransport
from trio_ws.wall import close_nurseries
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import CLOSED
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.internals import close_for_application, message_waiter
from trio_ws.websocket.readers import EPOLL
from trio_ws.websocket.receive_buffer import ReceiveBuffer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trio_ws._types import Value
    from trio_ws.codecs.base import Codec
    from trio_ws.rpc.detached import WhenOver
    from trio_ws.rpc.inline_call import CallStep, SuspendedCall
    from trio_ws.rpc.packet_delivery import OnPacket
    from trio_ws.rpc.rate_limit import Limiter, RateLimit
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["RPCSession"]

logger = logger_for("trio_ws.rpc")

CHANNEL = PacketSource.CHANNEL

#: Work after which the read loop yields to other tasks, in bytes: 64 small packets.
_YIELD_EVERY = 64 * 1024
#: Cost of a packet in these, in addition to its bytes.
_PACKET_COST = 1024
#: Seconds between two checks whether the peer is still there, while nothing is read.
_PROBE_EVERY = 1.0


class RPCSession:
    """Calls in both directions over one WebSocket. See the module docstring.

    Args:
        ws: the connection, accepted.
        workers: the owner's pool of tasks.
        codec: the codec of both sides.
        undecided: whether the first message shows which codec it really is.
        methods: the methods that the other side may call, by name. Looked up for each call.
        connection: the first argument of methods and predicates.
        on_packet: called with ``connection`` and each packet that is not a call, one after the other. Without
            it, `recv` returns them.
        limiter: records the calls for rate limits.
        default_limit: applies to methods without a limit of their own, and to unknown names.
        debug: send the texts of unexpected exceptions to the other side.

    Attributes:
        ws: the connection.
        transport: sends packets, and accounts for held memory.
        outgoing: the calls of this side.
        incoming: the calls of the other side.
        pool: tasks for calls that wait.
        reader_driven: the shared reader has taken over the read loop.
        undecided: whether the first message still has to show the codec.
        route: set by a client; takes a packet of a channel and its size, and returns whether it was wanted.
        on_notification: set by a client; takes a notification and its size, and returns whether it was
            wanted.
        on_over: set by a client; called once when the connection is over.
    """

    __slots__ = (
        "__weakref__",
        "_batch_size",
        "_delivery",
        "_on_packet",
        "_owner_parked",
        "_owner_reads",
        "_owner_wake",
        "_when_over",
        "incoming",
        "on_notification",
        "on_over",
        "outgoing",
        "pool",
        "reader_driven",
        "route",
        "transport",
        "undecided",
        "ws",
    )

    def __init__(
        self,
        ws: WebSocket,
        workers: TaskPool,
        codec: Codec,
        *,
        undecided: bool = False,
        methods: Mapping[str, Method],
        connection: object,
        on_packet: OnPacket | None = None,
        limiter: Limiter,
        default_limit: RateLimit | None = None,
        debug: bool = False,
    ) -> None:
        self.ws = ws
        self.pool = workers
        self.transport = PacketTransport(ws, codec)
        self.transport.session = self
        self.outgoing = OutgoingCalls(self.transport, workers)
        self.incoming = IncomingCalls(
            self.transport,
            self.outgoing,
            workers,
            methods=methods,
            connection=connection,
            limiter=limiter,
            default_limit=default_limit,
            debug=debug,
        )
        self._delivery: PacketDelivery | None = None
        self._on_packet = on_packet
        self.undecided = undecided
        # Whether the read loop runs in a task or in the shared reader.
        self._owner_wake: Notification | None = None  # made when the connection's own task waits
        self._owner_parked = False
        self._owner_reads = True
        self.reader_driven = False
        self._when_over: WhenOver | None = None  # called once, if no task waits for the end
        self._batch_size = 0  # bytes that the transport's batch is charged
        self.route: Callable[[Packet, int], bool] | None = None
        self.on_notification: Callable[[Request, int], bool] | None = None
        self.on_over: Callable[[], None] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing can be sent or received any more."""
        return self.transport.over

    @property
    def codec(self) -> Codec:
        """The codec in use."""
        return self.transport.codec

    @property
    def delivery(self) -> PacketDelivery:
        """Packets that are not calls. Made when it is first used, which on most connections is never."""
        if self._delivery is None:
            self._delivery = PacketDelivery(
                self.transport, self.incoming, self.outgoing, self.pool, self._on_packet
            )
        return self._delivery

    # -- life ---------------------------------------------------------------------------------------

    async def run(self, when_over: WhenOver | None = None) -> bool:
        """Read, and run the other side's calls, until the connection and all of its calls have ended.

        Args:
            when_over: allows this to return as soon as the shared reader reads, so that the connection needs
                no task. It is called when the connection is over, and then `finish` must be awaited.

        Returns:
            Whether the connection is over.

        Raises:
            BaseException: an exception of ``on_packet``.
            KeyboardInterrupt, SystemExit: raised by a method, or a group with one.
        """
        self.transport.reader.observer = self
        own = PooledTask(current_task())
        try:
            while not self.transport.over and self._when_over is None:
                with trio.CancelScope() as own.scope:
                    try:
                        await self._run_in_scope(
                            own, when_over if self.transport.reader.by is EPOLL else None
                        )
                    finally:
                        await close_nurseries("a method")
        finally:
            if self._when_over is None:
                await self.finish()
        return self._when_over is None

    def hold(self) -> None:
        """Start to read before `run`, for the calls of ``on_connect``. Requests and packets wait."""
        self.transport.reader.observer = self
        self.incoming.hold()
        self.delivery.hold()
        self._owner_reads = False
        self.hand_off_read_loop()

    def let_in(self) -> None:
        """Handle the requests and packets that came since `hold`."""
        self.incoming.let_in()
        self.delivery.let_in()

    async def finish(self) -> None:
        """Wait for the end of all calls. Raises as `run` does."""
        ws, incoming = self.ws, self.incoming
        if incoming.closing is not None and not self.transport.over:
            incoming.send_goaway()
            close_for_application(ws, *incoming.closing)
        self.ended()
        try:
            if self._delivery is not None:
                await self._delivery.finished()
        finally:
            if self._delivery is not None:
                self._delivery.cancel()
            await incoming.finish()
            self.transport.reader.observer = None
            failure = self.transport.failure
            if failure is not None:
                raise failure

    async def _run_in_scope(self, own: PooledTask, when_over: WhenOver | None) -> None:
        while not self.transport.over and not own.scope.cancel_called:
            if own.task.child_nurseries:
                return  # a method has left them open
            if self._owner_reads:
                self._owner_reads = False
                await self._read_loop(own)
            elif when_over is not None:
                self._when_over = when_over
                return
            else:
                self._owner_parked = True
                self._owner_wake = self._owner_wake or Notification()
                try:
                    await self._owner_wake.wait()
                finally:
                    self._owner_parked = False

    def ended(self) -> None:
        """End everything, because the connection is over. Calls that wait are cancelled."""
        transport = self.transport
        if transport.over:
            return
        transport.end()
        spared = None
        if (
            self.ws.close_received is not None
            and not self.transport.closing.closed_locally
            and self._delivery is not None
            and self._delivery.running
        ):
            # Packets that came before the peer's Close are still delivered.
            spared = self._delivery
            self.pool.start(spared.limit)
        self.incoming.end(except_for=spared)
        self.outgoing.end()
        transport.ledger.held -= self._batch_size
        transport.batch, self._batch_size = (), 0
        if self._owner_wake is not None:
            self._owner_wake.notify_all()
        if self._delivery is not None:
            self._delivery.end()
        transport.notify_progress()
        if self.on_over is not None:
            on_over, self.on_over = self.on_over, None  # break the reference cycle
            on_over()
        if self._when_over is not None:
            when_over, self._when_over = self._when_over, None
            when_over(self.ws, self.incoming.connection)

    def shutdown(self, code: int, reason: str) -> None:
        """Close, once the calls that run are done. New calls are refused."""
        self.incoming.shutdown(code, reason)

    def leave(self) -> None:
        """End everything, because the client's block was left; tell the server which calls were started."""
        self.incoming.leave()
        self.ended()

    def close_soon(self, code: int, reason: str) -> None:
        """Start to close, without waiting. All calls end, except the call that caused this."""
        if not self.transport.over:
            close_for_application(self.ws, code, reason)
            self.ended()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection. The closing handshake is left to its own task."""
        self.close_soon(code, reason)
        await checkpoint()

    # -- packets that are not calls -----------------------------------------------------------------

    async def recv(self) -> Packet | None:
        """Wait for the next packet that is not a call. A cancellation loses none.

        Returns:
            The packet; None after a clean end of the connection.

        Raises:
            ConnectionClosedError: the connection ended in another way.
            RuntimeError: ``on_packet`` gets the packets.
        """
        return await self.delivery.recv()

    def _handle_packet(self, packet: Packet, size: int, worker: PooledTask) -> SuspendedCall | None:
        if (
            self.route is not None
            and packet.source is CHANNEL
            and self.route(packet, max(size, self.transport.size_of(packet.data)) + OVERHEAD)
        ):
            return None
        return self.delivery.handle_packet(packet, size, worker)

    # -- reading ------------------------------------------------------------------------------------

    def hand_off_read_loop(self) -> None:
        """Let another task continue the read loop, because a call waits in this one."""
        if self.transport.over or self.reader_driven:
            return
        if self._owner_parked and self._owner_wake is not None:
            self._owner_reads = True
            self._owner_wake.notify_all()
        else:
            self.pool.start(self._read_loop)

    async def _read_loop(self, worker: PooledTask) -> None:
        """Read, and start calls, until a call has to wait and keeps this task."""
        transport, outgoing = self.transport, self.outgoing
        reader, receive_buffer = transport.reader, transport.receive_buffer
        write_buffer, high_water, ledger = transport.write_buffer, transport.high_water, transport.ledger
        wait_for_message = message_waiter(self.ws)
        leads = True
        try:
            while True:
                blocked = self._handle_input(worker)
                if blocked is not None:
                    leads = False  # another task continues the read loop
                    await self.incoming.continue_call(worker, blocked, leads=True)
                    return
                if worker.task.child_nurseries:
                    await close_nurseries("a method")
                if transport.over:
                    break
                pressed = write_buffer.size >= high_water or ledger.held >= ledger.max_held
                if pressed and self._holds_enough:
                    await self._wait_until_less_is_held()
                elif receive_buffer.messages or transport.batch:
                    await checkpoint()  # let other tasks run
                elif reader.by is EPOLL and self._delegate_to_reader():
                    return
                elif await wait_for_message():
                    if outgoing.burst_size:
                        outgoing.decay_burst()
                else:
                    break
            self.ended()
        except ConnectionClosedError:
            self.ended()
        except trio.Cancelled:
            if leads and not self.pool.cancelled:
                # A method has left a cancel scope open in this task.
                self.close_soon(1011, "internal error")
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised by run()
            self.transport.fail(exc)

    def _delegate_to_reader(self) -> bool:
        """Let the shared reader read, if it serves this connection and the state is the ordinary one."""
        if not self.transport.reader.is_undisturbed(self.pool):
            return False
        self.transport.receive_buffer.release()
        write_buffer = self.transport.write_buffer
        if write_buffer.flush_scheduled:
            write_buffer.flush()
        self.reader_driven = True
        return True

    def message_received(self, message: str | bytes, lent: PooledTask) -> Awaitable[None] | None:
        """Called by the shared reader if one read brought exactly one message.

        This is the fast path of `data_received` for a single call in the ordinary state. The extension does
        all of it for a plain method that does not wait, which saves three quarters of the opcodes.
        """
        step = start_call(self, message, lent)
        return None if step is True else self.go_on(step, message, lent)

    def go_on(self, step: CallStep | None, message: str | bytes, lent: PooledTask) -> Awaitable[None] | None:
        """Do the rest of `message_received`, also for the extension, which reads for many connections.

        Args:
            step: what was done with the message; None if nothing was.
            message: the message.
            lent: the task of the shared reader.
        """
        if step is not None:
            return self._handle_in_reader(lent, started=step)
        transport, incoming = self.transport, self.incoming
        write_buffer, ledger = transport.write_buffer, transport.ledger
        request: Any = None
        if (
            write_buffer.size < transport.high_water
            and ledger.held < ledger.max_held
            and len(message) < transport.measured_from
            and not (self.undecided or transport.batch or self.outgoing.burst_size)
            and not incoming.waiting
            and incoming.active_calls < incoming.max_calls
        ):
            try:
                decoded = transport.codec.decode(message)
                request = decoded.rpc if type(decoded) is Packet else None
            except DecodeError:
                pass  # data_received() finds it again
        if type(request) is not Request:
            self.transport.receive_buffer.keep(message)
            return self.data_received(lent)
        transport.measured = 0
        return self._handle_in_reader(lent, request)

    def data_received(self, lent: PooledTask) -> Awaitable[None] | None:
        """Called after the shared reader has read. Handles what came, in the reader's task.

        Returns:
            An awaitable for that task to await, or None.
        """
        if not self.reader_driven:
            return None
        if self.outgoing.burst_size:
            self.outgoing.decay_burst()
        return self._handle_in_reader(lent)

    def _handle_in_reader(
        self,
        lent: Any,
        request: Request | None = None,
        started: CallStep | None = None,
    ) -> Awaitable[None] | None:
        """Handle a request, or else all that has come, in the reader's task; then let the reader go on.

        Args:
            lent: that task.
            request: the request.
            started: what the extension has done with a call, if it did.
        """
        self.reader_driven = False
        try:
            if started is not None:
                blocked = self.incoming.finish_plain_call(started)
            elif request is not None:
                blocked = self.incoming.start_call(request, lent)
            else:
                blocked = self._handle_input(lent)
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised by run()
            self.transport.fail(exc)
            return None
        except BaseException:
            self.reader_driven = True  # this task ends, and the next one of the reader continues
            raise
        kept = (
            not self.transport.receive_buffer.messages
            and not self.transport.batch
            and not self._holds_enough
            and self._delegate_to_reader()
        )
        if blocked is not None:
            return self.incoming.continue_call(lent, blocked, leads=True)
        if not kept:
            self.hand_off_read_loop()
        return close_nurseries("a method") if lent.task.child_nurseries else None

    def connection_lost(self) -> None:
        """The transport is gone. Messages that came before the peer's Close frame are still handled."""
        ws = self.ws
        if (
            ws.close_received is None
            or self.transport.closing.closed_locally
            or not (self.transport.receive_buffer.messages or self.transport.batch)
        ):
            self.ended()
        else:
            self.state_changed()
            self.transport.notify_progress()

    def continue_in_task(self) -> None:
        """Called by the shared reader. A task handles what came, and reads until the shared reader can."""
        self.reader_driven = False
        self.hand_off_read_loop()

    def state_changed(self) -> None:
        """The connection has started to close. A task reads from now on, because it can wait."""
        if self.reader_driven:
            self.continue_in_task()

    @property
    def _holds_enough(self) -> bool:
        """Whether reading must stop."""
        transport = self.transport
        ledger, queued = transport.ledger, transport.write_buffer.size
        if queued < transport.high_water and ledger.held < ledger.max_held:
            return False  # `pressed`, without a call, since this is so after nearly every packet
        if self.transport.closing.state == CLOSED:
            return False
        # With so much, reading stops even if a task waits for something that it brings.
        hard_mark = transport.high_water + transport.options.max_queue_bytes
        return not self.outgoing.needs_reading or queued >= hard_mark

    async def _wait_until_less_is_held(self) -> None:
        transport = self.transport
        transport.flush()
        while self._holds_enough and not transport.over:
            with trio.move_on_after(_PROBE_EVERY) as scope:
                await transport.progress.wait()
            # The end of TCP is not read either, so data would be held for a client that has left.
            if scope.cancelled_caught:
                self.transport.liveness.probe()

    def _handle_input(self, worker: PooledTask) -> SuspendedCall | None:
        """Handle what has arrived, up to a call that has to wait, or until other tasks should run."""
        transport, incoming = self.transport, self.incoming
        received, batch = self.transport.receive_buffer.messages, transport.batch
        if self.undecided and received:
            self.undecided = False
            transport.set_codec(detect(received[0], transport.options))
        # These spare each packet a dozen attribute lookups.
        decode = transport.codec.decode
        write_buffer, high_water, ledger = transport.write_buffer, transport.high_water, transport.ledger
        max_calls = incoming.max_calls
        plain_calls, pending = transport.plain_calls, self.outgoing.pending_calls
        read_plain = None if plain_calls is None else plain_calls.read
        work = _YIELD_EVERY
        while (received or batch) and work > 0:
            pressed = write_buffer.size >= high_water or ledger.held >= ledger.max_held
            if transport.over or (pressed and self._holds_enough):
                break
            if transport.measured:
                transport.measured = 0
            decoded: Any
            if batch:
                item: str | bytes = b""  # the batch was charged as a whole
                size = 0
                decoded = self._next_of_batch(batch)
                batch = transport.batch
            else:
                if pending and plain_calls is not None:
                    # Fast path: most responses come several at a time, and this spares each six calls.
                    answered = plain_calls.take_responses(
                        received, pending, Response, transport.measured_from, work // _PACKET_COST + 1
                    )
                    if answered:
                        self.outgoing.burst_size += len(answered)
                        work -= len(answered) * _PACKET_COST
                        for call in answered:
                            reschedule(call.task, call)
                        continue
                item = received.popleft()
                size = len(item)
                if (
                    read_plain is not None
                    and not pressed
                    and size < transport.measured_from
                    and not incoming.waiting
                    and incoming.active_calls < max_calls
                    and (plain := read_plain(item)) is not None
                ):
                    work -= size + _PACKET_COST
                    name, value, call_id = plain
                    if name is None:
                        self._handle_response(Response(call_id, value), item)
                        continue
                    blocked = incoming.start_plain_call(name, value, call_id, worker)
                    if blocked is not None:
                        return blocked
                    continue
                try:
                    if size >= transport.measured_from:
                        transport.measured = self._measure(item)
                    decoded = decode(item)
                except DecodeError as exc:
                    decoded = self._handle_undecodable(exc)
                work -= size
                if type(decoded) is list:
                    batch = self._begin_batch(decoded, size)
                    continue
            work -= _PACKET_COST
            if decoded is None:
                continue
            packet: Packet = decoded
            rpc = packet.rpc
            if type(rpc) is Response:
                self._handle_response(rpc, item)
                continue
            if (
                (type(rpc) is Request or (self.on_notification is None and isinstance(rpc, Request)))
                and not pressed
                and not incoming.waiting
                and incoming.active_calls < max_calls
            ):
                blocked = incoming.start_call(rpc, worker)  # the common case of handle_request()
            elif isinstance(rpc, Request):
                if self._was_notified(rpc, item):
                    continue
                blocked = incoming.handle_request(rpc, size, worker)
            else:
                blocked = self._handle_packet(packet, size, worker)
            if blocked is not None:
                blocked.size = transport.measured
                return blocked
        return None

    def _handle_response(self, response: Response, item: str | bytes) -> None:
        outgoing = self.outgoing
        call = outgoing.pending_calls.pop(response.call_id, None)
        if call is not None:
            outgoing.burst_size += 1
            call.value = response
            reschedule(call.task, call)
        else:
            outgoing.handle_response(response, _utf8_size(item))

    def _was_notified(self, request: Request, item: str | bytes) -> bool:
        """Pass a notification to its subscribers; return whether it needs no further handling."""
        if self.on_notification is None or not request.is_notification:
            return False
        transport = self.transport
        if item:
            # An upper bound, which costs a third of computing the exact decoded size.
            size = transport.codec.decoded_size(item, transport.options.max_decoded_bytes)
        else:
            size = transport.size_of(request.args or request.kwargs)  # of a batch
        size = max(len(item), size) + OVERHEAD
        return self.on_notification(request, size) and not self.incoming.has_method(request.method)

    def _measure(self, item: str | bytes) -> int:
        """Return the decoded size in bytes of a large message.

        Raises:
            DecodeError: the message must not be decoded.
        """
        limit = self.transport.options.max_decoded_bytes
        codec = self.transport.codec
        size = codec.decoded_size(item, limit)
        if 0 <= size <= limit:
            return size
        if size > limit:
            raise codec.refusal(
                item, f"this decodes to more than max_decoded_bytes ({limit})", close_code=1009
            )
        if size == ODD_KEYS:
            raise codec.refusal(item, "too many keys of a map are neither text nor bytes")
        raise codec.refusal(item, "this is nested too deep")

    def _begin_batch(self, members: list[Value], size: int) -> deque[Value]:
        batch = self.transport.batch = deque(members)
        self._batch_size = size + OVERHEAD * len(batch)
        self.transport.ledger.held += self._batch_size
        return batch

    def _next_of_batch(self, batch: deque[Value]) -> Packet | None:
        """Return the next packet of a batch; None for a member that is answered already."""
        member = batch.popleft()
        if not batch:
            self.transport.batch = ()
            size, self._batch_size = self._batch_size, 0
            self.transport.release(size)
        if type(member) is Packet:
            return member
        decoded: Any
        try:
            decoded = self.transport.codec.decode_member(member)
        except DecodeError as exc:
            decoded = self._handle_undecodable(exc)
        if type(decoded) is list:
            decoded = decoded[0] if decoded else None
        found: Packet | None = decoded
        return found

    def _handle_undecodable(self, exc: DecodeError) -> list[Packet]:
        if exc.answer is not None:
            self.transport.reply(exc.answer)
        if exc.fatal and not self._ends_a_call(exc):
            logger.info("closing %r: %s", self.ws, exc, extra=log_extra(self.ws))
            self.close_soon(exc.close_code, shown(str(exc), 100))
        return list(exc.packets)

    def _ends_a_call(self, exc: DecodeError) -> bool:
        """Whether the message is a response to a call of ours, which it ends although it cannot be read."""
        for packet in exc.packets:
            call_id = packet.rpc.call_id if isinstance(packet.rpc, Response) else None
            if self.outgoing.is_waiting(call_id):
                logger.info("%r: %s", self.ws, exc, extra=log_extra(self.ws))
                # The other side may think that the call goes on.
                transport = self.transport
                transport.abort(str(call_id))
                return True
        return False


def _utf8_size(text: str | bytes) -> int:
    """Return the size of a text message on the wire in bytes, which credit counts."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())


def _start_no_call(
    _session: RPCSession, _message: str | bytes, _worker: object
) -> CallStep | Literal[True] | None:
    return None


start_call: Callable[[RPCSession, str | bytes, object], CallStep | Literal[True] | None] = _start_no_call
if extension is not None and hasattr(extension, "start_call"):  # only on Linux
    extension.watch_calls(RPCSession, PacketTransport, IncomingCalls, OutgoingCalls, Method, ReceiveBuffer)
    start_call = extension.start_call
