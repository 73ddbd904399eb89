"""ReceiveBuffer: the messages that were read from one connection and wait for the application.

Invariants:

- Bytes become messages in the step in which they were read. A cancelled task loses none, because it was
  waiting.
- `received` counts every message in here. The reader stops at ``max_queue_bytes`` (see `full`).
- Only `feed` adds messages, and the application's tasks remove them in order.
- An idle connection keeps neither a queue, which takes 760 bytes if it is empty, nor a `FrameReader`. They
  are made for the first message of a read, and for what is not just one small message. `release`, which is
  called before each wait for messages, drops them.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from sys import getsizeof
from typing import TYPE_CHECKING

from trio_ws.errors import CloseFrame
from trio_ws.ledger import OVERHEAD, MemoryLedger
from trio_ws.protocol._accel import FIRST_READ
from trio_ws.protocol.frames import FRAMES_AT_ONCE, FrameReader, longest_common, whole_control
from trio_ws.protocol.masking import extension
from trio_ws.websocket.transport import BIG_READ_SIZE, READ_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.protocol.frames import Event

__all__ = ["NO_MESSAGES", "ReceiveBuffer", "keep", "release"]

#: Compressed bytes that are parsed at once: they may inflate a thousandfold, and a read is 64 KiB.
_COMPRESSED_SLICE = 512
#: Inflated bytes after which the rest of a read waits for the next turn, about a millisecond.
_INFLATED_AT_ONCE = 256 * 1024

#: Messages of at least this many bytes are read several at a time.
_BIG = 8 * 1024

#: The queue of all connections without waiting messages. Nothing is ever added to it.
NO_MESSAGES: deque[str | bytes] = deque()


class ReceiveBuffer(MemoryLedger):
    """Turns received bytes into messages, keeps them, and counts the memory that they take.

    It is the ledger of its connection, to which the layers above charge what they hold for this peer.

    Args:
        options: ``max_queue_bytes`` and ``max_message_size``.
        client: whether this side is the client.

    Attributes:
        messages: the messages that wait, ``str`` for text and ``bytes`` for binary. It is another deque after
            each `feed` and each `release`, so hold it in a local variable only between two waits.
        opened: whether the opening handshake is done.
        frames: parses the bytes; None before that, and while nothing has to be parsed.
        pending_input: bytes that were read and are parsed later: in the next turn, or once there is room.
        fragments: fragments of a message that wait; None if there are none.
        keep_fragments: whether ``recv_streaming(fragments=True)`` was called.
        parts_open: whether ``recv_streaming()`` has returned the first part of a message, but not the last.
        closed: whether nothing is kept any more, because the transport is gone or the application has closed.
        deflate: the negotiated permessage-deflate, or None.
        discarding: whether the application has closed. Further data is parsed for a Close frame, and dropped.
        read_size: bytes to ask of the next read: many while big messages arrive, as far as there is room for
            them.
        received_since_check: whether bytes arrived since keepalive's last check.
        single: whether the last data was one small message, so that the next will probably be one, too.
        masked: whether the peer's frames are masked.
        bypass_limit: the longest payload of a whole message that may be taken from the socket without parsing
            it here (see `keep`); 0 if the next data must be parsed. `release` sets it.
    """

    __slots__ = (
        "_closed_by_peer",
        "_longest_bypass",
        "_max_message_size",
        "_unfinished",
        "bypass_limit",
        "closed",
        "deflate",
        "discarding",
        "fragments",
        "frames",
        "keep_fragments",
        "masked",
        "messages",
        "opened",
        "parts_open",
        "pending_input",
        "read_size",
        "received_since_check",
        "single",
    )

    def __init__(self, options: Options, *, client: bool) -> None:
        super().__init__(options.max_queue_bytes, options.held_limit)
        self._closed_by_peer = False  # by a Close frame that no `FrameReader` has parsed
        self._max_message_size = options.max_message_size
        self.deflate: PerMessageDeflate | None = None
        self.opened = False
        self.frames: FrameReader | None = None
        self.messages = NO_MESSAGES
        self.pending_input = b""
        self.fragments: deque[str | bytes] | None = None
        self.keep_fragments = False
        self._unfinished = False  # the end of the message whose fragments these are has not come
        self.parts_open = False
        self.closed = False
        self.discarding = False
        self.received_since_check = False
        self.single = True
        self.read_size = READ_SIZE
        self.masked = not client
        self.bypass_limit = 0
        self._longest_bypass = 0  # `bypass_limit` where that is allowed at all

    def open(self, deflate: PerMessageDeflate | None, *, direct: bool = False) -> None:
        """Parse frames from now on, because the opening handshake is done.

        Args:
            deflate: the negotiated permessage-deflate, or None.
            direct: whether messages may be taken from the transport without parsing them here.
        """
        self.opened = True
        self.deflate = deflate
        if direct and deflate is None:
            self._longest_bypass = longest_common(self._max_message_size)
        else:
            self._make_frames()

    def _make_frames(self) -> FrameReader:
        assert self.opened
        frames = self.frames = FrameReader(
            self.messages,
            client=not self.masked,
            max_message_size=self._max_message_size,
            deflate=self.deflate,
        )
        if self._closed_by_peer:
            frames.stop()
        if self.keep_fragments:
            frames.keep_fragments()
        return frames

    @property
    def done(self) -> bool:
        """Whether the peer has sent a Close frame, or violated the protocol."""
        return self._closed_by_peer or (self.frames is not None and self.frames.done)

    @property
    def finished(self) -> bool:
        """Whether no message will be added any more."""
        return self.closed or self.done

    @property
    def full(self) -> bool:
        """Whether reading must stop because ``max_queue_bytes`` wait for the application."""
        return self.received >= self.max_received and not self.finished

    def release(self) -> None:
        """Free the queue until more messages arrive, because all were received by the application."""
        self.received = 0
        frames = self.frames
        if not self.messages and self.opened:
            self.messages = NO_MESSAGES
            if (
                self._longest_bypass
                and self.single
                and (frames is None or (frames.between and not frames.events))
                and not (self.pending_input or self.discarding or self._closed_by_peer)
            ):
                self.frames = None
                self.bypass_limit = self._longest_bypass
            elif frames is not None:
                frames.messages = NO_MESSAGES

    def discard(self) -> None:
        """Keep no more messages, because the application has closed. `clear` drops those that wait."""
        self.closed = self.discarding = True
        self.bypass_limit = 0

    def clear(self) -> None:
        """Drop all messages that wait."""
        self.messages.clear()
        self.fragments = None

    def ask_for_fragments(self) -> None:
        """Record the boundaries of fragments from now on."""
        self.keep_fragments = True
        if self.frames is not None:
            self.frames.keep_fragments()

    def next_fragment(self) -> str | bytes | None:
        """Take the next complete fragment, if one is here. Sets ``parts_open``."""
        frames = self.frames
        fragments = self.fragments
        if not fragments:
            if self.messages:
                message = self.messages.popleft()
                fragments = deque([message] if frames is None else frames.split(message))
                self._unfinished = False
            elif frames is not None and (found := frames.take_fragments()):
                fragments = deque(found)
                self._unfinished = True
        if not fragments:
            return None
        fragment = fragments.popleft()
        self.fragments = fragments or None
        self.parts_open = self._unfinished or bool(fragments)
        return fragment

    def keep(self, message: str | bytes) -> None:
        """Take a whole message that was not parsed here."""
        if self.messages is NO_MESSAGES:
            self.messages = deque()
            if self.frames is not None:
                self.frames.messages = self.messages
        self.bypass_limit = 0
        self.messages.append(message)
        plain = type(message) is bytes or message.isascii()
        self.received += (len(message) if plain else getsizeof(message)) + OVERHEAD

    def take_control(self, data: bytes | memoryview) -> Event | None:
        """Return the control frame that the data consists of, if there are no `frames`.

        Fast path: to make a `FrameReader` for one ping, pong or Close takes a tenth of opening and closing a
        connection.

        Returns:
            None if it is anything else, which must be fed.
        """
        event = whole_control(data, masked=self.masked) if self.frames is None else None
        if event is not None:
            self.received_since_check = True
            if isinstance(event, CloseFrame):
                self._closed_by_peer = True
                self.bypass_limit = 0
        return event

    def feed(self, data: bytes | memoryview, *, sliced: bool = False) -> int:
        """Parse the data of one read, after the opening handshake.

        Control frames and violations are left in ``frames.events``. What cannot be parsed in this turn is
        left in ``pending_input``.

        Returns:
            The number of messages in it.
        """
        frames, messages = self.frames or self._make_frames(), self.messages
        if messages is NO_MESSAGES:
            messages = self.messages = frames.messages = deque()
        self.bypass_limit = 0
        self.received_since_check = True
        before = len(messages)
        if self.deflate is None:
            taken = frames.feed(data, FRAMES_AT_ONCE)
            new = len(messages) - before
            charge = taken + OVERHEAD * new
            received = self.received = self.received + charge
            if received > self.max_received >> 2:
                self._charge_texts(new, charge)
        elif len(data) > _COMPRESSED_SLICE and not sliced:
            return self._feed_sliced(frames, data)
        else:
            held = frames.held
            taken = frames.feed(data, FRAMES_AT_ONCE)
            new = len(messages) - before
            charge = frames.size_of_new(new) - held + OVERHEAD * new
            self.received += charge
            if self.received > self.max_received >> 2:
                self._charge_texts(new, charge)
        size = len(data)
        if new or not frames.between:  # a control frame is no reason to expect something else
            self.single = new == 1 and size < FIRST_READ
            if len(messages[-1]) >= _BIG if new else frames.at_once:
                self.read_size = max(READ_SIZE, min(BIG_READ_SIZE, self.max_received - self.received))
            else:
                self.read_size = READ_SIZE
        if taken != size:
            self.pending_input = bytes(data[taken:])
        if self.discarding:
            messages.clear()
        return new

    def put(self, message: str | bytes) -> None:
        """Take a whole message of a peer whose frames a host has parsed."""
        frames, messages = self.frames, self.messages
        assert frames is not None
        if messages is NO_MESSAGES:
            messages = self.messages = frames.messages = deque()
        self.received_since_check = True
        frames.take_message(message)
        plain = type(message) is bytes or message.isascii()
        self.received += (len(message) if plain else getsizeof(message)) + OVERHEAD
        if self.discarding:
            messages.clear()

    def _feed_sliced(self, frames: FrameReader, data: bytes | memoryview) -> int:
        """Parse a read in small parts. Leave the rest for later once they inflated to much, or at a bound."""
        deflate = self.deflate
        assert deflate is not None
        enough = self.received + _INFLATED_AT_ONCE
        stop = frames.begun + deflate.streams_ended + FRAMES_AT_ONCE
        start = messages = 0
        while start < len(data):
            much = self.received >= enough or frames.begun + deflate.streams_ended >= stop
            if much or (self.received and self.full):
                self.pending_input = bytes(data[start:])
                break
            end = start + (frames.at_once or _COMPRESSED_SLICE)  # a plain frame stays as long as it is
            messages += self.feed(data[start:end], sliced=True)
            if self.pending_input:
                self.pending_input += data[end:]
                break
            start = end
        return messages

    def _charge_texts(self, new: int, charged: int) -> None:
        """Charge text for its memory in Python: up to four times its bytes, depending on its characters.

        Each message was charged for its bytes. Its characters are looked at only once much waits: those of
        all messages then, and from there on those of new ones.
        """
        messages = self.messages
        if self.received - charged <= self.max_received >> 2:
            new = len(messages)
        for item in islice(reversed(messages), new):
            if type(item) is str and not item.isascii():
                self.received += getsizeof(item) - len(item)


#: The methods, or the same in C, which save a tenth of the steps of a round trip.
keep: Callable[[ReceiveBuffer, str | bytes], None] = ReceiveBuffer.keep
release: Callable[[ReceiveBuffer], None] = ReceiveBuffer.release
if extension is not None:
    keep, release = extension.keep, extension.release
