"""Links: byte streams in memory that behave like a network, for tests.

A `Link` has two ends, ``link.client`` and ``link.server``. Each is a `trio.abc.HalfCloseableStream` with the
backpressure of a socket. The link can simulate latency, small reads, a lost connection and a partition.

Invariants:

* The only clock is trio's, and there are no background tasks. A byte's arrival time is computed when it is
  sent, and a receiver sleeps until then. With `trio.testing.MockClock`, every time is exact.
* State changes only in synchronous code, so a cancelled method leaves the link consistent. A cancelled
  ``receive_some`` loses no bytes.
* Bytes stay in order, even if the latency is reduced. The end of the stream is delayed like a byte.
"""

from __future__ import annotations

import enum
import math
import operator
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, Unpack

import trio

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Direction", "Link", "LinkOptions", "LinkStream", "MemoryListener"]

DirectionName: TypeAlias = Literal["to_server", "to_client"]


class LinkOptions(TypedDict, total=False):
    """The keyword arguments of `Link`, for functions that pass them on."""

    latency: float
    capacity: int
    max_read: int | None


class _Mark(enum.Enum):
    """Events that are sent through a link in order with the bytes."""

    EOF = enum.auto()
    GONE = enum.auto()  # the sending end was closed, so nothing is sent or read there any more
    BREAK = enum.auto()


class Direction:
    """One direction of a `Link`. Bytes are first in flight, then unread, and then received.

    Attributes:
        capacity: the maximum number of bytes that are in flight or unread. The sender waits beyond it.
        max_read: the maximum number of bytes that one ``receive_some`` returns; None for no limit.
        carried: the number of bytes that were sent since the link was created.
        partitioned: whether arrivals are suspended.
        peer_gone: whether the receiver has noticed that the sending end was closed.
    """

    def __init__(self, latency: float, capacity: int, max_read: int | None) -> None:
        self.latency = latency
        self.capacity = _count("capacity", capacity, 1)
        self.max_read = None if max_read is None else _count("max_read", max_read, 1)
        self.carried = 0
        self.partitioned = False
        self.peer_gone = False
        self._flying: deque[tuple[float, bytes | _Mark]] = deque()
        self._flying_size = 0
        self._unread = bytearray()
        self._end: _Mark | None = None

    @property
    def latency(self) -> float:
        """The latency in seconds of bytes that are sent from now on. Default 0."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not (0 <= seconds < math.inf):
            raise ValueError(f"latency must be 0 seconds or more, and finite, not {seconds}")
        self._latency = seconds

    @property
    def pending(self) -> int:
        """The number of bytes that were sent and not yet received."""
        return self._flying_size + len(self._unread)

    @property
    def room(self) -> int:
        """The number of bytes that can be sent now without waiting."""
        return self.capacity - self.pending

    @property
    def next_arrival(self) -> float:
        """The clock's time of the next arrival; infinity if there is none, or if arrivals are suspended."""
        return math.inf if self.partitioned or not self._flying else self._flying[0][0]

    def put(self, item: bytes | _Mark, delay: float) -> None:
        """Send bytes or a mark, to arrive after ``delay`` seconds and after everything sent before."""
        self._flying.append((trio.current_time() + delay, item))
        if not isinstance(item, _Mark):
            self._flying_size += len(item)
            self.carried += len(item)

    def settle(self) -> None:
        """Make everything arrive that is due, in order."""
        now = trio.current_time()
        while self.next_arrival <= now:
            item = self._flying.popleft()[1]
            if isinstance(item, _Mark):
                self.peer_gone = self.peer_gone or item is _Mark.GONE
                self.end(item)
            else:
                self._flying_size -= len(item)
                self._unread += item

    def end(self, mark: _Mark) -> None:
        """End the stream after the bytes that have arrived. Only the first call has an effect."""
        self._end = self._end or mark

    def lose_flying(self) -> None:
        """Discard all bytes in flight."""
        self._flying.clear()
        self._flying_size = 0

    def take(self, max_bytes: int | None) -> bytes | None:
        """Return the next bytes for ``receive_some``, ``b""`` at the end, or None if it must wait.

        Raises:
            trio.BrokenResourceError: the link is broken, and no bytes are left.
        """
        self.settle()
        if self._unread:
            size = min(n for n in (max_bytes, self.max_read, len(self._unread)) if n is not None)
            data = bytes(self._unread[:size])
            del self._unread[:size]
            return data
        if self._end is _Mark.BREAK:
            raise trio.BrokenResourceError("the link is broken")
        return None if self._end is None else b""


class LinkStream(trio.abc.HalfCloseableStream):
    """One end of a `Link`, with the semantics of `trio.SocketStream`.

    One task may send while another receives. Sending, or receiving, in two tasks at once raises
    `trio.BusyResourceError`. After ``aclose`` on this end, every method raises `trio.ClosedResourceError`.
    When the peer's ``aclose`` has arrived, or the link is cut, sending raises `trio.BrokenResourceError`.

    Attributes:
        link: the link of this end.
    """

    def __init__(self, link: Link, outgoing: Direction, incoming: Direction) -> None:
        self.link = link
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._eof_sent = False
        self._sending = False
        self._receiving = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for at least one byte. A cancellation loses no bytes.

        Returns:
            From 1 to ``max_bytes`` bytes, or ``b""`` at the end of the stream.

        Raises:
            trio.BrokenResourceError: the link is cut, and all bytes that arrived were read.
            trio.ClosedResourceError: this end was closed.
        """
        if max_bytes is not None:
            max_bytes = _count("max_bytes", max_bytes, 1)
        if self._receiving:
            raise trio.BusyResourceError("another task is already receiving from this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                data = self._incoming.take(max_bytes)
                if data is not None:
                    self.link.wake()  # the sender has room now
                    return data
                await self._wait()
        finally:
            self._receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes; wait while the link is at its capacity. A cancellation may leave a part sent.

        Raises:
            trio.BrokenResourceError: the link is cut, or the peer has closed its end. A part may have been
                sent.
            trio.ClosedResourceError: this end was closed, or ``send_eof`` was called.
        """
        with self._only_sender():
            view = memoryview(memoryview(data).tobytes())  # a copy, because the caller may change a bytearray
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            sent = self.link.carry(self._outgoing, view)
            while sent < len(view):
                if not self._outgoing.room:
                    await self._wait()
                self._check_sendable()
                sent += self.link.carry(self._outgoing, view[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the link has room for a byte. Raises like `send_all`."""
        with self._only_sender():
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while not self._outgoing.room:
                await self._wait()
                self._check_sendable()

    async def send_eof(self) -> None:
        """End the stream in this direction. The peer receives ``b""`` after the latency."""
        with self._only_sender():
            await trio.lowlevel.checkpoint()
            self._check_open()
            if self._eof_sent:
                return
            self._check_sendable()
            self._eof_sent = True
            self._outgoing.put(_Mark.EOF, self._outgoing.latency)
            self.link.wake()

    async def aclose(self) -> None:
        """Close this end at once, even if cancelled. Bytes that were sent before still arrive."""
        if not self._closed:
            self._closed = True
            self._outgoing.put(_Mark.GONE, self._outgoing.latency)
            self.link.wake()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _only_sender(self) -> Generator[None, None, None]:
        if self._sending:
            raise trio.BusyResourceError("another task is already sending to this stream")
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called here."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this end of the link was closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof was called on this end of the link")
        self._incoming.settle()
        if self.link.broken or self._incoming.peer_gone:
            raise trio.BrokenResourceError("the link is broken" if self.link.broken else "the peer is gone")

    async def _wait(self) -> None:
        # A sender waits for arrivals too, since the peer's close may be among them.
        with trio.move_on_at(self._incoming.next_arrival):
            await self.link.changed.park()


class Link:
    """A full-duplex byte link in memory between two streams.

    Args:
        latency: the one-way latency in seconds, of bytes and of the end of the stream. Default 0.
        capacity: the maximum number of bytes in each direction that are in flight or unread. ``send_all``
            waits beyond it. Default 64 KiB.
        max_read: the maximum number of bytes that one ``receive_some`` returns, such as 1. Default None: no
            limit.

    Attributes:
        client, server: the two ends.
        to_server, to_client: the two `Direction` objects. ``to_server.carried`` counts bytes, and
            ``to_server.latency`` can be set independently of the other direction.
        broken: whether the link was cut.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, *, latency: float = 0.0, capacity: int = 65536, max_read: int | None = None) -> None:
        self.to_server = Direction(latency, capacity, max_read)
        self.to_client = Direction(latency, capacity, max_read)
        self.client = LinkStream(self, self.to_server, self.to_client)
        self.server = LinkStream(self, self.to_client, self.to_server)
        self.broken = False
        # One lot is enough: at most four tasks wait on a link, and each checks its own condition.
        self.changed = trio.lowlevel.ParkingLot()
        self._cuts: list[_Cut] = []

    @property
    def latency(self) -> float:
        """The one-way latency in seconds, or the greater one of the two. Setting it changes both."""
        return max(self.to_server.latency, self.to_client.latency)

    @latency.setter
    def latency(self, seconds: float) -> None:
        self.to_server.latency = self.to_client.latency = seconds

    @property
    def carried(self) -> int:
        """The number of bytes that were sent in both directions together."""
        return self.to_server.carried + self.to_client.carried

    def cut(self, *, clean: bool = False) -> None:
        """Break the link now. Bytes in flight are lost. Bytes that have arrived can still be read.

        Args:
            clean: whether receivers see the end of the stream instead of `trio.BrokenResourceError`. Sending
                raises `trio.BrokenResourceError` in both cases.
        """
        self.broken = True
        for direction in self._directions(None):
            direction.settle()
            direction.lose_flying()
            direction.end(_Mark.EOF if clean else _Mark.BREAK)
        self.wake()

    def cut_after(self, count: int, *, direction: DirectionName | None = None, clean: bool = False) -> None:
        """Break the link after ``count`` more bytes were sent.

        Bytes that were sent until then arrive normally in both directions, and then the receivers see the
        break. From that moment on, sending raises at both ends. A ``send_all`` that exceeds the count sends
        only the bytes up to it.

        Args:
            count: the number of bytes; 0 breaks the link at once, but bytes in flight still arrive.
            direction: count only ``"to_server"`` or ``"to_client"``. Default None: count both together.
            clean: as in `cut`.
        """
        self._cuts.append(_Cut(self._directions(direction), _count("count", count, 0), clean))
        self._apply_cuts()

    def partition(self, *, direction: DirectionName | None = None) -> None:
        """Let nothing arrive, one way or both, until `heal`. Senders go on until the capacity is full."""
        for one in self._directions(direction):
            one.settle()
            one.partitioned = True
        self.wake()

    def heal(self, *, direction: DirectionName | None = None) -> None:
        """End a partition. Bytes that were due meanwhile arrive now, in order."""
        for one in self._directions(direction):
            one.partitioned = False
        self.wake()

    def carry(self, direction: Direction, data: memoryview) -> int:
        """Send as many bytes as there is room for, up to the next cut; return how many. For `LinkStream`."""
        cuts = [cut for cut in self._cuts if direction in cut.directions]
        count = min([direction.room, len(data)] + [cut.left for cut in cuts])
        if count:
            direction.put(bytes(data[:count]), direction.latency)
            for cut in cuts:
                cut.left -= count
            self._apply_cuts()
            self.wake()
        return count

    def wake(self) -> None:
        """Wake all waiting tasks, which check their condition again. For `LinkStream`."""
        self.changed.unpark_all()

    def _directions(self, name: DirectionName | None) -> tuple[Direction, ...]:
        every = {"to_server": self.to_server, "to_client": self.to_client}
        if name is None:
            return tuple(every.values())
        if name not in every:
            raise ValueError(f"direction is 'to_server', 'to_client' or None for both, not {name!r}")
        return (every[name],)

    def _apply_cuts(self) -> None:
        due = [cut for cut in self._cuts if cut.left == 0]
        if due:
            self.broken = True
            for direction in self._directions(None):
                # Without an additional latency: receivers see the break right after the last byte.
                direction.put(_Mark.EOF if due[0].clean else _Mark.BREAK, 0)
            self.wake()


@dataclass
class _Cut:
    """A scheduled cut: after ``left`` more bytes in any of ``directions``."""

    directions: tuple[Direction, ...]
    left: int
    clean: bool


class MemoryListener(trio.abc.Listener[LinkStream]):
    """An in-memory listener. Each connection is a `Link`, and the server accepts its ``server`` end.

    Opening a connection takes no time, whatever the latency.

    Args:
        backlog: the maximum number of connections that wait to be accepted. Opening another one waits.
            Default 128.
        address: text that is shown in place of host and port. Default ``"memory"``.

    Raises:
        ValueError: ``backlog`` is below 1.
    """

    def __init__(self, *, backlog: int = 128, address: str = "memory") -> None:
        self.address = address
        self._queue, self._accepted = trio.open_memory_channel[LinkStream](_count("backlog", backlog, 1))

    async def accept(self) -> LinkStream:
        """Wait for a connection and return its server end.

        Raises:
            trio.ClosedResourceError: the listener was closed.
        """
        return await self._accepted.receive()

    async def connect(self, **options: Unpack[LinkOptions]) -> LinkStream:
        """Open a connection and return its client end, whose link is ``stream.link``. See `open_link`."""
        return (await self.open_link(**options)).client

    async def open_link(self, **options: Unpack[LinkOptions]) -> Link:
        """Open a connection and return its link; wait while the backlog is full.

        Args:
            options: the arguments of `Link`.

        Raises:
            ConnectionRefusedError: the listener was closed.
        """
        link = self._make_link(options)
        try:
            await self._queue.send(link.server)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise self._refused() from None
        return link

    def open_link_nowait(self, **options: Unpack[LinkOptions]) -> Link:
        """Like `open_link`, but raise `trio.WouldBlock` if the backlog is full."""
        link = self._make_link(options)
        try:
            self._queue.send_nowait(link.server)
        except trio.ClosedResourceError:
            raise self._refused() from None
        return link

    async def aclose(self) -> None:
        """Close the listener at once, even if cancelled. Connections that were not accepted yet are cut."""
        while True:
            try:
                self._accepted.receive_nowait().link.cut()
            except (trio.WouldBlock, trio.ClosedResourceError):
                break
        self._accepted.close()
        self._queue.close()
        await trio.lowlevel.checkpoint()

    def _make_link(self, options: LinkOptions) -> Link:
        return Link(**options)

    def _refused(self) -> ConnectionRefusedError:
        return ConnectionRefusedError(f"the listener at {self.address} was closed")


def _count(name: str, value: int, low: int) -> int:
    value = operator.index(value)
    if value < low:
        raise ValueError(f"{name} must be {low} or more, not {value}")
    return value
