"""Reader: how the bytes of one connection get from its transport into its receive buffer, and who reads them.

One reader at a time reads a connection; `ReadBy` says which. A task that wants something of the peer (a
message, a pong, the end) calls `Reader.wait_for_input`. It reads the socket itself, or waits until the
current reader has changed something. Where no task wants anything, the monitor (see runtime.py) lends one
that reads (`Reader.read_while_idle`) and leaves again as soon as another task asks. On Linux, most plain
sockets of a service that has many are read by its shared reader for good (see epoll_reader.py). A reader
never waits for a writer.

Invariants:

- Bytes are parsed in the step in which they were read. A cancelled task loses none, because it was waiting.
- Reading stops while the receive buffer is full. Replies to pings and to a Close have their own small room
  in the write buffer, so they are sent nevertheless.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import trio
from trio.lowlevel import cancel_shielded_checkpoint, checkpoint, enable_ki_protection, wait_readable

from trio_ws.logs import logger_for
from trio_ws.protocol._accel import receive_frame
from trio_ws.protocol.masking import extension
from trio_ws.websocket._notify import Notification
from trio_ws.websocket.closing import CLOSED, OPEN
from trio_ws.websocket.frame_log import Logged, log_extra
from trio_ws.websocket.receive_buffer import keep
from trio_ws.websocket.transport import (
    POLLS_BEFORE_WAIT,
    POLLS_TO_SKIP,
    READ_SIZE,
    SocketTransport,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.protocol.frames import Event
    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.receive_buffer import ReceiveBuffer
    from trio_ws.websocket.transport import SharedReader, Transport

__all__ = [
    "EPOLL",
    "FULL_EPOLL",
    "FULL_TASK",
    "ConnectionObserver",
    "ReadBy",
    "Reader",
    "ReaderConnection",
    "ReaderRuntime",
    "keep_message",
    "python_keep_message",
]

logger = logger_for("trio_ws.websocket")

#: Bytes of big messages after which no more are read in one turn, not counting the first read: about 0.4 ms,
#: or 2 ms with masks in Python or text beyond ASCII.
_AT_ONCE = 512 * 1024


class ReadBy(Enum):
    """The reader of a connection."""

    NO_READER = "none; the monitor provides a task if that lasts"
    TASK = "a task that waits for the transport"
    FULL_TASK = "a stream's own task, which waits until the receive buffer has room"
    EPOLL = "the shared reader"
    FULL_EPOLL = "the shared reader, which ignores the connection until the receive buffer has room"


NO_READER, TASK, FULL_TASK, EPOLL, FULL_EPOLL = ReadBy


class ConnectionObserver(Protocol):
    """An RPC session, which learns about its connection without waiting for it.

    Attributes:
        reader_driven: it has no task, and wants `message_received` to be called.
    """

    reader_driven: bool

    def message_received(self, message: str | bytes, lent: Any) -> Awaitable[None] | None:
        """Called by the shared reader with a message that is all that it read. Else as `data_received`."""

    def data_received(self, lent: Any) -> Awaitable[None] | None:
        """Called after the shared reader fed this connection.

        Args:
            lent: the spawner of the reader's task (see `TaskSpawner`).

        Returns:
            None, or an awaitable that continues in the reader's task.
        """

    def continue_in_task(self) -> None:
        """Called by the shared reader instead of `data_received`, so that a task handles what has arrived."""

    def state_changed(self) -> None:
        """The state has changed."""

    def connection_lost(self) -> None:
        """The transport is gone. Messages that came before may still wait in the receive buffer."""

    def shutdown(self, code: int, reason: str) -> None:
        """The server stops: close when that is convenient, and soon."""


class ReaderConnection(Logged, Protocol):
    """The part of a connection that a reader uses."""

    def _came_early(self, data: bytes) -> None:
        """Keep data that arrived before the end of the opening handshake."""

    def _handle_events(self, events: list[Event]) -> bool:
        """Handle control frames and protocol violations. Return whether a task may have waited for a pong."""
        ...


class ReaderRuntime(Protocol):
    """The part of the runtime that a reader uses (see runtime.py)."""

    nursery: trio.Nursery
    sweep_count: int

    @property
    def reader(self) -> SharedReader:
        """The shared reader."""
        ...

    def connection_idle(self, connection: Reader) -> None:
        """Provide a task if this connection has no reader for a while."""

    def connection_ended(self, connection: Reader) -> None:
        """Do not lend one any more."""


class Reader:
    """The reading side of one connection.

    Args:
        connection: receives data before the end of the opening handshake, and control frames. The reference
            to it is dropped when the connection has ended, so that no reference cycle is left.
        transport: the source of the bytes.
        receive_buffer: receives the bytes.
        closing: notified of the transport's end.
        runtime: has the shared reader, and the monitor.

    Attributes:
        transport: the transport, with frame logging if that is enabled.
        receive_buffer: the receive buffer.
        closing: the closing handshake.
        observer: notified of input, and of changes of the state.
        by: who reads.
        inline: whether the shared reader will handle the messages, too; set before the client is accepted.
        monitored: whether the monitor checks this connection already, or need not do so.
        unread_since: the number of the monitor's sweep at which the connection was last read.
    """

    __slots__ = (
        "_connection",
        "_input_arrived",
        "_polls_to_skip",
        "_room",
        "_runtime",
        "_watching",
        "by",
        "closing",
        "inline",
        "monitored",
        "observer",
        "receive_buffer",
        "transport",
        "unread_since",
    )

    def __init__(
        self,
        connection: ReaderConnection,
        transport: Transport,
        receive_buffer: ReceiveBuffer,
        closing: ClosingHandshake,
        runtime: ReaderRuntime,
    ) -> None:
        self._connection: ReaderConnection | None = connection
        self._runtime = runtime
        self.transport = transport
        self.receive_buffer = receive_buffer
        self.closing = closing
        self.observer: ConnectionObserver | None = None
        self.by = NO_READER
        self.inline = False
        self._input_arrived: Notification | None = None  # made when it is first used
        self._room: Notification | None = None  # notified when a full receive buffer has room again
        self._polls_to_skip = 0  # waits for the socket that come without a look into it first
        self._watching: trio.CancelScope | None = None  # around `watch`
        self.monitored = not transport.self_reading
        self.unread_since = 0

    @property
    def input_arrived(self) -> Notification:
        """Notified when bytes, or the end, may have changed something."""
        if self._input_arrived is None:
            self._input_arrived = Notification()
        return self._input_arrived

    def notify_input(self) -> int:
        """Notify the tasks that wait for `input_arrived`. Returns how many that were."""
        return 0 if self._input_arrived is None else self._input_arrived.notify_all()

    # -- beginning and ending -----------------------------------------------------------------------

    def open(self, trailing: bytes, *, deflated: bool) -> None:
        """Start to read frames after the opening handshake. ``trailing`` are bytes that came after it."""
        if self._watching is None:
            self._begin(shared=not (trailing and deflated))
        else:
            self._watching.cancel()  # and that task does it
        if trailing:
            self.data_received(trailing)

    def _begin(self, *, shared: bool) -> None:
        if shared and self.transport.share(self._runtime.reader, self):
            self.by = EPOLL
        elif self.transport.self_reading:
            self._left_unread()
        else:
            self._runtime.nursery.start_soon(self.read_while_idle, name="trio_ws reader")

    def _left_unread(self) -> None:
        """Record that there is no reader, until a task reads or the monitor starts one."""
        self.unread_since = self._runtime.sweep_count
        if not self.monitored:
            self._runtime.connection_idle(self)

    def end(self) -> None:
        """Wake all waiting tasks, because the state is CLOSED."""
        self._connection = None
        self._runtime.connection_ended(self)
        self.notify_input()
        if self._room is not None:
            self._room.notify_all()

    # -- before the client is accepted --------------------------------------------------------------

    def watch_soon(self) -> None:
        """Start to watch for a disconnect of the client, unless it is accepted at once."""
        self.unread_since = self._runtime.sweep_count
        self._runtime.connection_idle(self)

    @enable_ki_protection
    async def watch(self) -> None:
        """Read until the client is accepted, to notice if it disconnects. Data is kept for later."""
        if self.receive_buffer.opened:
            return  # the client was accepted before this task began
        try:
            with trio.CancelScope() as self._watching:
                while self.closing.state != CLOSED:
                    await self.wait_for_input()
            if self._watching.cancelled_caught:  # by open()
                self._begin(shared=not self.receive_buffer.pending_input)
        finally:
            self._watching = None

    async def settled(self) -> None:
        """After the client was accepted, wait until `watch` has been replaced by the final reader.

        That takes no time.
        """
        while self._watching is not None:
            await cancel_shielded_checkpoint()

    # -- reading ------------------------------------------------------------------------------------

    async def wait_for_input(self) -> bool:
        """Wait until bytes or the end may have changed something, and read if there is no other reader.

        Returns:
            Whether this task read while others waited for it to do so.
        """
        buffer = self.receive_buffer
        if buffer.pending_input and not (buffer.received and buffer.full):
            await checkpoint()  # parsing the rest is work, so other tasks run first
            rest, buffer.pending_input = buffer.pending_input, b""
            self.data_received(rest)
            self.room_made()
            return self.notify_input() > 0
        if self.by is not NO_READER or (buffer.received and buffer.full):
            await self.input_arrived.wait()
            return False
        self.by = TASK
        transport = self.transport
        data: bytes | memoryview | None = b""
        asked = buffer.read_size
        cause: BaseException | None = None
        try:
            if isinstance(transport, SocketTransport):
                # The same as its receive(), without one more coroutine for each idle connection.
                if not self._polls_to_skip:
                    # A peer that answers at once has mostly done so a few turns later. These cost no more
                    # than a wait, and nothing has to be woken. Where nothing came, the next waits come
                    # without a look.
                    for _ in range(POLLS_BEFORE_WAIT):
                        await checkpoint()
                        try:
                            data = self._read_now(transport)
                        except BlockingIOError:
                            continue
                        break
                    else:
                        self._polls_to_skip = POLLS_TO_SKIP
                if self._polls_to_skip:
                    self._polls_to_skip -= 1
                    transport.waited_for = True
                    await wait_readable(transport.fd)
                    data = self._read_now(transport)
            else:
                data = await transport.receive()
        except BlockingIOError:
            return False  # a spurious wake-up; the caller comes again
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            cause = exc
        finally:
            self.by = NO_READER
            self._left_unread()
            # Waiting tasks must see the input, or one of them must read if this task was cancelled.
            others = self.notify_input()
        if data:
            self.data_received(data)
            if len(data) == asked:
                self.read_more()
        elif data is not None:
            self.closing.abort(cause)
        return others > 0

    def _read_now(self, transport: SocketTransport) -> bytes | memoryview | None:
        """Read once, and return what it brought; None if that was one message, which was kept.

        Raises:
            BlockingIOError: there is nothing to read yet.
            OSError: the connection is broken.
        """
        buffer = self.receive_buffer
        if not buffer.bypass_limit:
            return transport.read_now(buffer.read_size)
        received = receive_frame(transport.fd, READ_SIZE, buffer.masked, buffer.bypass_limit)
        if received is None:
            raise BlockingIOError
        if isinstance(received, tuple):
            return received[0]
        buffer.received_since_check = True
        keep(buffer, received)
        return None

    def read_more(self) -> int:
        """Read the rest of a big message, and of the next ones, without a turn of the scheduler for each.

        Returns:
            How many bytes that was.
        """
        buffer, transport = self.receive_buffer, self.transport
        if buffer.deflate is not None or not isinstance(transport, SocketTransport):
            return 0
        total = 0
        while total < _AT_ONCE and buffer.frames is not None and buffer.frames.at_once:
            if buffer.full or buffer.pending_input:
                break
            size = buffer.read_size
            try:
                data = transport.read_now(size)
            except BlockingIOError:
                break
            except OSError as exc:
                self.closing.abort(exc)
                break
            if not data:
                break  # the next read finds the end again
            total += len(data)
            self.data_received(data)
            if len(data) < size:
                break  # that was all
        return total

    @enable_ki_protection
    async def read_while_idle(self) -> None:
        """Read while no task that wants something does so.

        For a stream this lasts as long as the connection. For a socket it ends once a task that waits has
        been served, which can read for itself from then on.
        """
        buffer = self.receive_buffer
        lent = self.transport.self_reading
        while self.closing.state != CLOSED:
            if buffer.full and lent:
                return  # the application reads again when it has emptied the receive buffer
            if buffer.full and self.by is NO_READER:
                self.by = FULL_TASK
                self._room = self._room or Notification()
                await self._room.wait()
            elif lent and (self.by is not NO_READER or await self.wait_for_input()):
                return
            elif not lent:
                await self.wait_for_input()

    def data_received(self, data: bytes | memoryview) -> int:
        """Parse the data of one read.

        Returns:
            The number of messages in it.
        """
        buffer = self.receive_buffer
        if not buffer.opened:
            if self._connection is not None:
                self._connection._came_early(bytes(data))
            return 0
        control = buffer.take_control(data)
        if control is not None:
            self.handle_events([control])
            return 0
        new = buffer.feed(data)
        if buffer.frames is not None and buffer.frames.events:
            self.handle_events(buffer.frames.take_events())
        return new

    def handle_events(self, events: list[Event]) -> None:
        """Handle control frames and protocol violations, and notify tasks that may have waited for them."""
        if self._connection is None:
            return
        if self._connection._handle_events(events) or self.receive_buffer.done:
            self.notify_input()

    # -- a full receive buffer ----------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether reading has stopped until the receive buffer is emptied."""
        return self.by is FULL_TASK or self.by is FULL_EPOLL

    def emptied(self) -> None:
        """Continue to read, because the application has received or dropped all messages."""
        self.receive_buffer.release()
        self.room_made()

    def room_made(self) -> None:
        """Resume reading, if it has stopped and the receive buffer has room again."""
        if self.receive_buffer.full:
            return
        if self.by is FULL_TASK:
            assert self._room is not None
            self.by = NO_READER
            self._room.notify_all()
        elif self.by is FULL_EPOLL and not self.receive_buffer.pending_input:
            self.by = EPOLL
            self.transport.resume(self)

    # -- for the monitor and the shared reader --------------------------------------------------------

    @property
    def unread(self) -> bool:
        """Whether the connection is open and has no reader."""
        return (self.by is NO_READER or self.by is FULL_TASK) and self.closing.state != CLOSED

    def lent_task(self) -> Callable[[], Awaitable[None]] | None:
        """Called when the monitor stops checking this connection. Return a function for a task, or None."""
        self.monitored = not self.transport.self_reading  # the task that reads a stream never leaves
        if not self.unread:
            return None
        if not self.receive_buffer.opened:
            return self.watch
        return None if self.monitored else self.read_while_idle

    @property
    def fd(self) -> int:
        """The socket's descriptor, for the shared reader; -1 once it is closed."""
        transport: Any = self.transport
        fd: int = transport.fd
        return fd

    def stop_if_full(self) -> bool:
        """After a read by the shared reader: stop it if the buffer is full. Returns whether it was."""
        if not self.receive_buffer.full:
            return False
        self.by = FULL_EPOLL
        return True

    def log(self, level: int, text: str, *args: object, exc_info: BaseException | None = None) -> None:
        """Log a message about the connection, which is the first argument of ``text``."""
        connection = self._connection
        extra = None if connection is None else log_extra(connection)
        logger.log(level, text, connection, *args, exc_info=exc_info, extra=extra)

    def failed(self, exc: Exception) -> None:
        """End the connection, because its input could not be handled, and log that."""
        self.log(logging.ERROR, "reading from %r failed", exc_info=exc)
        self.closing.abort(exc)

    def is_undisturbed(self, spawner: object) -> bool:
        """Whether the shared reader reads, in tasks of this spawner, and all is in its ordinary state."""
        return (
            self.by is EPOLL
            and self._runtime.reader.spawner is spawner
            and self.closing.state == OPEN
            and self.closing.deferred is None
            and not self.receive_buffer.pending_input
        )


def python_keep_message(reader: Reader, message: str | bytes) -> None:
    """Keep a message that was all that a read brought, and wake the tasks that wait for it."""
    reader.receive_buffer.keep(message)
    reader.notify_input()


#: `python_keep_message`, or the same in C, which saves a sixth of the cost of an echo.
keep_message: Callable[[Reader, str | bytes], None] = (
    python_keep_message if extension is None else extension.keep_message
)
