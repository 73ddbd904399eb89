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

import os
import select
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import checkpoint, checkpoint_if_cancelled, enable_ki_protection, wait_readable

from trio_ws.logs import logger_for
from trio_ws.protocol.frames import FRAME_COST, FRAMES_AT_ONCE
from trio_ws.websocket.frame_log import about
from trio_ws.websocket.transport import BLIND_WAITS, READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.websocket.endpoint import Endpoint

__all__ = ["Lender", "Reader"]

logger = logger_for("trio_ws.websocket")

HAS_EPOLL = sys.platform == "linux"
#: Connections of a service that each read for themselves before the others share. The variable is for our own
#: tests, which run with 0 and with very many as well.
FEW = int(os.environ.get("TRIO_WS_TEST_FEW", "4"))

#: Turns in which the epoll is looked into before one waits for it.
_LOOKS = 3
CONNECTIONS_IN_A_ROW = 64
BYTES_IN_A_ROW = 128 * 1024
#: What a message counts for in these, beside its bytes: it may be a call that is answered at once.
MESSAGE_COST = 1024
#: What the end of a connection counts for.
END_COST = 8192


class Lender(Protocol):
    """Who lends the reader a task."""

    def start(self, job: Callable[[Any], Awaitable[None]]) -> None:
        """Run ``job`` soon, in some task. What it gets is handed on to `Owner.take`."""


class Reader:
    """See the module's text. One for each service.

    One task at a time *leads*, that is reads. If what it read has to go on in the same task, as the call of
    a method that waits, it passes the lead to another.

    Attributes:
        lender: lends the task that leads.
    """

    def __init__(self, lender: Lender) -> None:
        self.lender = lender
        self._epoll: select.epoll | None = None
        self._connections: dict[int, Endpoint] = {}
        self._alone: set[int] = set()  # descriptors of those that read for themselves
        self._ready: deque[int] = deque()  # what is to be read in this round
        self._unfinished: dict[int, None] = {}  # to go on with, one in each round
        self._blind = 0  # waits for the epoll that are to come without a look into it first
        self._led = False
        self._stillborn = False  # the last to lead was cancelled, and the next has not begun to read

    def add(self, ws: Endpoint, fd: int) -> bool:
        """Read for this connection from now on; False if it is to read for itself."""
        if not HAS_EPOLL or len(self._alone) < FEW:
            self._alone.add(fd)
            return False
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLIN)
        except OSError as exc:
            # No descriptor, or none of the kernel's watches, is left.
            logger.warning("%r reads for itself: %s", ws, exc, extra=about(ws))
            self._alone.add(fd)
            return False
        self._connections[fd] = ws
        if not self._led:
            self._led = True
            self.lender.start(self._lead)
        return True

    def resume(self, ws: Endpoint) -> None:
        """Read again from a connection that was full."""
        ws._paused = False
        transport: Any = ws._transport
        fd: int = transport.fd
        if self._epoll is not None and fd in self._connections:
            self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        """This descriptor is about to be closed."""
        self._alone.discard(fd)
        ws = self._connections.pop(fd, None)
        if ws is not None and self._epoll is not None:
            if not ws._paused:
                self._epoll.unregister(fd)
            ws._end(None)

    def close(self) -> None:
        """Let go of the epoll, when no task of the service is left."""
        self._connections.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    @enable_ki_protection
    async def _lead(self, lent: Any) -> None:
        # A cancellation comes from a cancel scope that user code has left open in this task; then another
        # leads. Or it comes from the end of the service, which is known by its meeting the next one at once.
        try:
            await checkpoint_if_cancelled()
            self._stillborn = False
            going_on = await self._read_on(lent)
        except trio.Cancelled:
            if not self._stillborn:
                self._stillborn = True
                self.lender.start(self._lead)
            raise
        self.lender.start(self._lead)
        await going_on

    async def _read_on(self, lent: Any) -> Awaitable[None]:
        """Read until something that was read has to go on in this task; give that."""
        assert self._epoll is not None
        poll, fileno = self._epoll.poll, self._epoll.fileno()
        ready, unfinished = self._ready, self._unfinished
        while True:
            if not ready and unfinished:
                ready.extend([fd for fd, _ in poll(0, CONNECTIONS_IN_A_ROW) if fd not in unfinished])
                first = next(iter(unfinished))
                del unfinished[first]
                ready.append(first)
            elif not ready:
                ws = None  # it may end while we wait
                if not self._blind:
                    # As in Endpoint._advance. But those whose messages were read answer in the next turn, and
                    # their peers in one of those after.
                    await checkpoint()
                    for _ in range(_LOOKS):
                        await checkpoint()
                        ready.extend([fd for fd, _ in poll(0, CONNECTIONS_IN_A_ROW)])
                        if ready:
                            break
                    self._blind = 0 if ready else BLIND_WAITS
                if self._blind:
                    self._blind -= 1
                    await wait_readable(fileno)
                    ready.extend([fd for fd, _ in poll(0, CONNECTIONS_IN_A_ROW)])
            left = BYTES_IN_A_ROW
            while ready and left > 0:
                fd = ready.popleft()
                # It may be closed since the poll. If the number is another's by now, nothing is there to be
                # read, or something is.
                ws = self._connections.get(fd)
                if ws is None or ws._paused:
                    continue
                left -= self._read(ws)
                going_on = ws._owner.take(lent) if ws._owner is not None else None
                if ws._ledger.received >= ws._ledger.max_received and ws._full and not ws._over:
                    ws._paused = True
                    self._epoll.unregister(fd)
                if going_on is not None:
                    return going_on
            if ready or unfinished:
                await checkpoint()

    def _read(self, ws: Endpoint) -> int:
        """Read once; give how much work that was, as so many bytes."""
        transport: Any = ws._transport
        data: bytes
        try:
            if ws._unfed:
                data, ws._unfed = ws._unfed, b""
            else:
                data = transport.recv_now(READ_SIZE)
        except BlockingIOError:
            return 0
        except OSError as exc:
            ws._end(exc)
            return END_COST
        if not data:
            ws._end(None)
            return END_COST
        size = len(data)
        try:
            if ws._deflate is None:
                messages = ws._feed(data)
                if size == READ_SIZE:
                    size += ws._read_on(transport)
            else:
                received = ws._ledger.received
                messages = ws._feed(data)
                size = max(size, ws._ledger.received - received)
            if ws._unfed:
                size = max(size, FRAME_COST * FRAMES_AT_ONCE)
                self._unfinished[transport.fd] = None
            ws._arrived.ring()
        except Exception as exc:
            logger.exception("reading from %r failed", ws, extra=about(ws))
            ws._end(exc)
            messages = 0
        return size + MESSAGE_COST * messages
