"""Reader: one task that reads for many connections, over an epoll of its own (Linux, plain sockets).

A task that waits for its own socket pays trio's wait for each message: some 10 us, and a system call to arm
it. Here one wait serves all connections that have become readable meanwhile, and an idle connection has no
wait at all. For a connection that is alone it is the longer way, by one switch of tasks; so the first few of
a service read for themselves, see `FEW`.

The epoll is level-triggered. What a read leaves is reported in the next round, behind all others that are
ready, so nothing has to be remembered here and nobody is starved. One-shot would cost a system call for each
message, and edge-triggered one more read each.

What always holds:

- In one step, that is without giving way to other tasks, each connection is read once, and at most
  `CONNECTIONS_IN_A_ROW` of them, or as many as bring `BYTES_IN_A_ROW`.
- What one of them has read and not yet taken comes before anything more is read from it. It goes on behind
  the others that have become ready meanwhile, one such connection after the other.
- Each connection in here has ``_reading`` set as long as it lives: its tasks wait for its bell.
- A descriptor is taken out before it is closed, as the kernel gives its number away again at once.
- A connection that holds enough for its application is taken out until that has made room: a mask of nothing
  would not do, since epoll reports a hang-up in any case.
- What goes wrong with one connection ends that one, and is logged.
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
from trio_ws.websocket.transport import POLLS_TO_SKIP, READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.websocket.readers import Reader

__all__ = ["EpollReader", "TaskSpawner"]

#: Connections of a service that each read for themselves before the others share. The variable is for our own
#: tests, which run with 0 and with very many as well.
SHARE_THRESHOLD = int(os.environ.get("TRIO_WS_TEST_FEW", "4"))

#: Turns in which the epoll is looked into before one waits for it.
_POLLS_BEFORE_WAIT = 3
CONNECTIONS_PER_TURN = 64
BYTES_PER_TURN = 128 * 1024
#: What a message counts for in these, beside its bytes: it may be a call that is answered at once.
MESSAGE_COST = 1024
#: What the end of a connection counts for.
END_COST = 8192


class TaskSpawner(Protocol):
    """Who lends the reader a task."""

    def start(self, job: Callable[[Any], Awaitable[None]]) -> None:
        """Run ``job`` soon, in some task. What it gets is handed on to `Owner.take`."""


class EpollReader:
    """See the module's text. One for each service.

    One task at a time *leads*, that is reads. If what it read has to go on in the same task, as the call of
    a method that waits, it passes the lead to another.

    Attributes:
        lender: lends the task that leads.
    """

    def __init__(self, lender: TaskSpawner) -> None:
        self.spawner = lender
        self._epoll: select.epoll | None = None
        self._connections: dict[int, Reader] = {}
        self._self_reading: set[int] = set()  # descriptors of those that read for themselves
        self._ready: deque[int] = deque()  # what is to be read in this round
        self._unfinished: dict[int, None] = {}  # to go on with, one in each round
        self._polls_to_skip = 0  # waits for the epoll that are to come without a look into it first
        self._running = False
        self._respawned = False  # the last to lead was cancelled, and the next has not begun to read

    def register(self, connection: Reader, fd: int) -> bool:
        """Read for this connection from now on; False if it is to read for itself."""
        if not HAS_EPOLL or len(self._self_reading) < SHARE_THRESHOLD:
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
        """This descriptor is about to be closed."""
        self._self_reading.discard(fd)
        connection = self._connections.pop(fd, None)
        if connection is not None and self._epoll is not None:
            if not connection.stopped:
                self._epoll.unregister(fd)
            connection.closing.abort(None)

    def close(self) -> None:
        """Let go of the epoll, when no task of the service is left."""
        self._connections.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    @enable_ki_protection
    async def run(self, lent: Any) -> None:
        # A cancellation comes from a cancel scope that user code has left open in this task; then another
        # leads. Or it comes from the end of the service, which is known by its meeting the next one at once.
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

    async def _read_until_handoff(self, lent: Any) -> Awaitable[None]:
        """Read until something that was read has to go on in this task; give that."""
        assert self._epoll is not None
        poll, fileno = self._epoll.poll, self._epoll.fileno()
        ready, unfinished = self._ready, self._unfinished
        while True:
            if not ready and unfinished:
                ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN) if fd not in unfinished])
                first = next(iter(unfinished))
                del unfinished[first]
                ready.append(first)
            elif not ready:
                connection = observer = None  # it may end while we wait
                if not self._polls_to_skip:
                    # As in Endpoint._advance. But those whose messages were read answer in the next turn, and
                    # their peers in one of those after.
                    await checkpoint()
                    for _ in range(_POLLS_BEFORE_WAIT):
                        await checkpoint()
                        ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN)])
                        if ready:
                            break
                    self._polls_to_skip = 0 if ready else POLLS_TO_SKIP
                if self._polls_to_skip:
                    self._polls_to_skip -= 1
                    await wait_readable(fileno)
                    ready.extend([fd for fd, _ in poll(0, CONNECTIONS_PER_TURN)])
            left = BYTES_PER_TURN
            while ready and left > 0:
                fd = ready.popleft()
                # It may be closed since the poll. If the number is another's by now, nothing is there to be
                # read, or something is.
                connection = self._connections.get(fd)
                if connection is None or connection.stopped:
                    continue
                left -= self._read(connection, fd)
                observer = connection.observer
                going_on = observer.data_received(lent) if observer is not None else None
                if connection.stop_if_full():
                    self._epoll.unregister(fd)
                if going_on is not None:
                    return going_on
            if ready or unfinished:
                await checkpoint()

    def _read(self, connection: Reader, fd: int) -> int:
        """Read once. Returns how much work that was, as so many bytes."""
        buffer = connection.receive_buffer
        transport: Any = connection.transport
        data: bytes
        try:
            if buffer.pending_input:
                data, buffer.pending_input = buffer.pending_input, b""
            else:
                data = transport.recv_now(READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError as exc:
            connection.closing.abort(exc)
            return END_COST
        if not data:
            connection.closing.abort(None)
            return END_COST
        size = len(data)
        try:
            if buffer.deflate is None:
                messages = connection.data_received(data)
                if size == READ_SIZE:
                    size += connection.read_more()
            else:
                received = buffer.ledger.received
                messages = connection.data_received(data)
                size = max(size, buffer.ledger.received - received)
            if buffer.pending_input:
                size = max(size, FRAME_COST * FRAMES_AT_ONCE)
                self._unfinished[fd] = None
            connection.input_arrived.notify_all()
        except Exception as exc:  # noqa: BLE001 - logged with its traceback
            connection.log(logging.ERROR, "reading from %r failed", exc_info=exc)
            connection.closing.abort(exc)
            messages = 0
        return size + MESSAGE_COST * messages
