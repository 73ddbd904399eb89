"""Keepalive: who is alive, judged fairly, and when a close has taken long enough.

One sweep serves all connections of a service, and costs a running connection one flag per read. A peer is
judged by three facts: whether any byte came from it since the last look, whether a blocked write has moved,
and whether its system took some of what waits in the kernel.

What always holds:

- A peer is given up only after a full ``ping_timeout`` in which not one byte came, or, where bytes wait to
  be written, in which they did not move by one, here or in the kernel as far as that tells.
- While the application lets received messages lie, so that we do not read, silence is our own doing and is
  not held against the peer.
- Latency does no harm, whatever the interval: one ping is under way at a time.
- A connection that began to close is gone after ``close_timeout``.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from trio_ws.options import Options
    from trio_ws.websocket.delivery import Delivery
    from trio_ws.websocket.lifetime import Lifetime

__all__ = ["Keepalive"]


class Keepalive:
    """See the module's text."""

    def __init__(self, options: Options) -> None:
        self._interval = options.ping_interval
        self._timeout = options.ping_timeout
        self._close_timeout = options.close_timeout
        # When each connection is next looked at. The wait is the same for all within one dict, so the
        # order of insertion is the order of time.
        self._quiet: dict[Lifetime, float] = {}
        self._pinged: dict[Lifetime, float] = {}
        self._delivered: dict[Lifetime, Delivery | None] = {}  # of those, when they were pinged
        self._closing: dict[Lifetime, float] = {}
        self._due_changed = Notification()

    def register(self, ws: Lifetime) -> None:
        """Begin with a connection that has just opened."""
        if self._interval is not None:
            self._put(self._quiet, ws, self._interval)

    def pong_received(self, ws: Lifetime) -> None:
        """Our ping was, or there is another sign of life: the next interval begins now."""
        if self._pinged.pop(ws, None) is not None:
            del self._delivered[ws]
            self.register(ws)

    def start_close_timer(self, ws: Lifetime) -> None:
        """The connection began to close: no more pings, and an end in time."""
        if ws not in self._closing:
            self.unregister(ws)
            self._put(self._closing, ws, self._close_timeout)

    def unregister(self, ws: Lifetime) -> None:
        self._quiet.pop(ws, None)
        self._pinged.pop(ws, None)
        self._delivered.pop(ws, None)
        self._closing.pop(ws, None)

    @enable_ki_protection
    async def run(self) -> None:
        while True:
            due = self._next_due()
            if due == math.inf:
                await self._due_changed.wait()
                continue
            with trio.move_on_at(due):
                # A connection that is added may be due before all others, where the timeouts differ.
                while self._next_due() >= due:
                    await self._due_changed.wait()
            now = trio.current_time()
            self._sweep_quiet(now)
            await self._sweep_pinged(now)
            for ws in self._take_due(self._closing, now):
                ws._close_timed_out()

    def _put(self, queue: dict[Lifetime, float], ws: Lifetime, seconds: float) -> None:
        if not queue:
            self._due_changed.notify_all()
        queue[ws] = trio.current_time() + seconds

    def _next_due(self) -> float:
        queues = (self._quiet, self._pinged, self._closing)
        return min(next(iter(queue.values()), math.inf) for queue in queues)

    @staticmethod
    def _due(queue: dict[Lifetime, float], now: float) -> list[Lifetime]:
        return [ws for ws, _ in itertools.takewhile(lambda item: item[1] <= now, queue.items())]

    def _take_due(self, queue: dict[Lifetime, float], now: float) -> list[Lifetime]:
        due = self._due(queue, now)
        for ws in due:
            del queue[ws]
        return due

    def _sweep_quiet(self, now: float) -> None:
        assert self._interval is not None or not self._quiet
        for ws in self._take_due(self._quiet, now):
            if ws._had_activity():
                if ws._queue_full:
                    # Its end cannot be read, but it shows in what is sent.
                    ws._keepalive_ping()
                self.register(ws)
                continue
            ws._keepalive_ping()
            if self._timeout is None:
                self.register(ws)
            else:
                self._delivered[ws] = ws._transport.delivery()
                self._put(self._pinged, ws, self._timeout)

    async def _sweep_pinged(self, now: float) -> None:
        late = [ws for ws in self._due(self._pinged, now) if self._still_silent(ws)]
        if not late:
            return
        # If the whole program stood still, the pongs lie unread in the sockets while this timer is already
        # due. Two rounds of the scheduler let readers have what is there. One that reads for thousands may
        # need more, so what lies there counts, too.
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        for ws in late:
            if ws not in self._pinged or not self._still_silent(ws):  # it was answered, or began to close
                continue
            if ws._has_unread_bytes():
                self.pong_received(ws)
            else:
                self.unregister(ws)
                ws._fail_keepalive(
                    f"keepalive ping timeout: no sign of life in ping_timeout ({self._timeout} s)"
                )

    def _still_silent(self, ws: Lifetime) -> bool:
        if ws._had_activity(self._delivered[ws]):
            self.pong_received(ws)
            return False
        return True
