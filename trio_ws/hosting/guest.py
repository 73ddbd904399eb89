"""Guest runs: trio as the guest of a running asyncio loop, and calls between them in both directions.

trio and asyncio share the loop's thread, so these calls need no other thread. asyncio wakes trio by
`trio.lowlevel.reschedule`, and trio wakes asyncio by the result of a future.

Invariants:

- A loop has at most one guest run. The run ends with its last lifespan, or when the loop cancels its tasks.
- If asyncio cancels a call, the call is cancelled in trio, and returns only after its tasks have ended.
- The number and size of events that wait to be passed on are limited by `MAX_EVENTS` and `MAX_BYTES`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections import deque
from collections.abc import Coroutine, Mapping
from contextlib import asynccontextmanager
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Generic, Never, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import trio

from trio_ws.hosting.ticks import Ticks
from trio_ws.logs import logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager

    from outcome import Outcome

__all__ = ["GuestRun", "HostPort", "Message", "as_asyncio_manager", "call_asyncio", "guest_run"]

logger = logger_for("trio_ws.asgi")

T = TypeVar("T")
#: A message of ASGI.
Message: TypeAlias = Mapping[str, Any]

#: Limits for events of a host that wait for trio: their number, and the bytes of their payloads.
MAX_EVENTS = 16
MAX_BYTES = 64 * 1024

_runs: WeakKeyDictionary[asyncio.AbstractEventLoop, GuestRun] = WeakKeyDictionary()


class GuestRun:
    """A trio run on an asyncio loop. `guest_run` returns that of the current loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ended = False
        self._lifespans = 0
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._finished: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self.posted: list[HostPort] = []  # those with something to send after this tick
        self.ticks = Ticks(loop, self._main, self._done, self._send_posted)
        # The end of the loop cancels this task first, and waits for it.
        self._keeper = loop.create_task(self._keep(), name="trio_ws guest run")

    async def _main(self) -> None:
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                self._set(self._ready)
                await trio.sleep_forever()

    def _done(self, outcome: Outcome[None]) -> None:
        self.ended = True
        if _runs.get(self.loop) is self:
            del _runs[self.loop]
        try:
            outcome.unwrap()
        except BaseException:
            logger.exception("the trio run of this loop failed")
        self._set(self._ready)
        self._set(self._finished)

    @staticmethod
    def _set(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    def _send_posted(self) -> None:
        posted, self.posted = self.posted, []
        for port in posted:
            port.send_now()

    async def _keep(self) -> None:
        try:
            await asyncio.wait([self._finished])
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel all tasks in trio, and wait for their end."""
        self._scope.cancel()
        await _until(self._finished)

    async def run(self, async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call an async function of trio from asyncio.

        If asyncio cancels this, the function is cancelled, and this waits for its end.
        """
        call: _Call[T] = _Call(self.loop.create_future())
        await self.start(call, async_fn, *args)
        return await call.wait()

    async def start(self, call: _Call[T], async_fn: Callable[..., Awaitable[T]], *args: object) -> None:
        """Start a call, whose end ``call.wait()`` waits for."""
        if self._nursery is None:
            await asyncio.wait([self._ready])
        if self.ended or self._nursery is None:
            raise RuntimeError("the trio run of this event loop has ended")
        # The task has the caller's context, with the variables that middleware has set.
        self._nursery.start_soon(call.run, functools.partial(async_fn, *args))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Count a lifespan; the run ends with the last one. To be used from asyncio."""
        self._lifespans += 1
        try:
            yield
        finally:
            self._lifespans -= 1
            if not self._lifespans:
                await self.aclose()


class _Call(Generic[T]):
    """One async function of trio that asyncio waits for."""

    def __init__(self, future: asyncio.Future[T]) -> None:
        self.future = future
        self._scope = trio.CancelScope()

    async def run(self, async_fn: Callable[[], Awaitable[T]]) -> None:
        """Run the function in a trio task. Its exceptions are raised in asyncio."""
        results: list[T] = []
        try:
            with self._scope:
                results.append(await async_fn())
        except trio.Cancelled:
            self.future.set_exception(asyncio.CancelledError("the trio run of this event loop ends"))
            raise
        except BaseException as exc:  # noqa: BLE001 - raised by wait()
            self.future.set_exception(exc)
            return
        if results:
            self.future.set_result(results[0])
        else:
            self.future.cancel()

    def cancel(self) -> None:
        self._scope.cancel()

    async def wait(self) -> T:
        cancelled: asyncio.CancelledError | None = None
        while not self.future.done():
            try:
                await asyncio.wait([self.future])
            except asyncio.CancelledError as exc:
                cancelled = exc
                self.cancel()
        if cancelled is not None:
            if not self.future.cancelled():
                self.future.exception()  # or asyncio would log that it was never retrieved
            raise cancelled
        return self.future.result()


async def _until(future: asyncio.Future[Any]) -> None:
    """Wait for a future even if this is cancelled, and raise the cancellation afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled


def guest_run() -> GuestRun:
    """Return the guest run of the running asyncio loop, which is started if there is none.

    Raises:
        RuntimeError: no asyncio loop runs here, or trio already runs in this thread in another way.
    """
    loop = asyncio.get_running_loop()
    run = _runs.get(loop)
    if run is None or run.ended:
        if trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "trio runs in this thread already, as another guest of the event loop; trio_ws needs a run"
                " of its own there: start servers with trio_ws.guest, or serve in that run with trio_ws.serve"
            )
        run = _runs[loop] = GuestRun(loop)
    return run


async def call_asyncio(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Call an async function of asyncio from a trio task of the guest run.

    If trio cancels this, the asyncio task is cancelled, and this waits for its end.
    """
    loop = asyncio.get_running_loop()
    await trio.lowlevel.checkpoint_if_cancelled()

    async def call() -> T:
        return await async_fn(*args)

    done = trio.Event()
    context = contextvars.copy_context()
    task = loop.create_task(call(), context=context)
    task.add_done_callback(lambda _: done.set())
    try:
        await done.wait()
    except trio.Cancelled:
        task.cancel()
        with trio.CancelScope(shield=True):
            await done.wait()
        if task.cancelled() or task.exception() is not None:
            raise
        # It has a result despite the cancellation, which the next checkpoint raises.
    return task.result()


@asynccontextmanager
async def as_asyncio_manager(make: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    """Use a trio async context manager in an asyncio ``async with`` block. The manager has its own trio task.

    The loop's guest run ends with the last such block. If the manager fails while the block runs, the block
    is cancelled, and the error is raised from it.
    """
    run = guest_run()
    block = asyncio.current_task()
    assert block is not None
    entered: asyncio.Future[T] = run.loop.create_future()
    leave = trio.Event()
    inside = interrupted = False

    async def hold() -> None:
        async with make() as value:
            if not entered.done():
                entered.set_result(value)
            await leave.wait()

    def on_end(_: object) -> None:
        nonlocal interrupted
        if inside and not leave.is_set():
            interrupted = True
            block.cancel()

    async with run.lifespan():
        call: _Call[None] = _Call(run.loop.create_future())
        await run.start(call, hold)
        call.future.add_done_callback(on_end)
        both: list[asyncio.Future[Any]] = [entered, call.future]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            call.cancel()
            await _until(call.future)
            raise
        if not entered.done():
            entered.cancel()
            await call.wait()
            raise RuntimeError("the trio run of this event loop has ended")
        try:
            inside = True
            yield entered.result()
        except asyncio.CancelledError:
            if not interrupted:
                raise
            block.uncancel()
        finally:
            inside = False
            leave.set()
            await call.wait()


class EventSink(Protocol):
    """Receives events of a host directly, outside of trio.

    Each method returns an event for a trio task to handle, which `HostPort.receive` returns, or None.
    """

    @property
    def has_room(self) -> bool:
        """Whether there is room for more events."""
        ...

    def received(self, event: Message) -> Message | None:
        """Handle an event of the host."""

    def sent(self, event: Message) -> Message | None:
        """Handle that the host has accepted a posted event."""

    def send_failed(self, exc: Exception) -> Message | None:
        """Handle that the host has failed to send an event. It accepts no other events."""


class HostPort:
    """The ASGI events of one call, between the host's ``receive`` and ``send`` in asyncio and a trio task.

    `receive` and `send` are for trio. Up to `MAX_EVENTS` events, or `MAX_BYTES` of payload, are received in
    advance. At most one event at a time is being sent to the host.
    """

    def __init__(
        self,
        run: GuestRun,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._run = run
        self._host_receive = receive
        self._host_send = send
        self._sink: EventSink | None = None
        self._received: deque[Message] = deque()
        self._received_bytes = 0
        self._receive_failure: BaseException | None = None
        self._arrived = Notification()  # in trio
        self._wanted = asyncio.Event()  # in asyncio: there is room for more
        self._outgoing: deque[Message] = deque()
        self._rest: Awaitable[None] | None = None  # what is left of sending the first of these
        self._task: asyncio.Task[object] | None = None  # that of the call
        self._context = contextvars.copy_context()
        self._send_failure: Exception | None = None
        self._sent = Notification()  # in trio
        self._work: asyncio.Future[None] | None = None  # in asyncio: something to send, or the end

    # -- in trio ------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Wait for the host's next event."""
        while not self._received:
            if self._receive_failure is not None:
                raise self._receive_failure
            await self._arrived.wait()
        event = self._received.popleft()
        self._received_bytes -= _size(event)
        self._wanted.set()
        return event

    async def send(self, event: Message) -> None:
        """Send an event to the host, after the host has accepted the previous one."""
        while self._outgoing and self._send_failure is None:
            await self._sent.wait()
        if self._send_failure is not None:
            raise self._send_failure
        self._outgoing.append(event)
        self._wake()

    # -- in trio or asyncio -------------------------------------------------------------------------

    def deliver(self, sink: EventSink) -> None:
        """Pass events of the host to ``sink`` from now on. `receive` gets the events that it returns."""
        self._sink = sink

    def post(self, event: Message) -> None:
        """Send an event to the host without waiting. The sink is notified when the host has accepted it."""
        if self._send_failure is None:
            self._outgoing.append(event)
            if len(self._outgoing) == 1 and self._run.ticks.ticking:
                self._run.posted.append(self)
            else:
                self._wake()

    @property
    def busy(self) -> bool:
        """Whether the host has not accepted all events yet."""
        return bool(self._outgoing)

    def resume(self) -> None:
        """Continue to receive, because the sink has room again."""
        self._wanted.set()

    # -- in asyncio ---------------------------------------------------------------------------------

    async def serve(self, async_fn: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function in trio that uses `receive` and `send`, until it ends and all is sent."""
        self._task = asyncio.current_task()
        call: _Call[None] = _Call(self._run.loop.create_future())
        await self._run.start(call, async_fn, *args)
        call.future.add_done_callback(lambda _: self._wake())
        pump = self._run.loop.create_task(self._pump(), name="trio_ws receive")
        cancelled: asyncio.CancelledError | None = None
        try:
            while True:
                try:
                    if not await self._step(call.future):
                        break
                except asyncio.CancelledError as exc:
                    # Events that trio sends while it drains are still passed to the host.
                    cancelled = exc
                    call.cancel()
        finally:
            pump.cancel()
            await asyncio.wait([pump])
            # Let go of the host: granian ends a connection only when its objects are gone.
            self._sink = self._task = None
            self._host_receive = self._host_send = _refuse
        if cancelled is not None and call.future.cancelled():
            raise cancelled
        await call.wait()
        if cancelled is not None:
            raise cancelled

    async def _step(self, ending: asyncio.Future[None]) -> bool:
        """Send the next event, or wait for one; return False at the end."""
        if self._outgoing and self._send_failure is None:
            sending, self._rest = self._rest or self._host_send(self._outgoing[0]), None
            try:
                await sending
            except Exception as exc:  # noqa: BLE001 - raised in trio
                self._send_failure = exc
            finally:
                # Also if it was cancelled: a part may have been sent, so it is not sent again.
                self._taken()
            return True
        if ending.done():
            return False
        self._work = self._run.loop.create_future()
        try:
            await self._work
        except asyncio.CancelledError as exc:
            if isinstance(self._rest, _Rest):  # it is what this task was doing
                self._rest.cancel(exc)
            raise
        return True

    def send_now(self) -> None:
        """Send what can be sent without waiting, on behalf of the task of the call, which waits for that.

        It saves a turn of the loop. What does not end at its first step, that task continues.
        """
        loop, task = self._run.loop, self._task
        if self._work is None or self._work.done() or task is None:
            self._wake()
            return
        asyncio.tasks._enter_task(loop, task)  # as any implementation of a task does
        try:
            while self._outgoing and self._send_failure is None and self._rest is None:
                self._send_first()
        finally:
            asyncio.tasks._leave_task(loop, task)
        if self._rest is not None:
            self._wake()

    def _send_first(self) -> None:
        sending = self._context.run(self._host_send, self._outgoing[0])
        if not isinstance(sending, CoroutineType) and not isinstance(sending, Coroutine):
            self._rest = sending
            return
        try:
            waits_for = self._context.run(sending.send, None)
        except StopIteration:
            self._taken()
        except Exception as exc:  # noqa: BLE001 - raised in trio
            self._send_failure = exc
            self._taken()
        else:
            self._rest = _Rest(waits_for, sending)

    def _taken(self) -> None:
        """The host has taken the first of what goes, or has failed to."""
        event = self._outgoing.popleft()
        failure = self._send_failure
        if failure is not None:
            self._outgoing.clear()
        self._sent.notify_all()
        if self._sink is not None:
            left = self._sink.sent(event) if failure is None else self._sink.send_failed(failure)
            if left is not None:
                self._leave(left)

    async def _pump(self) -> None:
        """Receive from the host as far as there is room."""
        ticks, task = self._run.ticks, asyncio.current_task()
        assert task is not None
        try:
            while True:
                event = await self._next_event(task)
                ticks.expect()
                left = event if self._sink is None else self._sink.received(event)
                if left is not None:
                    self._leave(left)
                while not self._has_room:
                    self._wanted.clear()
                    ticks.settle(task)
                    await self._wanted.wait()
                if event["type"] in _LAST:
                    return
        except Exception as exc:  # noqa: BLE001 - raised in trio
            ticks.expect()
            self._receive_failure = exc
            self._arrived.notify_all()
        finally:
            ticks.settle(task)

    @coroutine
    def _next_event(self, task: asyncio.Task[Any]) -> Generator[Any, Any, Message]:
        """Receive an event. Where that has to wait, the tick for the events before runs first."""
        receiving = self._host_receive()
        if not isinstance(receiving, CoroutineType):
            self._run.ticks.settle(task)
            return (yield from receiving.__await__())
        try:
            waits_for = receiving.send(None)
            self._run.ticks.settle(task)
            while True:
                try:
                    value = yield waits_for
                except BaseException as exc:  # noqa: BLE001 - passed on
                    waits_for = receiving.throw(exc)
                else:
                    waits_for = receiving.send(value)
        except StopIteration as exc:
            event: Message = exc.value
            return event

    def _leave(self, event: Message) -> None:
        """Leave an event for `receive`."""
        self._received.append(event)
        self._received_bytes += _size(event)
        self._arrived.notify_all()

    @property
    def _has_room(self) -> bool:
        if self._sink is not None:
            return self._sink.has_room
        return len(self._received) < MAX_EVENTS and self._received_bytes < MAX_BYTES

    def _wake(self) -> None:
        if self._work is not None and not self._work.done():
            self._work.set_result(None)


async def _refuse(*_: object) -> Never:
    raise RuntimeError("this call of the application has ended")


class _Rest:
    """The rest of a coroutine whose first step was taken, to be awaited by the task in whose name it was."""

    def __init__(self, waits_for: object, coroutine: Coroutine[Any, Any, None]) -> None:
        self._waits_for = waits_for
        self._coroutine = coroutine
        self._cancelled: asyncio.CancelledError | None = None

    def cancel(self, exc: asyncio.CancelledError) -> None:
        """The task was cancelled before it awaited this."""
        self._cancelled = exc
        if isinstance(self._waits_for, asyncio.Future):
            self._waits_for.cancel()

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        try:
            if self._cancelled is not None:
                waits_for = self._coroutine.throw(self._cancelled)
            while True:
                try:
                    value = yield waits_for
                except BaseException as exc:  # noqa: BLE001 - passed on
                    waits_for = self._coroutine.throw(exc)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration:
            return


#: Nothing comes after these, and some hosts are in trouble when they are asked for more.
_LAST = frozenset({"websocket.disconnect", "http.disconnect", "lifespan.shutdown"})


def _size(event: Message) -> int:
    return len(event.get("text") or event.get("bytes") or event.get("body") or b"")
