"""Frames that come: bytes to messages (RFC 6455 section 5), without a loop.

Two lanes lead in. The *fast lane* (see _accel.py) takes the common frame, a whole, final, uncompressed data
frame outside any fragmented message; such a frame that is compressed, or whose payload has not all arrived,
goes on in `_bulk`, chunk by chunk, and a whole, legal control frame is taken by `_control`. Every other frame
is wsproto's, fed exactly one frame at a time so that it always stops on a frame's boundary and holds no bytes
of ours.

What always holds:

- ``messages`` gets each finished message in order, a ``str`` for text and ``bytes`` for binary, and
  ``events`` gets control frames in order; a `Violation` or a Close frame is the last event ever.
- At most ``max_message_size`` bytes of an unfinished message are held, whatever the number of its fragments;
  the length that a frame header declares is checked before any of its payload is kept.
- Text is refused at its first bad byte, also in the middle of a frame.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, NamedTuple

from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode, ParseFailed

from trio_ws.errors import CloseFrame
from trio_ws.protocol._accel import LONGEST, MAX_FRAMES, take_frames
from trio_ws.protocol.masking import mask

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
]

# The first byte of a frame (RFC 6455 section 5.2).
FIN, RSV1 = 0x80, 0x40
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_FINAL_TEXT, _FINAL_BINARY = FIN | TEXT, FIN | BINARY
_FINAL_CLOSE, _FINAL_PING, _FINAL_PONG = FIN | CLOSE, FIN | PING, FIN | PONG

_from_bytes = int.from_bytes
_utf8_decoder = codecs.getincrementaldecoder("utf-8")

# The close codes that most connections end with, none among them, and one that is registered and that
# wsproto does not know; it judges all others.
_PLAIN_CLOSES = (b"", *(code.to_bytes(2, "big") for code in (1000, 1001, 1014)))
# What wsproto says of all that an extension finds wrong.
_EXTENSION = "error in extension"
# Above every length that a header can declare, so that an illegal one stays wsproto's to judge.
_NO_LIMIT = 1 << 65
# Plain frames of at least this many bytes are worth reading on for; see `FrameReader.at_once`.
_BIG = 32 * 1024
_LONGEST_HEAD = 14
# Parts shorter than this are joined to what comes next, so that a peer that dribbles costs what it sends.
_SMALL_CHUNK = 4096


#: Frames that are not common ones, taken in one turn: half a millisecond of them. See `FrameReader.feed`.
FRAMES_AT_ONCE = 64
#: What each of them counts for in a turn of the shared reader, as so many bytes.
FRAME_COST = 2048


class Ping(NamedTuple):
    """A ping arrived; the same payload is to go back in a pong (RFC 6455 section 5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """A pong arrived (RFC 6455 section 5.5.3)."""

    payload: bytes


class ProtocolViolation(NamedTuple):
    """The peer broke the protocol or a limit; the connection is to be failed with this code and reason."""

    code: int
    reason: str


class FrameReader:
    """Turns the peer's bytes into messages and control events.

    Args:
        messages: where finished messages go.
        client: whether this side is the client, so that the peer's frames must not be masked.
        max_message_size: bytes of one message after inflation, or None for no limit.
        deflate: the agreed permessage-deflate, or None.
    """

    __slots__ = (
        "_between",
        "_compressed",
        "_deflate",
        "_fast_limit",
        "_key",
        "_left",
        "_limit",
        "_open",
        "_parts",
        "_proto",
        "_rest",
        "_size",
        "_utf8",
        "begun",
        "client",
        "done",
        "events",
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
        self.events: list[Ping | Pong | CloseFrame | ProtocolViolation] = []
        self.client = client
        self.begun = 0  # frames so far that were not common ones, which is the work that was done
        self.done = False  # a Close frame or a violation was read: whatever follows is dropped
        self._between = True  # nothing is begun and nothing done: the next byte may be the fast lane's
        self._limit = _NO_LIMIT if max_message_size is None else max_message_size
        self._fast_limit = min(self._limit, LONGEST)
        self._deflate = deflate
        self._proto: FrameProtocol | None = None  # made at the first frame that needs it
        self._rest = b""  # the beginning of a frame whose header is not all here
        self._left = 0  # payload bytes of the current frame that are still to come
        self._key: bytes | None = None  # the bulk frame's mask, rotated to its next byte; b"" if unmasked
        # The message that is being put together.
        self._open = 0  # its opcode, or 0 when there is none
        self._compressed = False
        self._parts: list[Any] = []  # all of them str, of text, or all of them bytes
        self.held = 0  # bytes of it that are kept here
        self._size = 0  # bytes of it so far, taken ones too
        self._utf8: codecs.IncrementalDecoder | None = None  # decodes the bulk frame's text as it comes

    @property
    def wanted(self) -> int:
        """Payload bytes of the current frame that are still to come, 0 between frames."""
        return self._left

    @property
    def at_once(self) -> int:
        """Bytes that are worth another read at once, because a big plain frame is under way; 0 if none is.

        They go to its end and hold the next frame's head as well, but no crowd of small frames, which would
        take long.
        """
        if self._key is None or self._compressed or self._size + self._left < _BIG:
            return 0
        return self._left + _LONGEST_HEAD

    def size_of_new(self, count: int) -> int:
        """Bytes of the last ``count`` messages and of what is held: what a compressed read really brought."""
        messages = self.messages
        return self.held + sum(len(messages[-1 - i]) for i in range(count))

    def feed(self, data: bytes, work: int = _NO_LIMIT) -> int:
        """Take what one read brought. Never raises for what a peer sends; see ``events``.

        Args:
            data: the bytes that follow those of the last call.
            work: frames to take now at the most, common ones (see _accel.py) not counted. Of these about
                `MAX_FRAMES` are taken.

        Returns:
            The index of the first byte that was not taken; ``data`` from there on is to be fed again.
        """
        i, size = 0, len(data)
        if self._between:
            i = take_frames(data, 0, not self.client, self._fast_limit, self.messages)
            if i == size:
                return size
            if i < 0:
                self._refuse_utf8()
                return size
        before, given, stop = 0, size, self.begun + work
        if self._between:
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
                i = take_frames(data, i, not self.client, self._fast_limit, self.messages)
                if i < 0:
                    self._refuse_utf8()
                    return given
            if i < size:
                i = self._begin(data, i, size)
        self._between = not (self._rest or self._left or self._open or self.done)
        return given if self.done or self._rest else i - before

    def take_part(self) -> str | bytes | None:
        """Hand out what has arrived of the unfinished message, or None if nothing is there to hand out.

        What is left of that message then comes as its last item in ``messages``.
        """
        if not self._parts:
            return None
        part = self._joined()
        self._parts.clear()
        self.held = 0
        return part

    # -- everything else ----------------------------------------------------------------------------

    def _begin(self, data: bytes, i: int, size: int) -> int:
        """Start the frame at ``i``, which is none for the fast lane; give the index after what was used."""
        self.begun += 1
        first = data[i]
        second = data[i + 1] if size - i >= 2 else 0
        control = first & 0x08
        length = second & 127
        masked = second >= 128
        if control and length < 126 and masked is not self.client:
            start = i + (6 if masked else 2)
            end = start + length
            if end > size:  # it is short, so it is taken whole
                self._rest = data[i:]
                return size
            payload = data[start:end]
            if self._control(first, mask(payload, data[start - 4 : start]) if masked else payload):
                return end
        # A control frame has no longer form of length: wsproto refuses one at its second byte.
        longer = 0 if control or length < 126 else 2 if length == 126 else 8
        head = 2 + longer + (4 if masked else 0)
        # What is wrong with one that is still here is wsproto's to tell, as early as it can.
        if size - i < (head if not control else head + length if length < 126 else 2):
            self._rest = data[i:]
            return size
        n = _from_bytes(data[i + 2 : i + 2 + longer], "big") if longer else length
        if not (first or n or self._compressed) and self._open and masked is not self.client:
            return i + head  # an empty fragment that ends nothing: to pass it on would only cost
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
            self._key = data[i + head - 4 : i + head] if masked else b""
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
        self._feed_wsproto(data[i:end])
        return end

    def _control(self, first: int, payload: bytes) -> bool:
        """Take a whole control frame, if it is a legal one; leave what is wrong with others to wsproto."""
        if first == _FINAL_PING:
            self.events.append(Ping(payload))
        elif first == _FINAL_PONG:
            self.events.append(Pong(payload))
        elif first == _FINAL_CLOSE and payload[:2] in _PLAIN_CLOSES:
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                return False
            self.events.append(CloseFrame(_from_bytes(payload[:2], "big") if payload else 1005, reason))
            self._stop()
        else:
            return False
        return True

    def _continue(self, data: bytes) -> int:
        if self._key is not None:
            return self._bulk(data, 0)
        end = min(self._left, len(data))
        self._left -= end
        self._feed_wsproto(data[:end])
        return end

    def _bulk(self, data: bytes, i: int) -> int:
        """The payload of a message of one frame, as its chunks come."""
        end = min(i + self._left, len(data))
        self._left -= end - i
        key = self._key
        if key:
            chunk = mask(memoryview(data)[i:end], key)
            turn = (end - i) & 3
            self._key = key[turn:] + key[:turn]
        else:
            chunk = data[i:end]
        final = not self._left
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
            self.events.append(CloseFrame(int(payload[0]), payload[1]))
            self._stop()
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            assert not isinstance(payload, str)
            self.events.append((Ping if opcode is Opcode.PING else Pong)(bytes(payload)))
        else:
            self._open = int(opcode)
            size = len(payload.encode() if isinstance(payload, str) else payload)
            if self._size + size > self._limit:
                self._refuse_size()
                return
            self._add(payload if isinstance(payload, str) else bytes(payload), size)
            if frame.message_finished:
                self._finish()

    def _add(self, chunk: str | bytes, size: int) -> None:
        """Keep what came of a message, text decoded: its end is not to be more work than the rest."""
        self._size += size
        self.held += size
        if not chunk:
            return
        parts = self._parts
        if parts and len(parts[-1]) < _SMALL_CHUNK:
            parts[-1] += chunk
        else:
            parts.append(chunk)

    def _joined(self) -> str | bytes:
        return "".join(self._parts) if self._open == TEXT else b"".join(self._parts)

    def _finish(self) -> None:
        self.messages.append(self._joined())
        self._reset()

    def _reset(self) -> None:
        self._parts.clear()
        self._open = self._size = self.held = 0
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
            self.events.append(ProtocolViolation(code, reason))
            self._stop()

    def _stop(self) -> None:
        self.done = True
        self._between = False
        self._rest = b""
        self._left = 0
        self._proto = None
        self._reset()
