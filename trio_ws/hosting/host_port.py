"""HostPort: the events of one call of an ASGI application, between a host in asyncio and a task in trio.

Invariants:

- The events that wait for trio are limited by `MAX_EVENTS` and `MAX_BYTES`.
- At most one event at a time is being sent to the host.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Coroutine, Mapping
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Never, Protocol, TypeAlias

from trio_ws.hosting.guest import GuestCall
from trio_ws.hosting.websocket import HANDLED
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from trio_ws.hosting.guest import GuestRun

__all__ = ["EventSink", "HostPort", "Message"]

#: A message of ASGI.
Message: TypeAlias = Mapping[str, Any]

#: Limits for events of a host that wait for trio: their number, and the bytes of their payloads.
MAX_EVENTS = 16
MAX_BYTES = 64 * 1024


class EventSink(Protocol):
    """Receives events of a host directly, outside of trio.

    Each method returns an event for a trio task to handle, which `HostPort.receive` returns, or None.
    `received` may return `HANDLED` instead.
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
        self._rest: Awaitable[None] | None = None  # the rest of sending the first of these
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
        call: GuestCall[None] = GuestCall(self._run.loop.create_future())
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
            if isinstance(self._rest, _Rest):  # this task was awaiting it
                self._rest.cancel(exc)
            raise
        return True

    def send_now(self) -> None:
        """Send as much as is possible without waiting, for the task of the call, which waits for that.

        This saves a turn of the loop. If a send does not end at its first step, that task continues it.
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
        """Handle that the host has accepted the first outgoing event, or has failed to."""
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
                event = await (self._next_event(task) if ticks.at_once else self._host_receive())
                ticks.expect()
                left = event if self._sink is None else self._sink.received(event)
                if left is not HANDLED and left is not None:
                    self._leave(left)
                if not ticks.at_once:
                    ticks.settle(task)
                if left is HANDLED:
                    continue
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
    def _next_event(self, task: asyncio.Task[None]) -> Generator[object, object, Message]:
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

    def __init__(self, waits_for: object, coroutine: Coroutine[object, object, None]) -> None:
        self._waits_for = waits_for
        self._coroutine = coroutine
        self._cancelled: asyncio.CancelledError | None = None

    def cancel(self, exc: asyncio.CancelledError) -> None:
        """The task was cancelled before it awaited this."""
        self._cancelled = exc
        if isinstance(self._waits_for, asyncio.Future):
            self._waits_for.cancel()

    def __await__(self) -> Generator[object, object, None]:
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


#: No event follows these, and some hosts fail if they are asked for another one.
_LAST = frozenset({"websocket.disconnect", "http.disconnect", "lifespan.shutdown"})


def _size(event: Message) -> int:
    return len(event.get("text") or event.get("bytes") or event.get("body") or b"")
