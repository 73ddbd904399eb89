"""Ticks: the scheduling of a trio guest run by its asyncio loop.

In its guest mode, trio lets a thread wait for I/O whenever it is idle. A message that arrives then costs two
thread switches and two writes to pipes. But trio waits on a descriptor (epoll or kqueue), which the asyncio
loop can watch too. So no thread is used here. The loop runs a tick of trio when that descriptor is readable,
when trio's next deadline is due, or when code on the loop has woken a trio task.

A tick for what arrived from the host usually runs at once, in the step of the loop in which it arrived. While
several connections are busy, it runs in the next turn of the loop instead, and serves all of them.

trio has no public interface for this, so this module uses a few of its internals if they exist. If they do
not, or if the loop cannot watch descriptors, as on Windows, trio's own guest mode is used.

Invariants:

- Ticks are never nested, and no asyncio task is the current one while a tick runs.
- Like in trio's own guest mode, any code on the loop's thread may wake trio tasks.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error, capture

try:
    from sniffio import thread_local
except ImportError:  # a trio without it
    thread_local = None  # type: ignore[assignment]

_library: Any = thread_local  # where sniffio looks up the async library of this thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outcome import Outcome

__all__ = ["Ticks"]

#: After this many shared ticks with a single arrival each, the next arrivals have ticks of their own. The one
#: after these is shared again, to find out whether others have become busy.
_ALONE, _AT_ONCE = 4, 31
#: The events for trio if its descriptor was not polled: the loop watches it.
_NO_EVENTS: list[object] = []


class Ticks:
    """Starts a guest run and drives it.

    Args:
        loop: the running asyncio loop.
        main: the async function of the run.
        done: called with its outcome.
        after_tick: called after each tick, outside of trio.

    Attributes:
        direct: whether the loop runs the ticks itself, without a thread.
        at_once: how many of the next arrivals need not share a tick with others.
        ticking: whether a tick is running, so that ``after_tick`` follows. Only if ``direct``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        main: Callable[[], Awaitable[None]],
        done: Callable[[Outcome[None]], object],
        after_tick: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._done = done
        self._after_tick = after_tick
        self.direct = False
        self._state: Any = None  # trio's GuestState
        self._runner: Any = None
        self._fd = -1
        self._next: asyncio.Handle | None = None  # the scheduled tick
        self._events: Outcome[Any] | None = None  # of trio's descriptor, for the next tick
        self._expected = False  # something has arrived since the last tick
        self._arrivals = 0  # steps of asyncio tasks that share the scheduled tick
        self.at_once = 0
        self._alone = 0  # consecutive shared ticks that had a single arrival
        self.ticking = False
        self._timer: asyncio.Handle | None = None  # uvloop has no TimerHandle for due callbacks
        self._due = 0.0  # when it fires
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=self._trio_calls_from_thread,
            run_sync_soon_not_threadsafe=self._trio_calls,
            done_callback=done,
            host_uses_signal_set_wakeup_fd=True,
        )

    def expect(self) -> None:
        """Note that the current asyncio task may wake trio tasks, and calls `settle` in the same step.

        This saves trio a write to a pipe.
        """
        if self.direct:
            self._runner.guest_tick_scheduled = self._expected = True

    def settle(self, task: asyncio.Task[object]) -> None:
        """Run or schedule the tick that ``task``, the current one, expects, because its step ends."""
        if not self._expected:
            return
        self._expected = False
        if not self.direct:  # the run has ended in the meantime
            return
        self._arrivals += 1
        if self._next is not None:
            return
        if not self.at_once:
            self._call_soon()
            return
        self.at_once -= 1
        self._arrivals = 0
        asyncio.tasks._leave_task(self._loop, task)
        try:
            self._tick()
        finally:
            asyncio.tasks._enter_task(self._loop, task)

    # -- trio's own guest mode ----------------------------------------------------------------------

    def _trio_calls(self, tick: Callable[[], object]) -> None:
        """Called by trio to schedule a tick. If the loop runs the ticks, only the first one comes here."""
        if self._state is None:
            self._state = getattr(tick, "__self__", None)
            if self._adopt():
                self._call_soon()
                return
        self._loop.call_soon(self._run_for_trio, tick)

    def _trio_calls_from_thread(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(self._run_for_trio, function)

    def _run_for_trio(self, function: Callable[[], object]) -> None:
        function()
        self._after_tick()

    def _adopt(self) -> bool:
        """Take over the ticks, if this trio and this loop allow it."""
        try:
            state = self._state
            runner = self._runner = state.runner
            poll = getattr(runner.io_manager, "_epoll", None) or runner.io_manager._kqueue
            needed = (
                state.unrolled_run_gen.send,
                state.unrolled_run_next_send.send,
                state.done_callback,
                runner.io_manager.get_events,
                runner.guest_tick_scheduled,
            )
            if _library is None or not needed:
                return False
            self._fd = os.dup(poll.fileno())  # because trio closes its own before it calls done_callback
        except (AttributeError, OSError):
            return False
        try:
            self._loop.add_reader(self._fd, self._readable)
        except NotImplementedError:
            os.close(self._fd)
            return False
        self.direct = True
        self._events = state.unrolled_run_next_send
        return True

    # -- ticks without a thread ---------------------------------------------------------------------

    def _call_soon(self) -> None:
        self._runner.guest_tick_scheduled = True
        self._next = self._loop.call_soon(self._tick)

    def _readable(self) -> None:
        if self._events is None:
            self._events = capture(self._runner.io_manager.get_events, 0)
        if self._next is None:
            self._tick()

    def _deadline(self) -> None:
        self._timer = None
        if self._next is None:
            self._tick()

    def _tick(self) -> None:
        """Do what trio's GuestState.guest_tick does before it starts to wait in a thread."""
        state, runner = self._state, self._runner
        self._next = None
        if self._arrivals:
            self._alone = self._alone + 1 if self._arrivals == 1 else 0
            self.at_once = _AT_ONCE if self._alone >= _ALONE else 0
            self._arrivals = 0
        events, self._events = self._events, None
        run = state.unrolled_run_gen
        self.ticking = True
        before, _library.name = _library.name, "trio"
        try:
            timeout = run.send(_NO_EVENTS) if events is None else events.send(run)
        except StopIteration:
            self._end()
            state.done_callback(runner.main_task_outcome)
            return
        except trio.TrioInternalError as exc:
            self._end()
            state.done_callback(Error(exc))
            return
        finally:
            _library.name = before
            self.ticking = False
        if timeout <= 0:
            self._events = capture(runner.io_manager.get_events, 0)
            self._call_soon()
        else:
            runner.guest_tick_scheduled = False  # so that waking a trio task makes trio's descriptor readable
            self._wait(timeout)
        self._after_tick()

    def _wait(self, timeout: float) -> None:
        """Schedule a tick for the next deadline. A timer that fires too early is harmless."""
        due = self._loop.time() + timeout
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._deadline)

    def _end(self) -> None:
        self.direct = False
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        if self._next is not None:
            self._next.cancel()
