"""ClosingHandshake: the states of a connection, and how it ends (RFC 6455 section 7).

Theory of operation. A connection is in one of four states, and only moves down this table::

    CONNECTING   the opening handshake is not done
    OPEN         messages may be sent and received
    CLOSING      a Close frame was sent or received, the client was rejected, or writing has failed
    CLOSED       the transport is gone

The closing handshake is one Close frame each way, after which the server ends TCP. It begins in one of five
ways: the application closes (`start_locally`), the server or keepalive does on its behalf (`start`), the
peer sends its Close (`on_close`), the peer breaks the protocol (`on_violation`), or writing fails
(`write_failed`). All of them lead to CLOSING and start the close timer, whose end (`timed_out`) leads to
CLOSED whatever the peer does. The transport's end, a cancelled `WebSocket.close` and the end of a server
skip the rest and call `abort`.

A Close that the peer sent, or the one that answers its violation, is *deferred* while messages which came
before it wait for the application, because the application may want to answer them: sending remains
possible until it has taken the last one. The receiving methods send the deferred Close when they find the
queue empty. The close timer bounds that as well.

Which side closed matters in two places. After a Close by the application (``closed_locally``) messages that
it has not taken are dropped, and errors say that the connection was closed here. After a Close by the peer
everything that came before it can still be taken, also once the state is CLOSED.

Invariants:

- `_set_state` is the only writer of the state. States only grow.
- States change in synchronous code. A cancelled task leaves them consistent, because it was waiting.
- Entering CLOSING starts the close timer: CLOSED follows after ``close_timeout`` at the latest.
- Of each Close frame at most one is sent, and none before or after HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trio_ws.errors import (
    CloseFrame,
    ConnectionClosedError,
    ConnectionClosedLocallyError,
    ConnectionEndedError,
)
from trio_ws.logs import logger_for
from trio_ws.protocol.frames import CLOSE, ProtocolViolation
from trio_ws.protocol.framing import close_payload
from trio_ws.websocket.frame_log import Logged, log_extra

if TYPE_CHECKING:
    from trio_ws.options import Options
    from trio_ws.websocket.receive_buffer import ReceiveBuffer
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "OPEN", "ClosingConnection", "ClosingHandshake"]

logger = logger_for("trio_ws.websocket")

CONNECTING, OPEN, CLOSING, CLOSED = range(4)

#: The states that may follow each state.
_FOLLOWING = {
    CONNECTING: (OPEN, CLOSING, CLOSED),
    OPEN: (CLOSING, CLOSED),
    CLOSING: (CLOSED,),
    CLOSED: (),
}

# Close codes after which reading ends quietly: normal, going away, and none given.
_CLEAN = frozenset({1000, 1001, 1005})


class ClosingConnection(Logged, Protocol):
    """The methods of a connection that its closing handshake calls."""

    def _start_close_timer(self) -> None:
        """Call `ClosingHandshake.timed_out` in ``close_timeout`` seconds, unless a timer runs already."""

    def _state_changed(self) -> None:
        """The connection has begun to close: wake the tasks that wait."""

    def _ended(self, last: bytes | None, *, opening: bool) -> None:
        """The state is CLOSED: close the transport, and wake the tasks that wait.

        Args:
            last: bytes that the transport may still send, if that is possible without waiting; or None.
            opening: whether the state was CONNECTING before.
        """


class ClosingHandshake:
    """The state of one connection, its Close frames, and why it ended.

    Args:
        connection: notified of each change until the state is CLOSED. Then the reference to it is dropped,
            so that no reference cycle is left.
        receive_buffer: its messages defer our Close frame.
        write_buffer: sends our Close frame.
        options: ``close_timeout``, for the log.
        client: whether this side is the client.

    Attributes:
        state: CONNECTING, OPEN, CLOSING or CLOSED.
        sent: the Close frame that we sent.
        received: the Close frame that the peer sent.
        peer_first: whether the handshake began with the peer's Close frame.
        closed_locally: whether the application has closed. Messages that it had not received by then are
            dropped.
        cause: the exception if the transport broke, or None.
        deferred: the peer's Close frame or violation, while our Close frame waits until the application has
            received all messages before it.
        answers_over: the answer to the peer's Close frame is deferred if more messages than this wait.
    """

    __slots__ = (
        "_client",
        "_connection",
        "_options",
        "_receive_buffer",
        "_write_buffer",
        "answers_over",
        "cause",
        "closed_locally",
        "deferred",
        "peer_first",
        "received",
        "sent",
        "state",
    )

    def __init__(
        self,
        connection: ClosingConnection,
        receive_buffer: ReceiveBuffer,
        write_buffer: WriteBuffer,
        options: Options,
        *,
        client: bool,
    ) -> None:
        self._connection: ClosingConnection | None = connection
        self._receive_buffer = receive_buffer
        self._write_buffer = write_buffer
        self._options = options
        self._client = client
        self.state = CONNECTING
        self.sent: CloseFrame | None = None
        self.received: CloseFrame | None = None
        self.peer_first = False
        self.closed_locally = False
        self.cause: BaseException | None = None
        self.deferred: CloseFrame | ProtocolViolation | None = None
        self.answers_over = 0

    # -- states -------------------------------------------------------------------------------------

    def _set_state(self, state: int) -> None:
        """Move to a later state; the same one again changes nothing."""
        if state != self.state:
            assert state in _FOLLOWING[self.state], f"no way from state {self.state} to {state}"
            self.state = state
            self._write_buffer.fast_send_limit = 0

    def opened(self) -> None:
        """The opening handshake is done."""
        self._set_state(OPEN)

    def rejecting(self) -> None:
        """The parts of an HTTP response follow, and nothing else."""
        self._set_state(CLOSING)

    def rejected(self) -> None:
        """An HTTP response, which rejects the client, is in the write buffer: close behind it."""
        if self.state == CLOSED:
            return  # it could not be written
        self._set_state(CLOSING)
        self._start_timer()
        self._close_transport_when_written()

    def _start_timer(self) -> None:
        if self._connection is not None:
            self._connection._start_close_timer()

    def _state_changed(self) -> None:
        if self._connection is not None:
            self._connection._state_changed()

    # -- our Close ----------------------------------------------------------------------------------

    def start(self, code: int, reason: str) -> None:
        """Send a Close frame, if none was sent, and start the close timer."""
        if self._send_close(code, reason):
            self._start_timer()

    def start_locally(self, code: int, reason: str) -> None:
        """The same on behalf of the application, which takes no more messages."""
        if self.received is None and not self._receive_buffer.finished:
            self.refuse_messages()
        self.send_deferred()
        self.start(code, reason)

    def refuse_messages(self) -> None:
        """The application closes, or rejects the client."""
        self.closed_locally = True
        self._receive_buffer.discard()

    def _send_close(self, code: int, reason: str, *, last: bool = False) -> bool:
        write_buffer = self._write_buffer
        if self.sent is not None or self.state not in (OPEN, CLOSING) or write_buffer.broken:
            return False
        if not self._receive_buffer.opened:
            return False  # rejected: an HTTP response was sent
        self.sent = CloseFrame(code, reason)
        self._set_state(CLOSING)
        write_buffer.flush()
        write_buffer.write_control(CLOSE, close_payload(code, reason), last=last)
        self._state_changed()
        write_buffer.notify_writable()
        return True

    # -- the peer's Close frame, and protocol violations --------------------------------------------

    def on_close(self, frame: CloseFrame) -> None:
        """Answer after the application has received all messages before (RFC 6455 section 5.5.1)."""
        self.received = frame
        self.peer_first = self.sent is None
        waiting = len(self._receive_buffer.messages)
        if self.peer_first and waiting > self.answers_over and not self.closed_locally:
            self.deferred = frame
            self._start_timer()
        else:
            self._answer(frame)

    def on_violation(self, violation: ProtocolViolation) -> None:
        """Fail the connection, after the application has received all messages before the violation."""
        self._log("failing %r with %d: %s", violation.code, violation.reason)
        self.deferred = violation
        if self._receive_buffer.messages and not self.closed_locally:
            self._start_timer()
        else:
            self.send_deferred()

    def send_deferred(self) -> None:
        """Answer the peer's Close frame or violation, if that was deferred."""
        deferred, self.deferred = self.deferred, None
        if isinstance(deferred, CloseFrame):
            self._answer(deferred)
        elif deferred is not None:
            # Send a Close frame with the reason, and then end the sending side (RFC 6455 section 7.1.7).
            self.start(deferred.code, deferred.reason)
            self._write_buffer.end_when_empty()

    def _answer(self, frame: CloseFrame) -> None:
        self._send_close(frame.code, "", last=not self._client)
        if not self._client:
            # RFC 6455 section 7.1.1: the server closes TCP first.
            self._close_transport_when_written()
        if self.state == CLOSING:
            self._start_timer()

    def _close_transport_when_written(self) -> None:
        self._write_buffer.close_when_empty()
        if not self._write_buffer.blocked:
            self.abort(None)

    # -- the end ------------------------------------------------------------------------------------

    def timed_out(self) -> None:
        """End the connection after ``close_timeout``. If our Close frame was deferred, send it first."""
        receive_buffer = self._receive_buffer
        if self.deferred is not None:
            unsent = self.sent is None
            self.send_deferred()
            if unsent and self.sent is not None:
                self._write_buffer.close_when_empty()
                if self._write_buffer.blocked:
                    return  # the Close frame now has the same time to be written
        elif self.state != CLOSED and receive_buffer.opened and not receive_buffer.done:
            self._log("no Close frame from %r in close_timeout (%s s)", self._options.close_timeout)
        self.abort(None, in_time=False)

    def give_up(self, reason: str) -> None:
        """End the connection, because keepalive has found that the peer is gone."""
        if self.state == OPEN:
            self._log("giving up %r: %s", reason)
            self.start(1011, reason)
            self.abort(TimeoutError(reason))

    def write_failed(self, cause: BaseException) -> None:
        """Close, because nothing can be sent any more. Data that the peer sent before may still arrive."""
        if self.state == CONNECTING:
            self.abort(cause)
        elif self.state != CLOSED:
            self.cause = cause
            self._set_state(CLOSING)
            self._start_timer()
            self._state_changed()

    def abort(self, cause: BaseException | None, *, in_time: bool = True) -> None:
        """End the connection at once.

        Args:
            cause: the exception if the transport broke; None after a normal end, or if this side ends it.
            in_time: whether unsent data may still be sent, if that is possible without waiting. False after
                ``close_timeout``.
        """
        opening = self.state == CONNECTING
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._set_state(CLOSED)
        self._receive_buffer.closed = True
        if cause is not None and self.received is None:
            self.cause = self.cause or cause
        unsent = self._write_buffer.discard()
        connection._ended(unsent if in_time and self.sent is not None else None, opening=opening)

    @property
    def ended_cleanly(self) -> bool:
        """Whether the peer closed with code 1000, 1001 or none, before the application did."""
        return not self.closed_locally and self.received is not None and self.received.code in _CLEAN

    @property
    def shown(self) -> CloseFrame:
        """The Close frame with the reason for the end: the peer's, else ours, else one with code 1006."""
        return self.received or self.sent or CloseFrame(1006, "")

    def closed_error(self) -> ConnectionClosedError:
        """The error for a method that needs an open connection, now that it is closed."""
        frame = self.shown
        kind = ConnectionClosedLocallyError if self.closed_locally else ConnectionClosedError
        error = kind(frame.code, frame.reason, sent=self.sent, received=self.received)
        error.__cause__ = self.cause
        return error

    def ended_error(self) -> ConnectionEndedError:
        """The error for a method that must return a message, after a clean end."""
        frame = self.shown
        return ConnectionEndedError(frame.code, frame.reason, sent=self.sent, received=self.received)

    def _log(self, text: str, *args: object) -> None:
        if self._connection is not None:
            logger.info(text, self._connection, *args, extra=log_extra(self._connection))
