"""Endpoint: the machine under a WebSocket. It moves bytes, frames and states; `WebSocket` is its face.

Reading. One task at a time holds the *reading role*: it waits for bytes in `_advance` and gives them to
the synchronous `_feed`. Whoever wants something of the peer (a message, a pong, the end) takes the role, or
parks until its holder has changed something. Where nobody wants anything, the service's minder lends a task
(`_attend`), which gives the role back as soon as somebody asks. On Linux, the plain sockets of a service that
has many leave the role to its one reader (see reader.py) for good. The reader never waits for a writer.

What always holds:

- State only grows: CONNECTING, OPEN, CLOSING (a Close frame went one way), CLOSED (the transport is gone).
- State changes in synchronous code. A cancelled task leaves it whole, because it was at a wait.
- Received bytes that wait here are bounded: at ``max_queue_bytes`` we stop reading. Replies to pings and to
  a close have their own small room in the outbox.
- Entering CLOSING sets an end to all of it: `_end` comes after ``close_timeout`` at the latest.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import checkpoint, enable_ki_protection, wait_readable

from trio_ws.errors import CloseFrame, ConnectionClosedError, ConnectionClosedLocallyError
from trio_ws.websocket.bell import Bell
from trio_ws.websocket.outbox import Outbox
from trio_ws.websocket.trace import about, traced
from trio_ws.websocket.transport import BIG_READ_SIZE, READ_SIZE, SocketTransport
from trio_ws.wire.frames import (
    CLOSE,
    FIN,
    PING,
    PONG,
    FrameReader,
    Ping,
    Pong,
    Violation,
    close_payload,
    masked_frame,
    server_frame,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from trio_ws.options import Options
    from trio_ws.websocket.service import Service
    from trio_ws.websocket.transport import Transport
    from trio_ws.wire.deflate import PerMessageDeflate

__all__ = ["CLOSED", "CLOSING", "CONNECTING", "OPEN", "Endpoint"]

logger = logging.getLogger("trio_ws.websocket")

CONNECTING, OPEN, CLOSING, CLOSED = range(4)

#: Charged against ``max_queue_bytes`` for each message beside its bytes: what the objects weigh.
MESSAGE_OVERHEAD = 128

#: Compressed bytes that are taken at once: they may inflate a thousandfold, and a read is 64 KiB.
_COMPRESSED_SLICE = 512
#: Inflated bytes after which the rest of a read waits for the next turn, about a millisecond.
_INFLATED_AT_ONCE = 256 * 1024

#: Reads of big messages in one turn: about 0.7 ms, 2 ms with masks in Python or text beyond ASCII.
_READS_IN_A_ROW = 5

#: Each connection of this process has a number, for logs.
_numbers = itertools.count(1)

_KEEPALIVE = b"trio_ws keepalive"

# Close codes after which reading ends quietly: normal, going away, and none given.
_CLEAN = frozenset({1000, 1001, 1005})


class Owner(Protocol):
    """Whoever uses an endpoint beside the tasks that wait in it."""

    def take(self, lent: Any) -> Awaitable[None] | None:
        """The shared reader has read. What this gives goes on in the task that was lent for reading."""

    def changed(self) -> None:
        """The state has changed."""

    def ended(self) -> None:
        """The connection is at its end."""

    def go_away(self, code: int, reason: str) -> None:
        """The server stops: close when that is convenient, and soon."""


class Endpoint:
    """See the module's text."""

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_cause",
        "_client",
        "_close_received",
        "_close_sent",
        "_closed_locally",
        "_deflate",
        "_fragmenting",
        "_frames",
        "_inbox",
        "_last_word",
        "_latency",
        "_life",
        "_minded",
        "_number",
        "_options",
        "_outbox",
        "_owner",
        "_parts_open",
        "_paused",
        "_peer_closed_first",
        "_pings",
        "_plain_room",
        "_queued",
        "_reading",
        "_room",
        "_round_trip",
        "_service",
        "_shared",
        "_state",
        "_threshold",
        "_transport",
        "_unfed",
        "_unread_since",
        "_unyielded",
    )

    def __init__(self, transport: Transport, service: Service, options: Options, *, client: bool) -> None:
        self._number = next(_numbers)
        self._transport = transport
        self._service = service
        self._options = options
        self._client = client
        self._state = CONNECTING
        self._inbox: deque[str | bytes] = deque()
        self._outbox = Outbox(transport, service, self._write_failed)
        self._frames: FrameReader | None = None
        self._deflate: PerMessageDeflate | None = None
        # The high-water mark while messages may go out as they are: on a server's connection that is open,
        # uncompressed, and not in the middle of a message; else 0. Spares each send five looks.
        self._plain_room = 0
        self._threshold = 0  # the least payload that is compressed
        self._fragmenting: trio.Lock | None = None  # held while one message goes out in fragments
        self._unyielded = 0  # sends since one of them, or a wait for input, last gave way to other tasks
        # Reading.
        self._parts_open = False  # a message was begun by recv_streaming() and is not at its end
        self._reading = False  # somebody holds the reading role
        self._shared = False  # it is the service's reader, for good
        self._unread_since = 0  # the service's tick at which the last reader left
        self._minded = not transport.self_reading  # the minder looks at it, or need not
        self._arrived = Bell()  # rings when bytes, or the end, may have changed something
        self._queued = 0  # what waits in the inbox: never less than it weighs, 0 once it was found empty
        self._paused = False  # a reader, in _room or shared, waits for the inbox to be emptied
        self._room: Bell | None = None
        self._unfed = b""  # compressed bytes that were read, for the next turn or when the inbox has room
        self._life = False  # bytes came since keepalive last looked
        self._pings: dict[bytes, float] | None = None  # unanswered pings and when they were sent
        self._latency: float | None = None
        self._round_trip: float | None = None  # what the opening handshake took, on clients
        self._owner: Owner | None = None
        # The end.
        self._close_sent: CloseFrame | None = None
        self._close_received: CloseFrame | None = None
        self._peer_closed_first = False
        self._closed_locally = False  # by the application; then what it had not yet received is dropped
        self._cause: BaseException | None = None
        # The peer's Close, or what it did wrong, while the application has not taken all that came before:
        # our Close frame waits, so that it can answer.
        self._last_word: CloseFrame | Violation | None = None

    def _open(self, deflate: PerMessageDeflate | None, trailing: bytes) -> None:
        """The opening handshake is done; ``trailing`` came behind it."""
        self._deflate = deflate
        if deflate is not None and self._options.deflate is not None:
            self._threshold = self._options.deflate.threshold
        self._frames = FrameReader(
            self._inbox,
            client=self._client,
            max_message_size=self._options.max_message_size,
            deflate=deflate,
        )
        self._transport = self._outbox.transport = traced(self, self._transport)
        self._state = OPEN
        self._set_plain_room()
        self._service.keepalive.watch(self)
        if not (trailing and deflate) and self._transport.share(self._service.reader, self):
            self._reading = self._shared = True
        elif self._transport.self_reading:
            self._unread_since = self._service.tick
            self._service.unread(self)
        else:
            self._service.nursery.start_soon(self._attend, name="trio_ws reader")
        if trailing:
            self._feed(trailing)

    # -- reading ------------------------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return self._queued >= self._options.max_queue_bytes and not self._no_more_messages

    async def _advance(self) -> bool:
        """Wait until bytes or the end may have changed something, reading if nobody else does.

        Returns whether this task read and others had been waiting for it.
        """
        if self._unfed and not (self._queued and self._full):
            await checkpoint()  # to inflate is work, and others have a turn
            data, self._unfed = self._unfed, b""
            self._feed(data)
            if self._paused and not self._full:
                self._make_room()
            return self._arrived.ring() > 0
        if self._reading or (self._queued and self._full):
            await self._arrived.wait()
            return False
        self._reading = True
        transport = self._transport
        data = b""
        cause: BaseException | None = None
        try:
            if isinstance(transport, SocketTransport):
                # What its receive() does, without a coroutine more: an idle connection spends its life here.
                await wait_readable(transport.fd)
                data = transport.recv_now(READ_SIZE)
            else:
                data = await transport.receive()
        except BlockingIOError:
            return False  # woken for nothing; the caller comes again
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            cause = exc
        finally:
            self._reading = False
            self._unread_since = self._service.tick
            if not self._minded:
                self._service.unread(self)
            # Whoever parked while we read must see what came, or read in our place if we were cancelled.
            others = self._arrived.ring()
        if data:
            self._feed(data)
            if len(data) == READ_SIZE and self._deflate is None and isinstance(transport, SocketTransport):
                self._read_on(transport)
        else:
            self._end(cause)
        return others > 0

    def _read_on(self, transport: SocketTransport) -> int:
        """Take what has come of a big message, and of more of them, without a turn of the scheduler each.

        Returns how many bytes that was.
        """
        total = 0
        for _ in range(_READS_IN_A_ROW):
            size = self._frames.at_once if self._frames is not None and not self._full else 0
            if not size:
                break
            try:
                data = transport.recv_now(min(size, BIG_READ_SIZE))
            except BlockingIOError:
                break
            except OSError as exc:
                self._end(exc)
                break
            if not data:
                break  # the next read finds the end again
            total += len(data)
            self._feed(data)
        return total

    @enable_ki_protection
    async def _attend(self) -> None:
        """Read while nobody who wants something does so.

        For a stream this lasts as long as the connection. For a socket it ends once somebody who waits
        has been served, who can read alone from then on.
        """
        lent = self._transport.self_reading
        while self._state != CLOSED:
            if self._full:
                if lent:
                    return  # the application reads again when it has emptied the inbox
                self._paused = True
                self._room = self._room or Bell()
                await self._room.wait()
            elif lent and (self._reading or await self._advance()):
                return
            elif not lent:
                await self._advance()

    def _feed(self, data: bytes, *, sliced: bool = False) -> None:
        """Take what one read brought."""
        frames, inbox = self._frames, self._inbox
        if frames is None:
            return  # the client was rejected, and talks on
        self._life = True
        before = len(inbox)
        if self._deflate is None:
            frames.feed(data)
            self._queued += len(data) + MESSAGE_OVERHEAD * (len(inbox) - before)
        elif len(data) > _COMPRESSED_SLICE and not sliced:
            self._feed_slices(frames, data)
            return
        else:
            held = frames.held
            frames.feed(data)
            new = len(inbox) - before
            self._queued += frames.size_of_new(new) - held + MESSAGE_OVERHEAD * new
        if frames.events:
            self._take_events(frames)
        if self._closed_locally:
            inbox.clear()

    def _feed_slices(self, frames: FrameReader, data: bytes) -> None:
        """Take a read in small parts; leave the rest for later once that was much or the inbox is full."""
        enough = self._queued + _INFLATED_AT_ONCE
        start = 0
        while start < len(data):
            if self._queued >= enough or (self._queued and self._full):
                self._unfed = data[start:]
                return
            end = start + (frames.at_once or _COMPRESSED_SLICE)  # a plain frame stays as long as it is
            self._feed(data[start:end], sliced=True)
            start = end

    def _emptied(self) -> None:
        """The application has taken everything out of the inbox."""
        self._queued = 0
        if self._paused:
            self._make_room()

    def _make_room(self) -> None:
        if not self._shared:
            assert self._room is not None
            self._paused = False
            self._room.ring()
        elif not self._unfed:
            self._service.reader.resume(self)

    def _take_events(self, frames: FrameReader) -> None:
        events, frames.events = frames.events, []
        for event in events:
            if isinstance(event, Ping):
                if self._state == OPEN:
                    self._outbox.write_control(self._frame(FIN | PONG, event.payload), pong=True)
            elif isinstance(event, Pong):
                self._take_pong(event.payload)
            elif isinstance(event, CloseFrame):
                self._take_close(event)
            else:
                self._take_violation(event)
        self._outbox.flush()

    def _take_pong(self, payload: bytes) -> None:
        pings = self._pings
        if not pings or payload not in pings:
            return
        # A pong answers its ping and, silently, all earlier ones (RFC 6455 section 5.5.3).
        now = trio.current_time()
        kept_alive = _KEEPALIVE in pings
        for sent in list(pings):
            self._latency = now - pings.pop(sent)
            if sent == payload:
                break
        if kept_alive and _KEEPALIVE not in pings:
            self._life = False  # the pong's own bytes, which would put off the next ping
            self._service.keepalive.answered(self)

    # -- writing ------------------------------------------------------------------------------------

    def _set_plain_room(self) -> None:
        plain = self._state == OPEN and not self._client and self._deflate is None
        self._plain_room = self._options.send_high_water if plain else 0

    def _frame(self, first: int, payload: bytes) -> bytes:
        return masked_frame(first, payload) if self._client else server_frame(first, payload)

    def _one_way(self) -> float:
        """Seconds that bytes take to the peer, as far as that is known: half of the best round trip seen."""
        known = [trip for trip in (self._round_trip, self._latency) if trip is not None]
        return min(known) / 2 if known else 0.0

    def _send_ping(self, payload: bytes) -> None:
        if self._pings is None:
            self._pings = {}
        self._pings[payload] = trio.current_time()
        self._outbox.write_control(self._frame(FIN | PING, payload))

    # -- what keepalive asks ------------------------------------------------------------------------

    def _shows_life(self) -> bool:
        """Whether anything moved since the last call.

        Where bytes wait to be written, that they move is all that counts: a peer that takes them may not have
        come to our ping yet, and one that only talks and never takes them is as good as gone.
        """
        outbox = self._outbox
        moved, outbox.moved = outbox.moved, False
        life, self._life = self._life, False
        return moved if outbox.stuck else life or self._full

    def _unheard(self) -> bool:
        """Whether bytes came that nobody has read yet, where that would be a sign of life."""
        return not self._outbox.stuck and self._transport.has_unread()

    @property
    def _over(self) -> bool:
        return self._state == CLOSED

    def _keepalive_ping(self) -> None:
        under_way = self._pings is not None and _KEEPALIVE in self._pings
        if self._state == OPEN and not (under_way and self._outbox.stuck):
            self._send_ping(_KEEPALIVE)

    def _give_up(self, reason: str) -> None:
        if self._state == OPEN:
            logger.info("giving up %r: %s", self, reason, extra=about(self))
            self._start_close(1011, reason)
            self._end(TimeoutError(reason))

    # -- closing ------------------------------------------------------------------------------------

    def _take_violation(self, violation: Violation) -> None:
        """Fail the connection, once the application has taken, and perhaps answered, what came before."""
        logger.info("failing %r with %d: %s", self, violation.code, violation.reason, extra=about(self))
        self._last_word = violation
        if self._inbox and not self._closed_locally:
            self._service.keepalive.closing(self)
        else:
            self._answer_last_word()

    def _answer_last_word(self) -> None:
        """Answer the peer's Close, or what it did wrong."""
        last_word, self._last_word = self._last_word, None
        if isinstance(last_word, CloseFrame):
            self._answer_close(last_word)
        elif last_word is not None:
            # Say what was wrong and that nothing more will come (RFC 6455 section 7.1.7).
            self._start_close(last_word.code, last_word.reason)
            self._outbox.end_when_empty()

    def _close_timed_out(self) -> None:
        """``close_timeout`` is over."""
        if self._last_word is not None:
            unsent = self._close_sent is None
            self._answer_last_word()
            if unsent and self._close_sent is not None:
                self._outbox.close_when_empty()
                if self._outbox.stuck:
                    return  # the application's time is over; now the Close frame has as long to go out
        elif self._state != CLOSED and self._frames is not None and not self._frames.done:
            logger.info(
                "no Close frame from %r in close_timeout (%s s)",
                self,
                self._options.close_timeout,
                extra=about(self),
            )
        self._end(None, in_time=False)

    def _write_failed(self, cause: BaseException) -> None:
        """Nothing can go out any more. What the peer sent before it left, perhaps a Close, may yet come."""
        if self._state == CONNECTING:
            self._end(cause)
        elif self._state != CLOSED:
            self._cause = cause
            self._state = CLOSING
            self._plain_room = 0
            self._service.keepalive.closing(self)
            self._state_changed()

    def _start_close(self, code: int, reason: str) -> None:
        """Send a Close frame, if none was sent; the end is to come in time."""
        if self._send_close(code, reason):
            self._service.keepalive.closing(self)

    def _send_close(self, code: int, reason: str) -> bool:
        if self._close_sent is not None or self._state not in (OPEN, CLOSING) or self._outbox.broken:
            return False
        if self._frames is None:
            return False  # rejected: an HTTP response went out
        self._close_sent = CloseFrame(code, reason)
        self._state = CLOSING
        self._plain_room = 0
        self._outbox.flush()
        self._outbox.write_control(self._frame(FIN | CLOSE, close_payload(code, reason)))
        self._state_changed()
        self._outbox.room.ring()
        return True

    def _state_changed(self) -> None:
        self._arrived.ring()
        if self._owner is not None:
            self._owner.changed()

    def _begin_close(self, code: int, reason: str) -> None:
        """Close on behalf of the application, up to where that would have to wait."""
        if self._close_received is None and not self._no_more_messages:
            self._closed_locally = True
        if self._last_word is not None:
            self._answer_last_word()
        self._start_close(code, reason)
        if self._closed_locally:
            self._inbox.clear()
            self._emptied()

    def _take_close(self, frame: CloseFrame) -> None:
        """Answer once the application has taken what came before (RFC 6455 section 5.5.1 allows that)."""
        self._close_received = frame
        self._peer_closed_first = self._close_sent is None
        if self._peer_closed_first and self._inbox and not self._closed_locally:
            self._last_word = frame
            self._service.keepalive.closing(self)
        else:
            self._answer_close(frame)

    def _answer_close(self, frame: CloseFrame) -> None:
        self._send_close(frame.code, "")
        if not self._client:
            # RFC 6455 section 7.1.1: the server is the one to end TCP.
            self._outbox.close_when_empty()
            if not self._outbox.stuck:
                self._end(None)
                return
        if self._state == CLOSING:
            self._service.keepalive.closing(self)

    def _end(self, cause: BaseException | None, *, in_time: bool = True) -> None:
        """The transport is at its end, or is to be: nothing can come or go any more.

        A Close frame that has had its time gets no more of it.
        """
        if self._state == CLOSED:
            return
        self._state = CLOSED
        self._plain_room = 0
        if cause is not None and self._close_received is None:
            self._cause = self._cause or cause
        self._service.keepalive.forget(self)
        unsent = self._outbox.drop()
        self._transport.close(unsent if in_time and self._close_sent is not None else None)
        self._pings = None
        self._arrived.ring()
        if self._room is not None:
            self._room.ring()
        if self._owner is not None:
            self._owner.ended()

    @property
    def _no_more_messages(self) -> bool:
        """Whether the inbox will stay as it is."""
        frames = self._frames
        return self._state == CLOSED or self._closed_locally or (frames is not None and frames.done)

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
