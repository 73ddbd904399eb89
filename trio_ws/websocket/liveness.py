"""Liveness: the control frames of one connection, and the signs that its peer is alive.

Pings are answered here, and the pings of the application and of keepalive wait here for their pongs. The
timers that decide on these signs are those of `Keepalive`, one for all connections of a runtime.

Invariants:

- A pong answers its ping and all earlier ones. Any other pong is unsolicited, and has no effect.
- The hooks of the application never end the connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from trio_ws.errors import CloseFrame
from trio_ws.logs import logger_for
from trio_ws.protocol.frames import PING, PONG, Ping, Pong
from trio_ws.wall import judged, log_failure
from trio_ws.websocket.closing import CLOSED, OPEN
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.message import control_payload

if TYPE_CHECKING:
    from trio_ws.protocol.frames import Event
    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.delivery import Delivery
    from trio_ws.websocket.frame_log import Logged
    from trio_ws.websocket.message import BytesLike
    from trio_ws.websocket.readers import Reader
    from trio_ws.websocket.receive_buffer import ReceiveBuffer
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["ControlHooks", "Liveness"]

ControlHooks = tuple[Callable[[bytes], object] | None, Callable[[bytes], object] | None]

logger = logger_for("trio_ws.websocket")

_KEEPALIVE = b"trio_ws keepalive"


class Liveness:
    """The pings of one connection, and the signs that its peer is alive.

    Args:
        receive_buffer: records whether bytes arrived.
        write_buffer: records whether bytes were written, and sends pings.
        closing: ends the connection if the peer is gone.

    Attributes:
        closing: the closing handshake.
        receive_buffer: the receive buffer.
        pings: the times at which unanswered pings were sent, by payload; None without any, because a dict
            does not shrink when it is emptied.
        latency: the round-trip time of the last ping in seconds; None before the first.
        round_trip: the shortest round-trip time so far.
        hooks: functions of the application for pings, and for unsolicited pongs.
    """

    __slots__ = (
        "_write_buffer",
        "closing",
        "hooks",
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
        self.hooks: ControlHooks = (None, None)

    def handle_events(self, events: list[Event], ws: Logged) -> bool:
        """Handle control frames and protocol violations that a reader found.

        Args:
            events: these.
            ws: the connection, for logs.

        Returns:
            Whether a pong answered the ping of keepalive.
        """
        kept_alive = False
        for event in events:
            if isinstance(event, Ping):
                if self.closing.state == OPEN:
                    self._write_buffer.write_control(PONG, event.payload, pong=True)
                    self._call_hook(0, event.payload, ws)
            elif isinstance(event, Pong):
                if self.hooks[1] is not None and not self.awaits(event.payload):
                    self._call_hook(1, event.payload, ws)
                kept_alive = self.on_pong(event.payload) or kept_alive
            elif isinstance(event, CloseFrame):
                self.closing.on_close(event)
            else:
                self.closing.on_violation(event)
        self._write_buffer.flush()
        return kept_alive

    def _call_hook(self, which: int, payload: bytes, ws: Logged) -> None:
        hook = self.hooks[which]
        if hook is not None:
            try:
                hook(payload)
            except BaseException as exc:  # noqa: BLE001 - judged there
                log_failure(logger, "on_ping or on_pong failed", exc=judged(exc), extra=log_extra(ws))

    def one_way(self) -> float:
        """Seconds that bytes take to the peer: half of a ping's shortest round trip, 0 before the first."""
        return 0.0 if self.round_trip is None else self.round_trip / 2

    def send_ping(self, payload: bytes) -> None:
        if self.pings is None:
            self.pings = {}
        self.pings[payload] = trio.current_time()
        self._write_buffer.write_control(PING, payload)

    def ping_payload(self, payload: BytesLike | str | None) -> bytes:
        """Return the payload of a ping: four random bytes for None.

        Raises:
            ValueError: it is too long, or another ping with this payload waits for its pong.
        """
        if payload is None:
            payload = os.urandom(4)
        data = control_payload("a ping", payload.encode() if isinstance(payload, str) else payload)
        if self.awaits(data):
            raise ValueError(f"a ping with payload {data!r} waits for its pong; use another payload")
        return data

    async def ping(self, payload: bytes, reader: Reader) -> float:
        """Send a ping, and return the seconds until its pong arrived.

        Raises:
            ConnectionClosedError: the connection ended before.
        """
        sent = trio.current_time()
        self.send_ping(payload)
        while self.awaits(payload):
            if self.closing.received is not None:
                raise self.closing.closed_error()
            await reader.wait_for_input()
        if self.closing.state == CLOSED:
            raise self.closing.closed_error()
        return trio.current_time() - sent

    @property
    def is_awaited(self) -> bool:
        """Whether a ping of the application waits for its pong."""
        return self.pings is not None and (len(self.pings) > 1 or _KEEPALIVE not in self.pings)

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
        if kept_alive:
            kept_alive = _KEEPALIVE not in pings
        self.pings = pings or None
        if not kept_alive:
            return False
        # Otherwise the pong's own bytes would put off the next ping.
        self.receive_buffer.received_since_check = False
        return True

    def keepalive_ping(self) -> None:
        under_way = self.pings is not None and _KEEPALIVE in self.pings
        if self.closing.state == OPEN and not (under_way and self._write_buffer.blocked):
            self.send_ping(_KEEPALIVE)

    def delivery(self) -> Delivery | None:
        """Return how much data the peer has acknowledged; None if the system does not report it."""
        return self._write_buffer.transport.delivery()

    def had_activity(self, then: Delivery | None = None) -> bool:
        """Return whether there was a sign of life since the last call.

        If bytes wait to be written, only progress in writing them counts. A peer that reads them may not have
        reached our ping yet, and a peer that sends but never reads is treated as dead.

        Args:
            then: the delivery at the time at which the last ping was sent.
        """
        write_buffer, receive_buffer = self._write_buffer, self.receive_buffer
        moved, write_buffer.progressed = write_buffer.progressed, False
        came, receive_buffer.received_since_check = receive_buffer.received_since_check, False
        return (moved if write_buffer.blocked else came or receive_buffer.full) or self._taken_since(then)

    def _taken_since(self, then: Delivery | None) -> bool:
        """Return whether the peer accepted bytes that waited in the local kernel, but not all of them.

        The local kernel buffers megabytes, and reports the socket as writable only after a third of them is
        gone. The peer's kernel also accepts some bytes for an application that hangs. So accepted bytes are a
        sign of life only while the peer's system has no room for all of them.
        """
        now = None if then is None else self.delivery()
        if then is None or now is None:
            return False
        return now.taken > then.taken and (self._write_buffer.blocked or now.taken < then.end)

    def has_unread_bytes(self) -> bool:
        """Return whether unread bytes are available, if that is a sign of life."""
        return not self._write_buffer.blocked and self._write_buffer.transport.has_unread()

    def probe(self) -> None:
        """End the connection if the peer is gone. It is used while nothing is read, which would detect it."""
        transport = self._write_buffer.transport
        if transport.has_hung_up():
            self.closing.abort(None)
        elif self.closing.state == OPEN and transport.tells_hang_up and not self._write_buffer.blocked:
            # The end of the stream may be behind unread data. An unsolicited pong (RFC 6455 section 5.5.3)
            # makes the system of a peer that is gone send a reset, which the next probe detects.
            self._write_buffer.write_control(PONG, b"", pong=True)
