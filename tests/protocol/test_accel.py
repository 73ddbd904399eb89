"""The common frame in C and in Python: what is parsed, where parsing stops, and that both agree."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol._accel import (
    LONGEST,
    frame_head,
    python_receive_frame,
    python_send_frame,
    python_take_frames,
    python_whole_frame,
    receive_frame,
    send_frame,
    take_frames,
    whole_frame,
)
from trio_ws.protocol.masking import extension, python_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Take = Callable[[bytes | memoryview, int, bool, int, Any], int]
    Receive = Callable[[int, int, bool, int], str | bytes | tuple[bytes] | None]
    Send = Callable[[int, int, bytes], bytes | memoryview | None]
    Make = Callable[[int, bytes, bytes], bytes]

c_take: Take | None = None if extension is None else extension.take_frames
c_receive: Receive | None = getattr(extension, "receive_frame", None)
c_send: Send | None = getattr(extension, "send_frame", None)
c_whole: Make | None = None if extension is None else extension.whole_frame
ONLY_C = pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
TAKERS = pytest.mark.parametrize(
    "take", [pytest.param(python_take_frames, id="python"), pytest.param(c_take, id="c", marks=ONLY_C)]
)
ONLY_C_SOCKETS = pytest.mark.skipif(c_receive is None, reason="the extension was not built for Linux")
ON_SOCKETS = pytest.mark.skipif(
    os.name != "posix", reason="descriptors of sockets are those of files on POSIX"
)
RECEIVERS = pytest.mark.parametrize(
    "receive",
    [
        pytest.param(python_receive_frame, id="python", marks=ON_SOCKETS),
        pytest.param(c_receive, id="c", marks=ONLY_C_SOCKETS),
    ],
)
SENDERS = pytest.mark.parametrize(
    "send",
    [
        pytest.param(python_send_frame, id="python", marks=ON_SOCKETS),
        pytest.param(c_send, id="c", marks=ONLY_C_SOCKETS),
    ],
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
    chosen = (take_frames, whole_frame, receive_frame, send_frame)
    in_python = (python_take_frames, python_whole_frame, python_receive_frame, python_send_frame)
    if extension is None:
        assert chosen == in_python
    else:
        assert chosen[:2] == (c_take, c_whole)
        assert chosen[2:] == (in_python[2:] if c_receive is None else (c_receive, c_send))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that never wait."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


@TAKERS
@ROLES
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 125, 126, 127, 383, 384, 4096, 65535, 65536, LONGEST])
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
@pytest.mark.parametrize("first", [0x81, 0x82])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 126, 70_000])
def test_messages_outlive_the_space_that_they_came_in(
    take: Take, masked: bool, first: int, size: int
) -> None:
    whole = frame(first, b"a" * size, masked)
    space = bytearray(b"??" + whole + b"???")
    messages: list[str | bytes] = []
    assert take(memoryview(space)[: 2 + len(whole)], 2, masked, LONGEST, messages) == 2 + len(whole)
    space[:] = b"!" * len(space)
    assert messages == ["a" * size if first == 0x81 else b"a" * size]


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
@pytest.mark.parametrize("size", [3, 200, 65536])
def test_a_frame_that_is_cut_anywhere_is_left(take: Take, masked: bool, size: int) -> None:
    whole, cut = frame(0x82, b"whole", masked), frame(0x82, b"x" * size, masked)
    for end in (*range(min(len(cut), 210)), len(cut) - 1):
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
        bytes((0x82, bit | 127)) + (65535).to_bytes(8, "big") + key + b"x" * 65535,
        bytes((0x82, bit | 127)) + b"\xff" * 8 + key,
        bytes((0x82, bit | 127)) + (1 << 63).to_bytes(8, "big") + key,
        bytes((0x82, bit | 127)) + (1 << 62).to_bytes(8, "big") + key,
    ]
    for data in others:
        messages: list[str | bytes] = []
        limit = LONGEST if len(data) > 60_000 else 10
        assert take(data, 0, masked, limit, messages) == 0
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


big_pieces = st.builds(
    frame, st.sampled_from([0x81, 0x82]), st.sampled_from([b"z" * 65536, b"a" * 66_000]), st.booleans()
)


@ONLY_C
@given(data=st.lists(pieces | big_pieces, max_size=6).map(b"".join), at=st.data(), masked=st.booleans())
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


@RECEIVERS
@given(data=st.lists(pieces, min_size=1, max_size=2).map(b"".join), at=st.data(), masked=st.booleans())
def test_a_message_is_received_where_it_is_all_that_came(
    receive: Receive, data: bytes, at: Any, masked: bool
) -> None:
    data = data[: at.draw(st.integers(len(data) - 2, len(data)) | st.just(len(data)), label="end")]
    limit = at.draw(st.sampled_from([0, 10, 126, LONGEST]), label="limit")
    messages: list[str | bytes] = []
    whole = python_take_frames(data, 0, masked, limit, messages) == len(data) and len(messages) == 1
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(data)
        received = receive(ours.fileno(), 65536, masked, limit)
        assert received == (messages[0] if whole else (data,) if data else None)
        assert type(received) is type(messages[0] if whole else (data,) if data else None)


@RECEIVERS
@ROLES
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4000, 4087, 4088, 4089, 4096, 60_000, 65535])
def test_a_message_of_every_length_is_received(
    receive: Receive, masked: bool, size: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    payload = os.urandom(size)
    for data, message in (
        (frame(0x82, payload, masked), payload),
        (frame(0x81, b"a" * size, masked), "a" * size),
        (frame(0x82, payload, not masked), None),
        (frame(0x82, payload, masked) + b"\x82", None),
        (frame(0x82, payload, masked)[:-1], None),
    ):
        pair[1].sendall(data)
        received = receive(pair[0].fileno(), 70_000, masked, LONGEST)
        assert received == (message if message is not None and len(data) < 4096 else (data,))
        assert receive(pair[0].fileno(), 70_000, masked, LONGEST) is None


@RECEIVERS
def test_a_read_brings_at_most_its_size(receive: Receive, pair: tuple[socket.socket, socket.socket]) -> None:
    data = os.urandom(10_000)
    pair[1].sendall(data)
    pair[1].close()
    fd = pair[0].fileno()
    assert receive(fd, 4096, True, LONGEST) == (data[:4096],)
    assert receive(fd, 5000, True, LONGEST) == (data[4096:9096],)
    assert receive(fd, 5000, True, LONGEST) == (data[9096:],)
    assert receive(fd, 5000, True, LONGEST) == (b"",)


@RECEIVERS
@SENDERS
def test_broken_connections_are_errors(
    receive: Receive, send: Send, pair: tuple[socket.socket, socket.socket]
) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        send(pair[0].fileno(), 0x82, b"payload")
    with pytest.raises(OSError, match="Bad file descriptor"):
        send(-1, 0x82, b"payload")
    with pytest.raises(OSError, match="Bad file descriptor"):
        receive(-1, 4096, True, LONGEST)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        with pytest.raises(ConnectionResetError):
            receive(ours.fileno(), 4096, True, LONGEST)


@SENDERS
@pytest.mark.parametrize("size", [0, 1, 125, 126, 4095, 4096, 4097, 65535, 65536, 100_000])
def test_a_frame_is_sent_and_the_rest_returned(
    send: Send, size: int, pair: tuple[socket.socket, socket.socket]
) -> None:
    payload = os.urandom(size)
    made = frame(0x82, payload, masked=False)
    fd = pair[0].fileno()
    while (rest := send(fd, 0x82, payload)) is None:
        pass
    assert rest
    assert made.endswith(bytes(rest))
    if len(rest) < len(made):
        assert send(fd, 0x82, payload) == made  # nothing of it was sent
    got = bytearray()
    while not got or len(got) % len(made) != len(made) - len(rest):
        got += pair[1].recv(1 << 20)
    assert got == (made * (len(got) // len(made) + 1))[: len(got)]


@ONLY_C_SOCKETS
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((0, 4096, True), TypeError),
        (("0", 4096, True, LONGEST), TypeError),
        ((0, None, True, LONGEST), TypeError),
        ((0, 4095, True, LONGEST), ValueError),
        ((0, 4096, True, 1 << 70), OverflowError),
        ((1 << 70, 4096, True, LONGEST), OverflowError),
        ((1 << 40, 4096, True, LONGEST), OSError),
    ],
)
def test_in_c_wrong_arguments_of_receive_frame_are_errors(args: Any, error: type[Exception]) -> None:
    assert extension is not None
    with pytest.raises(error):
        extension.receive_frame(*args)


@ONLY_C_SOCKETS
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((0, 0x82), TypeError),
        ((0, 0x82, bytearray()), TypeError),
        ((0, "82", b""), TypeError),
        ((0, -1, b""), OverflowError),
        ((1 << 40, 0x82, b""), OSError),
    ],
)
def test_in_c_wrong_arguments_of_send_frame_are_errors(args: Any, error: type[Exception]) -> None:
    assert extension is not None
    with pytest.raises(error):
        extension.send_frame(*args)


@ONLY_C_SOCKETS
def test_in_c_a_received_message_and_a_rest_leak_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    assert c_receive is not None
    assert c_send is not None
    fd = pair[0].fileno()
    payload = bytes(bytearray(b"p" * 5000))
    before = sys.getrefcount(payload)
    for data in (frame(0x82, b"payload", True), frame(0x81, b"\xff", True), b"\x82\xa0", bytes(5000)):
        pair[1].sendall(data)
        received = c_receive(fd, 65536, True, LONGEST)
        other: Any = (
            (bytes(bytearray(data)),) if isinstance(received, tuple) else bytes(bytearray(b"payload"))
        )
        assert sys.getrefcount(received) == sys.getrefcount(other)
        if isinstance(received, tuple):
            assert sys.getrefcount(received[0]) == sys.getrefcount(other[0])
    while (rest := c_send(fd, 0x82, payload)) is None:
        pass
    other = bytes(bytearray(rest))
    assert sys.getrefcount(rest) == sys.getrefcount(other)
    del rest  # which may refer to the payload
    assert sys.getrefcount(payload) == before


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
        (("", 0, True, LONGEST, []), TypeError),
        ((memoryview(b"1234")[::2], 0, True, LONGEST, []), BufferError),
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
        # As many as of any other object in a list; an uncounted or leaked one would differ.
        others = [bytes(bytearray(b"payload")), bytes(bytearray(b"text"))]
        assert [sys.getrefcount(m) for m in messages] == [sys.getrefcount(m) for m in others]
        extension.whole_frame(0x82, payload, key)
    assert (sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(payload)) == before


@pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
@given(
    pieces=st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 3)), min_size=1),
    key=st.binary(min_size=4, max_size=4) | st.just(b""),
)
def test_a_payload_is_filled_with_what_masking_returns(
    pieces: list[tuple[bytes, int, int]], key: bytes
) -> None:
    assert extension is not None
    expected = b"".join(python_mask(data, key) if key else data for data, _, _ in pieces)
    payload = extension.new_payload(len(expected) + 2)
    extension.fill_payload(payload, len(expected), b"..", 0, 2, b"")
    at = 0
    for data, before, after in pieces:
        around = b"x" * before + data + b"y" * after
        extension.fill_payload(payload, at, around, before, before + len(data), key)
        at += len(data)
    assert payload == expected + b".."


@pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
def test_a_payload_is_not_filled_beyond_its_bounds() -> None:
    assert extension is not None
    payload = extension.new_payload(4)
    extension.fill_payload(payload, 0, b"1234", 0, 4, b"")
    for at, start, end in (
        (1, 0, 4),
        (-1, 0, 1),
        (0, -1, 1),
        (0, 2, 1),
        (0, 0, 5),
        (4, 0, 1),
        (1 << 62, 0, 4),
    ):
        with pytest.raises(ValueError, match="fit"):
            extension.fill_payload(payload, at, b"abcd", start, end, b"")
    for itself in (payload, memoryview(payload), memoryview(payload)[2:]):
        with pytest.raises(ValueError, match="fit"):
            extension.fill_payload(payload, 0, itself, 0, 2, b"")
    for wrong in (b"k", b"12345", bytearray(4), None):
        with pytest.raises(TypeError):
            extension.fill_payload(payload, 0, b"abcd", 0, 4, wrong)
    assert payload == b"1234"
    for size in (-1, 0, 1):
        with pytest.raises(ValueError, match="shared"):
            extension.new_payload(size)
