"""Ticks: the scheduling of a trio guest run by its asyncio loop.

In its guest mode, trio lets a thread wait for I/O whenever it is idle. A message that arrives then costs two
thread switches and two writes to pipes. But trio waits on a descriptor (epoll or kqueue), which the asyncio
loop can watch too. So no thread is used here. The loop runs a tick of trio when that descriptor is readable,
when trio's next deadline is due, or when code on the loop has woken a trio task.

trio has no public interface for this, so this module uses a few of its internals if they exist. If they do
not, or if the loop cannot watch descriptors, as on Windows, trio's own guest mode is used.

Invariants:

- Ticks are never nested.
- Like in trio's own guest mode, any code on the loop's thread may wake trio tasks.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio
from outcome import Error, Value, capture

try:
    from sniffio import thread_local
except ImportError:  # a trio without it
    thread_local = None  # type: ignore[assignment]

_library: Any = thread_local  # where sniffio looks up the async library of this thread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from outcome import Outcome

__all__ = ["Ticks"]


class Ticks:
    """Starts a guest run and drives it.

    Args:
        loop: the running asyncio loop.
        main: the async function of the run.
        done: called with its outcome.
        after_tick: called after each tick, outside of trio.

    Attributes:
        direct: whether the loop runs the ticks itself, without a thread.
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
        self.ticking = False
        self._timer: asyncio.TimerHandle | None = None
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=self._trio_calls_from_thread,
            run_sync_soon_not_threadsafe=self._trio_calls,
            done_callback=done,
            host_uses_signal_set_wakeup_fd=True,
        )

    def wake(self) -> None:
        """Schedule a tick, because a trio task is about to be woken. This saves trio a write to a pipe."""
        if self.direct and self._next is None and not self.ticking:
            self._call_soon()

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
        return True

    # -- ticks without a thread ---------------------------------------------------------------------

    def _call_soon(self) -> None:
        self._runner.guest_tick_scheduled = True
        self._next = self._loop.call_soon(self._tick)

    def _readable(self) -> None:
        if self._next is None:
            self._state.unrolled_run_next_send = capture(self._runner.io_manager.get_events, 0)
            self._tick()

    def _deadline(self) -> None:
        self._timer = None
        if self._next is None:
            self._tick()

    def _tick(self) -> None:
        """Do what trio's GuestState.guest_tick does before it starts to wait in a thread."""
        state, runner = self._state, self._runner
        self._next = None
        self.ticking = True
        before, _library.name = _library.name, "trio"
        try:
            timeout = state.unrolled_run_next_send.send(state.unrolled_run_gen)
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
        state.unrolled_run_next_send = events = capture(runner.io_manager.get_events, 0)
        if timeout <= 0 or not isinstance(events, Value) or events.value:
            self._call_soon()
        else:
            runner.guest_tick_scheduled = False  # so that waking a trio task makes trio's descriptor readable
            self._wait(timeout)
        self._after_tick()

    def _wait(self, timeout: float) -> None:
        """Schedule a tick for the next deadline. A timer that fires too early is harmless."""
        due = self._loop.time() + timeout
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._deadline)

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        if self._next is not None:
            self._next.cancel()
