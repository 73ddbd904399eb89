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
from trio_ws.websocket._notify import Bell
from trio_ws.websocket.frame_log import traced
from trio_ws.websocket.lifetime import CLOSED, OPEN, Lifetime
from trio_ws.websocket.transport import BIG_READ_SIZE, BLIND_WAITS, READ_SIZE, SocketTransport

if TYPE_CHECKING:
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.runtime import Service
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
        "_blind",
        "_fragmenting",
        "_minded",
        "_parts_open",
        "_paused",
        "_reading",
        "_shared",
        "_threshold",
        "_trailing",
        "_unfed",
        "_unread_since",
        "_unyielded",
        "_watching",
    )

    def __init__(self, transport: Transport, service: Service, options: Options, *, client: bool) -> None:
        super().__init__(transport, service, options, client=client)
        self._threshold = 0  # the least payload that is compressed
        self._fragmenting: trio.Lock | None = None  # held while one message goes out in fragments
        self._unyielded = 0  # sends since one of them, or a wait for input, last gave way to other tasks
        self._trailing = b""  # what came before the opening handshake was done
        self._watching: trio.CancelScope | None = None  # around the task that reads until then
        # Reading.
        self._parts_open = False  # a message was begun by recv_streaming() and is not at its end
        self._reading = False  # somebody holds the reading role
        self._shared = False  # it is the service's reader, for good
        self._unread_since = 0  # the service's tick at which the last reader left
        self._minded = not transport.self_reading  # the minder looks at it, or need not
        self._blind = 0  # waits for the socket that are to come without a look into it first
        self._paused = False  # a reader, in _room or shared, waits for the inbox to be emptied
        self._unfed = b""  # bytes that were read, for the next turn or when the inbox has room

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
        if self._opening is not None and not self._letting_in:
            self._let_in()
        self._set_plain_room()
        self._service.keepalive.watch(self)
        if self._watching is None:
            self._begin_reading(shared=not (trailing and deflate))
        else:
            self._watching.cancel()  # and that task does it
        if trailing:
            self._feed(trailing)

    def _begin_reading(self, *, shared: bool = True) -> None:
        if shared and self._transport.share(self._service.reader, self):
            self._reading = self._shared = True
        elif self._transport.self_reading:
            self._unread_since = self._service.tick
            if not self._minded:
                self._service.unread(self)
        else:
            self._service.nursery.start_soon(self._attend, name="trio_ws reader")

    def _watch_soon(self) -> None:
        """Notice from now on when a client leaves that is not let in yet, if it is not let in at once."""
        self._unread_since = self._service.tick
        self._service.unread(self)

    @enable_ki_protection
    async def _watch(self) -> None:
        """Read until the client is let in. What it says is for later; that it leaves is the end."""
        if self._frames is not None:
            return  # it was let in before this task began
        try:
            with trio.CancelScope() as self._watching:
                while self._state != CLOSED:
                    await self._advance()
            if self._watching.cancelled_caught:  # by _open()
                self._begin_reading(shared=not self._unfed)
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

    async def _advance(self) -> bool:
        """Wait until bytes or the end may have changed something, reading if nobody else does.

        Returns whether this task read and others had been waiting for it.
        """
        if self._unfed and not (self._ledger.received and self._full):
            await checkpoint()  # what is left is work, and others have a turn
            data, self._unfed = self._unfed, b""
            self._feed(data)
            if self._paused and not self._full:
                self._make_room()
            return self._arrived.ring() > 0
        if self._reading or (self._ledger.received and self._full):
            await self._arrived.wait()
            return False
        self._reading = True
        transport = self._transport
        data = b""
        cause: BaseException | None = None
        try:
            if isinstance(transport, SocketTransport):
                # What its receive() does, without a coroutine more: an idle connection spends its life here.
                if not self._blind:
                    # A peer that answers at once has mostly done so one turn later, and to look then costs a
                    # third of a wait. Where it has not, the next waits do without a look.
                    await checkpoint()
                    try:
                        data = transport.recv_now(READ_SIZE)
                    except BlockingIOError:
                        self._blind = BLIND_WAITS
                if self._blind:
                    self._blind -= 1
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
            if not size or self._unfed:
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

    def _feed(self, data: bytes, *, sliced: bool = False) -> int:
        """Take what one read brought; give the number of messages in it."""
        frames, inbox = self._frames, self._inbox
        if frames is None:
            self._came_early(data)
            return 0
        self._life = True
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
            return self._feed_slices(frames, data)
        else:
            held = frames.held
            taken = frames.feed(data, FRAMES_AT_ONCE)
            new = len(inbox) - before
            charge = frames.size_of_new(new) - held + OVERHEAD * new
            ledger.received += charge
            if ledger.received > ledger.max_received >> 2:
                self._charge_texts(new, charge)
        if taken != len(data):
            self._unfed = data[taken:]
        if frames.events:
            self._take_events(frames)
        if self._closed_locally:
            inbox.clear()
        return new

    def _feed_slices(self, frames: FrameReader, data: bytes) -> int:
        """Take a read in small parts; leave the rest for later once that was much or the inbox is full."""
        ledger, deflate = self._ledger, self._deflate
        assert deflate is not None
        enough = ledger.received + _INFLATED_AT_ONCE
        stop = frames.begun + deflate.streams_ended + FRAMES_AT_ONCE
        start = messages = 0
        while start < len(data):
            much = ledger.received >= enough or frames.begun + deflate.streams_ended >= stop
            if much or (ledger.received and self._full):
                self._unfed = data[start:]
                break
            end = start + (frames.at_once or _COMPRESSED_SLICE)  # a plain frame stays as long as it is
            messages += self._feed(data[start:end], sliced=True)
            if self._unfed:
                self._unfed += data[end:]
                break
            start = end
        return messages

    def _charge_texts(self, new: int, charged: int) -> None:
        """Charge text for what it takes in Python: up to four times its bytes, if it has characters that do.

        It was charged for its bytes, and is looked at only once much waits: all of it then, and from there on
        what comes.
        """
        ledger, inbox = self._ledger, self._inbox
        if ledger.received - charged <= ledger.max_received >> 2:
            new = len(inbox)
        for item in islice(reversed(inbox), new):
            if type(item) is str and not item.isascii():
                ledger.received += getsizeof(item) - len(item)

    def _emptied(self) -> None:
        """The application has taken everything out of the inbox."""
        self._ledger.received = 0
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
