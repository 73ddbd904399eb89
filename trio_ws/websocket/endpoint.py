"""Endpoint: the machine under a WebSocket, which is its face. Here it reads; lifetime.py has its states.

Reading. One task at a time holds the *reading role*: it waits for bytes in `_advance` and gives them to
the synchronous `_feed`. Whoever wants something of the peer (a message, a pong, the end) takes the role, or
parks until its holder has changed something. Where nobody wants anything, the service's minder lends a task
(`_attend`), which gives the role back as soon as somebody asks. On Linux, the plain sockets of a service that
has many leave the role to its one reader (see reader.py) for good. The reader never waits for a writer.

What always holds:

- What was read is taken in the same step. A cancelled task loses none of it, because it was at a wait.
- Received bytes that wait here are bounded: at ``max_queue_bytes`` we stop reading. Replies to pings and to
  a close have their own small room in the outbox.
"""

from __future__ import annotations

from itertools import islice
from sys import getsizeof
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, enable_ki_protection, wait_readable

from trio_ws.errors import CloseFrame
from trio_ws.ledger import OVERHEAD
from trio_ws.protocol.frames import FIN, FRAMES_AT_ONCE, PONG, FrameReader, Ping, Pong
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.frame_log import with_frame_logging
from trio_ws.websocket.lifetime import CLOSED, OPEN, Lifetime
from trio_ws.websocket.transport import BIG_READ_SIZE, POLLS_TO_SKIP, READ_SIZE, SocketTransport

if TYPE_CHECKING:
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["Endpoint"]

#: Compressed bytes that are taken at once: they may inflate a thousandfold, and a read is 64 KiB.
_COMPRESSED_SLICE = 512
#: Inflated bytes after which the rest of a read waits for the next turn, about a millisecond.
_INFLATED_AT_ONCE = 256 * 1024

#: Reads of big messages in one turn: about 0.7 ms, 2 ms with masks in Python or text beyond ASCII.
_READS_IN_A_ROW = 5


class Endpoint(Lifetime):
    """See the module's text."""

    __slots__ = (
        "_epoll_driven",
        "_fragmenting",
        "_monitored",
        "_parts_open",
        "_pending_input",
        "_polls_to_skip",
        "_reading",
        "_reading_paused",
        "_sends_since_yield",
        "_threshold",
        "_trailing",
        "_unread_since",
        "_watching",
    )

    def __init__(
        self, transport: Transport, runtime: ConnectionRuntime, options: Options, *, client: bool
    ) -> None:
        super().__init__(transport, runtime, options, client=client)
        self._threshold = 0  # the least payload that is compressed
        self._fragmenting: trio.Lock | None = None  # held while one message goes out in fragments
        self._sends_since_yield = (
            0  # sends since one of them, or a wait for input, last gave way to other tasks
        )
        self._trailing = b""  # what came before the opening handshake was done
        self._watching: trio.CancelScope | None = None  # around the task that reads until then
        # Reading.
        self._parts_open = False  # a message was begun by recv_streaming() and is not at its end
        self._reading = False  # somebody holds the reading role
        self._epoll_driven = False  # it is the service's reader, for good
        self._unread_since = 0  # the service's tick at which the last reader left
        self._monitored = not transport.self_reading  # the minder looks at it, or need not
        self._polls_to_skip = 0  # waits for the socket that are to come without a look into it first
        self._reading_paused = False  # a reader, in _room or shared, waits for the inbox to be emptied
        self._pending_input = b""  # bytes that were read, for the next turn or when the inbox has room

    def _open(self, deflate: PerMessageDeflate | None, trailing: bytes) -> None:
        """The opening handshake is done; ``trailing`` came behind it."""
        self._deflate = deflate
        if deflate is not None and self._options.deflate is not None:
            self._threshold = self._options.deflate.threshold
        self._frames = FrameReader(
            self._messages,
            client=self._client,
            max_message_size=self._options.max_message_size,
            deflate=deflate,
        )
        self._transport = self._write_buffer.transport = with_frame_logging(self, self._transport)
        self._state = OPEN
        if self._opening is not None and not self._letting_in:
            self._let_in()
        self._update_fast_send_limit()
        self._runtime.keepalive.register(self)
        if self._watching is None:
            self._begin_reading(shared=not (trailing and deflate))
        else:
            self._watching.cancel()  # and that task does it
        if trailing:
            self._data_received(trailing)

    def _begin_reading(self, *, shared: bool = True) -> None:
        if shared and self._transport.share(self._runtime.reader, self):
            self._reading = self._epoll_driven = True
        elif self._transport.self_reading:
            self._unread_since = self._runtime.sweep_count
            if not self._monitored:
                self._runtime.connection_idle(self)
        else:
            self._runtime.nursery.start_soon(self._read_while_idle, name="trio_ws reader")

    def _watch_soon(self) -> None:
        """Notice from now on when a client leaves that is not let in yet, if it is not let in at once."""
        self._unread_since = self._runtime.sweep_count
        self._runtime.connection_idle(self)

    @enable_ki_protection
    async def _watch(self) -> None:
        """Read until the client is let in. What it says is for later; that it leaves is the end."""
        if self._frames is not None:
            return  # it was let in before this task began
        try:
            with trio.CancelScope() as self._watching:
                while self._state != CLOSED:
                    await self._wait_for_input()
            if self._watching.cancelled_caught:  # by _open()
                self._begin_reading(shared=not self._pending_input)
        finally:
            self._watching = None

    async def _reader_changed(self) -> None:
        """After the client was let in: until it is read as it will be from then on. That takes no time."""
        while self._watching is not None:
            await cancel_shielded_checkpoint()

    def _came_early(self, data: bytes) -> None:
        """Keep what came before the opening handshake was done."""
        raise NotImplementedError

    # -- reading ------------------------------------------------------------------------------------

    async def _wait_for_input(self) -> bool:
        """Wait until bytes or the end may have changed something, reading if nobody else does.

        Returns whether this task read and others had been waiting for it.
        """
        if self._pending_input and not (self._ledger.received and self._queue_full):
            await checkpoint()  # what is left is work, and others have a turn
            data, self._pending_input = self._pending_input, b""
            self._data_received(data)
            if self._reading_paused and not self._queue_full:
                self._resume_reading()
            return self._input_arrived.notify_all() > 0
        if self._reading or (self._ledger.received and self._queue_full):
            await self._input_arrived.wait()
            return False
        self._reading = True
        transport = self._transport
        data = b""
        cause: BaseException | None = None
        try:
            if isinstance(transport, SocketTransport):
                # What its receive() does, without a coroutine more: an idle connection spends its life here.
                if not self._polls_to_skip:
                    # A peer that answers at once has mostly done so one turn later, and to look then costs a
                    # third of a wait. Where it has not, the next waits do without a look.
                    await checkpoint()
                    try:
                        data = transport.recv_now(READ_SIZE)
                    except BlockingIOError:
                        self._polls_to_skip = POLLS_TO_SKIP
                if self._polls_to_skip:
                    self._polls_to_skip -= 1
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
            self._unread_since = self._runtime.sweep_count
            if not self._monitored:
                self._runtime.connection_idle(self)
            # Whoever parked while we read must see what came, or read in our place if we were cancelled.
            others = self._input_arrived.notify_all()
        if data:
            self._data_received(data)
            if len(data) == READ_SIZE and self._deflate is None and isinstance(transport, SocketTransport):
                self._read_more(transport)
        else:
            self._abort(cause)
        return others > 0

    def _read_more(self, transport: SocketTransport) -> int:
        """Take what has come of a big message, and of more of them, without a turn of the scheduler each.

        Returns how many bytes that was.
        """
        total = 0
        for _ in range(_READS_IN_A_ROW):
            size = self._frames.at_once if self._frames is not None and not self._queue_full else 0
            if not size or self._pending_input:
                break
            try:
                data = transport.recv_now(min(size, BIG_READ_SIZE))
            except BlockingIOError:
                break
            except OSError as exc:
                self._abort(exc)
                break
            if not data:
                break  # the next read finds the end again
            total += len(data)
            self._data_received(data)
        return total

    @enable_ki_protection
    async def _read_while_idle(self) -> None:
        """Read while nobody who wants something does so.

        For a stream this lasts as long as the connection. For a socket it ends once somebody who waits
        has been served, who can read alone from then on.
        """
        lent = self._transport.self_reading
        while self._state != CLOSED:
            if self._queue_full:
                if lent:
                    return  # the application reads again when it has emptied the inbox
                self._reading_paused = True
                self._queue_has_room = self._queue_has_room or Notification()
                await self._queue_has_room.wait()
            elif lent and (self._reading or await self._wait_for_input()):
                return
            elif not lent:
                await self._wait_for_input()

    def _data_received(self, data: bytes, *, sliced: bool = False) -> int:
        """Take what one read brought; give the number of messages in it."""
        frames, inbox = self._frames, self._messages
        if frames is None:
            self._came_early(data)
            return 0
        self._received_since_check = True
        before = len(inbox)
        ledger = self._ledger
        if self._deflate is None:
            taken = frames.feed(data, FRAMES_AT_ONCE)
            new = len(inbox) - before
            charge = taken + OVERHEAD * new
            received = ledger.received = ledger.received + charge
            if received > ledger.max_received >> 2:
                self._charge_texts(new, charge)
        elif len(data) > _COMPRESSED_SLICE and not sliced:
            return self._data_received_sliced(frames, data)
        else:
            held = frames.held
            taken = frames.feed(data, FRAMES_AT_ONCE)
            new = len(inbox) - before
            charge = frames.size_of_new(new) - held + OVERHEAD * new
            ledger.received += charge
            if ledger.received > ledger.max_received >> 2:
                self._charge_texts(new, charge)
        if taken != len(data):
            self._pending_input = data[taken:]
        if frames.events:
            self._handle_events(frames)
        if self._closed_locally:
            inbox.clear()
        return new

    def _data_received_sliced(self, frames: FrameReader, data: bytes) -> int:
        """Take a read in small parts; leave the rest for later once that was much or the inbox is full."""
        ledger, deflate = self._ledger, self._deflate
        assert deflate is not None
        enough = ledger.received + _INFLATED_AT_ONCE
        stop = frames.begun + deflate.streams_ended + FRAMES_AT_ONCE
        start = messages = 0
        while start < len(data):
            much = ledger.received >= enough or frames.begun + deflate.streams_ended >= stop
            if much or (ledger.received and self._queue_full):
                self._pending_input = data[start:]
                break
            end = start + (frames.at_once or _COMPRESSED_SLICE)  # a plain frame stays as long as it is
            messages += self._data_received(data[start:end], sliced=True)
            if self._pending_input:
                self._pending_input += data[end:]
                break
            start = end
        return messages

    def _charge_texts(self, new: int, charged: int) -> None:
        """Charge text for what it takes in Python: up to four times its bytes, if it has characters that do.

        It was charged for its bytes, and is looked at only once much waits: all of it then, and from there on
        what comes.
        """
        ledger, inbox = self._ledger, self._messages
        if ledger.received - charged <= ledger.max_received >> 2:
            new = len(inbox)
        for item in islice(reversed(inbox), new):
            if type(item) is str and not item.isascii():
                ledger.received += getsizeof(item) - len(item)

    def _queue_emptied(self) -> None:
        """The application has taken everything out of the inbox."""
        self._ledger.received = 0
        if self._reading_paused:
            self._resume_reading()

    def _resume_reading(self) -> None:
        if not self._epoll_driven:
            assert self._queue_has_room is not None
            self._reading_paused = False
            self._queue_has_room.notify_all()
        elif not self._pending_input:
            self._runtime.reader.resume(self)

    def _handle_events(self, frames: FrameReader) -> None:
        events, frames.events = frames.events, []
        for event in events:
            if isinstance(event, Ping):
                if self._state == OPEN:
                    self._write_buffer.write_control(self._frame(FIN | PONG, event.payload), pong=True)
            elif isinstance(event, Pong):
                self._on_pong(event.payload)
            elif isinstance(event, CloseFrame):
                self._on_close(event)
            else:
                self._on_violation(event)
        self._write_buffer.flush()
