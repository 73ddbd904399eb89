"""EpollReader: one task that reads for many connections, over an epoll of its own (Linux, plain sockets).

Theory of operation. A task that waits for its own socket pays trio's wait for each message: some 10 us, and
a system call to arm it. Here one wait serves all connections that have become readable meanwhile, and an
idle connection has no wait at all. For a connection that is alone this is the longer way, by one switch of
tasks, so the first few of a runtime read for themselves (see `SHARE_THRESHOLD`). A connection whose messages
are handled by the task that reads them needs no such switch here, and no task and cancel scope of its own. So
the shared reader pays from the second one on.

The task runs in rounds. It polls the epoll, reads once from each connection that is ready, and parses what
it read into that connection's receive buffer. Then it notifies the tasks that wait for that input, which
run in the next turn of the scheduler. A connection with an RPC session instead calls
`ConnectionObserver.data_received`, so that methods start right here, without a switch of tasks. Where a read
brings one small message, as most do, `handle_single_messages` does all this for the whole round. If a
method has to wait, it keeps this task, and another one, which the `TaskSpawner` starts, becomes the reader.
So at any time one task is the reader, and which one that is changes often.

The epoll is level-triggered. What a read leaves is reported in the next round, behind all other connections
that are ready. So nothing has to be remembered here, and no connection starves. One-shot would cost a
system call for each message, and edge-triggered one more read each.

What one read brought may be more work than one turn allows: many small frames, or much to inflate. The rest
stays in the connection's ``pending_input``, and the connection in `_unfinished`. One of these goes on in
each round, behind the others that have become ready.

Before the task waits for the epoll it polls it for a few turns, because a peer that answers at once has
mostly done so by then, and a wait costs three times as much as a poll. When that found nothing, the next
`POLLS_TO_SKIP` rounds wait at once.

Invariants:

- In one step, that is without letting other tasks run, at most `CONNECTIONS_PER_TURN` connections are read
  once each, or as many as bring `BYTES_PER_TURN`. If the other tasks need more time than that, this is done
  again: see `FairTurn`.
- Pending input of a connection is parsed before anything more is read from it.
- Each connection in here is read by ``EPOLL`` or ``FULL_EPOLL`` as long as it lives: its tasks only wait.
- A descriptor is unregistered before it is closed, because the kernel reuses its number at once.
- A connection is unregistered while its receive buffer is full. An empty event mask would still report a
  hang-up.
- A failure of one connection ends that one, and is logged.
"""

from __future__ import annotations

import logging
import os
import select
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection, wait_readable

from trio_ws.protocol.frames import FRAME_COST, FRAMES_AT_ONCE
from trio_ws.systems import HAS_EPOLL
from trio_ws.websocket.fair_turn import FairTurn
from trio_ws.websocket.readers import FULL_EPOLL, keep_message
from trio_ws.websocket.single_messages import END_COST, MESSAGE_COST, single_message_handler
from trio_ws.websocket.transport import POLLS_BEFORE_WAIT, POLLS_TO_SKIP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws._types import Value
    from trio_ws.websocket.readers import Reader

__all__ = ["EpollReader", "TaskSpawner"]

#: Connections of a runtime that each read for themselves before the others share this reader; a quarter of it
#: for connections that are `Reader.inline`. The variable is for our own tests, which run with 0 and with very
#: many as well.
SHARE_THRESHOLD = int(os.environ.get("TRIO_WS_TEST_FEW", "4"))

CONNECTIONS_PER_TURN = 64
BYTES_PER_TURN = 128 * 1024


class TaskSpawner(Protocol):
    """Starts the tasks that the reader runs in."""

    def start(self, job: Callable[[Value], Awaitable[None]]) -> None:
        """Run ``job`` soon, in some task. Its argument is passed on to `ConnectionObserver.data_received`."""


class EpollReader:
    """Reads for the connections of one runtime. See the module docstring.

    Attributes:
        spawner: starts the task that reads.
    """

    def __init__(self, lender: TaskSpawner) -> None:
        self.spawner = lender
        self._epoll: select.epoll | None = None
        self._connections: dict[int, Reader] = {}
        self._self_reading: set[int] = set()  # descriptors of those that read for themselves
        self._ready: deque[int] = deque()  # descriptors to read from in this round
        self._unfinished: dict[int, None] = {}  # descriptors with pending input
        self._polls_to_skip = 0  # waits for the epoll that come without a poll before
        self._turn = FairTurn()
        self._running = False
        self._respawned = False  # the last reading task was cancelled, and the next has not begun

    def register(self, connection: Reader, fd: int) -> bool:
        """Read for this connection from now on; False if it is to read for itself."""
        few = SHARE_THRESHOLD // 4 if connection.inline else SHARE_THRESHOLD
        if not HAS_EPOLL or len(self._self_reading) < few:
            self._self_reading.add(fd)
            return False
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as exc:
            # No descriptor, or none of the kernel's watches, is left.
            connection.log(
                logging.WARNING, "shared epoll reader unavailable for %r, using its own task: %s", exc
            )
            self._self_reading.add(fd)
            return False
        self._connections[fd] = connection
        if not self._running:
            self._running = True
            self.spawner.start(self.run)
        return True

    def resume(self, connection: Reader) -> None:
        """Read again from a connection that was full."""
        fd = connection.fd
        if self._epoll is not None and fd in self._connections:
            self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        """Forget a descriptor that is about to be closed."""
        self._self_reading.discard(fd)
        connection = self._connections.pop(fd, None)
        if connection is not None and self._epoll is not None:
            if not connection.stopped:
                self._epoll.unregister(fd)
            connection.closing.abort(None)

    def close(self) -> None:
        """Close the epoll, when no task of the runtime is left."""
        self._connections.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    @enable_ki_protection
    async def run(self, lent: object) -> None:
        # A cancellation comes from a cancel scope that user code left open in this task; then another task
        # reads on. Or the runtime ends: then the next task is cancelled at once, too.
        try:
            await checkpoint_if_cancelled()
            self._respawned = False
            going_on = await self._read_until_handoff(lent)
        except trio.Cancelled:
            if not self._respawned:
                self._respawned = True
                self.spawner.start(self.run)
            raise
        self.spawner.start(self.run)
        await going_on

    async def _read_until_handoff(self, lent: object) -> Awaitable[None]:
        """Read until a method that was started has to continue in this task. Returns the rest of it."""
        assert self._epoll is not None
        poll, fileno = self._epoll.poll, self._epoll.fileno()
        ready, unfinished, connections = self._ready, self._unfinished, self._connections
        turn = self._turn
        turn.begin()
        if ready:
            await self._read_for_tasks()
        handle_single_messages = single_message_handler()
        direct = False  # a message of this round was handled here, and mostly answered
        while True:
            if not ready and unfinished:
                ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN) if fd not in unfinished])
                first = next(iter(unfinished))
                del unfinished[first]
                ready.append(first)
            elif not ready:
                # Keep nothing alive while we wait.
                connection = received = None
                if not self._polls_to_skip:
                    # As in Reader.wait_for_input(). But a task whose message was read answers in the next
                    # turn, and its peer in one of those after.
                    if not direct:
                        await checkpoint()
                    direct = False
                    for _ in range(POLLS_BEFORE_WAIT):
                        await checkpoint()
                        ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN)])
                        if ready:
                            break
                    self._polls_to_skip = 0 if ready else POLLS_TO_SKIP
                if self._polls_to_skip:
                    self._polls_to_skip -= 1
                    await wait_readable(fileno)
                    ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN)])
                turn.begin()
            left = BYTES_PER_TURN
            while ready and left > 0:
                before = left
                left, connection, received, going_on = handle_single_messages(ready, connections, left, lent)
                direct = direct or left < before
                if connection is None:
                    if not ready or left <= 0:
                        break
                    connection = connections[ready.popleft()]
                    if connection.by is FULL_EPOLL:
                        continue
                    received = self._receive(connection)
                    if received is None:
                        left -= END_COST
                if received is not None:
                    left -= self._take(connection, received)
                    if connection.observer is not None:
                        try:
                            going_on = connection.observer.data_received(lent)
                        except Exception as exc:  # noqa: BLE001 - logged with its traceback
                            connection.failed(exc)
                self._stop_if_full(connection)
                if going_on is not None:
                    turn.end()
                    return going_on
            if (ready or unfinished) and not turn.may_continue():
                await turn.let_others_run()

    async def _read_for_tasks(self) -> None:
        """Read from the rest of a round that a waiting method has cut short.

        One more such method would cut it short again, so that a busy server would start one of them in each
        round of the scheduler, whatever the number of connections. So tasks of their own handle what is read.
        """
        turn, ready = self._turn, self._ready
        left = BYTES_PER_TURN
        while ready:
            connection = self._connections.get(ready.popleft())
            if connection is None or connection.by is FULL_EPOLL:
                continue
            received = self._receive(connection)
            left -= END_COST if received is None else self._take(connection, received)
            observer = connection.observer
            if observer is not None and observer.reader_driven and connection.receive_buffer.messages:
                observer.continue_in_task()
            self._stop_if_full(connection)
            if left <= 0:
                left = BYTES_PER_TURN
                if not turn.may_continue():
                    await turn.let_others_run()

    def _stop_if_full(self, connection: Reader) -> None:
        buffer = connection.receive_buffer
        if buffer.received >= buffer.max_received and connection.stop_if_full():
            assert self._epoll is not None
            self._epoll.unregister(connection.fd)

    def _receive(self, connection: Reader) -> tuple[bytes | memoryview] | None:
        """Return pending input, or read once. Returns None if nothing was there, or the connection broke."""
        buffer = connection.receive_buffer
        if buffer.pending_input:
            data = buffer.pending_input
            buffer.pending_input = b""
            return (data,)
        transport: Any = connection.transport
        try:
            return (transport.read_now(buffer.read_size),)
        except BlockingIOError:
            return None
        except OSError as exc:
            connection.closing.abort(exc)
            return None

    def _take(self, connection: Reader, received: str | bytes | tuple[bytes | memoryview]) -> int:
        """Take a message, or the data of one read. Returns the amount of work, in bytes."""
        buffer = connection.receive_buffer
        if not isinstance(received, tuple):
            keep_message(connection, received)
            return MESSAGE_COST + len(received)
        fd, data = connection.fd, received[0]
        if not data:
            connection.closing.abort(None)
            return END_COST
        size = len(data)
        try:
            control = buffer.take_control(data)
            if control is not None:
                connection.handle_events([control])
                messages = 0
            elif buffer.deflate is None:
                # The same as connection.data_received(), without a call for each message.
                asked = buffer.read_size
                messages = buffer.feed(data)
                if buffer.frames is not None and buffer.frames.events:
                    connection.handle_events(buffer.frames.take_events())
                if size == asked:
                    size += connection.read_more()
            else:
                before = buffer.received
                messages = connection.data_received(data)
                size = max(size, buffer.received - before)
            if buffer.pending_input:
                size = max(size, FRAME_COST * FRAMES_AT_ONCE)
                self._unfinished[fd] = None
            frames = buffer.frames
            # Nobody waits for a ping, or for the pong that answers keepalive.
            if buffer.messages or (frames is not None and not frames.between):
                connection.notify_input()
        except Exception as exc:  # noqa: BLE001 - logged with its traceback
            connection.failed(exc)
            messages = 0
        return size + MESSAGE_COST * messages
