"""Peer: calls both ways over one WebSocket.

One task at a time has the *lead*: it reads, and begins every call itself, by the first step of the method's
coroutine. Most methods end in that step, so that a burst of calls costs no task and no switch. One that waits
keeps the task it began in, and the lead goes to another: to the connection's own task if that is free, else
to a worker of the pool (see workers.py), which reads on. Where the service's reader (see reader.py) reads for
the connection, it has the lead as well, whenever there is nothing to do but to wait for bytes. Then a call
that does not wait costs no switch of tasks, and the connection needs no task at all until it ends.

What always holds:

- Every request gets one end: its answer, an error, its abort, or the end of the connection.
- A call runs inside the cancel scope of the worker that it began on, and that scope is used for one call at
  a time. Aborts, deadlines and the end of the connection cancel that scope.
- Where ``max_held_bytes`` are held for the other side, or ``send_high_water`` bytes of answers wait to be
  written, nothing more is begun, and reading stops with it. It goes on while anybody here waits for what
  only reading can bring (calls, and `Caller.needing`); then requests wait or are refused, until even refusals
  would be too many.
- When `run` returns or raises, no call of this connection runs any more.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint, current_task, reschedule

from trio_ws.codecs.base import DecodeError, Packet, PacketSource, Request, Response
from trio_ws.codecs.decoded_size import ODD_KEYS
from trio_ws.codecs.registry import detect
from trio_ws.errors import ConnectionClosedError
from trio_ws.ledger import OVERHEAD
from trio_ws.logs import logger_for, shown
from trio_ws.rpc.incoming import _NONE, PACKET_DELIVERY, IncomingCalls
from trio_ws.rpc.inline_call import IncomingCall, SuspendedCall
from trio_ws.rpc.task_pool import PooledTask
from trio_ws.wall import close_nurseries, close_of, failures_in
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import CLOSED
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.readers import EPOLL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from trio_ws.codecs.base import Codec
    from trio_ws.rpc.methods import Method
    from trio_ws.rpc.rate_limit import Limiter, RateLimit
    from trio_ws.rpc.task_pool import TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["RPCSession"]

logger = logger_for("trio_ws.rpc")

CHANNEL = PacketSource.CHANNEL

#: Work in a row after which the lead gives way to other tasks, as so many bytes: 64 small packets.
_WORK_IN_A_ROW = 64 * 1024
#: Seconds between two looks whether the peer is still there, while nothing is read.
_LOOK_EVERY = 1.0
#: What a packet counts for in these, beside its bytes.
_PACKET_COST = 1024


class RPCSession(IncomingCalls):
    """See the module's text. One for each connection; `run` is its life.

    Args:
        ws: the connection, accepted.
        workers: the owner's pool.
        dialect: what both sides speak.
        undecided: the first packet shows which dialect it really is.
        methods: what the other side may call, by name. Looked up anew for each call.
        connection: what methods and predicates get as their first argument.
        on_packet: gets ``connection`` and each packet that is no call, one after the other. Without it `recv`
            hands them out.
        limiter: keeps the records of rate limits.
        default_limit: holds for methods without a limit of their own, and for names that do not exist.
        debug: texts of unexpected exceptions go to the other side.
    """

    def __init__(
        self,
        ws: WebSocket,
        workers: TaskPool,
        dialect: Codec,
        *,
        undecided: bool = False,
        methods: Mapping[str, Method],
        connection: Any,
        on_packet: Callable[[Any, Packet], Coroutine[Any, Any, Any]] | None = None,
        limiter: Limiter,
        default_limit: RateLimit | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(
            ws,
            workers,
            dialect,
            methods=methods,
            connection=connection,
            limiter=limiter,
            default_limit=default_limit,
            debug=debug,
        )
        self._undecided = undecided
        self._on_packet = on_packet
        # The lead.
        self._owner_wake = Notification()
        self._owner_parked = False
        self._owner_reads = True
        self._reader_driven = False  # the service's reader has it
        self._when_over: Callable[[], None] | None = None  # called once, where no task waits for that
        # Packets for later.
        self._batch: deque[Any] | tuple[()] = ()
        self._batch_size = 0
        self._packets: deque[tuple[Packet, int]] | tuple[()] = ()
        self._delivering = False  # on_packet has one
        self._packet_arrived = Notification()
        # Waiting to be written, at which reading stops even where it is needed.
        self._hard_mark = ws._options.send_high_water + ws._options.max_queue_bytes
        self.dropped_packets = 0
        # Set by a client: what takes packets of channels before others see them, and is told of the end.
        self.route: Callable[[Packet, int], bool] | None = None
        self.on_over: Callable[[], None] | None = None
        self._failure: BaseException | None = None

    # -- life ---------------------------------------------------------------------------------------

    async def run(self, when_over: Callable[[], None] | None = None) -> bool:
        """Read and answer until the connection is over, and all calls with it.

        Args:
            when_over: lets this return as soon as the service's reader reads, so that the connection needs no
                task. It is called when the connection is over, and then `finish` is to be run.

        Returns:
            Whether it is over.

        Raises:
            BaseException: what ``on_packet`` raised.
            KeyboardInterrupt, SystemExit: what a method raised, or a group with one.
        """
        self.ws._observe(self)
        own = PooledTask(current_task())
        try:
            while not self.over and self._when_over is None:
                with trio.CancelScope() as own.scope:
                    try:
                        await self._run_in_scope(own, when_over if self.ws._reader.by is EPOLL else None)
                    finally:
                        await close_nurseries("a method")
        finally:
            if self._when_over is None:
                await self.finish()
        return self._when_over is None

    def hold(self) -> None:
        """Read from now on, before `run`, for what is called from here. What comes otherwise is held."""
        super().hold()
        self.ws._observe(self)
        self._delivering = True
        self._owner_reads = False
        self.hand_off_read_loop()

    def let_in(self) -> None:
        super().let_in()
        self._delivering = bool(self._packets) and self._on_packet is not None
        if self._delivering:
            call = IncomingCall(PACKET_DELIVERY, self._task_pool.context.copy(), answers=False)
            call.key = self
            self._running[self] = call
            self._active_calls += 1
            self._task_pool.start(lambda worker: self._deliver_held(call, worker))

    async def finish(self) -> None:
        """See all calls to their end. Raises as `run` does."""
        ws = self.ws
        if self._closing is not None and not self.over:
            self._say_goaway()
            ws._start_application_close(*self._closing)
        self.ended()
        try:
            await self._delivered()
        finally:
            self._end_delivery()
            await self._finish_calls()

    async def _delivered(self) -> None:
        """Wait until on_packet has taken what came before the peer's Close."""
        while self in self._running:
            await self._calls_done.wait()

    def _end_delivery(self) -> None:
        delivering = self._running.get(self)
        if delivering is not None:
            delivering.cancel("end")

    async def _limit_delivery(self, _: PooledTask) -> None:
        with trio.move_on_after(self.ws._options.close_timeout):
            await self._delivered()
        self._end_delivery()

    async def _finish_calls(self) -> None:
        ws = self.ws
        with trio.move_on_after(ws._options.close_timeout, shield=True):
            while self._running:
                await self._calls_done.wait()
        for call in self._running.values():
            call.cancel("end")
        with trio.CancelScope(shield=True):
            while self._running:
                await self._calls_done.wait()
        ws._observe(None)
        self._connection = None  # which leads back to us: without the cycle, counting frees both
        if self._failure is not None:
            raise self._failure

    async def _run_in_scope(self, own: PooledTask, when_over: Callable[[], None] | None) -> None:
        while not self.over and not own.scope.cancel_called:
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
                try:
                    await self._owner_wake.wait()
                finally:
                    self._owner_parked = False

    def ended(self) -> None:
        """The connection is at its end: nothing of it may go on."""
        if self.over:
            return
        self.over = True
        here = current_task()
        in_order = self.ws.close_received is not None and not self.ws._closing.closed_locally
        for call in list(self._running.values()):
            if in_order and call.key is self:
                self._task_pool.start(self._limit_delivery)  # of what came before the peer's Close
            # Whoever closes the connection from within a call may finish that call.
            elif call.worker is None or call.worker.task is not here:
                call.cancel("end")
        calls, self._calls = self._calls, {}
        pending, self._pending = self._pending, {}
        for call_id, slot in calls.items():
            slot.on_connection_lost(self._lost_error(call_id, slot.sent_offset))
        for call_id, waiting in pending.items():
            waiting.on_connection_lost(self._lost_error(call_id, waiting.sent_offset))
        for upload in self._client_streams.values():
            upload.scope.cancel()
        self.ledger.held -= sum(size for _, size in self._deferred_requests.values()) + self._batch_size
        self._deferred_requests = _NONE
        self._batch, self._batch_size = (), 0
        for alarm in (self._renewals, self._held_deadlines):
            if alarm is not None:
                alarm.end()
        self._renewals = self._held_deadlines = None  # which lead back to us
        self._owner_wake.notify_all()
        self._packet_arrived.notify_all()
        self.progress.notify_all()
        if self.on_over is not None:
            on_over, self.on_over = self.on_over, None  # which leads back to us
            on_over()
        if self._when_over is not None:
            when_over, self._when_over = self._when_over, None
            when_over()

    def shutdown(self, code: int, reason: str) -> None:
        """Close, once the calls that run are done; new ones are refused."""
        if self._closing is None:
            self._closing = (code, reason)
            self._leave_if_idle()

    def _leave_if_idle(self, *, packet_taken: bool = False) -> None:
        """Send the Close frame of a server that stops, once no call runs that may want to send.

        What the client has sent before it gets that is still read: packets are delivered, calls not begun.

        Args:
            packet_taken: the call that delivers packets is between two of them.
        """
        running = len(self._running) - (packet_taken and self in self._running)
        if self._closing is not None and not running and not self.over:
            self._say_goaway()
            self.ws._closing.start(*self._closing)

    def leave(self) -> None:
        """The client's block is left: end all, and tell a server that may have called what has begun."""
        if not self.over and any(name[:2] != "__" for name in self._methods):
            self._say_goaway()
        self.ended()

    def _say_goaway(self) -> None:
        """No call is begun any more, and of those without an answer these were."""
        if self.supports_extensions:
            running = [call.request.call_id for call in self._running.values() if call.key is not self]
            self.post(self.codec.goaway([*running, *self._cut]), cork=True)

    def close_soon(self, code: int, reason: str) -> None:
        """Begin to close, without waiting. All calls end, but for one that asks for this."""
        if not self.over:
            self.ws._start_application_close(code, reason)
            self.ended()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection. The closing handshake is left to its own task."""
        self.close_soon(code, reason)
        await checkpoint()

    def _fail(self, failure: BaseException) -> None:
        """End it, and let run() raise this, in the task that owns the connection."""
        self._failure = self._failure or failure
        self.ended()

    def reply(self, payload: bytes) -> None:
        """Send an answer, with others of the same burst where there are any."""
        ws = self.ws
        ws._post(self.opcode, payload, cork=bool(ws._receive_buffer.messages or self._batch))

    # -- reading ------------------------------------------------------------------------------------

    def hand_off_read_loop(self) -> None:
        if self.over or self._reader_driven:
            return
        if self._owner_parked:
            self._owner_reads = True
            self._owner_wake.notify_all()
        else:
            self._task_pool.start(self._read_loop)

    async def _read_loop(self, worker: PooledTask) -> None:
        """Read, and begin what was asked for, until a call has to wait and keeps this task."""
        ws = self.ws
        leads = True
        try:
            while True:
                blocked = self._handle_input(worker)
                if blocked is not None:
                    leads = False  # the lead is another's now
                    await self.continue_call(worker, blocked, leads=True)
                    return
                if worker.task.child_nurseries:
                    await close_nurseries("a method")
                if self.over:
                    break
                if self._holds_enough:
                    await self._wait_until_less_is_held()
                elif ws._receive_buffer.messages or self._batch:
                    await checkpoint()  # others have a turn
                elif self._delegate_to_reader():
                    return
                elif await ws._wait_for_message():
                    if self._burst_size:
                        self._decay_burst()
                else:
                    break
            self.ended()
        except ConnectionClosedError:
            self.ended()
        except trio.Cancelled:
            if leads and not self._task_pool.cancelled:
                # A method has left a cancel scope open in this task.
                self.close_soon(1011, "internal error")
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised by run()
            self._fail(exc)

    def _delegate_to_reader(self) -> bool:
        """Leave the lead to the service's reader, if it reads for us and all is in its ordinary state."""
        ws = self.ws
        if not ws._reader.undisturbed or ws._runtime.reader.spawner is not self._task_pool:
            return False
        ws._receive_buffer.release()
        self.flush()
        self._reader_driven = True
        return True

    def data_received(self, lent: Any) -> Awaitable[None] | None:
        """The service's reader has read. If it has the lead, begin what came, on the worker it runs on."""
        if not self._reader_driven:
            return None
        self._reader_driven = False
        if self._burst_size:
            self._decay_burst()
        try:
            blocked = self._handle_input(lent)
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - raised by run()
            self._fail(exc)
            return None
        except BaseException:
            self._reader_driven = True  # it ends this task, and the next to read finds the lead where it was
            raise
        kept = (
            not self.ws._receive_buffer.messages
            and not self._batch
            and not self._holds_enough
            and self._delegate_to_reader()
        )
        if blocked is not None:
            return self.continue_call(lent, blocked, leads=True)
        if not kept:
            self.hand_off_read_loop()
        return close_nurseries("a method") if lent.task.child_nurseries else None

    def connection_lost(self) -> None:
        """The transport is gone. What came before the peer's Close is still taken."""
        ws = self.ws
        if (
            ws.close_received is None
            or ws._closing.closed_locally
            or not (ws._receive_buffer.messages or self._batch)
        ):
            self.ended()
        else:
            self.state_changed()
            self.progress.notify_all()

    def state_changed(self) -> None:
        """The connection has begun to close: the rest is for a task that can wait for it."""
        if self._reader_driven:
            self._reader_driven = False
            self.hand_off_read_loop()

    @property
    def _holds_enough(self) -> bool:
        """Whether reading is to stop."""
        ledger = self.ledger
        if self._write_buffer.size < self._high_water and ledger.held < ledger.max_held:
            return False  # it is not `pressed`, as after nearly every packet
        if self.ws._closing.state == CLOSED:
            return False
        return not self._needs_reading or self._write_buffer.size >= self._hard_mark

    @property
    def _needs_reading(self) -> bool:
        """Whether somebody here waits for what only reading can bring."""
        return bool(self._calls) or self.read_demand.count > 0

    async def _wait_until_less_is_held(self) -> None:
        self.flush()
        while self._holds_enough and not self.over:
            with trio.move_on_after(_LOOK_EVERY) as scope:
                await self.progress.wait()
            # The end of TCP is not read either, and what is held for a client that is gone would stay.
            if scope.cancelled_caught:
                self.ws._liveness.probe()

    def _handle_input(self, worker: PooledTask) -> SuspendedCall | None:
        """Begin what is here: up to a call that has to wait, or until others should have a turn."""
        ws = self.ws
        inbox, batch = ws._receive_buffer.messages, self._batch
        if self._undecided and inbox:
            self._undecided = False
            self.set_codec(detect(inbox[0], ws._options))
        decode = self.codec.decode
        write_buffer, high_water, ledger = self._write_buffer, self._high_water, self.ledger
        work = _WORK_IN_A_ROW
        while work > 0:
            pressed = write_buffer.size >= high_water or ledger.held >= ledger.max_held
            if self.over or (pressed and self._holds_enough):
                break
            if self.measured:
                self.measured = 0
            decoded: Any
            if batch:
                item: str | bytes = b""  # its size was that of the batch
                decoded = self._next_of_batch(batch)
                batch = self._batch
            elif inbox:
                item = inbox.popleft()
                try:
                    if len(item) >= self._measured_from:
                        self.measured = self._measure(item)
                    decoded = decode(item)
                except DecodeError as exc:
                    decoded = self._handle_undecodable(exc)
                work -= len(item)
                if type(decoded) is list:
                    batch = self._begin_batch(decoded, len(item))
                    continue
            else:
                break
            work -= _PACKET_COST
            if decoded is None:
                continue
            packet: Packet = decoded
            rpc = packet.rpc
            if type(rpc) is Response:
                slot = self._calls.pop(rpc.call_id, None)
                if slot is not None:
                    self._burst_size += 1
                    slot.value = rpc
                    reschedule(slot.task, slot)
                else:
                    self._handle_response(rpc, len(item) if item.__class__ is bytes else _utf8_size(item))
                continue
            if (
                type(rpc) is Request
                and not pressed
                and not self._deferred_requests
                and self._active_calls < self._max_calls
            ):
                blocked = self.start_call(rpc, worker)  # the common case of take_request()
            elif isinstance(rpc, Request):
                blocked = self.handle_request(rpc, len(item), worker)
            else:
                blocked = self._handle_packet(packet, len(item), worker)
            if blocked is not None:
                blocked.size = self.measured
                return blocked
        return None

    def _measure(self, item: str | bytes) -> int:
        """See that a large message does not become too much; give what it becomes.

        Raises:
            BrokenPacketError: it would, and is not to be decoded.
        """
        limit = self.ws._options.max_decoded_bytes
        size = self.codec.decoded_size(item, limit)
        if 0 <= size <= limit:
            return size
        if size > limit:
            raise self.codec.refusal(
                item, f"this decodes to more than max_decoded_bytes ({limit})", close_code=1009
            )
        if size == ODD_KEYS:
            raise self.codec.refusal(item, "too many keys of a map are neither text nor bytes")
        raise self.codec.refusal(item, "this is nested too deep")

    def _begin_batch(self, members: list[Any], size: int) -> deque[Any]:
        batch = self._batch = deque(members)
        self._batch_size = size + OVERHEAD * len(batch)
        self.ledger.held += self._batch_size
        return batch

    def _next_of_batch(self, batch: deque[Any]) -> Packet | None:
        """The next packet of those that came together; None if that one is answered already."""
        member = batch.popleft()
        if not batch:
            self._batch = ()
            size, self._batch_size = self._batch_size, 0
            self.release(size)
        if type(member) is Packet:
            return member
        decoded: Any
        try:
            decoded = self.codec.decode_member(member)
        except DecodeError as exc:
            decoded = self._handle_undecodable(exc)
        if type(decoded) is list:
            decoded = decoded[0] if decoded else None
        found: Packet | None = decoded
        return found

    def _handle_undecodable(self, exc: DecodeError) -> list[Packet]:
        if exc.answer is not None:
            self.reply(exc.answer)
        if exc.fatal and not self._ends_a_call(exc):
            logger.info("closing %r: %s", self.ws, exc, extra=log_extra(self.ws))
            self.close_soon(exc.close_code, shown(str(exc), 100))
        return list(exc.packets)

    def _ends_a_call(self, exc: DecodeError) -> bool:
        """Whether it is a response to a call of ours, which it ends though it cannot be read."""
        for packet in exc.packets:
            call_id = packet.rpc.call_id if isinstance(packet.rpc, Response) else None
            if call_id in self._calls or call_id in self._pending:
                logger.info("%r: %s", self.ws, exc, extra=log_extra(self.ws))
                self.post(self.codec.abort(str(call_id)), cork=False)  # for all that the other side knows
                return True
        return False

    def _handle_response(self, response: Response, size: int) -> None:
        waiting = self._pending.get(response.call_id)
        if waiting is not None and waiting.on_response(response, size):
            self._pending.pop(response.call_id, None)

    # -- packets that are no calls ------------------------------------------------------------------

    def _handle_packet(self, packet: Packet, size: int, worker: PooledTask) -> SuspendedCall | None:
        if (
            self.route is not None
            and packet.source is CHANNEL
            and self.route(packet, max(size, self.size_of(packet.data)) + OVERHEAD)
        ):
            return None
        if self._on_packet is None or self._delivering:
            self._keep_packet(packet, max(size, self.size_of(packet.data)) + OVERHEAD)
            return None
        call = IncomingCall(PACKET_DELIVERY, self._task_pool.context.copy(), answers=False)
        call.key = self  # no id on the wire is ever this
        self._delivering = True
        return self.run_first_step(call, self._deliver(packet), worker)

    async def _deliver_held(self, call: IncomingCall, worker: PooledTask) -> None:
        """The packets that were held from the beginning; the lead is elsewhere."""
        assert self._packets
        packet, size = self._packets.popleft()
        self.release(size)
        blocked = None if call.ended_by else self.run_first_step(call, self._deliver(packet), worker)
        if blocked is not None:
            await self.continue_call(worker, blocked, leads=False)
        else:
            self._running.pop(self, None)
            self._call_ended()

    async def _deliver(self, packet: Packet) -> None:
        """One packet after the other, however long each takes."""
        assert self._on_packet is not None
        try:
            while await self._deliver_one(packet) and self._packets:
                packet, size = self._packets.popleft()
                self.release(size)
        finally:
            self._delivering = False

    async def _deliver_one(self, packet: Packet) -> bool:
        """Give whether more may be delivered."""
        assert self._on_packet is not None
        try:
            await self._on_packet(self._connection, packet)
        except BaseException as exc:  # noqa: BLE001 - judged there
            failures = [one for one in failures_in(exc) if not isinstance(one, ConnectionClosedError)]
            close = close_of(failures[0]) if len(failures) == 1 else None
            if close is not None:
                self.close_soon(*close)
            elif failures:
                self._fail(exc)  # raised by run()
            if failures:
                return False
        if self._closing is not None:
            self._leave_if_idle(packet_taken=True)
        return True

    def _keep_packet(self, packet: Packet, size: int) -> None:
        mail = self._packets = self._packets or deque()
        mail.append((packet, size))
        ledger = self.ledger
        ledger.held += size
        self._packet_arrived.notify_all()
        if ledger.held <= ledger.max_held or not self._needs_reading:
            return
        # Reading cannot stop, since somebody here waits for what it brings.
        if self._on_packet is not None:
            self.close_soon(1008, "max_held_bytes of packets wait for on_receive")
            return
        if not self.dropped_packets:
            logger.warning(
                "%r drops packets: more than max_held_bytes wait for recv()",
                self.ws,
                extra=log_extra(self.ws),
            )
        while self._packets and ledger.held > ledger.max_held:
            ledger.held -= self._packets.popleft()[1]
            self.dropped_packets += 1

    def adopt_packets(self, old: RPCSession) -> None:
        """Keep the packets that the connection before this one left for `recv`."""
        size = sum(size for _, size in old._packets)
        self._packets, old._packets = old._packets, ()
        self.ledger.held += size
        old.ledger.held -= size
        self.dropped_packets += old.dropped_packets

    async def recv(self) -> Packet | None:
        """The next packet that is no call; None after a clean end. A cancellation loses none."""
        if self._on_packet is not None:
            raise RuntimeError("on_receive of the handler takes the packets; recv() is for clients without")
        if self._packets:
            await trio.lowlevel.checkpoint_if_cancelled()
        while not self._packets:
            if self.over:
                await checkpoint()
                if self.ws._closing.ended_cleanly:
                    return None
                raise self.ws._closed_error()
            await self._packet_arrived.wait()
        packet, size = self._packets.popleft()
        self.release(size)
        return packet


def _utf8_size(text: str | bytes) -> int:
    """Return the bytes that a text message took on the wire, which are what credit counts."""
    return len(text) if isinstance(text, bytes) or text.isascii() else len(text.encode())
