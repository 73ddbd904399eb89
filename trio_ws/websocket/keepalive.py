"""Keepalive: detects peers that are gone, by pings, and limits the time of the closing handshake.

One sweep serves all connections of a runtime, and costs a busy connection one flag per read. Three facts show
that a peer is alive: a byte arrived since the last check, a blocked write made progress, or the peer's system
accepted data that waited in the local kernel.

Invariants:

- A peer counts as gone only after a full ``ping_timeout`` in which no byte arrived. If data waits to be
  written, it counts as gone only if none of that data was accepted, neither by the local kernel nor, as far
  as that reports it, by the peer.
- While received messages wait for the application, so that nothing is read, silence of the peer has no
  consequences.
- Any latency is tolerated, whatever the interval, because there is one ping in flight at a time.
- A connection that has begun to close ends within ``close_timeout``.
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
    from trio_ws.websocket.liveness import Liveness

__all__ = ["Keepalive"]


class Keepalive:
    """The timers of all connections of one runtime. See the module docstring."""

    def __init__(self, options: Options) -> None:
        self._interval = options.ping_interval
        self._timeout = options.ping_timeout
        self._close_timeout = options.close_timeout
        # The time of each connection's next check. Within one dict the delay is the same for all, so they are
        # ordered by time.
        self._quiet: dict[Liveness, float] = {}
        self._pinged: dict[Liveness, float] = {}
        self._delivered: dict[Liveness, Delivery | None] = {}  # of those, when they were pinged
        self._closing: dict[Liveness, float] = {}
        self._due_changed = Notification()

    def register(self, peer: Liveness) -> None:
        """Start to check a connection that has just opened."""
        if self._interval is not None:
            self._put(self._quiet, peer, self._interval)

    def pong_received(self, peer: Liveness) -> None:
        """Start the next interval, because our ping was answered or there was another sign of life."""
        if self._pinged.pop(peer, None) is not None:
            del self._delivered[peer]
            self.register(peer)

    def start_close_timer(self, peer: Liveness) -> None:
        """Stop pings and start the close timer, because the connection has begun to close."""
        if peer not in self._closing:
            self.unregister(peer)
            self._put(self._closing, peer, self._close_timeout)

    def unregister(self, peer: Liveness) -> None:
        self._quiet.pop(peer, None)
        self._pinged.pop(peer, None)
        self._delivered.pop(peer, None)
        self._closing.pop(peer, None)

    @enable_ki_protection
    async def run(self) -> None:
        while True:
            due = self._next_due()
            if due == math.inf:
                await self._due_changed.wait()
                continue
            with trio.move_on_at(due):
                # A connection that is added may be due before all others, if the timeouts differ.
                while self._next_due() >= due:
                    await self._due_changed.wait()
            now = trio.current_time()
            self._sweep_quiet(now)
            await self._sweep_pinged(now)
            for peer in self._take_due(self._closing, now):
                peer.closing.timed_out()

    def _put(self, queue: dict[Liveness, float], peer: Liveness, seconds: float) -> None:
        if not queue:
            self._due_changed.notify_all()
        queue[peer] = trio.current_time() + seconds

    def _next_due(self) -> float:
        queues = (self._quiet, self._pinged, self._closing)
        return min(next(iter(queue.values()), math.inf) for queue in queues)

    @staticmethod
    def _due(queue: dict[Liveness, float], now: float) -> list[Liveness]:
        return [peer for peer, _ in itertools.takewhile(lambda item: item[1] <= now, queue.items())]

    def _take_due(self, queue: dict[Liveness, float], now: float) -> list[Liveness]:
        due = self._due(queue, now)
        for peer in due:
            del queue[peer]
        return due

    def _sweep_quiet(self, now: float) -> None:
        assert self._interval is not None or not self._quiet
        for peer in self._take_due(self._quiet, now):
            if peer.had_activity():
                if peer.receive_buffer.full:
                    # The end of the stream cannot be read now, but writing detects it.
                    peer.keepalive_ping()
                self.register(peer)
                continue
            peer.keepalive_ping()
            if self._timeout is None:
                self.register(peer)
            else:
                self._delivered[peer] = peer.delivery()
                self._put(self._pinged, peer, self._timeout)

    async def _sweep_pinged(self, now: float) -> None:
        late = [peer for peer in self._due(self._pinged, now) if self._still_silent(peer)]
        if not late:
            return
        # If the whole program was stopped, the pongs are unread in the sockets when this timer is due. Two
        # rounds of the scheduler let the readers read them. The shared reader of thousands of connections may
        # need more, so unread bytes count as well.
        for _ in range(2):
            await trio.lowlevel.checkpoint()
        for peer in late:
            if peer not in self._pinged or not self._still_silent(peer):  # it was answered, or began to close
                continue
            if peer.has_unread_bytes():
                self.pong_received(peer)
            else:
                self.unregister(peer)
                peer.closing.give_up(
                    f"keepalive ping timeout: no sign of life in ping_timeout ({self._timeout} s)"
                )

    def _still_silent(self, peer: Liveness) -> bool:
        if peer.had_activity(self._delivered[peer]):
            self.pong_received(peer)
            return False
        return True
