"""Answerer: the half of a peer that is asked. Methods, from the request to its one end.

Every call is begun by the first step of the method's coroutine, in the task that read the request. Most
methods end in that step, so that a burst of calls costs no task and no switch. One that waits keeps the task
it began in, see peer.py.

What always holds:

- Every request gets one end: its answer, an error, its abort, or the end of the connection.
- A call that waits runs inside the cancel scope of its worker, which is used for one call at a time. Aborts,
  deadlines and the end of the connection cancel that scope.
- No context variable goes from one call into the next.
"""

from __future__ import annotations

import math
import secrets
import types
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.codecs.base import ABORT, CREDIT, DEADLINE, GOAWAY, UNSUBSCRIBED, Request
from trio_ws.errors import (
    CloseConnection,
    ConnectionClosedError,
    PacketError,
    RateLimitError,
    RPCAccessDeniedError,
    RPCCancelledError,
    RPCInternalError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    RPCTimeoutError,
)
from trio_ws.ledger import OVERHEAD, size_of
from trio_ws.logs import logger_for, shown
from trio_ws.predicates import check
from trio_ws.rpc.deadlines import HeldDeadlines
from trio_ws.rpc.inline_call import IncomingCall, SuspendedCall
from trio_ws.rpc.methods import ASYNC, PLAIN, STREAM
from trio_ws.rpc.outgoing import OutgoingCalls
from trio_ws.rpc.streams import ItemStream, produce
from trio_ws.wall import (
    close_of,
    ends_program,
    error_of,
    is_cancelled,
    judged,
    log_failure,
    only_cancelled,
    text_of,
)
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence

    from trio_ws.codecs.base import Codec
    from trio_ws.rpc.methods import Method
    from trio_ws.rpc.rate_limit import Limiter, RateLimit
    from trio_ws.rpc.task_pool import PooledTask, TaskPool
    from trio_ws.websocket.connection import WebSocket

__all__ = ["PACKET_DELIVERY", "IncomingCalls"]

logger = logger_for("trio_ws.rpc")

#: Charged for each call that waits, beside its arguments: what is known of it, and its task's context.
_CALL_OVERHEAD = 1024
#: Requests that are no calls: they are taken at once, however many calls run.
_CONTROL = frozenset({ABORT, CREDIT, DEADLINE, GOAWAY, UNSUBSCRIBED})
#: Stands for what is no request: the delivery of a packet to the application.
PACKET_DELIVERY = Request("")
#: Where nothing is held, so that a connection needs no dict for it.
_NONE: dict[Any, tuple[Request, int]] = {}


class IncomingCalls(OutgoingCalls):
    """See the module's text. `Peer` adds the reading, and has the arguments' text."""

    __slots__ = (
        "_active_calls",
        "_calls_done",
        "_closing",
        "_connection",
        "_cut",
        "_debug",
        "_default_limit",
        "_deferred_requests",
        "_generated_ids",
        "_held_deadlines",
        "_limiter",
        "_max_calls",
        "_methods",
        "_not_let_in",
        "_running",
        "_starting_deferred",
        "_task_pool",
        "on_unsubscribed",
    )

    def __init__(
        self,
        ws: WebSocket,
        workers: TaskPool,
        dialect: Codec,
        *,
        methods: Mapping[str, Method],
        connection: Any,
        limiter: Limiter,
        default_limit: RateLimit | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__(ws, dialect)
        self._task_pool = workers
        self._methods = methods
        self._connection = connection
        self._limiter = limiter
        self._default_limit = default_limit
        self._debug = debug
        self._running: dict[Any, IncomingCall] = {}  # calls that wait
        self._active_calls = 0  # them, and those that were held and are about to begin
        self._calls_done = Notification()  # rings when none of them is left
        self._deferred_requests: dict[Any, tuple[Request, int]] = (
            _NONE  # requests for which there is no room, in order
        )
        self._not_let_in = False  # on_connect has not returned
        self._held_deadlines: HeldDeadlines | None = None  # made by the first that has one
        self._starting_deferred = False  # a task waits for that room
        self._max_calls = ws._options.max_concurrent_calls
        self._generated_ids = 0
        self._cut: Sequence[str] = ()  # calls that were cancelled with the server, and have no answer
        self._closing: tuple[int, str] | None = None  # close with this once no call runs
        # Set by a client: takes what the server says of a channel whose right has ended.
        self.on_unsubscribed: Callable[[Sequence[Any]], None] | None = None

    @abstractmethod
    def hand_off_read_loop(self) -> None:
        """A call waits in this task: reading goes on in another."""

    @abstractmethod
    def _leave_if_idle(self) -> None:
        """Close, as was asked for, once no call runs."""

    @abstractmethod
    def _fail(self, failure: BaseException) -> None:
        """The connection ends with this, for whoever owns it."""

    # -- begin --------------------------------------------------------------------------------------

    def handle_request(self, request: Request, size: int, worker: PooledTask) -> SuspendedCall | None:
        """Begin a call, or hold it where too many run, or where too much is held or waits to be written."""
        if request.method in _CONTROL:
            return self.start_call(request, worker)
        if self._deferred_requests and request.call_id in self._deferred_requests:
            self._answer_error(request, _id_in_use())
            return None
        refusal = "max_held_bytes is reached"
        if self._not_let_in and request.nested:
            # on_connect may be waiting for this one, which must not wait for it.
            refusal = "the client is not let in yet"
        elif not self._not_let_in and self._is_nested(request):
            # Calls that run may be waiting for this one, which must not wait for them.
            if self._active_calls < 2 * self._max_calls:
                return self.start_call(request, worker)
            refusal = "twice max_concurrent_calls is reached"
        elif self._active_calls < self._max_calls and not self._deferred_requests and not self.pressed:
            return self.start_call(request, worker)
        elif not self.ledger.full:
            self._defer(request, size)
            return None
        # Not to read on could be for ever: answers to our own calls, or credit, come that way.
        self._answer_error(request, RateLimitError(refusal))
        return None

    def hold(self) -> None:
        """Begin no calls until `let_in`. They are held, as they are where too many run."""
        self._not_let_in = True
        self._active_calls = self._max_calls

    def let_in(self) -> None:
        """Begin what came since `hold`."""
        self._not_let_in = False
        self._active_calls = 0
        self._start_deferred_soon()

    def _is_nested(self, request: Request) -> bool:
        """Whether calls of ours that run may wait for this one.

        In dialects that do not say so, it may be where as many calls of ours are under way.
        """
        if self._active_calls < self._max_calls:
            return False
        if self.supports_extensions:
            return request.nested
        return len(self._calls) >= self._active_calls

    def _defer(self, request: Request, size: int) -> None:
        if request.timeout is not None:
            request.timeout += trio.current_time()  # a time of the clock, while it is held
            self._look_at_held(request.timeout)
        size = max(size, self.measured or size_of(request.args) + size_of(request.kwargs)) + OVERHEAD
        self.ledger.held += size
        if self._deferred_requests is _NONE:
            self._deferred_requests = {}
        self._deferred_requests[request.call_id or object()] = request, size
        self._start_deferred_soon()

    def _look_at_held(self, deadline: float) -> None:
        if self._held_deadlines is None:
            self._held_deadlines = HeldDeadlines(self, self._task_pool)
        self._held_deadlines.look_at(deadline)

    def answer_too_late(self, key: Any) -> None:
        """The time of a request that is held is over."""
        self._answer_error(self._undefer(key), _too_late())

    def _undefer(self, key: Any) -> Request:
        request, size = self._deferred_requests.pop(key)
        self.release(size)
        return request

    def _start_deferred_soon(self) -> None:
        """See that what is held begins, once there is room for the answers."""
        if (
            self._deferred_requests
            and self._active_calls < self._max_calls
            and not self._starting_deferred
            and not self.over
        ):
            self._starting_deferred = True
            self._task_pool.start(self._start_deferred_when_writable)

    async def _start_deferred_when_writable(self, _: PooledTask) -> None:
        try:
            while self._deferred_requests and self._active_calls < self._max_calls and not self.over:
                if self.congested:
                    self.flush()
                    await self.progress.wait()
                else:
                    self._active_calls += 1
                    self._start_next_deferred()
                    await trio.lowlevel.checkpoint()
        finally:
            self._starting_deferred = False

    def _start_next_deferred(self) -> None:
        self._task_pool.start(self._run_deferred)

    def start_call(self, request: Request, worker: PooledTask) -> SuspendedCall | None:
        """Run a method up to its end, or to where it first waits."""
        method = self._methods.get(request.method)
        call: IncomingCall | None = None
        try:
            if method is None or self._closing is not None:
                self._handle_unknown(request)
                return None
            call_id = request.call_id
            if call_id in self._running or not call_id or "/" in call_id:
                self._name(request)
            timeout = request.timeout
            if timeout is not None and timeout <= 0:
                raise _too_late()
            if method.limit is not None or self._default_limit is not None:
                self._check_limit(request, method)
            if method.requires is not None and not check(method.requires, self._connection):
                raise RPCAccessDeniedError(f"access to {request.method} denied")
            args, kwargs = method.bind(request.args, request.kwargs)
            context = self._task_pool.context.copy()
            if method.kind == PLAIN:
                result = context.run(method.function, self._connection, *args, **kwargs)
                payload = self.codec.result(request, result)
                if payload is not None:
                    self.reply(payload)
                return None
            if method.kind == ASYNC and timeout is None and not method.stream_items:
                # The first step of a coroutine, which is the whole of most. This is what saves a task, or a
                # hand-over to one, and all the records of a call, for each that does not wait.
                coroutine = method.function(self._connection, *args, **kwargs)
                try:
                    trap = context.run(coroutine.send, None)
                except StopIteration as stop:
                    payload = self.codec.result(request, stop.value)
                    if payload is not None:
                        self.reply(payload)
                    return None
                return SuspendedCall(IncomingCall(request, context, answers=True), coroutine, trap)
            call = IncomingCall(request, context, answers=method.kind == ASYNC)
            if request.streams:
                args, kwargs = self._open_inputs(call, method, args, kwargs)
            if method.stream_items:
                method.check_streams(args, kwargs)
            coroutine = method.function(self._connection, *args, **kwargs)
            if method.kind == STREAM:
                coroutine = produce(self, call, coroutine)
        except BaseException as exc:  # noqa: BLE001 - judged there
            try:
                self._answer_failure(request, exc, stream=method is not None and method.kind == STREAM)
            finally:
                if call is not None:
                    self._finish(call, worker)  # it may have opened streams
            return None
        if timeout is not None:
            worker.scope.deadline = trio.current_time() + timeout
        return self.run_first_step(call, coroutine, worker)

    def run_first_step(
        self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any], worker: PooledTask
    ) -> SuspendedCall | None:
        """The first step of any call."""
        done = True
        try:
            trap = call.context.run(coroutine.send, None)
            done = False
            return SuspendedCall(call, coroutine, trap)
        except StopIteration as stop:
            self._answer(call, stop.value)
        except BaseException as exc:  # noqa: BLE001 - judged there
            self._answer_failure(call.request, exc, stream=not call.has_result)
        finally:
            if done:
                self._finish(call, worker)
        return None

    # -- go on --------------------------------------------------------------------------------------

    async def continue_call(self, worker: PooledTask, blocked: SuspendedCall, *, leads: bool) -> None:
        """Let a call that waits have this task, and the lead, if it was here, go to another."""
        call = blocked.call
        self._running[call.key] = call
        if leads:
            self._active_calls += 1
        request = call.request
        charge = _CALL_OVERHEAD
        if request.args or request.kwargs:
            charge += blocked.size or size_of(request.args) + size_of(request.kwargs)
        self.ledger.held += charge
        call.worker = worker
        worker.task.context = call.context
        if leads:
            self.hand_off_read_loop()
        try:
            value = await _resume_coroutine(blocked.coroutine, blocked.trap)
            if self.congested and not self.over:
                await self.wait_for_room()
            self._answer(call, value)
        except BaseException as exc:
            if only_cancelled(exc) and (worker.scope.cancel_called or is_cancelled()):
                self._handle_cancellation(call, worker)
                raise
            self._answer_failure(call.request, exc, stream=not call.has_result)
        finally:
            call.worker = None
            worker.task.context = self._task_pool.context.copy()
            self._running.pop(call.key, None)
            self.release(charge)
            self._finish(call, worker)
            self._call_ended()

    def _answer(self, call: IncomingCall, value: Any) -> None:
        if not call.has_result:
            return
        try:
            payload = self.codec.result(call.request, value)
        except PacketError as exc:
            self._answer_error(call.request, exc)
            return
        if payload is not None:
            if len(self._running) > 1:
                self.post(payload, cork=True)
            else:
                self.reply(payload)

    def _handle_cancellation(self, call: IncomingCall, worker: PooledTask) -> None:
        if call.ended_by:
            self._drop(call.request)
        elif worker.scope.cancel_called:
            self._answer_error(call.request, _too_late(), stream=not call.has_result)
        else:
            self._cut = [*self._cut, call.request.call_id]

    def _finish(self, call: IncomingCall, worker: PooledTask) -> None:
        if call.request.timeout is not None:
            worker.scope.deadline = math.inf
        for stream in call.inputs or ():
            stream.close()
            self._pending.pop(stream.stream_id, None)

    def _call_ended(self) -> None:
        if self._deferred_requests and self._active_calls <= self._max_calls and not self.congested:
            self._start_next_deferred()  # its place goes to one that was held
        else:
            self._active_calls -= 1
            self._start_deferred_soon()
        if not self._running:
            self._calls_done.notify_all()
        if self._closing is not None:
            self._leave_if_idle()

    async def _run_deferred(self, worker: PooledTask) -> None:
        """Begin the first of the calls that had to wait, in the place that one has left to it.

        Until then it is held, so that an abort finds it. The lead is elsewhere.
        """
        blocked = None
        size = 0
        if self._deferred_requests and not self.over:
            key, (request, size) = next(iter(self._deferred_requests.items()))
            self._undefer(key)
            if request.timeout is not None:
                request.timeout -= trio.current_time()
            blocked = self.start_call(request, worker)
        if blocked is None:
            self._call_ended()
        else:
            blocked.size = size
            await self.continue_call(worker, blocked, leads=False)

    # -- what has no method -------------------------------------------------------------------------

    def _handle_unknown(self, request: Request) -> None:
        name = request.method
        if name == ABORT:
            self._handle_abort(request.args)
        elif name == CREDIT and self.supports_extensions:
            self._handle_credit(request.args, request.kwargs.get("bytes"))
        elif name == DEADLINE and self.supports_extensions:
            self._handle_deadline(request.args)
        elif name == GOAWAY and self.supports_extensions:
            self._handle_goaway(request.args)
        elif name == UNSUBSCRIBED and self.on_unsubscribed is not None:
            self.on_unsubscribed(request.args)
        elif self._closing is not None:
            self._answer_error(request, RPCCancelledError("the server is going away"))
        else:
            if not request.call_id:
                self._name(request)
            if self._default_limit is not None:
                self._check_limit(request, None)
            self._answer_error(request, RPCMethodNotFoundError(f"there is no method '{shown(name)}'"))

    def _handle_abort(self, args: Any) -> None:
        key = args[0] if args else None
        if not isinstance(key, str | int | float):
            return
        call = self._running.get(key)
        if call is not None:
            call.cancel("abort")
        elif key in self._client_streams:
            self._client_streams[str(key)].scope.cancel()
        elif key in self._deferred_requests:
            self._drop(self._undefer(key))

    def _handle_credit(self, args: Any, size: Any) -> None:
        stream_id, count = args if len(args) == 2 else (None, None)
        if type(stream_id) is not str or type(count) is not int or not 0 < count < 2**31:
            self.misbehaved("__credit__ takes the id of a stream and a count of items")
            return
        if size is not None and (type(size) is not int or not 0 <= size < 2**63):
            self.misbehaved("bytes of __credit__ are a number of bytes")
            return
        producer = self._running.get(stream_id) or self._client_streams.get(stream_id)
        if producer is not None:
            producer.add_credit(count, size)

    def _handle_deadline(self, args: Any) -> None:
        """The caller still waits: its call may go on for so many seconds from now."""
        call_id, seconds = args if len(args) == 2 else (None, math.nan)
        if type(call_id) is not str or type(seconds) not in (int, float) or not seconds >= 0:
            self.misbehaved("__deadline__ takes the id of a call and a number of seconds")
            return
        deadline = trio.current_time() + seconds
        call = self._running.get(call_id)
        if call is not None and call.worker is not None:
            call.request.timeout = seconds
            call.worker.scope.deadline = deadline
            return
        if call_id in self._deferred_requests:
            self._deferred_requests[call_id][0].timeout = deadline
            self._look_at_held(deadline)

    def _handle_goaway(self, args: Any) -> None:
        begun = args[0] if len(args) == 1 else None
        if type(begun) is not list or not all(type(call_id) is str for call_id in begun):
            self.misbehaved("__goaway__ takes a list of the ids of calls")
            return
        self._begun_there = frozenset(begun)

    def _name(self, request: Request) -> None:
        """Make up an id where the caller left it out, and refuse one that is in use."""
        call_id = request.call_id
        if not call_id:
            # None that the caller makes up begins with a slash.
            self._generated_ids += 1
            request.call_id = f"/{self._generated_ids}"
        elif call_id in self._running:
            raise _id_in_use()
        elif self.supports_extensions or call_id[0] == "/":
            raise RPCInvalidParamsError("a call_id has no slash in it", data={"path": "$.call_id"})

    def _check_limit(self, request: Request, method: Method | None) -> None:
        limit = self._default_limit if method is None or method.limit is None else method.limit
        assert limit is not None
        key = self._connection.uid if limit.key is None else limit.key(self._connection)
        name = request.method if method is not None else None
        retry_after = self._limiter.check(limit, name, key, trio.current_time())
        if retry_after is None:
            return
        error = RateLimitError(f"rate limit of {shown(request.method, 80)} exceeded", retry_after=retry_after)
        if limit.disconnect:
            self._answer_error(request, error)
            raise CloseConnection(1008, "rate limit exceeded")
        raise error

    # -- streams from the caller --------------------------------------------------------------------

    def _open_inputs(
        self, call: IncomingCall, method: Method, args: Any, kwargs: Any
    ) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = list(args), dict(kwargs)
        call.inputs = inputs = []
        assert call.request.streams is not None
        for place, stream_id in call.request.streams.items():
            if "/" not in stream_id or stream_id in self._pending:
                raise RPCInvalidParamsError(f"bad stream id '{shown(str(stream_id), 40)}'")
            name = method.parameter_name(place)
            items = method.stream_items.get(name)
            stream: ItemStream[Any] = ItemStream(self, stream_id, items, f"an item of {name}")
            method.place_stream(args, kwargs, place, stream)
            self._pending[stream_id] = stream
            inputs.append(stream)
        return args, kwargs

    # -- errors -------------------------------------------------------------------------------------

    def _drop(self, request: Request) -> None:
        payload = self.codec.dropped(request) if request is not PACKET_DELIVERY else None
        if payload is not None:
            self.reply(payload)

    def _answer_failure(self, request: Request, exc: BaseException, *, stream: bool) -> None:
        """Answer with what left user code; what ends the program ends the connection as well.

        Raises:
            BaseException: ``exc``, if it is the cancellation of this task.
        """
        if ends_program(exc):
            self._answer_error(request, exc, stream=stream)
            self._fail(exc)
        else:
            self._answer_error(request, judged(exc), stream=stream)

    def _answer_error(self, request: Request, exc: BaseException, *, stream: bool = False) -> None:
        """Tell the caller what went wrong, and as little as it should know."""
        if request is PACKET_DELIVERY:
            return  # nobody waits for that
        close = close_of(exc)
        if close is not None:
            self.close_soon(*close)
            return
        if isinstance(exc, ConnectionClosedError) and (self.over or not self.ws.connected):
            return  # the method met the end of this connection, and nobody can be told
        payload = self._error_payload(request, exc, stream)
        if payload is not None:
            self.reply(payload)

    def _error_payload(self, request: Request, exc: BaseException, stream: bool) -> bytes | None:
        error = error_of(exc)
        if error is not None:
            try:
                return self.codec.error(request, *error, stream=stream)
            except BaseException as second:  # noqa: BLE001 - of data that is a user's
                judged(second)
        return self.codec.error(request, *self._internal(request, exc), stream=stream)

    def _internal(self, request: Request, exc: BaseException) -> tuple[int, str, Any]:
        mark = secrets.token_hex(4)
        log_failure(
            logger,
            "call of %s failed [%s]",
            shown(request.method, 80),
            mark,
            exc=exc,
            extra=log_extra(self.ws),
        )
        text = text_of(exc) if self._debug else "internal error"
        return RPCInternalError.default_code, f"{text} [{mark}]", {"id": mark}


@types.coroutine
def _resume_coroutine(coroutine: Coroutine[Any, Any, Any], trap: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that has yielded ``trap``, as ``await`` would have done from its start."""
    while True:
        thrown: BaseException | None = None
        sent = None
        try:
            sent = yield trap
        except BaseException as exc:  # noqa: BLE001 - it is the coroutine's
            thrown = exc
        try:
            trap = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
        except StopIteration as stop:
            return stop.value
        finally:
            del thrown


def _id_in_use() -> RPCInvalidParamsError:
    return RPCInvalidParamsError("this call_id is in use", data={"path": "$.call_id"})


def _too_late() -> RPCTimeoutError:
    return RPCTimeoutError("the caller's deadline has passed")
