"""Service: the few tasks that work for all connections of one server or one client.

A connection has no tasks of its own while its handler waits for messages: the handler's task reads the
socket itself, or leaves that to the reader. What must happen beside that is done here, in one nursery that
the owner can see:

- the *reader* (see reader.py) reads for most of them, where there are many plain sockets;
- the *flusher* sends what bursts have corked, at the end of the scheduler round;
- the *minder* finds connections that nobody has read from for a moment, because the application is busy
  elsewhere, and lends each a task that reads, so that pings are answered and closes are seen, also the end of
  a client that is not let in yet;
- the *keepalive* (see keepalive.py) judges who is alive;
- *drainers* wait for full sockets, one for each.

What always holds: nothing here raises past this nursery, and when the nursery ends nothing of it is left.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from trio_ws._nurseries import unwrapped
from trio_ws.websocket._notify import Bell
from trio_ws.websocket.epoll_reader import Reader
from trio_ws.websocket.keepalive import Keepalive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trio_ws.options import Options
    from trio_ws.websocket.disconnect_watch import Presence
    from trio_ws.websocket.endpoint import Endpoint
    from trio_ws.websocket.write_buffer import Outbox

__all__ = ["Service", "open_service"]

#: Seconds between two looks at who is not being read from. A control frame that finds its application busy
#: waits at most two of these; an idle service does not look at all.
_TICK = 0.01
#: Bytes that are flushed in a row before other tasks have their turn, and what an outbox counts for beside
#: its bytes: 32 small ones are a row, or one that is large.
_WORK_IN_A_ROW = 256 * 1024
_FLUSH_COST = 8 * 1024


class Service:
    """See the module's text. Made by `open_service`."""

    def __init__(self, nursery: trio.Nursery, scope: trio.CancelScope, options: Options) -> None:
        self.nursery = nursery
        self.scope = scope  # ends all of it
        self.keepalive = Keepalive(options)
        self.reader = Reader(_Nursery(nursery))
        self.to_flush: list[Outbox] = []  # not empty only where the flusher is awake
        self._flush_bell = Bell()
        # Connections that had no reader at some time since the last tick.
        self._unread: list[Endpoint | Presence] = []
        self.tick = 0
        self._unread_bell = Bell()
        self._minding = True  # the minder is not waiting for that bell

    def start(self) -> None:
        self.nursery.start_soon(self._flush, name="trio_ws flusher")
        self.nursery.start_soon(self._mind, name="trio_ws minder")
        self.nursery.start_soon(self.keepalive.run, name="trio_ws keepalive")

    def flush_soon(self, outbox: Outbox) -> None:
        if not self.to_flush:
            self._flush_bell.ring()
        self.to_flush.append(outbox)

    @enable_ki_protection
    async def _flush(self) -> None:
        while True:
            if not self.to_flush:
                await self._flush_bell.wait()
            outboxes, self.to_flush = self.to_flush, []
            work = 0
            for outbox in outboxes:
                work += _FLUSH_COST + outbox.size
                outbox.flush()
                if work >= _WORK_IN_A_ROW:
                    work = 0
                    await checkpoint()

    def unread(self, ws: Endpoint | Presence) -> None:
        """Nobody waits for this connection's bytes as of now, and the minder does not yet look at it."""
        if not self._minding:
            self._minding = True
            self._unread_bell.ring()
        ws._minded = True
        self._unread.append(ws)

    @enable_ki_protection
    async def _mind(self) -> None:
        while True:
            if not self._unread:
                self._minding = False
                await self._unread_bell.wait()
            await trio.sleep(_TICK)
            self._look()

    def _look(self) -> None:
        self.tick += 1
        looked_at, self._unread = self._unread, []
        for ws in looked_at:
            if not (ws._reading or ws._over) and ws._unread_since >= self.tick - 1:
                self._unread.append(ws)
                continue
            # The reader of a stream never leaves.
            ws._minded = not ws._transport.self_reading
            if ws._reading or ws._over:
                continue
            if ws._frames is None:
                self.nursery.start_soon(ws._watch, name="trio_ws reader")
            elif not ws._minded:
                self.nursery.start_soon(ws._attend, name="trio_ws reader")


class _Nursery:
    """Lends tasks in which nothing but reading is done."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start(self, job: Callable[[Any], Awaitable[None]]) -> None:
        self._nursery.start_soon(job, None, name="trio_ws reader")


@asynccontextmanager
@enable_ki_protection
async def open_service(options: Options) -> AsyncIterator[Service]:
    """Run a service for the length of a block.

    A cancellation reaches the block first and the service only when the block is done, so that the block can
    still close its connections properly. An exception of the block leaves as it was raised: it is carried
    around the nursery, which would wrap it in an ExceptionGroup.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as outer:
            service: Service = await outer.start(_host, options)
            try:
                yield service
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failure = exc
            service.scope.cancel()
    except BaseExceptionGroup as group:
        # Our own tasks let through only what may strike any task, such as a KeyboardInterrupt.
        failure = unwrapped(group)
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # it holds this frame, which would hold it


@enable_ki_protection
async def _host(options: Options, *, task_status: trio.TaskStatus[Service]) -> None:
    with trio.CancelScope() as scope:
        service: Service | None = None
        try:
            async with trio.open_nursery() as nursery:
                service = Service(nursery, scope, options)
                service.start()
                task_status.started(service)
                # Where the caller was cancelled before this, nobody will come to end us: then we end here.
                await trio.lowlevel.checkpoint_if_cancelled()
                scope.shield = True
        finally:
            if service is not None:
                service.reader.close()
                service._unread.clear()  # they know us
