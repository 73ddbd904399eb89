"""The common frame in C and in Python: what is parsed, where parsing stops, and that both agree."""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol._accel import (
    LONGEST,
    frame_head,
    python_take_frames,
    python_take_one,
    python_whole_frame,
    take_frames,
    take_one,
    whole_frame,
)
from trio_ws.protocol.masking import extension, python_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    Take = Callable[[bytes, int, bool, int, Any], int]
    TakeOne = Callable[[bytes, bool, int], str | bytes | None]
    Make = Callable[[int, bytes, bytes], bytes]

c_take: Take | None = None if extension is None else extension.take_frames
c_take_one: TakeOne | None = None if extension is None else extension.take_one
c_whole: Make | None = None if extension is None else extension.whole_frame
ONLY_C = pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
TAKERS = pytest.mark.parametrize(
    "take", [pytest.param(python_take_frames, id="python"), pytest.param(c_take, id="c", marks=ONLY_C)]
)
ONE_TAKERS = pytest.mark.parametrize(
    "take", [pytest.param(python_take_one, id="python"), pytest.param(c_take_one, id="c", marks=ONLY_C)]
)
MAKERS = pytest.mark.parametrize(
    "make", [pytest.param(python_whole_frame, id="python"), pytest.param(c_whole, id="c", marks=ONLY_C)]
)
ROLES = pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
KEY = b"\x00\xff\x12\x80"


def frame(first: int, payload: bytes, masked: bool) -> bytes:
    """One frame, by the words of RFC 6455 section 5.2."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (KEY + python_mask(payload, KEY) if masked else payload)


def test_one_place_chooses() -> None:
    if extension is None:
        assert (take_frames, take_one, whole_frame) == (
            python_take_frames,
            python_take_one,
            python_whole_frame,
        )
    else:
        assert (take_frames, take_one, whole_frame) == (c_take, c_take_one, c_whole)


@TAKERS
@ROLES
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 383, 384, 385, 4096, LONGEST])
def test_frames_of_every_length_are_taken(take: Take, masked: bool, size: int) -> None:
    payload = os.urandom(size)
    text = "ä" * (size // 2)
    data = frame(0x82, payload, masked) + frame(0x81, text.encode(), masked) + frame(0x82, b"end", masked)
    messages: list[str | bytes] = []
    assert take(data, 0, masked, LONGEST, messages) == len(data)
    assert messages == [payload, text, b"end"]
    assert [type(message) for message in messages] == [bytes, str, bytes]


@TAKERS
@ROLES
def test_parsing_begins_at_the_given_offset(take: Take, masked: bool) -> None:
    first, second = frame(0x82, b"one", masked), frame(0x82, b"two", masked)
    messages: list[str | bytes] = []
    assert take(first + second, len(first), masked, LONGEST, messages) == len(first + second)
    assert messages == [b"two"]
    assert take(first, len(first), masked, LONGEST, messages) == len(first)
    assert messages == [b"two"]


@TAKERS
@ROLES
@pytest.mark.parametrize("size", [3, 200])
def test_a_frame_that_is_cut_anywhere_is_left(take: Take, masked: bool, size: int) -> None:
    whole, cut = frame(0x82, b"whole", masked), frame(0x82, b"x" * size, masked)
    for end in range(len(cut)):
        messages: list[str | bytes] = []
        assert take(whole + cut[:end], 0, masked, LONGEST, messages) == len(whole)
        assert messages == [b"whole"]


@TAKERS
@ROLES
@pytest.mark.parametrize("first", [f for f in range(256) if f not in (0x81, 0x82)])
def test_every_other_first_byte_is_left(take: Take, masked: bool, first: int) -> None:
    messages: list[str | bytes] = []
    assert take(frame(first, b"payload", masked), 0, masked, LONGEST, messages) == 0
    assert messages == []


@TAKERS
@ROLES
def test_uncommon_frames_are_left(take: Take, masked: bool) -> None:
    bit = 0x80 if masked else 0
    key = KEY if masked else b""
    others = [
        frame(0x82, b"the other role's", not masked),
        frame(0x82, b"x" * 11, masked),  # over the limit given below
        frame(0x82, b"x" * (LONGEST + 1), masked),
        bytes((0x82, bit | 126, 0, 5)) + key + b"12345",  # not the shortest form
        bytes((0x82, bit | 126, 0, 125)) + key + b"x" * 125,
        bytes((0x82, bit | 127)) + bytes(7) + b"\x05" + key + b"12345",
        bytes((0x82, bit | 127)) + b"\xff" * 8 + key,
    ]
    for data in others:
        messages: list[str | bytes] = []
        assert take(data, 0, masked, 10, messages) == 0
        assert messages == []


@TAKERS
@ROLES
@pytest.mark.parametrize("text", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_invalid_text_is_reported(take: Take, masked: bool, text: bytes) -> None:
    messages: list[str | bytes] = []
    data = frame(0x82, b"before", masked) + frame(0x81, text, masked) + frame(0x82, b"behind", masked)
    assert take(data, 0, masked, LONGEST, messages) == -1
    assert messages == [b"before"]


pieces = st.one_of(
    st.binary(max_size=20),
    st.builds(
        frame,
        st.sampled_from([0x81, 0x82, 0x82, 0x01, 0x89, 0xC2]),
        st.binary(max_size=20) | st.integers(0, 700).map(lambda n: b"y" * n),
        st.booleans(),
    ),
    st.builds(lambda text, masked: frame(0x81, text.encode(), masked), st.text(max_size=20), st.booleans()),
)


@ONLY_C
@given(data=st.lists(pieces, max_size=6).map(b"".join), at=st.data(), masked=st.booleans())
def test_both_take_the_same_of_any_bytes(data: bytes, at: Any, masked: bool) -> None:
    assert c_take is not None
    end = at.draw(st.integers(0, len(data)), label="end")
    start = at.draw(st.integers(0, end), label="start")
    limit = at.draw(st.sampled_from([0, 10, 126, LONGEST]), label="limit")
    in_c: list[str | bytes] = []
    in_python: list[str | bytes] = []
    taken = c_take(data[:end], start, masked, limit, in_c)
    assert taken == python_take_frames(data[:end], start, masked, limit, in_python)
    assert in_c == in_python
    assert [type(message) for message in in_c] == [type(message) for message in in_python]


@ONE_TAKERS
@given(data=st.lists(pieces, max_size=2).map(b"".join), at=st.data(), masked=st.booleans())
def test_one_message_is_taken_where_it_is_all_that_came(
    take: TakeOne, data: bytes, at: Any, masked: bool
) -> None:
    data = data[: at.draw(st.integers(len(data) - 2, len(data)) | st.just(len(data)), label="end")]
    limit = at.draw(st.sampled_from([0, 10, 126, LONGEST]), label="limit")
    messages: list[str | bytes] = []
    whole = python_take_frames(data, 0, masked, limit, messages) == len(data) and len(messages) == 1
    message = take(data, masked, limit)
    assert message == (messages[0] if whole else None)
    assert type(message) is (type(messages[0]) if whole else type(None))


@ONE_TAKERS
@ROLES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4096, LONGEST])
def test_one_message_of_every_length_is_taken(take: TakeOne, masked: bool, size: int) -> None:
    payload = os.urandom(size)
    assert take(frame(0x82, payload, masked), masked, LONGEST) == payload
    assert take(frame(0x81, b"a" * size, masked), masked, LONGEST) == "a" * size
    assert take(frame(0x82, payload, not masked), masked, LONGEST) is None
    assert take(frame(0x82, payload, masked) + b"\x82", masked, LONGEST) is None
    assert take(frame(0x82, payload, masked)[:-1], masked, LONGEST) is None


@ONLY_C
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((b"", True), TypeError),
        ((bytearray(), True, LONGEST), TypeError),
        ((b"", True, None), TypeError),
        ((b"", True, 1 << 70), OverflowError),
    ],
)
def test_in_c_wrong_arguments_of_take_one_are_errors(args: Any, error: type[Exception]) -> None:
    assert extension is not None
    with pytest.raises(error):
        extension.take_one(*args)


@MAKERS
@ROLES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_001])
@pytest.mark.parametrize("first", [0x82, 0x81, 0x01, 0x80, 0x89, 0xC2])
def test_a_frame_is_as_the_rfc_draws_it(make: Make, masked: bool, size: int, first: int) -> None:
    payload = os.urandom(size)
    made = make(first, payload, KEY if masked else b"")
    assert made == frame(first, payload, masked)
    assert made.startswith(frame_head(first, size, 0x80 if masked else 0))


@MAKERS
@ROLES
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_any_bytes_like_makes_a_frame(make: Any, masked: bool, kind: Any) -> None:
    made = make(0x82, kind(b"payload"), KEY if masked else b"")
    assert type(made) is bytes
    assert made == frame(0x82, b"payload", masked)


@ONLY_C
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((b"", 0, True, LONGEST), TypeError),
        ((bytearray(), 0, True, LONGEST, []), TypeError),
        ((b"", "0", True, LONGEST, []), TypeError),
        ((b"", 0, True, None, []), TypeError),
        ((b"", -1, True, LONGEST, []), ValueError),
        ((b"", 1 << 70, True, LONGEST, []), OverflowError),
        ((b"\x82\x00", 0, False, LONGEST, None), AttributeError),
    ],
)
def test_in_c_wrong_arguments_of_take_frames_are_errors(args: Any, error: type[Exception]) -> None:
    assert extension is not None
    with pytest.raises(error):
        extension.take_frames(*args)


@ONLY_C
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((0x82, b""), TypeError),
        ((0x82, b"", b"key"), TypeError),
        ((0x82, b"", None), TypeError),
        ((0x82, "text", KEY), TypeError),
        (("82", b"", KEY), TypeError),
        ((-1, b"", KEY), OverflowError),
        ((0x82, memoryview(bytes(9))[::2], KEY), BufferError),
    ],
)
def test_in_c_wrong_arguments_of_whole_frame_are_errors(args: Any, error: type[Exception]) -> None:
    assert extension is not None
    with pytest.raises(error):
        extension.whole_frame(*args)


@ONLY_C
def test_in_c_what_a_message_meets_on_its_way_is_raised_and_nothing_leaks() -> None:
    assert extension is not None

    class Full(list[Any]):
        def append(self, item: Any) -> None:
            raise MemoryError

    data = frame(0x82, b"payload", masked=False) + frame(0x81, b"text", masked=False)
    key, payload = bytes(bytearray(KEY)), bytes(bytearray(b"payload"))
    before = sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(payload)
    for _ in range(100):
        with pytest.raises(MemoryError):
            extension.take_frames(data, 0, False, LONGEST, Full())
        messages: list[Any] = []
        extension.take_frames(data, 0, False, LONGEST, messages)
        assert extension.take_one(data, False, LONGEST) is None
        # As many as of any other object in a list; an uncounted or leaked one would differ.
        others = [bytes(bytearray(b"payload")), bytes(bytearray(b"text"))]
        assert [sys.getrefcount(m) for m in messages] == [sys.getrefcount(m) for m in others]
        extension.whole_frame(0x82, payload, key)
    assert (sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(payload)) == before
