"""The fast path and the slow path of `FrameReader` agree with wsproto, for any frames in any split."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from wsproto.frame_protocol import Opcode

from tests.support.examples import examples
from tests.support.wire import Outcome, by_wsproto, frame, split
from trio_ws.errors import CloseFrame
from trio_ws.options import Compression
from trio_ws.protocol import frames as frames_module
from trio_ws.protocol.deflate import DeflateParams, PerMessageDeflate
from trio_ws.protocol.frames import FrameReader, Ping, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture(scope="module", autouse=True, params=["as they are", "all in place"])
def begun_messages(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run everything also with sizes for which every unfinished binary message is put together in place."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "all in place":
            patch.setattr(frames_module, "_BIG", 1)
            patch.setattr(frames_module, "_RESERVED", 1 << 20)
        yield


TEXTS = st.text(alphabet="aä€😀\x00", max_size=90)
NOT_QUITE_TEXTS = st.sampled_from(
    [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ok\xc0\x80ok", b"\xe2\x82" + b"a" * 130]
)
# Lengths around which the form of a header changes, a chunk is kept uncopied, or a frame is big.
LONG = st.sampled_from([125, 126, 127, 511, 512, 513, 4095, 4096, 16383, 16384, 65535, 65536]).map(
    lambda n: b"~" * n
)
PAYLOADS = st.binary(max_size=140) | TEXTS.map(str.encode) | NOT_QUITE_TEXTS
CLOSES = st.sampled_from(
    [
        b"",
        b"\x03",
        b"\x03\xe8",
        b"\x03\xe8bye",
        b"\x0f\xa0\xc3\xa4",
        b"\x03\xed",
        b"\x00\x00",
        b"\x03\xe8\xff",
    ]
)


def deflated(data: bytes) -> bytes:
    """A message as a sender without context takeover compresses it (RFC 7692 section 7.2.1)."""
    sender = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (sender.compress(data) + sender.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def legal_messages(draw: st.DrawFn, *, compressed: bool) -> list[dict[str, Any]]:
    """The frames of one message, with control frames between them."""
    text = draw(st.booleans())
    payload = draw(TEXTS).encode() if text else draw(st.binary(max_size=140) | LONG)
    rsv = 4 if compressed and draw(st.booleans()) else 0
    if rsv:
        payload = deflated(payload)
    fragments = split(payload, draw(st.lists(st.integers(0, 200), max_size=3))) or [b""]
    frames: list[dict[str, Any]] = []
    for i, part in enumerate(fragments):
        frames.append(
            {
                "opcode": 0 if i else 1 if text else 2,
                "payload": part,
                "fin": i == len(fragments) - 1,
                "rsv": 0 if i else rsv,
            }
        )
        if draw(st.integers(0, 3)) == 0:
            frames.append({"opcode": draw(st.sampled_from([9, 10])), "payload": draw(st.binary(max_size=9))})
    return frames


@st.composite
def any_frames(draw: st.DrawFn) -> list[dict[str, Any]]:
    """One frame, with most things in it probably wrong."""
    opcode = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 8, 9, 10, 3, 7, 11, 15]))
    made: dict[str, Any] = {"opcode": opcode, "fin": draw(st.sampled_from([True, True, False]))}
    made["payload"] = draw(CLOSES if opcode == 8 else PAYLOADS)
    made["rsv"] = draw(st.sampled_from([0, 0, 0, 4, 2, 1, 7]))
    made["form"] = draw(st.sampled_from([0, 0, 0, 0, 2, 8]))
    if draw(st.integers(0, 9)) == 0:
        made["wrong_mask"] = True
    if draw(st.integers(0, 9)) == 0:
        made["length"] = draw(st.sampled_from([0, 1, 125, 126, 65536, 1 << 40, (1 << 63) - 1, 1 << 63]))
    return [made]


@st.composite
def streams(draw: st.DrawFn, *, client: bool, compressed: bool) -> bytes:
    """The bytes of some frames, mostly legal, perhaps cut off."""
    parts = draw(
        st.lists(
            st.one_of(
                legal_messages(compressed=compressed), legal_messages(compressed=compressed), any_frames()
            ),
            max_size=6,
        )
    )
    key = draw(st.sampled_from([b"\x37\xfa\x21\x3d", b"\0\0\0\0", b"\x80\x00\xff\x01"]))
    data = b""
    for made in (made for part in parts for made in part):
        masked = client if made.pop("wrong_mask", False) else not client
        data += frame(**made, masked=masked, key=key)
    if draw(st.integers(0, 3)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data


cuts = st.lists(st.integers(0, 1 << 20), max_size=12)


def extension(*, client: bool, limit: int | None = None) -> PerMessageDeflate:
    forgets = DeflateParams(server_no_context_takeover=True, client_no_context_takeover=True)
    return PerMessageDeflate(client=client, params=forgets, compression=Compression(), max_message_size=limit)


def reader(*, client: bool, compressed: bool, limit: int | None = None) -> FrameReader:
    deflate = extension(client=client, limit=limit) if compressed else None
    return FrameReader([], client=client, max_message_size=limit, deflate=deflate)


def outcome(made: FrameReader) -> Outcome:
    """Convert the events of a reader to those of the reference."""
    result = Outcome(list(made.messages))
    for got in made.events:
        if isinstance(got, CloseFrame):
            result.close = (got.code, got.reason)
        elif isinstance(got, ProtocolViolation):
            result.violation = got.code
        else:
            result.controls.append((Opcode.PING if isinstance(got, Ping) else Opcode.PONG, got.payload))
    return result


def read(pieces: Sequence[bytes], *, client: bool, compressed: bool, limit: int | None = None) -> FrameReader:
    made = reader(client=client, compressed=compressed, limit=limit)
    space = bytearray(max(map(len, pieces), default=0))
    for i, piece in enumerate(pieces):
        if i % 2:
            made.feed(piece)
        else:  # as from a transport that reads into the same space again
            space[: len(piece)] = piece
            made.feed(memoryview(space)[: len(piece)])
            space[:] = b"\xa5" * len(space)
        assert limit is None or made.held <= limit
    return made


@examples(200)
@given(st.data(), st.booleans(), st.booleans())
def test_any_frames_in_any_split_mean_what_wsproto_says(
    data: st.DataObject, client: bool, compressed: bool
) -> None:
    stream = data.draw(streams(client=client, compressed=compressed))
    expected = by_wsproto(stream, client=client, extensions=[extension(client=client)] if compressed else [])
    made = read(split(stream, data.draw(cuts)), client=client, compressed=compressed)
    got = outcome(made)
    assert got.messages == expected.messages
    assert got.controls == expected.controls
    assert got.close == expected.close
    event(f"violation {expected.violation}, close {expected.close is not None}")
    if expected.violation is not None and got.violation is None:
        # wsproto judges a header by its first two bytes, we wait for its last one, or for a control frame's.
        made.feed(bytes(140))
        got = outcome(made)
    # A compressed frame may be wrong in two ways; which is met first is a matter of reads.
    if not compressed or None in (got.violation, expected.violation):
        assert got.violation == expected.violation
    if not made.done:
        part = made.take_part() or b""
        arrived = part.encode() if isinstance(part, str) else part
        # A character that is not whole stays behind in the reader, or in wsproto's decoder.
        assert arrived == expected.unfinished


@examples(200)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from([1, 10, 60, 130]))
def test_a_limit_cuts_off_what_is_too_big_and_changes_nothing_else(
    data: st.DataObject, client: bool, compressed: bool, limit: int
) -> None:
    stream = data.draw(streams(client=client, compressed=compressed))
    free = read([stream], client=client, compressed=compressed)
    one = read([stream], client=client, compressed=compressed, limit=limit)
    other = read(split(stream, data.draw(cuts)), client=client, compressed=compressed, limit=limit)
    sizes = [len(m.encode() if isinstance(m, str) else m) for m in free.messages]
    within = next((i for i, size in enumerate(sizes) if size > limit), len(sizes))
    assert one.messages == other.messages == list(free.messages)[: len(one.messages)]
    assert one.done == other.done
    codes = {outcome(made).violation for made in (one, other)}
    assert len(codes) == 1 or (compressed and None not in codes)
    if 1009 in codes:
        assert len(one.messages) <= within
    elif not compressed or None in codes:
        assert within == len(sizes)
        assert (list(one.messages), one.events) == (list(free.messages), free.events)


@examples(200)
@given(st.data(), st.booleans(), st.booleans(), st.lists(st.booleans(), min_size=1, max_size=8))
def test_parts_joined_are_the_messages_whenever_they_are_taken(
    data: st.DataObject, client: bool, compressed: bool, schedule: list[bool]
) -> None:
    parts = data.draw(st.lists(legal_messages(compressed=compressed), max_size=5))
    stream = b"".join(frame(**made, masked=not client) for part in parts for made in part)
    whole = read([stream], client=client, compressed=compressed)
    made = reader(client=client, compressed=compressed)
    messages: list[str | bytes] = []
    begun: list[str | bytes] = []
    for i, piece in enumerate(split(stream, data.draw(cuts))):
        made.feed(piece)
        for item in made.messages:
            empty: Any = "" if isinstance(item, str) else b""
            messages.append(empty.join([*begun, item]))
            begun.clear()
        made.messages.clear()
        if schedule[i % len(schedule)]:
            part = made.take_part()
            if part is not None:
                assert part
                assert made.held <= 3  # of a character that is not whole
                begun.append(part)
    assert messages == whole.messages
    assert not begun


@examples(200)
@given(st.data(), st.booleans(), st.integers(0, 20_000), st.integers(1, 40_000))
def test_reading_on_in_big_frames_changes_nothing(
    data: st.DataObject, client: bool, first: int, other: int
) -> None:
    stream = data.draw(streams(client=client, compressed=False))
    whole = read([stream], client=client, compressed=False)
    made = reader(client=client, compressed=False)
    made.feed(stream[:first])
    at = first
    while at < len(stream):
        size = made.at_once or other
        before = made.at_once and len(made.messages) + len(made.events)
        made.feed(stream[at : at + size])
        at += size
        # With its end at most two empty control frames can have come, or one empty message and one frame.
        assert not before or len(made.messages) + len(made.events) - before <= 8
    assert (made.messages, made.events, made.done) == (whole.messages, whole.events, whole.done)
    assert (made.held, made.wanted) == (whole.held, whole.wanted)
