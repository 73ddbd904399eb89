"""Keepalive: which peers are alive, judged fairly, and when a close has taken long enough.

One sweep serves all connections of a runtime, and costs a running connection one flag per read. A peer is
judged by three facts: whether any byte came from it since the last look, whether a blocked write has moved,
and whether its system took some of what waits in the kernel.

Invariants:

- A peer is given up only after a full ``ping_timeout`` in which not one byte came. Where bytes wait to be
  written, it is given up only if they did not move by one, here or in the kernel as far as that tells.
- While the application leaves received messages waiting, so that we do not read, silence is our own doing
  and is not held against the peer.
- Latency does no harm, whatever the interval: one ping is under way at a time.
- A connection that began to close is gone after ``close_timeout``.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.protocol.frames import PING, PONG
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import OPEN

if TYPE_CHECKING:
    from trio_ws.options import Options
    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.delivery import Delivery
    from trio_ws.websocket.receive_buffer import ReceiveBuffer
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["Keepalive", "Liveness"]

_KEEPALIVE = b"trio_ws keepalive"


class Liveness:
    """What is known about whether one peer is alive: its pings, and what moved since the last look.

    Args:
        receive_buffer: knows whether anything came.
        write_buffer: knows whether anything went, and sends pings.
        closing: ends the connection where the peer is gone.

    Attributes:
        closing: the same.
        receive_buffer: the same.
        pings: unanswered pings and when they were sent; None before the first, and after the end.
        latency: seconds that the last ping took there and back; None before the first.
        round_trip: the least latency seen.
    """

    __slots__ = (
        "_write_buffer",
        "closing",
        "latency",
        "pings",
        "receive_buffer",
        "round_trip",
    )

    def __init__(
        self,
        receive_buffer: ReceiveBuffer,
        write_buffer: WriteBuffer,
        closing: ClosingHandshake,
    ) -> None:
        self.receive_buffer = receive_buffer
        self._write_buffer = write_buffer
        self.closing = closing
        self.pings: dict[bytes, float] | None = None
        self.latency: float | None = None
        self.round_trip: float | None = None

    def one_way(self) -> float:
        """Seconds that bytes take to the peer: half of a ping's shortest round trip, 0 before the first."""
        return 0.0 if self.round_trip is None else self.round_trip / 2

    def send_ping(self, payload: bytes) -> None:
        if self.pings is None:
            self.pings = {}
        self.pings[payload] = trio.current_time()
        self._write_buffer.write_control(PING, payload)

    def awaits(self, payload: bytes) -> bool:
        """Whether a pong with this payload answers a ping of ours."""
        return self.pings is not None and payload in self.pings

    def on_pong(self, payload: bytes) -> bool:
        """Take the answer to a ping. Returns whether it answers keepalive's."""
        pings = self.pings
        if not pings or payload not in pings:
            return False
        # A pong answers its ping and, silently, all earlier ones (RFC 6455 section 5.5.3).
        now = trio.current_time()
        kept_alive = _KEEPALIVE in pings
        for sent in list(pings):
            latency = self.latency = now - pings.pop(sent)
            if self.round_trip is None or latency < self.round_trip:
                self.round_trip = latency
            if sent == payload:
                break
        if not kept_alive or _KEEPALIVE in pings:
            return False
        # Otherwise the pong's own bytes would put off the next ping.
        self.receive_buffer.received_since_check = False
        return True

    def keepalive_ping(self) -> None:
        under_way = self.pings is not None and _KEEPALIVE in self.pings
        if self.closing.state == OPEN and not (under_way and self._write_buffer.blocked):
            self.send_ping(_KEEPALIVE)

    def delivery(self) -> Delivery | None:
        """How far what was written has come; None where the system does not tell."""
        return self._write_buffer.transport.delivery()

    def had_activity(self, then: Delivery | None = None) -> bool:
        """Whether anything moved since the last call.

        Where bytes wait to be written, only their moving counts. A peer that takes them may not have come to
        our ping yet, and one that sends but never reads is treated as dead.

        Args:
            then: how far what was written had come when the last ping was sent.
        """
        write_buffer, receive_buffer = self._write_buffer, self.receive_buffer
        moved, write_buffer.progressed = write_buffer.progressed, False
        came, receive_buffer.received_since_check = receive_buffer.received_since_check, False
        return (moved if write_buffer.blocked else came or receive_buffer.full) or self._taken_since(then)

    def _taken_since(self, then: Delivery | None) -> bool:
        """Whether the peer took bytes that waited in the kernel, and has not yet come to our ping.

        A kernel on our side takes megabytes, and says that it takes more only when a third of them is gone.
        One on the peer's side takes some, too, for an application that hangs. So bytes count only where it
        takes them one after the other, because it had no room for all.
        """
        now = None if then is None else self.delivery()
        if then is None or now is None:
            return False
        return now.taken > then.taken and (self._write_buffer.blocked or now.taken < then.end)

    def has_unread_bytes(self) -> bool:
        """Whether bytes came that were not read yet, where that would be a sign of life."""
        return not self._write_buffer.blocked and self._write_buffer.transport.has_unread()

    def probe(self) -> None:
        """End the connection if the peer is gone. For use where nothing is read, which would tell."""
        transport = self._write_buffer.transport
        if transport.has_hung_up():
            self.closing.abort(None)
        elif self.closing.state == OPEN and transport.tells_hang_up and not self._write_buffer.blocked:
            # Its end may wait behind what we do not read. An unsolicited pong (RFC 6455 section 5.5.3) makes
            # the system of a peer that is gone say so, which is seen here the next time.
            self._write_buffer.write_control(PONG, b"", pong=True)


class Keepalive:
    """The timers of all connections of one runtime. See the head of the module."""

    def __init__(self, options: Options) -> None:
        self._interval = options.ping_interval
        self._timeout = options.ping_timeout
        self._close_timeout = options.close_timeout
        # When each connection is next looked at. The wait is the same for all within one dict, so the
        # order of insertion is the order of time.
        self._quiet: dict[Liveness, float] = {}
        self._pinged: dict[Liveness, float] = {}
        self._delivered: dict[Liveness, Delivery | None] = {}  # of those, when they were pinged
        self._closing: dict[Liveness, float] = {}
        self._due_changed = Notification()

    def register(self, peer: Liveness) -> None:
        """Begin with a connection that has just opened."""
        if self._interval is not None:
            self._put(self._quiet, peer, self._interval)

    def pong_received(self, peer: Liveness) -> None:
        """Our ping was answered, or there is another sign of life: the next interval begins now."""
        if self._pinged.pop(peer, None) is not None:
            del self._delivered[peer]
            self.register(peer)

    def start_close_timer(self, peer: Liveness) -> None:
        """The connection began to close: no more pings, and an end in time."""
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
                # A connection that is added may be due before all others, where the timeouts differ.
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
                    # Its end cannot be read, but it shows in what is sent.
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
