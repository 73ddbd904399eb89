"""Parse incoming frames: bytes to messages (RFC 6455 section 5), without I/O.

The *fast path* (see _accel.py) reads common frames: whole, final, uncompressed data frames outside any
fragmented message. If such a frame is compressed, or its payload is incomplete, `_bulk` continues it chunk by
chunk. `_control` reads whole, valid control frames. wsproto parses every other frame. It is fed exactly one
frame at a time, so that it always stops at a frame boundary and buffers none of our bytes.

Invariants:

- ``messages`` receives each finished message in order, a ``str`` for text and ``bytes`` for binary, and
  ``events`` receives control frames in order. A `ProtocolViolation` or a Close frame is the last event.
- At most ``max_message_size`` bytes of an unfinished message are kept, whatever the number of its fragments.
  The declared length of a frame is checked before any of its payload is kept.
- Text is rejected at its first invalid byte, even in the middle of a frame.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from trio_ws.errors import CloseFrame
from trio_ws.protocol._accel import LONGEST, MAX_FRAMES, take_frames
from trio_ws.protocol.masking import extension, mask

if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from wsproto.frame_protocol import Frame

    from trio_ws.protocol.deflate import PerMessageDeflate

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "FIN",
    "FRAMES_AT_ONCE",
    "FRAME_COST",
    "PING",
    "PONG",
    "RSV1",
    "TEXT",
    "FrameReader",
    "Ping",
    "Pong",
    "ProtocolViolation",
    "longest_common",
    "whole_control",
]

# The first byte of a frame (RFC 6455 section 5.2).
FIN, RSV1 = 0x80, 0x40
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FINAL_TEXT, _FINAL_BINARY = FIN | TEXT, FIN | BINARY
_FINAL_CLOSE, _FINAL_PING, _FINAL_PONG = FIN | CLOSE, FIN | PING, FIN | PONG

_from_bytes = int.from_bytes
_utf8_decoder = codecs.getincrementaldecoder("utf-8")

# The most frequent close codes, including a missing one, and a registered one that wsproto does not know.
# wsproto validates all others.
_PLAIN_CLOSES = (b"", *(code.to_bytes(2, "big") for code in (1000, 1001, 1014)))
# wsproto's error for everything that an extension rejects.
_EXTENSION = "error in extension"
# Above every length that a header can declare, so that wsproto rejects the invalid ones.
_NO_LIMIT = 1 << 65
# Plain frames of at least this many bytes are worth another read; see `FrameReader.at_once`.
_BIG = 32 * 1024
_LONGEST_HEAD = 14
# A big binary message is put together in its final place, by the extension, once a quarter of it has come:
# joining the parts of 1 MiB takes a twelfth of the time of an echo. The place is never larger than four times
# what has come, because a peer may declare any size.
_RESERVED = 3  # bytes for each that has come
# Shorter parts are joined to the next one, so that a peer that sends byte by byte costs only what it sends.
_SMALL_CHUNK = 4096


#: Uncommon frames to parse in one turn: half a millisecond of work. See `FrameReader.feed`.
FRAMES_AT_ONCE = 64
#: The cost of each uncommon frame in a turn of the shared reader, in bytes.
FRAME_COST = 2048


#: Maximum number of stored fragment boundaries; further fragments are joined.
_MAX_FRAGMENTS = 1024
#: Maximum number of waiting messages for which fragment boundaries are stored.
_MAX_SPLIT = 64


# Shared by all readers between messages, and never modified. An empty list of its own takes 56 bytes.
_Parts: TypeAlias = list[Any]
_NO_PARTS: _Parts = []
_NO_ENDS: list[int] = []


class Ping(NamedTuple):
    """A ping arrived; its payload must be returned in a pong (RFC 6455 section 5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """A pong arrived (RFC 6455 section 5.5.3)."""

    payload: bytes


class ProtocolViolation(NamedTuple):
    """The peer violated the protocol or a limit. The connection must be failed with this code and reason."""

    code: int
    reason: str


Event = Ping | Pong | CloseFrame | ProtocolViolation

#: The events of all readers without events. It is never modified.
_NO_EVENTS: list[Event] = []


class FrameReader:
    """Parses the peer's bytes into messages and control events.

    Args:
        messages: receives finished messages.
        client: whether this side is the client, so that the peer's frames must not be masked.
        max_message_size: bytes of one message after inflation, or None for no limit.
        deflate: the negotiated permessage-deflate, or None.

    Attributes:
        events: the control frames and violations that were found; see `take_events`.
        between: whether the next byte begins a frame outside any message, so that the fast path may continue.
        fast_limit: see `longest_common`.
    """

    __slots__ = (
        "_compressed",
        "_deflate",
        "_ends",
        "_filled",
        "_key",
        "_left",
        "_limit",
        "_open",
        "_parts",
        "_proto",
        "_rest",
        "_size",
        "_splits",
        "_utf8",
        "begun",
        "between",
        "client",
        "done",
        "events",
        "fast_limit",
        "held",
        "messages",
    )

    def __init__(
        self,
        messages: MutableSequence[str | bytes],
        *,
        client: bool,
        max_message_size: int | None,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        self.messages = messages
        self.events = _NO_EVENTS
        self.client = client
        self.begun = 0  # number of uncommon frames so far, a measure of the work done
        self.done = False  # after a Close frame or a violation; all following data is dropped
        self.between = True
        self._limit = _NO_LIMIT if max_message_size is None else max_message_size
        self.fast_limit = longest_common(max_message_size)
        self._deflate = deflate
        self._proto: FrameProtocol | None = None  # created for the first frame that needs it
        self._rest = b""  # the beginning of a frame with an incomplete header
        self._left = 0  # missing payload bytes of the current frame
        self._key: bytes | None = None  # the bulk frame's mask, rotated to its next byte; b"" if unmasked
        # State of the current message.
        self._open = 0  # its opcode, or 0 when there is none
        self._compressed = False
        self._parts: _Parts = _NO_PARTS  # either all str, for text, or all bytes
        self._filled = 0  # if not 0, the only part is the whole message, of which this many bytes have come
        self.held = 0  # bytes of it that are kept here
        self._size = 0  # bytes of it so far, including those handed out
        self._utf8: codecs.IncrementalDecoder | None = None  # decodes the text of the bulk frame
        # Where fragments end, on request: of the current message in `_parts`, and of finished ones by id.
        self._ends = _NO_ENDS
        self._splits: dict[int, tuple[str | bytes, list[int]]] | None = None

    @property
    def wanted(self) -> int:
        """Missing payload bytes of the current frame; 0 between frames."""
        return self._left

    @property
    def at_once(self) -> int:
        """Bytes to the end of a big plain frame, which are worth reading immediately, and to the end of the
        next head; 0 if no such frame is incomplete.
        """
        if self._key is None or self._compressed or self._size + self._left < _BIG:
            return 0
        return self._left + _LONGEST_HEAD

    def size_of_new(self, count: int) -> int:
        """Bytes of the last ``count`` messages and of the unfinished one: the size of one read."""
        messages = self.messages
        return self.held + sum(len(messages[-1 - i]) for i in range(count))

    def feed(self, data: bytes | memoryview, work: int = _NO_LIMIT) -> int:
        """Parse received bytes. Never raises for anything that a peer sends; see ``events``.

        Args:
            data: the bytes that follow those of the last call. Nothing refers to them afterwards.
            work: maximum number of frames to parse, not counting common ones (see _accel.py), of which about
                `MAX_FRAMES` are parsed.

        Returns:
            The index of the first byte that was not parsed; pass ``data`` from there on again.
        """
        i, size = 0, len(data)
        if self.between:
            i = take_frames(data, 0, not self.client, self.fast_limit, self.messages)
            if i == size:
                return size
            if i < 0:
                self._refuse_utf8()
                return size
        before, given, stop = 0, size, self.begun + work
        if self.between:
            i = self._begin(data, i, size)
        elif self.done:
            return size
        elif self._left:
            i = self._continue(data)
        elif self._rest:
            before = len(self._rest)
            data = self._rest + data
            size = len(data)
            self._rest = b""
        enough = len(self.messages) + max(work, MAX_FRAMES)
        while i < size and not self.done:
            if self.begun >= stop or len(self.messages) >= enough:
                break
            if not self._open:
                i = take_frames(data, i, not self.client, self.fast_limit, self.messages)
                if i < 0:
                    self._refuse_utf8()
                    return given
            if i < size:
                i = self._begin(data, i, size)
        self.between = not (self._rest or self._left or self._open or self.done)
        return given if self.done or self._rest else i - before

    def take_message(self, message: str | bytes) -> None:
        """Add a whole message, if an ASGI or RSGI server has parsed the frames."""
        if self.done:
            return
        size = len(message)
        if isinstance(message, str) and not message.isascii():
            try:
                size = len(message.encode())
            except UnicodeEncodeError:
                self._refuse_utf8()
                return
        if size > self._limit:
            self._refuse_size()
        else:
            self.messages.append(message)

    def take_close(self, frame: CloseFrame) -> None:
        """Add a Close frame, if an ASGI or RSGI server has parsed it."""
        if not self.done:
            self.add_event(frame)
            self.stop()

    def take_part(self) -> str | bytes | None:
        """Return the part of the unfinished message that has arrived, or None.

        The rest of that message then arrives as its last item in ``messages``.
        """
        if not self._parts:
            return None
        part: str | bytes = self._parts[0][: self._filled] if self._filled else self._joined()
        self._parts = _NO_PARTS
        self.held = self._filled = 0
        return part

    # -- events ------------------------------------------------------------------------------------

    def add_event(self, event: Event) -> None:
        """Add a control frame or a violation that was found here or by a host."""
        if self.events is _NO_EVENTS:
            self.events = []
        self.events.append(event)

    def take_events(self) -> list[Event]:
        """Return the events, and forget them."""
        events, self.events = self.events, _NO_EVENTS
        return events

    # -- boundaries of fragments --------------------------------------------------------------------

    def keep_fragments(self) -> None:
        """From now on, store where the fragments of messages end."""
        if self._splits is None:
            self._splits = {}

    def take_fragments(self) -> list[str | bytes]:
        """Return the complete fragments of the unfinished message, possibly none.

        The rest of that message later arrives in ``messages``; `split` returns its fragments.
        """
        if not self._ends:
            return []
        whole = self._joined()
        fragments = _cut(whole, self._ends)
        rest = whole[self._ends[-1] :]
        self._ends = _NO_ENDS
        self._parts = [rest] if rest else _NO_PARTS
        self.held = len(rest.encode()) if isinstance(rest, str) else len(rest)
        return fragments

    def split(self, message: str | bytes) -> list[str | bytes]:
        """Return the fragments of a message that was in ``messages``: itself, if it was one frame."""
        _, ends = self._splits.pop(id(message), (message, [])) if self._splits else (message, [])
        return [*_cut(message, ends), message[ends[-1] :]] if ends else [message]

    def _fragment_ends(self) -> None:
        """Store the end of a fragment that is not the last of its message."""
        end = sum(map(len, self._parts))
        if len(self._ends) < _MAX_FRAGMENTS and end > (self._ends[-1] if self._ends else 0):
            if self._ends is _NO_ENDS:
                self._ends = []
            self._ends.append(end)

    def _keep_split(self, message: str | bytes) -> None:
        """Store where the fragments of a finished message end, if few messages are waiting."""
        assert self._splits is not None
        ends, self._ends = self._ends, _NO_ENDS
        if len(self.messages) > _MAX_SPLIT:
            return
        # Entries are keyed by the id of the message, which they keep alive, so no id is reused. Drop the
        # entries of messages that were received.
        waiting = set(map(id, self.messages))
        self._splits = {key: entry for key, entry in self._splits.items() if key in waiting}
        if sum(len(others) for _, others in self._splits.values()) + len(ends) <= _MAX_FRAGMENTS:
            self._splits[id(message)] = message, ends

    # -- uncommon frames ----------------------------------------------------------------------------

    def _begin(self, data: bytes | memoryview, i: int, size: int) -> int:
        """Start an uncommon frame at ``i``, and return the index after the used bytes."""
        self.begun += 1
        first = data[i]
        second = data[i + 1] if size - i >= 2 else 0
        control = first & 0x08
        length = second & 127
        masked = second >= 128
        if control and length < 126 and masked is not self.client:
            start = i + (6 if masked else 2)
            end = start + length
            if end > size:  # a control frame is short, so wait for all of it
                self._rest = bytes(data[i:])
                return size
            payload = bytes(data[start:end])
            if self._control(first, mask(payload, bytes(data[start - 4 : start])) if masked else payload):
                return end
        # A control frame has no extended length: wsproto rejects one at its second byte.
        longer = 0 if control or length < 126 else 2 if length == 126 else 8
        head = 2 + longer + (4 if masked else 0)
        # wsproto rejects an invalid header as early as possible.
        if size - i < (head if not control else head + length if length < 126 else 2):
            self._rest = bytes(data[i:])
            return size
        n = _from_bytes(data[i + 2 : i + 2 + longer], "big") if longer else length
        if not (first or n or self._compressed) and self._open and masked is not self.client:
            return i + head  # an empty, non-final fragment has no effect
        if not control and not self._compressed and not first & RSV1 and self._size + n > self._limit:
            self._refuse_size()
            return size
        shortest = n < 126 if length < 126 else n >= 126 if length == 126 else 65536 <= n < 1 << 63
        plain = first if self._deflate is None else first & ~RSV1
        if (
            (plain == _FINAL_BINARY or plain == _FINAL_TEXT)
            and not self._open
            and shortest
            and masked is not self.client
        ):
            self._open = first & 0x0F
            self._compressed = first != plain
            if self._deflate is not None and self._compressed:
                self._deflate.begin()
            self._key = bytes(data[i + head - 4 : i + head]) if masked else b""
            self._utf8 = _utf8_decoder() if plain == _FINAL_TEXT else None
            self._left = n
            return self._bulk(data, i + head)
        if not control:
            if first & 0x0F:
                self._compressed = bool(first & RSV1)
            self._open = self._open or first & 0x0F or CONTINUATION
        self._key = None
        end = min(i + head + n, size)
        self._left = i + head + n - end
        self._feed_wsproto(bytes(data[i:end]))
        return end

    def _control(self, first: int, payload: bytes) -> bool:
        """Handle a whole control frame if it is valid; wsproto handles others."""
        event = _control_event(first, payload)
        if event is None:
            return False
        self.add_event(event)
        if isinstance(event, CloseFrame):
            self.stop()
        return True

    def _continue(self, data: bytes | memoryview) -> int:
        if self._key is not None:
            return self._bulk(data, 0)
        end = min(self._left, len(data))
        self._left -= end
        self._feed_wsproto(bytes(data[:end]))
        return end

    def _bulk(self, data: bytes | memoryview, i: int) -> int:
        """Read the payload of a message of one frame, chunk by chunk."""
        end = min(i + self._left, len(data))
        self._left -= end - i
        key = self._key
        turn = (end - i) & 3
        if key and turn:
            self._key = key[turn:] + key[:turn]
        final = not self._left
        if self._filled or (not final and self._continue_in_place(end - i)):
            self._fill(data, i, end, key or b"")
            if final:
                self._key = None
                self._finish()
            return end
        chunk = mask(memoryview(data)[i:end], key) if key else bytes(data[i:end])
        if self._compressed:
            assert self._deflate is not None
            inflated = self._deflate.inflate(chunk, fin=final)
            if isinstance(inflated, CloseReason):
                self._refuse_failed(int(inflated), _EXTENSION)
                return len(data)
            chunk = inflated
            if self._size + len(chunk) > self._limit:
                self._refuse_size()
                return len(data)
        if self._utf8 is None:
            self._add(chunk, len(chunk))
        else:
            try:
                self._add(self._utf8.decode(chunk, final), len(chunk))
            except UnicodeDecodeError:
                self._refuse_utf8()
                return len(data)
        if final:
            self._key = None
            self._finish()
        return end

    def _continue_in_place(self, new: int) -> bool:
        """Make room for the whole message, if ``new`` bytes and the rest are only to be copied to it."""
        come = self.held + new
        if come < _BIG or self._left > come * _RESERVED:
            return False
        if extension is None or self._utf8 is not None or self._compressed:
            return False
        whole = extension.new_payload(come + self._left)
        if self.held:
            self._filled, begun = self.held, self._joined()
            extension.fill_payload(whole, 0, begun, 0, self._filled, b"")
        self._parts = [whole]
        return True

    def _fill(self, data: bytes | memoryview, start: int, end: int, key: bytes) -> None:
        """Put a chunk of the payload into its final place."""
        assert extension is not None
        extension.fill_payload(self._parts[0], self._filled, data, start, end, key)
        size = end - start
        self._filled += size
        self._size += size
        self.held += size

    def _feed_wsproto(self, data: bytes) -> None:
        proto = self._proto
        if proto is None:
            proto = self._proto = FrameProtocol(self.client, [self._deflate] if self._deflate else [])
        proto.receive_bytes(data)
        try:
            for frame in proto.received_frames():
                self._take_frame(frame)
        except ParseFailed as exc:
            self._refuse_failed(int(exc.code), str(exc))

    def _take_frame(self, frame: Frame) -> None:
        opcode, payload = frame.opcode, frame.payload
        if isinstance(payload, tuple):
            self.add_event(CloseFrame(int(payload[0]), payload[1]))
            self.stop()
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            assert not isinstance(payload, str)
            self.add_event((Ping if opcode is Opcode.PING else Pong)(bytes(payload)))
        else:
            self._open = int(opcode)
            size = len(payload.encode() if isinstance(payload, str) else payload)
            if self._size + size > self._limit:
                self._refuse_size()
                return
            self._add(payload if isinstance(payload, str) else bytes(payload), size)
            if frame.message_finished:
                self._finish()
            elif frame.frame_finished and self._splits is not None:
                self._fragment_ends()

    def _add(self, chunk: str | bytes, size: int) -> None:
        """Store a part of a message, text decoded, so that the last part takes no longer than others."""
        self._size += size
        self.held += size
        if not chunk:
            return
        parts = self._parts
        if not parts:
            self._parts = [chunk]
        elif len(parts[-1]) < _SMALL_CHUNK:
            parts[-1] += chunk
        else:
            parts.append(chunk)

    def _joined(self) -> str | bytes:
        return "".join(self._parts) if self._open == TEXT else b"".join(self._parts)

    def _finish(self) -> None:
        message = self._joined()
        self.messages.append(message)
        if self._ends:
            self._keep_split(message)
        self._reset()

    def _reset(self) -> None:
        self._parts = _NO_PARTS
        self._ends = _NO_ENDS
        self._open = self._size = self.held = self._filled = 0
        self._compressed = False
        self._utf8 = None

    def _refuse_failed(self, code: int, text: str) -> None:
        from_deflate = text == _EXTENSION
        if code == 1009:
            self._refuse_size()
        elif code == 1007 and not from_deflate:
            self._refuse_utf8()
        elif from_deflate:
            self._refuse(code, "corrupt compressed data" if code == 1007 else "RSV1 set on a wrong frame")
        else:
            self._refuse(code, text[:100])

    def _refuse_utf8(self) -> None:
        self._refuse(1007, "text is not valid UTF-8")

    def _refuse_size(self) -> None:
        self._refuse(1009, f"message exceeds max_message_size ({self._limit} bytes)")

    def _refuse(self, code: int, reason: str) -> None:
        if not self.done:
            self.add_event(ProtocolViolation(code, reason))
            self.stop()

    def stop(self) -> None:
        """Drop all data from now on, after a Close frame or a violation."""
        self.done = True
        self.between = False
        self._rest = b""
        self._left = 0
        self._proto = None
        self._reset()


def longest_common(max_message_size: int | None) -> int:
    """Return the longest payload of a common frame, which the fast path reads."""
    return LONGEST if max_message_size is None else min(max_message_size, LONGEST)


def whole_control(data: bytes | memoryview, *, masked: bool) -> Ping | Pong | CloseFrame | None:
    """Return the control frame that the data consists of; None if it is anything else, or invalid.

    Args:
        data: bytes that begin with a frame outside any message.
        masked: whether the peer's frames are masked.
    """
    start = 6 if masked else 2
    length = len(data) - start
    if not 0 <= length < 126 or data[1] != (length | 0x80 if masked else length):
        return None
    data = bytes(data)
    return _control_event(data[0], mask(data[6:], data[2:6]) if masked else data[2:])


def _control_event(first: int, payload: bytes) -> Ping | Pong | CloseFrame | None:
    """Return a valid control frame; None for others, and for close codes that wsproto has to validate."""
    if first == _FINAL_PING:
        return Ping(payload)
    if first == _FINAL_PONG:
        return Pong(payload)
    if first == _FINAL_CLOSE and payload[:2] in _PLAIN_CLOSES:
        try:
            return CloseFrame(_from_bytes(payload[:2], "big") if payload else 1005, payload[2:].decode())
        except UnicodeDecodeError:
            pass
    return None


def _cut(whole: str | bytes, ends: list[int]) -> list[str | bytes]:
    """Split a text or bytes at the given ends."""
    return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
