"""permessage-deflate (RFC 7692): negotiation, and a compressor and a bounded inflater for one connection.

`offer`, `answer` and `confirm` negotiate with header values and keep no state. `PerMessageDeflate` then
processes payloads: our own frame reader calls `begin` and `inflate` for a message of one frame, wsproto's
frame decoder calls the inbound hooks for all others, and our own sender calls `compress`.

Invariants:

* One message never inflates to more than ``max_message_size`` plus one bytes, over all its frames, whatever
  it claims to contain. zlib is given that bound before it produces anything.
* Whether a message is compressed is stored per message. A control frame between two of its fragments changes
  nothing, and wsproto may announce a frame's header twice, if the masking key has not arrived yet.
* `compress` leaves the stream at a byte boundary after each frame. A peer that reads fragments as they arrive
  can inflate each of them completely.
* zlib's state is created by the first message that needs it, and dropped after a message if the parameters
  exclude context takeover.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from trio_ws.logs import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trio_ws.options import Compression

__all__ = ["DeflateParams", "PerMessageDeflate", "answer", "confirm", "offer"]

_NAME = "permessage-deflate"
_SERVER_FORGETS = "server_no_context_takeover"
_CLIENT_FORGETS = "client_no_context_takeover"
_SERVER_BITS = "server_max_window_bits"
_CLIENT_BITS = "client_max_window_bits"

# zlib cannot compress raw deflate with a window of 2 ** 8 bytes, although it can inflate it. A message
# compressed with 8 also inflates with any larger window.
_LEAST_BITS = 9
_MOST_BITS = 15
#: Default window of a server's compressor.
_DEFAULT_BITS = 12

# RFC 7692 section 7.2.1: removed by a sender from the end of a message, and restored by a receiver.
_TAIL = b"\x00\x00\xff\xff"

# After a DEFLATE stream that ended within a frame, zlib copies all following data. With small steps, a frame
# of many tiny streams does not take time that is quadratic in its length.
_STEP = 1024

_RSV1 = RsvBits(rsv1=True, rsv2=False, rsv3=False)

# RFC 6455 section 9.1 and RFC 7230 section 3.2.6. `\d` and `\s` would accept non-ASCII characters.
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_EXTENSION = re.compile(rf"({_TOKEN})[ \t]*")
_PARAMETER = re.compile(rf";[ \t]*({_TOKEN})[ \t]*(?:=[ \t]*({_TOKEN}|{_QUOTED})[ \t]*)?")
_WINDOW = re.compile(r"[89]|1[0-5]")


@dataclass(frozen=True, slots=True)
class DeflateParams:
    """The negotiated parameters (RFC 7692 section 7.1).

    Attributes:
        server_max_window_bits: window of the server's compressor, 8 to 15, as a power of two bytes.
        client_max_window_bits: window of the client's compressor.
        server_no_context_takeover: the server resets its window after each message.
        client_no_context_takeover: the client resets its window after each message.
    """

    server_max_window_bits: int = _MOST_BITS
    client_max_window_bits: int = _MOST_BITS
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False


def offer(compression: Compression) -> str:
    """Return the ``Sec-WebSocket-Extensions`` header of a client (RFC 7692 section 7.1).

    It contains several offers, most preferred first: the one we want, that of browsers, and one without
    parameters. Some servers look only at the first and refuse the handshake for a parameter that they do not
    know, so by default the first is that of browsers. It lets the server ask for a smaller window.
    """
    usual = f"{_NAME}; {_CLIENT_BITS}"
    wish = usual
    if (compression.server_max_window_bits or _MOST_BITS) < _MOST_BITS:
        wish += f"; {_SERVER_BITS}={compression.server_max_window_bits}"
    if compression.client_no_context_takeover:
        wish += f"; {_CLIENT_FORGETS}"
    if compression.server_no_context_takeover:
        wish += f"; {_SERVER_FORGETS}"
    return ", ".join(dict.fromkeys([wish, usual, _NAME]))


def answer(compression: Compression, offers: Iterable[str]) -> tuple[str, DeflateParams] | None:
    """Select the first offer that a server can accept (RFC 7692 sections 5.1 and 7.1).

    An offer is skipped if it has an unknown, repeated or invalid parameter, or asks the server to compress
    with a window of 8 bits. A client that cannot limit its window to the one we want is told to reset it
    after each message (section 7.1.1.2), so that no large window remains allocated for an idle connection.

    Args:
        compression: the server's settings; the smaller window of these and the offer is used.
        offers: the values of the request's ``Sec-WebSocket-Extensions`` headers, in order.

    Returns:
        The header's value for the response and the negotiated parameters; None for no compression.
    """
    for element in (element for value in offers for element in _elements(value)):
        try:
            asked = _parameters(element, window_needs_value=False)
        except ValueError:
            continue
        # Section 7.1.2.2: an answer may limit the client only if its offer contains the parameter.
        limits = _CLIENT_BITS in asked
        client_wish = compression.client_max_window_bits if limits else _MOST_BITS
        params = DeflateParams(
            min(compression.server_max_window_bits or _DEFAULT_BITS, asked.get(_SERVER_BITS, _MOST_BITS)),
            min(client_wish, asked.get(_CLIENT_BITS, _MOST_BITS)),
            compression.server_no_context_takeover or _SERVER_FORGETS in asked,
            # Section 7.1.1.2: a client that offers it does it even if the answer omits it.
            compression.client_no_context_takeover
            or _CLIENT_FORGETS in asked
            or (not limits and compression.client_max_window_bits < _MOST_BITS),
        )
        if params.server_max_window_bits < _LEAST_BITS:
            continue
        parts = [_NAME]
        # Section 7.1.2.1: an offered limit is accepted by repeating it, even 15. Without an offer, do not
        # mention our own limit: any window inflates what a smaller one compressed, and some clients reject
        # the parameter.
        if _SERVER_BITS in asked:
            parts.append(f"{_SERVER_BITS}={params.server_max_window_bits}")
        if params.client_max_window_bits < _MOST_BITS:
            parts.append(f"{_CLIENT_BITS}={params.client_max_window_bits}")
        if params.server_no_context_takeover:
            parts.append(_SERVER_FORGETS)
        if params.client_no_context_takeover:
            parts.append(_CLIENT_FORGETS)
        return "; ".join(parts), params
    return None


def confirm(compression: Compression, value: str) -> DeflateParams:
    """Validate a server's answer to `offer`, and return the negotiated parameters (RFC 7692 5.1 and 7.1).

    Since one of the offers had no parameters, an answer may have fewer than requested, or a larger
    ``server_max_window_bits``, which our inflater then uses. A larger ``client_max_window_bits`` is valid,
    too (section 7.1.2.2); we keep our own limit.

    Args:
        compression: the settings of the offer.
        value: the response's ``Sec-WebSocket-Extensions``; several headers are joined with commas.

    Raises:
        ValueError: the client must fail the connection; the message says why.
    """
    elements = _elements(value)
    if len(elements) != 1:
        raise ValueError(f"the server accepted {len(elements)} extensions, but only {_NAME} was offered")
    got = _parameters(elements[0], window_needs_value=True)
    client_bits = min(compression.client_max_window_bits, got.get(_CLIENT_BITS, _MOST_BITS))
    if client_bits < _LEAST_BITS:
        raise ValueError(f"the server requires {_CLIENT_BITS}={client_bits}, but zlib needs 9 or more")
    return DeflateParams(
        got.get(_SERVER_BITS, _MOST_BITS),
        client_bits,
        _SERVER_FORGETS in got,
        compression.client_no_context_takeover or _CLIENT_FORGETS in got,
    )


def _elements(value: str) -> list[str]:
    """Split a header value into extensions. Commas in quotes do not separate; empty elements are skipped."""
    return [element for part in _ELEMENT.findall(value) if (element := part.strip(" \t"))]


def _parameters(element: str, *, window_needs_value: bool) -> dict[str, int]:
    """Parse the parameters of one permessage-deflate element, a flag as 1. ValueError if it is invalid."""
    head = _EXTENSION.match(element)
    if head is None or head[1] != _NAME:
        raise ValueError(f"not {_NAME}: {shown(element)}")
    found: dict[str, int] = {}
    position = head.end()
    while position < len(element):
        part = _PARAMETER.match(element, position)
        if part is None:
            raise ValueError(f"malformed parameters: {shown(element)}")
        position = part.end()
        name, value = part.groups()
        if name in found:
            raise ValueError(f"{name} is repeated: {shown(element)}")
        if value is not None and value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        found[name] = _setting(name, value, window_needs_value=window_needs_value)
    return found


def _setting(name: str, value: str | None, *, window_needs_value: bool) -> int:
    """Parse a parameter as an int; 15 for a ``client_max_window_bits`` without a value, where allowed."""
    if name in (_SERVER_FORGETS, _CLIENT_FORGETS):
        if value is not None:
            raise ValueError(f"{name} takes no value, not {shown(value or '')!r}")
        return 1
    if name not in (_SERVER_BITS, _CLIENT_BITS):
        raise ValueError(f"{name} is not a parameter of {_NAME}")
    if value is None and name == _CLIENT_BITS and not window_needs_value:
        return _MOST_BITS
    if value is None or not _WINDOW.fullmatch(value):
        raise ValueError(f"{name} requires a value from 8 to 15, not {shown(value or '')!r}")
    return int(value)


class PerMessageDeflate(Extension):
    """permessage-deflate on one connection, for wsproto's frame decoder inbound and for our sender outbound.

    It does not negotiate through wsproto, and leaves wsproto's outbound frames (pings, closes) unchanged.

    Args:
        client: whether this side is the client.
        params: the negotiated parameters.
        compression: level and memory of the compressor.
        max_message_size: bytes that one message may inflate to; beyond it the inbound hooks return
            `CloseReason.MESSAGE_TOO_BIG`. None for no limit.
    """

    name = _NAME

    def __init__(
        self, *, client: bool, params: DeflateParams, compression: Compression, max_message_size: int | None
    ) -> None:
        ours = params.server_max_window_bits, params.server_no_context_takeover
        theirs = params.client_max_window_bits, params.client_no_context_takeover
        if client:
            ours, theirs = theirs, ours
        self.agreed = _NAME  # as the header says it, with its parameters
        self._out_bits, self._out_forgets = ours
        in_bits, self._in_forgets = theirs
        self._in_bits = max(in_bits, _LEAST_BITS)
        self._compression = compression
        self._max_message_size = max_message_size

        # zlib has no public names for these types.
        self._compressor: zlib._Compress | None = None  # pyright: ignore[reportPrivateUsage]
        self._inflater: zlib._Decompress | None = None  # pyright: ignore[reportPrivateUsage]
        # State of the incoming frame.
        self._control = False
        # State of the incoming message.
        self._compressed = False
        self.streams_ended = 0  # so far; starting a new one costs time
        self._inflated = 0
        self._tail_due = False

    def enabled(self) -> bool:
        """True: the object exists only after successful negotiation."""
        return True

    def offer(self) -> bool:
        """False: the negotiation is done by `offer` of this module, not by wsproto."""
        return False

    def compress(self, data: bytes, *, fin: bool) -> bytes:
        """Deflate the payload of one data frame (RFC 7692 section 7.2.1).

        The caller sets RSV1 on the first frame of the message, and passes all its frames in order. The result
        must be sent, or the connection given up, since the peer's window follows ours.

        Args:
            data: the frame's part of the message; may be empty.
            fin: whether this is the last frame of the message.
        """
        if data:
            if self._compressor is None:
                self._compressor = zlib.compressobj(
                    self._compression.level, zlib.DEFLATED, -self._out_bits, self._compression.memory_level
                )
            payload = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
            if fin:
                payload = payload[: -len(_TAIL)]
        else:
            # zlib flushes nothing twice, but a message needs an end (section 7.2.3.6): the first byte of an
            # empty stored block, whose other bytes are the tail. The stream is at a byte boundary.
            payload = b"\x00" if fin else b""
        if fin and self._out_forgets:
            self._compressor = None
        return payload

    @property
    def settings(self) -> tuple[int, int, int, int]:
        """The parameters of the result of `alone`: window bits, level, memory level and threshold."""
        compression = self._compression
        return self._out_bits, compression.level, compression.memory_level, compression.threshold

    def alone(self, data: bytes) -> bytes:
        """Deflate one whole message so that every connection with the same `settings` may send the result.

        It does not refer to earlier messages, which is always allowed. After sending it on a connection, call
        `restart` of that connection's own object.
        """
        restart, self._compressor = self._compressor, None
        try:
            return self.compress(data, fin=True)
        finally:
            self._compressor = restart

    def alone_in_pieces(self, data: bytes, size: int) -> Iterator[bytes]:
        """Like `alone`, in steps of ``size`` bytes of ``data``; the joined pieces are the payload.

        It does not change this object, so it can be abandoned at any time.
        """
        compressor = zlib.compressobj(
            self._compression.level, zlib.DEFLATED, -self._out_bits, self._compression.memory_level
        )
        for start in range(0, len(data), size):
            yield compressor.compress(data[start : start + size])
        yield compressor.flush(zlib.Z_SYNC_FLUSH)[: -len(_TAIL)]

    def restart(self) -> None:
        """Stop referring to the peer's window, which differs from ours after a shared message."""
        self._compressor = None

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Called when a frame begins. Only the first one of a message may have RSV1 (RFC 7692 section 6)."""
        self._control = opcode.iscontrol()
        if self._control or opcode is Opcode.CONTINUATION:
            return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else _RSV1
        # Also reached by a new message while one is unfinished; wsproto rejects its payload.
        self._compressed = rsv.rsv1
        self._inflated = 0
        self._tail_due = False
        return _RSV1

    def frame_inbound_payload_data(
        self, proto: FrameDecoder | FrameProtocol, data: bytes
    ) -> bytes | CloseReason:
        """Called with a part of a frame's payload."""
        if self._control or not self._compressed:
            return data
        return self._inflate(data)

    def frame_inbound_complete(
        self, proto: FrameDecoder | FrameProtocol, fin: bool
    ) -> bytes | CloseReason | None:
        """Called when a frame ends. The result belongs to its payload, too."""
        if self._control or not self._compressed or not fin:
            return None
        self._compressed = False
        return self._inflate_end()

    def begin(self) -> None:
        """Start a compressed message whose only frame is passed to `inflate`."""
        self._inflated = 0
        self._tail_due = False

    def inflate(self, data: bytes, *, fin: bool) -> bytes | CloseReason:
        """Inflate a part of that frame's payload, the last one with ``fin``. May return an error."""
        payload = self._inflate(data)
        if not fin or isinstance(payload, CloseReason):
            return payload
        rest = self._inflate_end()
        return rest if isinstance(rest, CloseReason) else payload + rest

    def _inflate_end(self) -> bytes | CloseReason:
        """Return the last data of a message, which becomes available at its end."""
        # Some senders leave an empty message without any payload, and some end one with a final block.
        # Neither has an open block that the tail would complete; it would corrupt the next message.
        rest = self._inflate(_TAIL) if self._tail_due else b""
        if self._in_forgets:
            self._inflater = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        """Inflate within the rest of the bound.

        zlib stops permanently at a block with BFINAL, which a message may have anywhere (RFC 7692 section
        7.2.3.4). Data after it starts a new stream at the next byte. Senders reset their compressor there, so
        the new stream refers to no earlier window.
        """
        produced: list[bytes] = []
        position, step = 0, len(data)
        while position < len(data):
            if self._inflater is None:
                self._inflater = zlib.decompressobj(-self._in_bits)
            inflater = self._inflater
            chunk = data[position : position + step]
            # One byte more than allowed distinguishes a message of exactly the limit from a larger one. If
            # zlib produced less than that, it has consumed all its input, and unconsumed_tail is empty. 0
            # means no limit.
            room = 0 if self._max_message_size is None else self._max_message_size - self._inflated + 1
            try:
                piece = inflater.decompress(chunk, room)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._inflated += len(piece)
            if self._max_message_size is not None and self._inflated > self._max_message_size:
                return CloseReason.MESSAGE_TOO_BIG
            if piece:
                produced.append(piece)
            position += len(chunk)
            self._tail_due = not inflater.eof
            if inflater.eof:
                position -= len(inflater.unused_data)
                step = _STEP
                self._inflater = None
                self.streams_ended += 1
        return produced[0] if len(produced) == 1 else b"".join(produced)
