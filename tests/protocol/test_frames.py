"""Single frames: each rule of RFC 6455 section 5, and each limit.

test_frames_agree.py tests that both parsers agree on any input.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.watching import growth
from tests.support.wire import by_wsproto, frame, split
from trio_ws.errors import CloseFrame
from trio_ws.options import Compression
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate
from trio_ws.protocol.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameReader,
    Ping,
    Pong,
    ProtocolViolation,
)
from trio_ws.protocol.framing import close_payload

if TYPE_CHECKING:
    from collections.abc import Iterable

BOTH = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
SIZES = [0, 1, 125, 126, 127, 511, 512, 513, 65535, 65536, 70000]


def reader(
    *, client: bool = False, limit: int | None = None, deflate: PerMessageDeflate | None = None
) -> FrameReader:
    return FrameReader([], client=client, max_message_size=limit, deflate=deflate)


def deflate(*, client: bool, limit: int | None = None) -> PerMessageDeflate:
    return PerMessageDeflate(
        client=client, params=DeflateParams(), compression=Compression(), max_message_size=limit
    )


def fed(pieces: Iterable[bytes], *, client: bool = False, limit: int | None = None) -> FrameReader:
    made = reader(client=client, limit=limit)
    for piece in pieces:
        made.feed(piece)
    return made


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


# -- messages -----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_every_form_of_length_is_a_message(client: bool, size: int) -> None:
    binary, text = b"\xff" * size, "x" * size
    data = frame(BINARY, binary, masked=not client) + frame(TEXT, text.encode(), masked=not client)
    assert fed([data], client=client).messages == [binary, text]
    # Cut inside the first header, in the first payload, and inside the second header.
    for cut in (1, len(data) // 4, len(data) // 2 + 1):
        made = fed([data[:cut], data[cut:]], client=client)
        assert made.messages == [binary, text]
        assert (made.held, made.wanted, made.done, made.events) == (0, 0, False, [])


@BOTH
def test_bytes_one_by_one_are_the_same_messages(client: bool) -> None:
    data = frame(TEXT, "grüße😀".encode(), masked=not client) + frame(BINARY, b"\0" * 200, masked=not client)
    assert fed(one_by_one(data), client=client).messages == ["grüße😀", b"\0" * 200]


@BOTH
def test_control_frames_between_fragments_come_at_once(client: bool) -> None:
    made = reader(client=client)
    made.feed(frame(TEXT, b"gr\xc3", fin=False, masked=not client))
    made.feed(frame(PING, b"there?", masked=not client) + frame(PONG, b"", masked=not client))
    assert made.events == [Ping(b"there?"), Pong(b"")]
    assert made.messages == []
    made.feed(
        frame(CONTINUATION, b"\xbc\xc3\x9f", masked=not client) + frame(TEXT, b"next", masked=not client)
    )
    assert made.messages == ["grüß", "next"]


def test_empty_messages_and_fragments() -> None:
    made = reader()
    made.feed(frame(TEXT) + frame(BINARY) + frame(TEXT, fin=False) + frame(CONTINUATION))
    made.feed(frame(BINARY, fin=False) + frame(CONTINUATION, b"x", fin=False) + frame(CONTINUATION))
    assert made.messages == ["", b"", "", b"x"]


def test_buffered_and_missing_bytes_are_reported() -> None:
    made = reader()
    data = frame(BINARY, b"x" * 300)
    made.feed(data[:8])
    assert (made.held, made.wanted) == (0, 300)
    made.feed(data[8:108])
    assert (made.held, made.wanted) == (100, 200)
    made.feed(data[108:])
    assert (made.held, made.wanted) == (0, 0)
    made.feed(frame(BINARY, b"abc", fin=False))
    assert (made.held, made.wanted) == (3, 0)
    assert made.size_of_new(1) == 303


@BOTH
def test_only_within_a_big_frame_is_there_more_to_read_at_once(client: bool) -> None:
    big = frame(BINARY, bytes(100_000), masked=not client)
    made = reader(client=client)
    made.feed(frame(TEXT, b"small", masked=not client) + big[:200])
    # To its end and through the longest head that the next frame can have.
    assert made.at_once == len(big) - 200 + 14
    made.feed(big[200:-1])
    assert made.at_once == 1 + 14
    made.feed(big[-1:] + big[:3])
    assert made.at_once == 0  # how long that one is has not come yet
    made.feed(big[3:])
    assert made.at_once == 0
    made.feed(frame(BINARY, bytes(10_000), masked=not client)[:5000])
    assert (made.wanted > 0, made.at_once) == (True, 0)
    fragment = fed([frame(BINARY, bytes(100_000), fin=False, masked=not client)[:200]], client=client)
    assert (fragment.wanted > 0, fragment.at_once) == (True, 0)


def test_fragments_without_end_and_without_bytes_hold_nothing() -> None:
    made = reader(limit=10)
    made.feed(frame(BINARY, b"abc", fin=False))
    empty = frame(CONTINUATION, fin=False) * 1000
    for _ in range(20):
        made.feed(empty)
    assert made.held == 3
    assert len(made._parts) == 1
    made.feed(frame(CONTINUATION, b"d"))
    assert made.messages == [b"abcd"]


def test_small_fragments_are_kept_as_one_buffer() -> None:
    made = reader()
    made.feed(frame(BINARY, fin=False))
    for i in range(200):
        made.feed(frame(CONTINUATION, bytes([i]), fin=False))
    assert len(made._parts) == 1
    made.feed(frame(CONTINUATION, b"z" * 5000, fin=False))
    assert len(made._parts) == 1
    made.feed(frame(CONTINUATION, b"y", fin=False))
    assert len(made._parts) == 2
    made.feed(frame(CONTINUATION, b"!"))
    assert made.messages == [bytes(range(200)) + b"z" * 5000 + b"y!"]


# -- violations ---------------------------------------------------------------------------------------

WRONG = {
    "reserved opcode 3": frame(3),
    "reserved opcode 11": frame(11, b"x"),
    "RSV1 without compression": frame(TEXT, b"x", rsv=4),
    "RSV2": frame(TEXT, b"x", rsv=2),
    "RSV3": frame(BINARY, b"x", rsv=1),
    "RSV1 on a ping": frame(PING, b"x", rsv=4),
    "continuation of nothing": frame(CONTINUATION, b"x"),
    "an empty continuation of nothing": frame(CONTINUATION, fin=False),
    "a message inside a message": frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
    "a fragmented ping": frame(PING, b"x", fin=False),
    "a fragmented close": frame(CLOSE, fin=False),
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a ping of no bytes in a long form": frame(PING, form=2),
    "a close of 126 bytes": frame(CLOSE, b"\x03\xe8" + b"x" * 124),
    "two bytes of length for 125": frame(BINARY, b"x" * 125, form=2),
    "eight bytes of length for 125": frame(BINARY, b"x" * 125, form=8),
    "eight bytes of length for 65535": frame(BINARY, b"x" * 65535, form=8),
    "a length with its highest bit": frame(BINARY, length=1 << 63, form=8),
    "a close with one byte": frame(CLOSE, b"\x03"),
    "a close with code 999": frame(CLOSE, b"\x03\xe7"),
    "a close with code 1004": frame(CLOSE, b"\x03\xec"),
    "a close with code 1005": frame(CLOSE, b"\x03\xed"),
    "a close with code 1006": frame(CLOSE, b"\x03\xee"),
    "a close with code 1015": frame(CLOSE, b"\x03\xf7"),
    "a close with code 2999": frame(CLOSE, b"\x0b\xb7"),
    "a close with code 5000": frame(CLOSE, b"\x13\x88"),
    "an unmasked frame to a server": frame(TEXT, b"x", masked=False),
    "an unmasked ping to a server": frame(PING, b"x", masked=False),
    "an unmasked fragment to a server": frame(TEXT, b"x", masked=False, fin=False),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_a_protocol_error_is_1002_after_what_came_before_it(data: bytes) -> None:
    before = frame(TEXT, b"fine") + frame(PING, b"p")
    for pieces in ([before + data], [before, data], one_by_one(before + data)):
        made = fed(pieces)
        assert made.messages == ["fine"]
        assert made.events[0] == Ping(b"p")
        [violation] = made.events[1:]
        assert isinstance(violation, ProtocolViolation)
        assert violation.code == 1002
        assert 0 < len(violation.reason.encode()) <= 123
        assert (made.done, made.held, made.wanted) == (True, 0, 0)


@pytest.mark.parametrize("data", [frame(TEXT, b"x"), frame(BINARY, b"x" * 200), frame(PING, b"x")])
def test_a_masked_frame_to_a_client_is_1002(data: bytes) -> None:
    made = fed([data], client=True)
    assert made.messages == []
    assert [event.code for event in made.events if isinstance(event, ProtocolViolation)] == [1002]


@BOTH
def test_a_length_of_63_bits_is_legal_and_keeps_nothing_yet(client: bool) -> None:
    made = reader(client=client)
    made.feed(frame(BINARY, length=(1 << 63) - 1, masked=not client))
    assert made.events == []
    assert made.wanted == (1 << 63) - 1


@BOTH
@pytest.mark.parametrize(
    "last", [CloseFrame(1000, "bye"), ProtocolViolation(1002, "Invalid opcode 0x3")], ids=repr
)
def test_after_the_last_event_there_is_silence(client: bool, last: CloseFrame | ProtocolViolation) -> None:
    data = frame(CLOSE, b"\x03\xe8bye", masked=not client)
    if isinstance(last, ProtocolViolation):
        data = frame(3, masked=not client)
    for later in (frame(TEXT, b"late", masked=not client), b"\xff" * 30):
        made = fed([data + later], client=client)
        made.feed(later)
        assert made.messages == []
        assert made.events == [last]
        assert made.done


def test_violations_are_short_enough_for_a_close_frame() -> None:
    for data in WRONG.values():
        for event in fed([data]).events:
            assert isinstance(event, ProtocolViolation)
            assert re.fullmatch(r"[ -~]+", event.reason)
            assert len(close_payload(event.code, event.reason)) <= 125


# -- Close --------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", CloseFrame(1005, "")),
        (b"\x03\xe8", CloseFrame(1000, "")),
        (b"\x03\xe9going", CloseFrame(1001, "going")),
        (b"\x03\xe8" + "tschüß".encode(), CloseFrame(1000, "tschüß")),
        (b"\x03\xf3", CloseFrame(1011, "")),
        # Registered since; wsproto does not know it.
        (b"\x03\xf6" + "schlüß".encode(), CloseFrame(1014, "schlüß")),
        (b"\x0b\xb8lib", CloseFrame(3000, "lib")),
        (b"\x13\x87" + b"r" * 123, CloseFrame(4999, "r" * 123)),
    ],
)
def test_a_close_frame_tells_code_and_reason(client: bool, payload: bytes, expected: CloseFrame) -> None:
    data = frame(CLOSE, payload, masked=not client)
    for pieces in ([data], one_by_one(data)):
        made = fed(pieces, client=client)
        assert made.events == [expected]
        assert type(made.events[0]) is CloseFrame
        assert made.done


def test_a_close_reason_with_invalid_utf8_is_1007() -> None:
    made = fed([frame(CLOSE, b"\x03\xe8\xff")])
    assert made.events == [ProtocolViolation(1007, "text is not valid UTF-8")]


def test_a_close_within_a_message_drops_what_was_begun() -> None:
    made = fed([frame(TEXT, b"never", fin=False) + frame(CLOSE)])
    assert made.messages == []
    assert made.events == [CloseFrame(1005, "")]
    assert made.held == 0
    assert made.take_part() is None


# -- UTF-8 --------------------------------------------------------------------------------------------

# Each is valid up to its last byte, which is invalid at this place.
BAD = {
    "a lone continuation byte": b"ok\x80",
    "0xff": b"ok\xff",
    "an overlong form": b"ok\xc0",
    "a broken sequence": b"ok\xe2\x82a",
    # Python's decoder, and therefore wsproto, detects a surrogate only at its third byte.
    "a surrogate": b"ok\xed\xa0\x80",
    "beyond U+10FFFF": b"ok\xf4\x90",
    "after a long text": "ä€😀".encode() * 50 + b"\xc3\xc3",
}


@BOTH
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("fragmented", [False, True])
def test_bad_utf8_is_refused_at_its_first_bad_byte(client: bool, bad: bytes, fragmented: bool) -> None:
    """The error is reported before the rest of the long frame has arrived."""
    data = frame(TEXT, bad + b"~" * 600, fin=not fragmented, masked=not client)
    head = len(data) - len(bad) - 600
    good, last = data[: head + len(bad) - 1], data[head + len(bad) - 1 : head + len(bad)]
    for pieces in ([good], one_by_one(good)):
        made = fed(pieces, client=client)
        assert made.events == []
        made.feed(last)
        assert made.events == [ProtocolViolation(1007, "text is not valid UTF-8")]
        assert made.done
        assert made.messages == []


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_invalid_utf8_in_the_fast_path(bad: bytes) -> None:
    data = frame(TEXT, b"fine") + frame(TEXT, bad) + frame(TEXT, b"late")
    assert by_wsproto(data, client=False).violation == 1007
    made = fed([data])
    assert made.messages == ["fine"]
    assert made.events == [ProtocolViolation(1007, "text is not valid UTF-8")]
    unmasked = fed([frame(TEXT, bad, masked=False) + frame(TEXT, b"late", masked=False)], client=True)
    assert (unmasked.messages, unmasked.events) == ([], made.events)


@BOTH
@pytest.mark.parametrize("cut_off", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_text_may_not_end_within_a_character(client: bool, cut_off: bytes) -> None:
    whole = frame(TEXT, b"a" + cut_off, masked=not client)
    parts = frame(TEXT, b"a" + cut_off, fin=False, masked=not client) + frame(CONTINUATION, masked=not client)
    for pieces in ([whole], one_by_one(whole), [parts], one_by_one(parts)):
        made = fed(pieces, client=client)
        assert made.messages == []
        assert made.events == [ProtocolViolation(1007, "text is not valid UTF-8")]


# -- limits -------------------------------------------------------------------------------------------

TOO_BIG = ProtocolViolation(1009, "message exceeds max_message_size (300 bytes)")


@BOTH
@pytest.mark.parametrize("payload", [b"x" * 300, "ä".encode() * 150])
def test_a_message_as_big_as_the_limit_is_taken(client: bool, payload: bytes) -> None:
    data = frame(TEXT, payload, masked=not client)
    for pieces in ([data], one_by_one(data), [data[:100], data[100:]]):
        made = fed(pieces, client=client, limit=300)
        assert made.messages == [payload.decode()]
        assert made.events == []


@BOTH
@pytest.mark.parametrize("length", [301, 65536, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [False, True])
def test_a_bigger_one_is_refused_by_its_header(client: bool, length: int, opcode: int, fin: bool) -> None:
    """Text counts as UTF-8: the limit is on bytes."""
    header = frame(opcode, length=length, fin=fin, masked=not client)
    made = reader(client=client, limit=300)
    made.feed(header[:-1])
    assert made.events == []
    made.feed(header[-1:])
    assert made.events == [TOO_BIG]
    assert (made.done, made.held) == (True, 0)


@BOTH
def test_the_limit_is_on_all_fragments_together(client: bool) -> None:
    made = reader(client=client, limit=300)
    made.feed(frame(BINARY, b"x" * 200, fin=False, masked=not client))
    made.feed(frame(CONTINUATION, b"x" * 100, fin=False, masked=not client))
    assert made.held == 300
    made.feed(frame(PING, b"control frames are no part of it", masked=not client))
    made.feed(frame(CONTINUATION, b"x", masked=not client)[:-1])
    assert made.events[1:] == [TOO_BIG]


def test_parts_that_were_taken_count_for_the_limit() -> None:
    made = reader(limit=300)
    made.feed(frame(BINARY, b"x" * 300, fin=False))
    assert made.take_part() == b"x" * 300
    made.feed(frame(CONTINUATION, b"x", fin=False))
    assert made.events == [TOO_BIG]


def test_each_message_has_the_limit_for_itself() -> None:
    made = fed([frame(BINARY, b"x" * 300) * 3 + frame(BINARY, b"y" * 301)], limit=300)
    assert made.messages == [b"x" * 300] * 3
    assert made.events == [TOO_BIG]


# -- compression --------------------------------------------------------------------------------------


@BOTH
def test_compressed_and_plain_messages_alternate(client: bool) -> None:
    sender = deflate(client=not client)
    made = reader(client=client, deflate=deflate(client=client), limit=1000)
    text = "hällo " * 100
    data = b""
    for _ in range(3):
        payload = sender.compress(text.encode(), fin=True)
        data += frame(TEXT, payload, rsv=4, masked=not client)
        data += frame(BINARY, b"plain" * 100, masked=not client)
    for piece in split(data, range(7, len(data), 11)):
        made.feed(piece)
    assert made.messages == [text, b"plain" * 100] * 3
    assert made.size_of_new(2) == len(text) + 500
    assert made.events == []


@BOTH
def test_a_bomb_is_refused_when_it_has_inflated_past_the_limit(client: bool) -> None:
    bomb = deflate(client=not client).compress(bytes(1 << 20), fin=True)
    made = reader(client=client, deflate=deflate(client=client, limit=300), limit=300)
    made.feed(frame(BINARY, bomb, rsv=4, masked=not client)[:50])
    assert made.events == [TOO_BIG]
    assert made.held == 0


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (frame(BINARY, b"\xff\xff\xff", rsv=4), ProtocolViolation(1007, "corrupt compressed data")),
        (frame(PING, b"", rsv=4), ProtocolViolation(1002, "RSV1 set on a wrong frame")),
        (
            frame(BINARY, b"", rsv=4, fin=False) + frame(CONTINUATION, b"", rsv=4),
            ProtocolViolation(1002, "RSV1 set on a wrong frame"),
        ),
    ],
)
def test_errors_of_compression(data: bytes, violation: ProtocolViolation) -> None:
    made = reader(deflate=deflate(client=False))
    made.feed(data)
    assert made.events == [violation]


def test_compressed_text_with_invalid_utf8_is_1007() -> None:
    made = reader(deflate=deflate(client=False))
    made.feed(frame(TEXT, deflate(client=True).compress(b"a\xff", fin=True), rsv=4))
    assert made.events == [ProtocolViolation(1007, "text is not valid UTF-8")]


def test_fragments_are_bounded_where_the_extension_is_not() -> None:
    """The reader's limit applies to plain fragments, even with an extension that has no limit."""
    made = reader(deflate=deflate(client=False), limit=300)
    packed = deflate(client=True).compress(b"x" * 301, fin=True)
    made.feed(frame(BINARY, packed, rsv=4))
    assert made.events == [TOO_BIG]


# -- parts --------------------------------------------------------------------------------------------


def test_parts_of_text_end_at_characters() -> None:
    made = reader()
    data = frame(TEXT, "aä€😀".encode())
    assert made.take_part() is None
    parts: list[object] = []
    for piece in one_by_one(data):
        made.feed(piece)
        parts.append(made.take_part())
    assert [part for part in parts if part is not None] == ["a", "ä", "€"]
    assert made.messages == ["😀"]


def test_parts_of_a_binary_message_are_what_came() -> None:
    made = reader()
    data = frame(BINARY, b"\xc3\xe2\xf0" * 2)
    made.feed(data[:-3])
    assert made.take_part() == b"\xc3\xe2\xf0"
    assert made.take_part() is None
    made.feed(data[-3:])
    assert made.take_part() is None
    assert made.messages == [b"\xc3\xe2\xf0"]


def test_a_character_in_pieces_is_handed_out_once_it_is_whole() -> None:
    made = reader()
    made.feed(frame(TEXT, b"\xf0\x9f", fin=False))
    assert made.take_part() is None
    made.feed(frame(CONTINUATION, b"\x98\x80x", fin=False))
    assert made.take_part() == "😀x"
    made.feed(frame(CONTINUATION))
    assert made.messages == [""]


@pytest.mark.parametrize("size", [2**24 + 1, 2**40, 2**62])
def test_a_declared_size_takes_no_memory(size: int) -> None:
    """A message of any length is allowed, and this one says that it is huge. Only what has come is kept."""
    messages: list[str | bytes] = []
    frames = FrameReader(messages, client=True, max_message_size=None)
    with growth() as grown:
        frames.feed(b"\x82\x7f" + size.to_bytes(8, "big") + bytes(40_000))
        for _ in range(20):
            frames.feed(bytes(40_000))
    assert frames.held == 21 * 40_000
    assert not frames.events
    assert grown.peak < 4_000_000
