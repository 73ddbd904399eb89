"""ConnectionRuntime: the few background tasks for all connections of one server or one client.

A connection has no task of its own while its handler waits for messages: the handler's task reads the
socket itself, or leaves that to the shared reader. Everything else is done here, in one nursery of the owner:

- The *shared reader* (see epoll_reader.py) reads from most connections, if there are many plain sockets.
- The *flusher* sends buffered frames at the end of the scheduler round.
- The *monitor* finds connections that had no reader for a moment, because the application is busy
  elsewhere. It starts a task that reads from each of them, so that pings are answered and closes are noticed.
  In the same way, it notices if a client leaves before it is accepted.
- The *keepalive* (see keepalive.py) detects peers that are gone.
- *Drainers* wait for full sockets, one for each.

Invariants: no exception is raised from the nursery, and no task of it remains when it ends.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.epoll_reader import EpollReader
from trio_ws.websocket.fair_turn import FairTurn
from trio_ws.websocket.keepalive import Keepalive
from trio_ws.websocket.write_buffer import FLUSH_COST, flush_row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from trio_ws._types import Value
    from trio_ws.options import Options
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["ConnectionRuntime", "open_runtime"]

#: Seconds between two sweeps over the connections without a reader. A control frame that finds its
#: application busy waits for at most two of them. Without such connections there are no sweeps.
_SWEEP_INTERVAL = 0.01
#: Work to do before other tasks run; see `flush_row`: 32 small write buffers, or one that is large.
_ROW = 32 * FLUSH_COST
#: The same if more was buffered since the flusher began with its list. Whoever sends to the same connections
#: again and again then gets more turns, and connections that wait get more with one system call each.
_BUSY_ROW = 8 * FLUSH_COST
#: The size of the block in `_keep_freed_memory`: this many of the largest messages, up to a limit.
_MESSAGES_KEPT = 4
_MOST_KEPT = 8 * 1024 * 1024


class IdleConnection(Protocol):
    """A connection that may have unread bytes, but no reader."""

    monitored: bool
    unread_since: int

    @property
    def unread(self) -> bool:
        """Whether it is open and has no reader."""
        ...

    def lent_task(self) -> Callable[[], Awaitable[None]] | None:
        """Called when the monitor stops checking it. Return a function for a task, or None."""


class ConnectionRuntime:
    """The background tasks of one server or client. Made by `open_runtime`; see the module docstring."""

    def __init__(self, nursery: trio.Nursery, scope: trio.CancelScope, options: Options) -> None:
        self.nursery = nursery
        self.scope = scope  # around all tasks
        self.keepalive = Keepalive(options)
        self.reader = EpollReader(_Nursery(nursery))
        self.pending_flush: list[WriteBuffer] = []  # not empty only while the flusher is awake
        self._flush_requested = Notification()
        # Connections that were unread at some time since the last sweep.
        self._idle: dict[IdleConnection, None] = {}
        self.sweep_count = 0
        self._became_idle = Notification()
        self._monitoring = True  # the monitor does not wait for that notification

    def start(self, options: Options) -> None:
        _keep_freed_memory(options.max_message_size)
        self.nursery.start_soon(self._flush, name="trio_ws flusher")
        self.nursery.start_soon(self._monitor, name="trio_ws monitor")
        self.nursery.start_soon(self.keepalive.run, name="trio_ws keepalive")

    def close(self) -> None:
        """Let go of the connections and of the epoll, when no task is left."""
        self.reader.close()
        self._idle.clear()  # break the reference cycle

    def flush_soon(self, write_buffer: WriteBuffer) -> None:
        if not self.pending_flush:
            self._flush_requested.notify_all()
        self.pending_flush.append(write_buffer)

    def flush_all_soon(self, write_buffers: Iterable[WriteBuffer]) -> None:
        if not self.pending_flush:
            self._flush_requested.notify_all()
        self.pending_flush.extend(write_buffers)

    @enable_ki_protection
    async def _flush(self) -> None:
        turn = FairTurn()
        while True:
            if not self.pending_flush:
                await self._flush_requested.wait()
                turn.begin()
            write_buffers, self.pending_flush = self.pending_flush, []
            done = 0
            while done < len(write_buffers):
                done = flush_row(write_buffers, done, _BUSY_ROW if self.pending_flush else _ROW)
                if (self.pending_flush or done < len(write_buffers)) and not turn.may_continue():
                    await turn.let_others_run()

    def connection_idle(self, connection: IdleConnection) -> None:
        """Record that this connection has no reader, and that the monitor does not check it yet."""
        if not self._monitoring:
            self._monitoring = True
            self._became_idle.notify_all()
        connection.monitored = True
        self._idle[connection] = None

    def connection_ended(self, connection: IdleConnection) -> None:
        """Let go of a connection before the next sweep."""
        self._idle.pop(connection, None)

    @enable_ki_protection
    async def _monitor(self) -> None:
        while True:
            if not self._idle:
                self._monitoring = False
                await self._became_idle.wait()
            await trio.sleep(_SWEEP_INTERVAL)
            self._sweep()

    def _sweep(self) -> None:
        self.sweep_count += 1
        looked_at, self._idle = self._idle, {}
        for connection in looked_at:
            if connection.unread and connection.unread_since >= self.sweep_count - 1:
                self._idle[connection] = None
                continue
            task = connection.lent_task()
            if task is not None:
                self.nursery.start_soon(task, name="trio_ws reader")


def _keep_freed_memory(max_message_size: int | None) -> None:
    """Let the process keep freed memory for the next large message.

    The GNU C library returns free memory at the end of its heap to the system if that is more than twice the
    largest block that was ever mapped on its own and freed. A message of 1 MiB and the parts it is joined
    from are just that together. To get the memory again costs a page fault for every 4 KiB, which takes three
    times as long as everything else. So this frees one larger block, whose pages are never touched.
    """
    bytes(_MOST_KEPT if max_message_size is None else min(_MESSAGES_KEPT * max_message_size, _MOST_KEPT))


class _Nursery:
    """Starts tasks that do nothing but read."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, job: Callable[[Value], Awaitable[None]]) -> None:
        self._nursery.start_soon(job, None, name="trio_ws reader")


@asynccontextmanager
@enable_ki_protection
async def open_runtime(options: Options) -> AsyncIterator[ConnectionRuntime]:
    """Run a runtime for the length of a block.

    A cancellation reaches the block first and the runtime only when the block is done, so that the block can
    still close its connections properly. An exception of the block leaves as it was raised: it is carried
    around the nursery, which would wrap it in an ExceptionGroup.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as outer:
            runtime: ConnectionRuntime = await outer.start(_host, options)
            try:
                yield runtime
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            runtime.scope.cancel()
    except BaseExceptionGroup as group:
        # Our own tasks raise only what can hit any task, such as a KeyboardInterrupt.
        failure = unwrap_exception_group(group)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # break the reference cycle of its traceback and this frame


@enable_ki_protection
async def _host(options: Options, *, task_status: trio.TaskStatus[ConnectionRuntime]) -> None:
    with trio.CancelScope() as scope:
        runtime: ConnectionRuntime | None = None
        try:
            async with trio.open_nursery() as nursery:
                runtime = ConnectionRuntime(nursery, scope, options)
                runtime.start(options)
                task_status.started(runtime)
                # If the caller was cancelled before this, nothing will end us: then we end here.
                await trio.lowlevel.checkpoint_if_cancelled()
                scope.shield = True
        finally:
            if runtime is not None:
                runtime.close()
