"""Lifetime: what a connection is from its opening to its end. `Endpoint` adds the reading.

What always holds:

- State only grows: CONNECTING, OPEN, CLOSING (a Close frame went one way), CLOSED (the transport is gone).
- State changes in synchronous code. A cancelled task leaves it whole, because it was at a wait.
- Entering CLOSING sets an end to all of it: `_end` comes after ``close_timeout`` at the latest.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import trio

from trio_ws.errors import CloseFrame, ConnectionClosedError, ConnectionClosedLocallyError
from trio_ws.ledger import MemoryLedger
from trio_ws.logs import logger_for
from trio_ws.protocol.frames import CLOSE, FIN, PING, PONG, ProtocolViolation
from trio_ws.protocol.framing import close_payload, masked_frame, server_frame
from trio_ws.wall import is_innermost
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import log_extra
from trio_ws.websocket.write_buffer import WriteBuffer

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.protocol.frames import FrameReader
    from trio_ws.websocket.delivery import Delivery
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "OPEN", "ConnectionObserver", "Lifetime"]

logger = logger_for("trio_ws.websocket")

CONNECTING, OPEN, CLOSING, CLOSED = range(4)

#: Each connection of this process has a number, for logs.
_numbers = itertools.count(1)

_KEEPALIVE = b"trio_ws keepalive"

# Close codes after which reading ends quietly: normal, going away, and none given.
_CLEAN = frozenset({1000, 1001, 1005})


class ConnectionObserver(Protocol):
    """Whoever uses an endpoint beside the tasks that wait in it."""

    def data_received(self, lent: Any) -> Awaitable[None] | None:
        """The shared reader has read. What this gives goes on in the task that was lent for reading."""

    def state_changed(self) -> None:
        """The state has changed."""

    def connection_lost(self) -> None:
        """The transport is gone. Messages that came before may wait in the inbox."""

    def shutdown(self, code: int, reason: str) -> None:
        """The server stops: close when that is convenient, and soon."""


class Lifetime:
    """See the module's text."""

    __slots__ = (
        "__weakref__",
        "_cause",
        "_client",
        "_close_received",
        "_close_sent",
        "_closed_locally",
        "_deferred_close",
        "_deflate",
        "_fast_send_limit",
        "_frames",
        "_input_arrived",
        "_latency",
        "_ledger",
        "_letting_in",
        "_messages",
        "_number",
        "_observer",
        "_opening",
        "_options",
        "_peer_closed_first",
        "_pings",
        "_queue_has_room",
        "_received_since_check",
        "_round_trip",
        "_runtime",
        "_state",
        "_transport",
        "_write_buffer",
    )

    def __init__(
        self, transport: Transport, runtime: ConnectionRuntime, options: Options, *, client: bool
    ) -> None:
        self._number = next(_numbers)
        self._transport = transport
        self._runtime = runtime
        self._options = options
        self._client = client
        self._state = CONNECTING
        self._observer: ConnectionObserver | None = None
        self._input_arrived = Notification()  # rings when bytes, or the end, may have changed something
        # What comes.
        self._frames: FrameReader | None = None
        self._messages: deque[str | bytes] = deque()
        self._ledger = MemoryLedger(options.max_queue_bytes, options.held_limit)
        self._queue_has_room: Notification | None = None  # rings when the inbox has room again
        # What goes.
        self._write_buffer = WriteBuffer(transport, runtime, self._write_failed)
        self._deflate: PerMessageDeflate | None = None
        # The high-water mark while messages may go out as they are: on a server's connection that is open,
        # uncompressed, and not in the middle of a message; else 0. Spares each send five looks.
        self._fast_send_limit = 0
        # Signs of life.
        self._received_since_check = False  # bytes came since keepalive last looked
        self._pings: dict[bytes, float] | None = None  # unanswered pings and when they were sent
        self._latency: float | None = None
        self._round_trip: float | None = None  # the least latency seen
        # Around what serves a client, until that is let in: cancelled where it leaves before.
        self._opening: trio.CancelScope | None = None
        self._letting_in = False  # it goes on past the accept
        # The end.
        self._close_sent: CloseFrame | None = None
        self._close_received: CloseFrame | None = None
        self._peer_closed_first = False
        self._closed_locally = False  # by the application; then what it had not yet received is dropped
        self._cause: BaseException | None = None
        # The peer's Close, or what it did wrong, while the application has not taken all that came before:
        # our Close frame waits, so that it can answer.
        self._deferred_close: CloseFrame | ProtocolViolation | None = None

    # -- letting a client in ------------------------------------------------------------------------

    def _begin_opening(self) -> None:
        """What this task does from here on is cancelled where the client leaves before it is let in.

        Call `_end_opening` in the same task.
        """
        self._opening = scope = trio.CancelScope()
        scope.__enter__()

    def _let_in(self) -> None:
        """From here on the end of the connection cancels nothing, and an idle one needs no scope.

        Where the handler has opened one of its own around the accept, ours has to stay.
        """
        scope = self._opening
        self._letting_in = False
        if scope is not None and is_innermost(scope):
            self._opening = None
            scope.__exit__(None, None, None)

    def _cancel_opening(self) -> None:
        if self._opening is not None:
            logger.info(
                "%r ended before it was let in: cancelling what serves it", self, extra=log_extra(self)
            )
            self._opening.cancel()

    def _end_opening(self, exc: BaseException | None) -> bool:
        """What served the client has raised this, or nothing. Whether that was its cancellation by us."""
        scope, self._opening = self._opening, None
        return scope is not None and bool(scope.__exit__(type(exc) if exc else None, exc, None))

    # -- what goes out ------------------------------------------------------------------------------

    def _update_fast_send_limit(self) -> None:
        plain = self._state == OPEN and not self._client and self._deflate is None
        self._fast_send_limit = self._options.send_high_water if plain else 0

    def _frame(self, first: int, payload: bytes) -> bytes:
        return masked_frame(first, payload) if self._client else server_frame(first, payload)

    def _one_way(self) -> float:
        """Seconds that bytes take to the peer: half of a ping's shortest round trip, 0 before the first."""
        return 0.0 if self._round_trip is None else self._round_trip / 2

    # -- signs of life ------------------------------------------------------------------------------

    def _send_ping(self, payload: bytes) -> None:
        if self._pings is None:
            self._pings = {}
        self._pings[payload] = trio.current_time()
        self._write_buffer.write_control(self._frame(FIN | PING, payload))

    def _on_pong(self, payload: bytes) -> None:
        pings = self._pings
        if not pings or payload not in pings:
            return
        # A pong answers its ping and, silently, all earlier ones (RFC 6455 section 5.5.3).
        now = trio.current_time()
        kept_alive = _KEEPALIVE in pings
        for sent in list(pings):
            latency = self._latency = now - pings.pop(sent)
            if self._round_trip is None or latency < self._round_trip:
                self._round_trip = latency
            if sent == payload:
                break
        if kept_alive and _KEEPALIVE not in pings:
            self._received_since_check = False  # the pong's own bytes, which would put off the next ping
            self._runtime.keepalive.pong_received(self)

    def _had_activity(self, then: Delivery | None = None) -> bool:
        """Whether anything moved since the last call.

        Where bytes wait to be written, that they move is all that counts: a peer that takes them may not have
        come to our ping yet, and one that only talks and never takes them is as good as gone.

        Args:
            then: how far what was written had come when the last ping was.
        """
        write_buffer = self._write_buffer
        moved, write_buffer.progressed = write_buffer.progressed, False
        life, self._received_since_check = self._received_since_check, False
        return (moved if write_buffer.blocked else life or self._queue_full) or self._taken_since(then)

    def _taken_since(self, then: Delivery | None) -> bool:
        """Whether the peer took bytes that waited in the kernel, and has not yet come to our ping.

        A kernel of our side takes megabytes, and says that it takes more only when a third of them is gone.
        One of the peer's side takes some, too, for an application that hangs. So bytes count only where it
        takes them one after the other, because it had no room for all.
        """
        now = None if then is None else self._transport.delivery()
        if then is None or now is None:
            return False
        return now.taken > then.taken and (self._write_buffer.blocked or now.taken < then.end)

    def _has_unread_bytes(self) -> bool:
        """Whether bytes came that nobody has read yet, where that would be a sign of life."""
        return not self._write_buffer.blocked and self._transport.has_unread()

    @property
    def _is_closed(self) -> bool:
        return self._state == CLOSED

    def _probe(self) -> None:
        """End the connection if the peer is gone; for use where nothing is read, which would tell."""
        if self._transport.has_hung_up():
            self._abort(None)
        elif self._state == OPEN and self._transport.tells_hang_up and not self._write_buffer.blocked:
            # Its end may wait behind what we do not read. An unsolicited pong (RFC 6455 section 5.5.3) makes
            # the system of a peer that is gone say so, which is seen here the next time.
            self._write_buffer.write_control(self._frame(FIN | PONG, b""), pong=True)

    def _keepalive_ping(self) -> None:
        under_way = self._pings is not None and _KEEPALIVE in self._pings
        if self._state == OPEN and not (under_way and self._write_buffer.blocked):
            self._send_ping(_KEEPALIVE)

    def _fail_keepalive(self, reason: str) -> None:
        if self._state == OPEN:
            logger.info("giving up %r: %s", self, reason, extra=log_extra(self))
            self._start_close(1011, reason)
            self._abort(TimeoutError(reason))

    # -- closing ------------------------------------------------------------------------------------

    def _on_violation(self, violation: ProtocolViolation) -> None:
        """Fail the connection, once the application has taken, and perhaps answered, what came before."""
        logger.info("failing %r with %d: %s", self, violation.code, violation.reason, extra=log_extra(self))
        self._deferred_close = violation
        if self._messages and not self._closed_locally:
            self._runtime.keepalive.start_close_timer(self)
        else:
            self._send_deferred_close()

    def _send_deferred_close(self) -> None:
        """Answer the peer's Close, or what it did wrong."""
        last_word, self._deferred_close = self._deferred_close, None
        if isinstance(last_word, CloseFrame):
            self._answer_close(last_word)
        elif last_word is not None:
            # Say what was wrong and that nothing more will come (RFC 6455 section 7.1.7).
            self._start_close(last_word.code, last_word.reason)
            self._write_buffer.end_when_empty()

    def _close_timed_out(self) -> None:
        """``close_timeout`` is over."""
        if self._deferred_close is not None:
            unsent = self._close_sent is None
            self._send_deferred_close()
            if unsent and self._close_sent is not None:
                self._write_buffer.close_when_empty()
                if self._write_buffer.blocked:
                    return  # the application's time is over; now the Close frame has as long to go out
        elif self._state != CLOSED and self._frames is not None and not self._frames.done:
            logger.info(
                "no Close frame from %r in close_timeout (%s s)",
                self,
                self._options.close_timeout,
                extra=log_extra(self),
            )
        self._abort(None, in_time=False)

    def _write_failed(self, cause: BaseException) -> None:
        """Nothing can go out any more. What the peer sent before it left, perhaps a Close, may yet come."""
        if self._state == CONNECTING:
            self._abort(cause)
        elif self._state != CLOSED:
            self._cause = cause
            self._state = CLOSING
            self._fast_send_limit = 0
            self._runtime.keepalive.start_close_timer(self)
            self._state_changed()

    def _start_close(self, code: int, reason: str) -> None:
        """Send a Close frame, if none was sent; the end is to come in time."""
        if self._send_close(code, reason):
            self._runtime.keepalive.start_close_timer(self)

    def _send_close(self, code: int, reason: str) -> bool:
        if self._close_sent is not None or self._state not in (OPEN, CLOSING) or self._write_buffer.broken:
            return False
        if self._frames is None:
            return False  # rejected: an HTTP response went out
        self._close_sent = CloseFrame(code, reason)
        self._state = CLOSING
        self._fast_send_limit = 0
        self._write_buffer.flush()
        self._write_buffer.write_control(self._frame(FIN | CLOSE, close_payload(code, reason)))
        self._state_changed()
        self._write_buffer.writable.notify_all()
        return True

    def _state_changed(self) -> None:
        self._input_arrived.notify_all()
        if self._observer is not None:
            self._observer.state_changed()

    def _on_close(self, frame: CloseFrame) -> None:
        """Answer once the application has taken what came before (RFC 6455 section 5.5.1 allows that)."""
        self._close_received = frame
        self._peer_closed_first = self._close_sent is None
        if self._peer_closed_first and self._messages and not self._closed_locally:
            self._deferred_close = frame
            self._runtime.keepalive.start_close_timer(self)
        else:
            self._answer_close(frame)

    def _answer_close(self, frame: CloseFrame) -> None:
        self._send_close(frame.code, "")
        if not self._client:
            # RFC 6455 section 7.1.1: the server is the one to end TCP.
            self._write_buffer.close_when_empty()
            if not self._write_buffer.blocked:
                self._abort(None)
                return
        if self._state == CLOSING:
            self._runtime.keepalive.start_close_timer(self)

    def _abort(self, cause: BaseException | None, *, in_time: bool = True) -> None:
        """The transport is at its end, or is to be: nothing can come or go any more.

        A Close frame that has had its time gets no more of it.
        """
        state = self._state
        if state == CLOSED:
            return
        self._state = CLOSED
        self._fast_send_limit = 0
        if cause is not None and self._close_received is None:
            self._cause = self._cause or cause
        self._runtime.keepalive.unregister(self)
        unsent = self._write_buffer.discard()
        self._transport.close(unsent if in_time and self._close_sent is not None else None)
        self._pings = None
        self._input_arrived.notify_all()
        if self._queue_has_room is not None:
            self._queue_has_room.notify_all()
        if self._observer is not None:
            self._observer.connection_lost()
        # One that was refused is for what serves it to find out.
        if state == CONNECTING or (self._letting_in and self._frames is not None):
            self._cancel_opening()

    @property
    def _no_more_messages(self) -> bool:
        """Whether the inbox will stay as it is."""
        frames = self._frames
        return self._state == CLOSED or self._closed_locally or (frames is not None and frames.done)

    @property
    def _queue_full(self) -> bool:
        ledger = self._ledger
        return ledger.received >= ledger.max_received and not self._no_more_messages

    @property
    def _ended_cleanly(self) -> bool:
        received = self._close_received
        return not self._closed_locally and received is not None and received.code in _CLEAN

    def _closed_error(self) -> ConnectionClosedError:
        frame = self._close_received or self._close_sent or CloseFrame(1006, "")
        kind = ConnectionClosedLocallyError if self._closed_locally else ConnectionClosedError
        error = kind(frame.code, frame.reason, sent=self._close_sent, received=self._close_received)
        error.__cause__ = self._cause
        return error
