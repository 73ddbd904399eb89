"""Guest runs: trio as the guest of a running asyncio loop, and calls between them in both directions.

trio and asyncio share the loop's thread, so these calls need no other thread. asyncio wakes trio by
`trio.lowlevel.reschedule`, and trio wakes asyncio by the result of a future.

Invariants:

- A loop has at most one guest run. The run ends with its last lifespan, or when the loop cancels its tasks.
- If asyncio cancels a call, the call is cancelled in trio, and returns only after its tasks have ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import trio

from trio_ws.hosting.ticks import Ticks
from trio_ws.logs import logger_for
from trio_ws.wall import close_nurseries, is_cancelled, only_cancelled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from outcome import Outcome

__all__ = ["GuestCall", "GuestRun", "as_asyncio_manager", "call_asyncio", "guest_run"]

logger = logger_for("trio_ws.asgi")

T = TypeVar("T")
_runs: WeakKeyDictionary[asyncio.AbstractEventLoop, GuestRun] = WeakKeyDictionary()


class SendsLater(Protocol):
    """A `HostPort`."""

    def send_now(self) -> None:
        """Send to the host, in asyncio."""


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
        self.posted: list[SendsLater] = []  # those with something to send after this tick
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
        call: GuestCall[T] = GuestCall(self.loop.create_future())
        await self.start(call, async_fn, *args)
        return await call.wait()

    async def start(self, call: GuestCall[T], async_fn: Callable[..., Awaitable[T]], *args: object) -> None:
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


class GuestCall(Generic[T]):
    """One async function of trio that asyncio waits for."""

    def __init__(self, future: asyncio.Future[T]) -> None:
        self.future = future
        self._scope = trio.CancelScope()

    async def run(self, async_fn: Callable[[], Awaitable[T]]) -> None:
        """Run the function in a trio task.

        Its exceptions are raised in asyncio. Only the end of the run leaves this task, whose nursery has the
        tasks of all other calls.
        """
        results: list[T] = []
        try:
            with self._scope:
                results.append(await self._call(async_fn))
        except BaseException as exc:
            if only_cancelled(exc) and is_cancelled():
                self.future.set_exception(asyncio.CancelledError("the trio run of this event loop ends"))
                raise
            self.future.set_exception(exc)
            return
        if results:
            self.future.set_result(results[0])
        else:
            self.future.cancel()

    @staticmethod
    async def _call(async_fn: Callable[[], Awaitable[T]]) -> T:
        """Call the function. A StopIteration, which no future accepts, leaves as RuntimeError."""
        try:
            return await async_fn()
        finally:
            await close_nurseries("a function in the guest run")

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


async def _until(future: asyncio.Future[T]) -> None:
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
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "trio_ws.guest is for asyncio programs, but no asyncio loop is running; in a trio program, use"
            " trio_ws.WebSocketServer and trio_ws.connect"
        ) from None
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
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "call_asyncio() needs an asyncio loop, but none is running: trio was not started under an asyncio"
            " host or by trio_ws.guest"
        ) from None
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
        call: GuestCall[None] = GuestCall(run.loop.create_future())
        await run.start(call, hold)
        call.future.add_done_callback(on_end)
        both: list[asyncio.Future[T] | asyncio.Future[None]] = [entered, call.future]
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
