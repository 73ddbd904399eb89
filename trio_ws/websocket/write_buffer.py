"""WriteBuffer: the frames that wait to be written to one connection.

It takes whole frames only, from synchronous code, so that no cancellation can leave half a frame behind: a
frame that is in here is finished, or the connection is broken.

A frame may be added before it is made (see deferred_frame.py): it has its place here, and frames that come
after it wait.

It has three states: *empty* (a frame is offered to the socket at once), *flush scheduled* (frames of one
burst are gathered, and a flush is due in this scheduler round), *draining* (the socket is full, and a task
waits for it).

Invariants: ``size`` counts every byte that was added and not yet handed to the kernel. Control frames have
4 KiB of their own beyond any mark, and past that only the latest pong is kept (RFC 6455 section 5.5.3 lets
a peer answer only the latest ping).
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.protocol._accel import frame_head, send_frame, whole_frame
from trio_ws.protocol.frames import FIN
from trio_ws.protocol.framing import make_frame
from trio_ws.protocol.masking import extension
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.deferred_frame import DeferredFrame
from trio_ws.websocket.transport import SEND_SIZE, WRITE_SIZE, SocketTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ws.protocol.framing import Unframed
    from trio_ws.websocket.transport import Transport

__all__ = [
    "FLUSH_COST",
    "LARGE",
    "WriteBuffer",
    "buffer_each",
    "buffer_many",
    "flush_row",
    "python_buffer_each",
    "python_flush_row",
]

#: The work of flushing a write buffer, in addition to its bytes. As in protocol/speedups/common.h.
FLUSH_COST = 8 * 1024

#: Payloads of at least this many bytes are written separately from their header, to avoid a copy, and are not
#: joined to others. As in protocol/speedups/common.h.
LARGE = 16 * 1024
#: A burst is flushed early once it has gathered this much.
_FLUSH_AT = 65536
#: The maximum size of waiting control frames, in addition to the same size of those that are being written.
_CONTROL_ROOM = 2048


#: The parts of all write buffers that are empty. Nothing is ever added to it.
_NO_PARTS: list[bytes | memoryview | DeferredFrame] = []


class WriteObserver(Protocol):
    """The closing handshake of the connection."""

    def write_failed(self, cause: BaseException) -> None:
        """Called once, with the cause, when writing has failed."""


class DrainObserver(Protocol):
    """A subscriber of channels."""

    def drained(self) -> None:
        """Called when a socket that was full has accepted everything."""


class WriteRuntime(Protocol):
    """The attributes of a runtime that a write buffer uses (see runtime.py)."""

    nursery: trio.Nursery

    def flush_soon(self, write_buffer: WriteBuffer) -> None:
        """Call its `flush` at the end of this scheduler round."""

    def flush_all_soon(self, write_buffers: Iterable[WriteBuffer]) -> None:
        """The same for several."""


class WriteBuffer:
    """The frames that wait to be written to one connection. See the module docstring.

    Args:
        transport: writes the bytes.
        runtime: provides the task that drains, and the flusher.
        client: whether this side is the client, whose frames are masked.

    Attributes:
        client: the same.
        whole: `UNFRAMED` if messages are written without frames (see hosting/websocket.py), otherwise None.
        transport: the transport, with frame logging if that is enabled.
        closing: the closing handshake, which is told when writing has failed; None after the end.
        fast_send_limit: the high-water mark on an open, uncompressed connection of a server that is not
            sending a fragmented message; otherwise 0. It replaces five checks in `WebSocket.send` by one.
        size: the number of bytes that wait.
        broken: whether writing has failed or ended.
        flush_scheduled: whether a flush is scheduled for the end of this scheduler round.
        progressed: whether bytes were written since this was last set to False.
        bytes_sent: the number of bytes that the peer may have received, of all that were ever added. The sum
            of this and `size` at the time when a frame was added shows later whether that frame was sent.
        subscriber: told when a socket that was full has accepted everything; None without one.
    """

    whole: Unframed | None = None

    __slots__ = (
        "_control",
        "_draining",
        "_has_deferred",
        "_latest_pong",
        "_mid_batch",
        "_parts",
        "_runtime",
        "_when_empty",
        "_writable",
        "broken",
        "bytes_sent",
        "client",
        "closing",
        "fast_send_limit",
        "flush_scheduled",
        "progressed",
        "size",
        "subscriber",
        "transport",
    )

    def __init__(self, transport: Transport, runtime: WriteRuntime, *, client: bool = False) -> None:
        self.transport = transport
        self.client = client
        self._runtime = runtime
        self.closing: WriteObserver | None = None
        self.fast_send_limit = 0
        self._parts: list[bytes | memoryview | DeferredFrame] = _NO_PARTS
        self._has_deferred = False  # some of these are not made yet
        self.flush_scheduled = False
        self._draining = False
        self._mid_batch = False  # an end now would come in the middle of a batch
        self._control = 0
        self._latest_pong: bytes | None = None
        self._when_empty: Callable[[], None] | None = None  # called once all is written
        self.subscriber: DrainObserver | None = None
        self.size = 0
        self.broken = False
        self.progressed = False
        self.bytes_sent = 0
        self._writable: Notification | None = None  # made when it is first used

    @property
    def writable(self) -> Notification:
        """Notified whenever bytes of a full buffer were written, and at the end."""
        if self._writable is None:
            self._writable = Notification()
        return self._writable

    def notify_writable(self) -> None:
        """Notify the tasks that wait for `writable`."""
        if self._writable is not None:
            self._writable.notify_all()

    @property
    def blocked(self) -> bool:
        """Whether the peer or the network accepts no more data at the moment."""
        return self._draining

    def write(self, frame: bytes, *, last: bool = False) -> None:
        """Send a frame, now if the socket takes it. After ``last``, call `close_when_empty` in this step."""
        if self.size or self.broken:
            self._append(frame)
            if self.flush_scheduled:
                self.flush()
            return
        size = len(frame)
        try:
            if last:
                sent = self.transport.send_last_now(frame)
            else:
                sent = self.transport.send_now(frame if size <= SEND_SIZE else memoryview(frame)[:SEND_SIZE])
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent != size:
            self._append(memoryview(frame)[sent:] if sent else frame)
            self._drain_soon()

    def write_frame(self, first: int, payload: bytes) -> None:
        """Make an unmasked frame and send it like `write`, or like `write_pair` if it is large."""
        transport = self.transport
        if self.size or self.broken or not transport.direct:
            if len(payload) < LARGE:
                self.write(whole_frame(first, payload, b""))
            else:
                self.write_pair(frame_head(first, len(payload)), payload)
            return
        try:
            rest = send_frame(transport.fd, first, payload)
        except OSError as exc:
            self._break(exc)
            return
        if rest is not None:
            self._append(rest)
            self._drain_soon()

    def write_many(self, frames: list[bytes]) -> None:
        """Send several frames together."""
        self.write(b"".join(frames))

    def write_pair(self, head: bytes, payload: bytes) -> None:
        """Send a large frame without joining its head and its payload."""
        if self.flush_scheduled:
            self.flush()
        if self._parts or self._draining:
            self._append(head)
            self._append(payload)
            return
        if self.broken:
            return
        try:
            sent = self.transport.send_pair_now(head, payload)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._break(exc)
            return
        if sent < len(head):
            self._append(head[sent:])
            self._append(payload)
        elif sent < len(head) + len(payload):
            self._append(memoryview(payload)[sent - len(head) :])
        if self._parts:
            self._drain_soon()

    def buffer(self, frame: bytes | DeferredFrame) -> None:
        """Send a frame with others of this burst: at the next `flush`, at the latest in this round."""
        if self._parts:
            self._parts.append(frame)
        else:
            self._parts = [frame]
        self.size += len(frame)
        if self.flush_scheduled:
            if self.size > _FLUSH_AT:
                self.flush()
        elif not self._draining:
            self.flush_scheduled = True
            self._runtime.flush_soon(self)

    def write_deferred(self, frame: DeferredFrame) -> None:
        """Send a frame that is made when it is to be written, which is at the next `flush` or later."""
        self._has_deferred = True
        self.buffer(frame)

    def write_control(self, opcode: int, payload: bytes, *, pong: bool = False, last: bool = False) -> None:
        """Send a control frame, for which there is always room, but for pongs without end.

        ``last`` is as for `write`.
        """
        frame = make_frame(FIN | opcode, payload, masked=self.client)
        if self._draining:
            late = self._latest_pong
            if pong and (late is not None or self._control + len(frame) > _CONTROL_ROOM):
                self._latest_pong = frame
                return
            if late is not None:  # a Close would leave it behind
                self._latest_pong = None
                self._append(late)
            if self._latest_pong is not None:
                self._append(self._latest_pong)
                self._latest_pong = None
            self._control += len(frame)
            self._append(frame)
        elif pong:
            self.buffer(frame)
        else:
            self.write(frame, last=last)

    def flush(self) -> None:
        """Offer the buffered frames to the socket."""
        self.flush_scheduled = False
        parts = self._parts
        if not parts or self._draining or self.broken:
            return
        if self._has_deferred:
            self._drain_soon()
            return
        data = b"".join(parts)  # type: ignore[arg-type]  # none of them is late
        self._parts = _NO_PARTS
        self.size = 0
        self.write(data)
        if not self.broken:
            self.bytes_sent += len(data) - self.size

    def close_when_empty(self) -> None:
        """Close the transport as soon as all is written, at once if it is."""
        self._do_when_empty(self.transport.close)

    def end_when_empty(self) -> None:
        """Tell the peer that nothing more will come as soon as all is written, at once if it is."""
        self._do_when_empty(self.transport.end_writing)

    def _do_when_empty(self, action: Callable[[], None]) -> None:
        self.flush()
        if self._parts or self._draining:
            self._when_empty = action
        else:
            action()

    def discard(self) -> bytes:
        """Drop waiting data at the end of the connection. Returns the bytes after those being written."""
        unsent = b"" if self._mid_batch or self._has_deferred else b"".join(self._parts)  # type: ignore[arg-type]
        self.broken = True
        self.subscriber = None
        self.closing = None  # break the reference cycle
        self._parts = _NO_PARTS
        self.size = 0
        self.notify_writable()
        return unsent

    def _append(self, frame: bytes | memoryview) -> None:
        if not self.broken:
            if self._parts:
                self._parts.append(frame)
            else:
                self._parts = [frame]
            self.size += len(frame)

    def _break(self, cause: BaseException) -> None:
        closing = self.closing
        self.discard()
        if closing is not None:
            closing.write_failed(cause)

    def _drain_soon(self) -> None:
        self._draining = True
        self.progressed = True  # it has only begun to wait
        self.flush_scheduled = False
        self._runtime.nursery.start_soon(self._drain)

    @enable_ki_protection
    async def _drain(self) -> None:
        transport = self.transport
        try:
            while self._parts:
                parts, self._parts, self._has_deferred = self._parts, _NO_PARTS, False
                self._control = 0
                batches = _batches(parts)
                for batch in batches:
                    rest = await self._make(batch) if isinstance(batch, DeferredFrame) else batch
                    if self.broken:
                        return
                    while rest:
                        # Whether there is more to write before later data.
                        last = batch is batches[-1] and len(rest) <= WRITE_SIZE
                        self._mid_batch = transport.self_reading or not last
                        # A stream that fails does not say how much of it went out before.
                        unsure = 0 if transport.self_reading else min(len(rest), WRITE_SIZE)
                        self.bytes_sent += unsure
                        sent = await transport.send_some(rest)
                        if self.broken:
                            return
                        rest = rest[sent:]
                        self.bytes_sent += sent - unsure
                        self.size -= sent
                        self.progressed = True
                        self.notify_writable()
                self._mid_batch = False
                if self._latest_pong is not None:
                    self._append(self._latest_pong)
                    self._latest_pong = None
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._draining = False
            if not self.broken:
                self._break(exc)
            return
        finally:
            self._draining = False
        if self._when_empty is not None:
            self._when_empty()
        elif self.subscriber is not None:
            self.subscriber.drained()

    async def _make(self, late: DeferredFrame) -> memoryview:
        self._mid_batch = True  # the frames behind it make no sense without it
        frame = await late.frame()
        if not self.broken:
            less = len(late) - len(frame)
            self.size -= less
            self.bytes_sent += less
            self.progressed = True
        return memoryview(frame)


def python_buffer_frame(write_buffer: WriteBuffer, first: int, payload: bytes) -> None:
    """Make an unmasked frame, and call `WriteBuffer.buffer` with it."""
    write_buffer.buffer(whole_frame(first, payload, b""))


#: `python_buffer_frame`, or the same in C, which does without the method in the middle of a burst.
buffer_frame: Callable[[WriteBuffer, int, bytes], None] = (
    python_buffer_frame if extension is None else extension.buffer_frame
)


def buffer_many(write_buffers: list[WriteBuffer], frame: bytes) -> None:
    """Call `buffer` of each."""
    for runtime, due in groupby(buffer_each(write_buffers, frame), attrgetter("_runtime")):
        runtime.flush_all_soon(due)


def python_buffer_each(write_buffers: list[WriteBuffer], frame: bytes) -> list[WriteBuffer]:
    """Do what `buffer` of each does, but for the scheduling of flushes.

    Returns:
        The write buffers whose flush is to be scheduled.
    """
    size = len(frame)
    due: list[WriteBuffer] = []
    for write_buffer in write_buffers:
        if write_buffer._parts:
            write_buffer._parts.append(frame)
        else:
            write_buffer._parts = [frame]
        write_buffer.size += size
        if write_buffer.flush_scheduled:
            if write_buffer.size > _FLUSH_AT:
                write_buffer.flush()
        elif not write_buffer._draining:
            write_buffer.flush_scheduled = True
            due.append(write_buffer)
    return due


def python_flush_row(write_buffers: list[WriteBuffer], start: int, most: int) -> int:
    """Flush write buffers one after the other until that was some work.

    Args:
        write_buffers: the write buffers.
        start: the index of the first.
        most: the work after which to stop: the bytes, and `FLUSH_COST` for each write buffer.

    Returns:
        The index of the next one.
    """
    work = 0
    for index in range(start, len(write_buffers)):
        write_buffer = write_buffers[index]
        work += FLUSH_COST + write_buffer.size
        write_buffer.flush()
        if work >= most:
            return index + 1
    return len(write_buffers)


def _batches(parts: list[bytes | memoryview | DeferredFrame]) -> list[memoryview | DeferredFrame]:
    """The pieces to write one after the other: large parts as they are, small ones between them joined."""
    batches: list[memoryview | DeferredFrame] = []
    for alone, run in groupby(parts, lambda part: isinstance(part, DeferredFrame) or len(part) >= _FLUSH_AT):
        if alone:
            batches.extend(part if isinstance(part, DeferredFrame) else memoryview(part) for part in run)
        else:
            batches.append(memoryview(b"".join(run)))  # type: ignore[arg-type]
    return batches


buffer_each = python_buffer_each
flush_row = python_flush_row
if extension is not None and hasattr(extension, "flush_row"):  # only on Linux
    # Where a message goes to many sockets, a system call each is nearly all that is left of the cost.
    extension.watch_buffers(WriteBuffer, SocketTransport, _NO_PARTS)
    buffer_each, flush_row = extension.buffer_each, extension.flush_row
