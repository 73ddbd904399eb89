"""IncomingCalls: the calls of one connection that the other side makes.

Every call is started by the first step of the method's coroutine, in the task that read the request. A call
that waits keeps that task; see inline_call.py.

Invariants:

- Every request ends once: with its response, an error, its abort, or the end of the connection.
- A call that waits runs inside the cancel scope of its task, which is used for one call at a time. Aborts,
  deadlines and the end of the connection cancel that scope.
- No context variable passes from one call to the next.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from trio_ws.codecs.base import ABORT, CREDIT, DEADLINE, GOAWAY, UNSUBSCRIBED, Request
from trio_ws.errors import (
    CloseConnection,
    PacketError,
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
)
from trio_ws.ledger import size_of
from trio_ws.logs import shown
from trio_ws.predicates import check
from trio_ws.rpc.deferred import DeferredRequests, deadline_passed
from trio_ws.rpc.errors import answer_error
from trio_ws.rpc.inline_call import (
    ANSWERED,
    FAILED,
    WAITS,
    IncomingCall,
    SuspendedCall,
    first_step,
    resume_coroutine,
)
from trio_ws.rpc.methods import ASYNC, PLAIN, STREAM
from trio_ws.rpc.streams import ItemStream, produce
from trio_ws.wall import ends_program, is_cancelled, judged, only_cancelled
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from trio_ws._types import JSONObject, Value
    from trio_ws.rpc.inline_call import CallStep
    from trio_ws.rpc.methods import Method
    from trio_ws.rpc.outgoing import OutgoingCalls
    from trio_ws.rpc.rate_limit import Limiter, RateLimit
    from trio_ws.rpc.task_pool import PooledTask, TaskPool
    from trio_ws.rpc.transport import PacketTransport

__all__ = ["PACKET_DELIVERY", "IncomingCalls"]

#: Bytes charged for each call that waits, in addition to its arguments, for its record and its context.
_CALL_OVERHEAD = 1024
#: Requests that are not calls: they are handled at once, however many calls run.
_CONTROL = frozenset({ABORT, CREDIT, DEADLINE, GOAWAY, UNSUBSCRIBED})
_NO_KWARGS: JSONObject = {}
Running: TypeAlias = dict[Any, IncomingCall]
#: The running calls of all connections without any. Nothing is ever added to it.
_NO_CALLS: Running = {}
#: The deferred requests of all connections that have never had any.
_NO_REQUESTS: Mapping[object, tuple[Request, int]] = MappingProxyType({})
#: Takes the place of the request where a packet is delivered to the application.
PACKET_DELIVERY = Request("")


class IncomingCalls:
    """The calls that the other side makes. See the module docstring.

    Args:
        transport: sends the responses.
        outgoing: the calls of this side, which incoming calls may be waiting for.
        pool: provides tasks.
        methods: the methods that may be called, by name. Looked up for each call.
        connection: the first argument of methods and predicates.
        limiter: records the calls for rate limits.
        default_limit: applies to methods without a limit of their own, and to unknown names.
        debug: send the texts of unexpected exceptions to the other side.

    Attributes:
        running: calls that wait, by key.
        active_calls: their number, with the deferred ones that are about to start.
        max_calls: ``max_concurrent_calls``.
        deferred: requests that wait for room; None before there was one.
        waiting: those requests by call id, as in `DeferredRequests.requests`.
        closing: the code and reason to close with once no call runs, or None.
        on_unsubscribed: set by a client; called when the server ends its right to a channel.
    """

    __slots__ = (
        "_calls_done",
        "_cut",
        "_debug",
        "_default_limit",
        "_generated_ids",
        "_limiter",
        "_methods",
        "_not_let_in",
        "_outgoing",
        "_pool",
        "_starting_deferred",
        "_transport",
        "active_calls",
        "closing",
        "connection",
        "deferred",
        "max_calls",
        "on_unsubscribed",
        "running",
        "waiting",
    )

    def __init__(
        self,
        transport: PacketTransport,
        outgoing: OutgoingCalls,
        pool: TaskPool,
        *,
        methods: Mapping[str, Method],
        connection: Any,
        limiter: Limiter,
        default_limit: RateLimit | None = None,
        debug: bool = False,
    ) -> None:
        self._transport = transport
        self._outgoing = outgoing
        self._pool = pool
        self._methods = methods
        self.connection = connection
        self._limiter = limiter
        self._default_limit = default_limit
        self._debug = debug
        self.running: Running = _NO_CALLS
        self.active_calls = 0
        self.max_calls = transport.options.max_concurrent_calls
        self._calls_done: Notification | None = None  # notified when no call runs any more
        self.deferred: DeferredRequests | None = None  # made for the first request that is deferred
        self.waiting = _NO_REQUESTS
        self._not_let_in = False  # on_connect has not returned
        self._starting_deferred = False  # a task waits for room for the deferred requests
        self._generated_ids = 0
        self._cut: Sequence[str] = ()  # calls that were cancelled with the server, and got no response
        self.closing: tuple[int, str] | None = None
        self.on_unsubscribed: Callable[[Sequence[Value]], None] | None = None

    # -- starting -----------------------------------------------------------------------------------

    def handle_request(self, request: Request, size: int, worker: PooledTask) -> SuspendedCall | None:
        """Start a call; or defer it if too many run, or if too much is held or waits to be written."""
        if request.method in _CONTROL:
            return self.start_call(request, worker)
        if request.call_id in self.waiting:
            self._answer_error(request, _id_in_use())
            return None
        refusal = "max_held_bytes is reached"
        if self._not_let_in and request.nested:
            # on_connect may be waiting for this one, so it must not wait for on_connect.
            refusal = "on_connect of the server has not returned yet"
        elif not self._not_let_in and self._is_nested(request):
            # Calls that run may be waiting for this one, so it must not wait for them.
            if self.active_calls < 2 * self.max_calls:
                return self.start_call(request, worker)
            refusal = "twice max_concurrent_calls is reached"
        elif self.active_calls < self.max_calls and not self.waiting and not self._transport.pressed:
            return self.start_call(request, worker)
        elif not self._transport.ledger.exhausted:
            self._defer(request, size)
            self._start_deferred_soon()
            return None
        # Pausing the reading could last forever: responses to our own calls, and credit, are read too.
        self._answer_error(request, RateLimitError(refusal))
        return None

    def _defer(self, request: Request, size: int) -> None:
        if self.deferred is None:
            self.deferred = DeferredRequests(self._transport, self._pool)
            self.waiting = self.deferred.requests
        self.deferred.add(request, size)

    def has_method(self, name: str) -> bool:
        """Whether the other side may call a method of this name."""
        return name in self._methods

    def hold(self) -> None:
        """Start no calls until `let_in`. They are deferred, as if too many ran."""
        self._not_let_in = True
        self.active_calls = self.max_calls

    def let_in(self) -> None:
        """Start the calls that came since `hold`."""
        self._not_let_in = False
        self.active_calls = 0
        self._start_deferred_soon()

    def _is_nested(self, request: Request) -> bool:
        """Whether running calls may be waiting for this one.

        A codec without extensions cannot tell. Then this is assumed if as many calls of ours are running.
        """
        if self.active_calls < self.max_calls:
            return False
        if self._transport.supports_extensions:
            return request.nested
        return len(self._outgoing.pending_calls) >= self.active_calls

    def _start_deferred_soon(self) -> None:
        """Make sure that deferred requests start once there is room for their responses."""
        if (
            self.waiting
            and self.active_calls < self.max_calls
            and not self._starting_deferred
            and not self._transport.over
        ):
            self._starting_deferred = True
            self._pool.start(self._start_deferred_when_writable)

    async def _start_deferred_when_writable(self, _: PooledTask) -> None:
        transport = self._transport
        try:
            while self.waiting and self.active_calls < self.max_calls and not transport.over:
                if transport.congested:
                    transport.flush()
                    await transport.progress.wait()
                else:
                    self.active_calls += 1
                    self._start_next_deferred()
                    await trio.lowlevel.checkpoint()
        finally:
            self._starting_deferred = False

    def _start_next_deferred(self) -> None:
        self._pool.start(self._run_deferred)

    def start_call(self, request: Request, worker: PooledTask) -> SuspendedCall | None:
        """Run a method to its end, or to where it first waits."""
        transport = self._transport
        method = self._methods.get(request.method)
        call: IncomingCall | None = None
        try:
            if method is None or self.closing is not None:
                self._handle_unknown(request)
                return None
            call_id = request.call_id
            if call_id in self.running or not call_id or "/" in call_id:
                self._check_id(request)
            timeout = request.timeout
            if timeout is not None and timeout <= 0:
                raise deadline_passed()
            if method.limit is not None or self._default_limit is not None:
                self._check_limit(request, method)
            if method.requires is not None and not check(method.requires, self.connection):
                raise RPCAccessDeniedError(f"access to {request.method} denied")
            args, kwargs = method.bind(request.args, request.kwargs)
            context = self._pool.context.copy()
            if method.kind == PLAIN and not request.streams:
                result = context.run(method.function, self.connection, *args, **kwargs)
                payload = transport.codec.result(request, result)
                if payload is not None:
                    transport.reply(payload)
                return None
            if method.kind == ASYNC and timeout is None and not method.stream_items and not request.streams:
                # Most methods end in their first step. This saves them a task and the record of a call.
                coroutine = method.function(self.connection, *args, **kwargs)
                ended, value = first_step(context, coroutine)
                if not ended:
                    return SuspendedCall(IncomingCall(request, context, answers=True), coroutine, value)
                payload = transport.codec.result(request, value)
                if payload is not None:
                    transport.reply(payload)
                return None
            call = IncomingCall(request, context, answers=method.kind == ASYNC)
            if request.streams:
                args, kwargs = self._open_inputs(call, method, args, kwargs)
            if method.stream_items:
                method.check_streams(args, kwargs)
            coroutine = method.function(self.connection, *args, **kwargs)
            if method.kind == STREAM:
                coroutine = produce(transport, call, coroutine)
        except BaseException as exc:  # noqa: BLE001 - judged there
            try:
                self._answer_failure(request, exc, stream=method is not None and method.kind == STREAM)
            finally:
                if call is not None:
                    self._finish(call, worker)  # close the streams that it opened
            return None
        if timeout is not None:
            worker.scope.deadline = trio.current_time() + timeout
        return self.run_first_step(call, coroutine, worker)

    def start_plain_call(
        self, name: str, args: list[Value], call_id: str, worker: PooledTask
    ) -> SuspendedCall | None:
        """Do the same as `start_call` for a plain call, whose request is only made if anything needs it."""
        method = self._methods.get(name)
        if (
            method is None
            or not method.is_plain
            or self._default_limit is not None
            or self.closing is not None
            or call_id in self.running
        ):
            return self.start_call(Request(name, args, {}, call_id), worker)
        try:
            values, _ = method.bind(args, _NO_KWARGS)
            context = self._pool.context.copy()
            if method.kind == PLAIN:
                result = context.run(method.function, self.connection, *values)
            else:
                coroutine = method.function(self.connection, *values)
                ended, result = first_step(context, coroutine)
                if not ended:
                    call = IncomingCall(Request(name, args, {}, call_id), context, answers=True)
                    return SuspendedCall(call, coroutine, result)
            self._transport.reply_result(call_id, result)
        except BaseException as exc:  # noqa: BLE001 - judged there
            self._answer_failure(Request(name, args, {}, call_id), exc, stream=False)
        return None

    def finish_plain_call(self, step: CallStep) -> SuspendedCall | None:
        """Do the rest of `start_plain_call` for a call that the extension has started.

        Args:
            step: what was done.
        """
        done, (name, args, call_id), value, context, coroutine = step
        if done == ANSWERED:
            return None
        request = Request(name, args, {}, call_id)
        if done == WAITS:
            assert coroutine is not None
            return SuspendedCall(IncomingCall(request, context, answers=True), coroutine, value)
        try:
            if done == FAILED:
                raise value
            self._transport.reply_result(call_id, value)
        except BaseException as exc:  # noqa: BLE001 - judged there
            self._answer_failure(request, exc, stream=False)
        return None

    def run_first_step(
        self, call: IncomingCall, coroutine: Coroutine[object, object, Value], worker: PooledTask
    ) -> SuspendedCall | None:
        """Run the first step of any call."""
        ended = True
        try:
            try:
                ended, value = first_step(call.context, coroutine)
            except BaseException as exc:  # noqa: BLE001 - judged there
                self._answer_failure(call.request, exc, stream=not call.has_result)
                return None
            if not ended:
                return SuspendedCall(call, coroutine, value)
            self._answer(call, value)
        finally:
            if ended:
                self._finish(call, worker)
        return None

    # -- waiting ------------------------------------------------------------------------------------

    async def continue_call(self, worker: PooledTask, blocked: SuspendedCall, *, leads: bool) -> None:
        """Give this task to a call that waits.

        Args:
            worker: this task.
            blocked: the call.
            leads: whether this task was reading, which another task then continues.
        """
        transport = self._transport
        call = blocked.call
        self.add_running(call)
        if leads:
            self.active_calls += 1
        request = call.request
        charge = _CALL_OVERHEAD
        if request.args or request.kwargs:
            charge += blocked.size or size_of(request.args) + size_of(request.kwargs)
        transport.ledger.held += charge
        call.worker = worker
        worker.task.context = call.context
        if leads and transport.session is not None:
            transport.session.hand_off_read_loop()
        try:
            value = await resume_coroutine(blocked.coroutine, blocked.trap)
            if transport.congested and not transport.over:
                await transport.wait_for_room()
            self._answer(call, value)
        except BaseException as exc:
            if only_cancelled(exc) and (worker.scope.cancel_called or is_cancelled()):
                self._handle_cancellation(call, worker)
                raise
            self._answer_failure(call.request, exc, stream=not call.has_result)
        finally:
            call.worker = None
            worker.task.context = self._pool.context.copy()
            self.remove_running(call)
            transport.release(charge)
            self._finish(call, worker)
            self.call_ended()

    def add_running(self, call: IncomingCall) -> None:
        """Note that a call waits, or is about to begin in a task of its own."""
        if self.running:
            self.running[call.key] = call
        else:
            self.running = {call.key: call}

    def remove_running(self, call: IncomingCall) -> None:
        """Note that a call has ended."""
        running = self.running
        running.pop(call.key, None)
        if not running:
            self.running = _NO_CALLS

    def _answer(self, call: IncomingCall, value: Value) -> None:
        if not call.has_result:
            return
        transport = self._transport
        try:
            payload = transport.codec.result(call.request, value)
        except PacketError as exc:
            self._answer_error(call.request, exc)
            return
        if payload is not None:
            if len(self.running) > 1:
                transport.post(payload, cork=True)
            else:
                transport.reply(payload)

    def _handle_cancellation(self, call: IncomingCall, worker: PooledTask) -> None:
        if call.ended_by:
            self._drop(call.request)
        elif worker.scope.cancel_called:
            self._answer_error(call.request, deadline_passed(), stream=not call.has_result)
        else:
            self._cut = [*self._cut, call.request.call_id]

    def _finish(self, call: IncomingCall, worker: PooledTask) -> None:
        if call.request.timeout is not None:
            worker.scope.deadline = math.inf
        for stream in call.inputs or ():
            stream.close()
            self._outgoing.sinks.pop(stream.stream_id, None)

    def call_ended(self) -> None:
        """Give the place of a call to a deferred request, or free it."""
        if self.waiting and self.active_calls <= self.max_calls and not self._transport.congested:
            self._start_next_deferred()
        else:
            self.active_calls -= 1
            self._start_deferred_soon()
        if self._calls_done is not None and not self.running:
            self._calls_done.notify_all()
        if self.closing is not None:
            self.close_if_idle()

    async def _run_deferred(self, worker: PooledTask) -> None:
        """Start the oldest deferred request, in a place that is counted for it already.

        It stays deferred until then, so that an abort finds it. Another task reads.
        """
        blocked = None
        size = 0
        if self.deferred is not None and self.waiting and not self._transport.over:
            request, size = self.deferred.pop_first()
            blocked = self.start_call(request, worker)
        if blocked is None:
            self.call_ended()
        else:
            blocked.size = size
            await self.continue_call(worker, blocked, leads=False)

    # -- closing and the end ------------------------------------------------------------------------

    def shutdown(self, code: int, reason: str) -> None:
        """Close once no call runs any more. New calls are refused."""
        if self.closing is None:
            self.closing = (code, reason)
            self.close_if_idle()

    def close_if_idle(self, *, except_for: object = None) -> None:
        """Send the Close frame of a server that stops, once no running call may still send.

        What the client sent before it received that frame is still read: packets are delivered, and calls
        are not started.

        Args:
            except_for: the key of a call that does not count as running.
        """
        running = len(self.running) - (except_for in self.running)
        if self.closing is not None and not running and not self._transport.over:
            self.send_goaway()
            self._transport.closing.start(*self.closing)

    def leave(self) -> None:
        """Tell a server that may have called us which calls were started."""
        if not self._transport.over and any(name[:2] != "__" for name in self._methods):
            self.send_goaway()

    def send_goaway(self) -> None:
        """Tell the other side that no more calls start, and which of those without a response did."""
        transport = self._transport
        if transport.supports_extensions:
            calls = [call.request for call in self.running.values() if call.request is not PACKET_DELIVERY]
            started = [*(request.call_id for request in calls), *self._cut]
            transport.post(transport.codec.goaway(started), cork=True)

    def end(self, *, except_for: object = None) -> None:
        """Cancel all calls, because the connection is over.

        Args:
            except_for: the key of a call that goes on.
        """
        here = trio.lowlevel.current_task()
        for call in list(self.running.values()):
            # A call that closes its own connection may finish.
            if call.key is not except_for and (call.worker is None or call.worker.task is not here):
                call.cancel("end")
        if self.deferred is not None:
            self.deferred.end()

    async def wait_for_calls(self) -> None:
        """Wait until no call runs any more."""
        while self.running:
            self._calls_done = self._calls_done or Notification()
            await self._calls_done.wait()

    async def finish(self) -> None:
        """Wait for all calls; cancel those that take longer than ``close_timeout``."""
        with trio.move_on_after(self._transport.options.close_timeout, shield=True):
            await self.wait_for_calls()
        for call in self.running.values():
            call.cancel("end")
        with trio.CancelScope(shield=True):
            await self.wait_for_calls()
        self.connection = None  # break the reference cycle, so that no garbage collection is needed

    # -- control requests ---------------------------------------------------------------------------

    def _handle_unknown(self, request: Request) -> None:
        name = request.method
        extensions = self._transport.supports_extensions
        if name == ABORT:
            self._handle_abort(request.args)
        elif name == CREDIT and extensions:
            self._handle_credit(request.args, request.kwargs.get("bytes"))
        elif name == DEADLINE and extensions:
            self._handle_deadline(request.args)
        elif name == GOAWAY and extensions:
            self._handle_goaway(request.args)
        elif name == UNSUBSCRIBED and self.on_unsubscribed is not None:
            self.on_unsubscribed(request.args)
        elif self.closing is not None:
            self._answer_error(request, RPCCancelledError("the server is going away"))
        else:
            if not request.call_id:
                self._check_id(request)
            if self._default_limit is not None:
                self._check_limit(request, None)
            self._answer_error(request, RPCMethodNotFoundError(f"there is no method '{shown(name)}'"))

    def _handle_abort(self, args: Value) -> None:
        key = args[0] if args else None
        if not isinstance(key, str | int | float):
            return
        call = self.running.get(key)
        if call is not None:
            call.cancel("abort")
        elif key in self._outgoing.client_streams:
            self._outgoing.client_streams[str(key)].scope.cancel()
        elif self.deferred is not None and key in self.waiting:
            self._drop(self.deferred.pop(key))

    def _handle_credit(self, args: Value, size: Value) -> None:
        stream_id, count = args if len(args) == 2 else (None, None)
        if type(stream_id) is not str or type(count) is not int or not 0 < count < 2**31:
            self._transport.misbehaved("__credit__ takes the id of a stream and a number of items")
            return
        if size is not None and (type(size) is not int or not 0 <= size < 2**63):
            self._transport.misbehaved("bytes of __credit__ must be a number of bytes")
            return
        producer = self.running.get(stream_id) or self._outgoing.client_streams.get(stream_id)
        if producer is not None:
            producer.add_credit(count, size)

    def _handle_deadline(self, args: Value) -> None:
        """Set the deadline of a call to this number of seconds from now, because its caller still waits."""
        call_id, seconds = args if len(args) == 2 else (None, math.nan)
        if type(call_id) is not str or type(seconds) not in (int, float) or not seconds >= 0:
            self._transport.misbehaved("__deadline__ takes the id of a call and a number of seconds")
            return
        deadline = trio.current_time() + seconds
        call = self.running.get(call_id)
        if call is not None and call.worker is not None:
            call.request.timeout = seconds
            call.worker.scope.deadline = deadline
            return
        if self.deferred is not None and call_id in self.waiting:
            self.deferred.set_deadline(call_id, deadline)

    def _handle_goaway(self, args: Value) -> None:
        begun = args[0] if len(args) == 1 else None
        if type(begun) is not list or not all(type(call_id) is str for call_id in begun):
            self._transport.misbehaved("__goaway__ takes a list of the ids of calls")
            return
        self._outgoing.begun_there = frozenset(begun)

    def _check_id(self, request: Request) -> None:
        """Generate an id if the caller left it out, and refuse one that is in use."""
        call_id = request.call_id
        if not call_id:
            # Callers' own ids never begin with a slash.
            self._generated_ids += 1
            request.call_id = f"/{self._generated_ids}"
        elif call_id in self.running:
            raise _id_in_use()
        elif self._transport.supports_extensions or call_id[0] == "/":
            raise RPCInvalidParamsError("a call_id must not contain a slash", data={"path": "$.call_id"})

    def _check_limit(self, request: Request, method: Method | None) -> None:
        limit = self._default_limit if method is None or method.limit is None else method.limit
        assert limit is not None
        connection: Any = self.connection
        key = connection.uid if limit.key is None else limit.key(connection)
        name = request.method if method is not None else None
        retry_after = self._limiter.check(limit, name, key, trio.current_time())
        if retry_after is None:
            return
        error = RateLimitError(
            f"rate limit of {shown(request.method, 80)} exceeded;"
            f" try again in {math.ceil(retry_after * 100) / 100:g} s",
            retry_after=retry_after,
        )
        if limit.disconnect:
            self._answer_error(request, error)
            raise CloseConnection(1008, "rate limit exceeded")
        raise error

    # -- client streams -----------------------------------------------------------------------------

    def _open_inputs(
        self, call: IncomingCall, method: Method, args: Value, kwargs: Value
    ) -> tuple[list[Value], JSONObject]:
        args, kwargs = list(args), dict(kwargs)
        call.inputs = inputs = []
        assert call.request.streams is not None
        for place, stream_id in call.request.streams.items():
            if "/" not in stream_id or stream_id in self._outgoing.sinks:
                raise RPCInvalidParamsError(f"bad stream id '{shown(str(stream_id), 40)}'")
            name = method.parameter_name(place)
            items = method.stream_items.get(name)
            stream: ItemStream[Value] = ItemStream(self._outgoing, stream_id, items, f"an item of {name}")
            method.place_stream(args, kwargs, place, stream)
            self._outgoing.add_sink(stream_id, stream)
            inputs.append(stream)
        return args, kwargs

    # -- errors -------------------------------------------------------------------------------------

    def _drop(self, request: Request) -> None:
        payload = self._transport.codec.dropped(request) if request is not PACKET_DELIVERY else None
        if payload is not None:
            self._transport.reply(payload)

    def _answer_failure(self, request: Request, exc: BaseException, *, stream: bool) -> None:
        """Answer with an exception that left user code. One that ends the program ends the connection too.

        Raises:
            BaseException: ``exc``, if it is the cancellation of this task.
        """
        if ends_program(exc):
            self._answer_error(request, exc, stream=stream)
            self._transport.fail(exc)
        else:
            self._answer_error(request, judged(exc), stream=stream)

    def _answer_error(self, request: Request, exc: BaseException, *, stream: bool = False) -> None:
        if request is not PACKET_DELIVERY:
            answer_error(self._transport, request, exc, stream=stream, debug=self._debug)


def _id_in_use() -> RPCInvalidParamsError:
    return RPCInvalidParamsError("this call_id is in use", data={"path": "$.call_id"})
