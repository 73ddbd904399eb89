"""The memory of a decoded payload: never underestimated, and computed equally in C and in Python."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.codecs.decoded_size import ODD_KEYS, TOO_DEEP, json_size, msgpack_size, python_msgpack_size
from trio_ws.ledger import size_of
from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from collections.abc import Callable

NO_LIMIT = 2**60
c_msgpack_size: Callable[[bytes, int], int] | None = None if extension is None else extension.msgpack_size
ONLY_C = pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
SIZERS = pytest.mark.parametrize(
    "sizer",
    [pytest.param(python_msgpack_size, id="python"), pytest.param(c_msgpack_size, id="c", marks=ONLY_C)],
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.text(alphabet="aé€😀", max_size=40)
)
trees = st.recursive(
    scalars | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=60,
)
json_trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner, max_size=20),
    max_leaves=60,
)


def as_held(value: Any) -> int:
    """What a decoded value takes at the least: short texts and small ints are shared objects."""
    if isinstance(value, list):
        return sys.getsizeof(value) + sum(map(as_held, value))
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(map(as_held, value.values()))
    if value is None or isinstance(value, bool) or (isinstance(value, int) and -5 <= value <= 256):
        return 0
    if isinstance(value, str) and len(value) < 2 and value < "\u0100":
        return 0
    return size_of(value)


@SIZERS
@given(value=trees)
def test_msgpack_takes_no_more_than_told(sizer: Callable[[bytes, int], int], value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    assert sizer(data, NO_LIMIT) >= as_held(msgspec.msgpack.decode(data))


@given(value=json_trees, limit=st.sampled_from([0, 200, 1000, NO_LIMIT]), text=st.booleans())
def test_json_takes_no_more_than_told(value: Any, limit: int, text: bool) -> None:
    data = msgspec.json.encode(value)
    told = json_size(data.decode() if text else data, limit)
    assert told > limit or told >= as_held(msgspec.json.decode(data))


@ONLY_C
@given(
    data=st.binary(max_size=300)
    | st.lists(
        st.sampled_from([b"\x91", b"\x81", b"\x82", b"\x01", b"\xa1a", b"\xde\x00\x03", b"\xd4\x01\x02"])
    ).map(b"".join),
    limit=st.sampled_from([0, 100, 1000, NO_LIMIT]),
)
def test_any_bytes_take_the_same_in_c(data: bytes, limit: int) -> None:
    assert c_msgpack_size is not None
    assert c_msgpack_size(data, limit) == python_msgpack_size(data, limit)


@pytest.mark.parametrize("first", range(0x80, 0x100))
@pytest.mark.parametrize("rest", [b"", b"\xff", b"\xff\xff", b"\xff" * 4, b"\xff" * 40, b"\x00" * 40])
def test_every_first_byte_takes_the_same(first: int, rest: bytes) -> None:
    data = bytes((first,)) + rest
    assert msgpack_size(data, NO_LIMIT) == python_msgpack_size(data, NO_LIMIT)


@SIZERS
@pytest.mark.parametrize("one", [b"\x80", b"\x90", b"\xa2ab", b"\x81\x01\x01", b"\xd1\x12\x34", b"\xc4\x00"])
def test_largest_growth(sizer: Callable[[bytes, int], int], one: bytes) -> None:
    count = 10_000
    data = b"\xdd" + count.to_bytes(4, "big") + one * count
    decoded = msgspec.msgpack.decode(data)
    assert as_held(decoded) <= sizer(data, NO_LIMIT) <= 2 * as_held(decoded) + 100


@SIZERS
@pytest.mark.parametrize("key", [b"\xcf" + bytes(8), b"\x92\x01\x02", b"\x05", b"\xcb" + bytes(8), b"\xc0"])
def test_many_keys_that_may_be_chosen_to_collide(sizer: Callable[[bytes, int], int], key: bytes) -> None:
    def packed(count: int, key: bytes) -> bytes:
        return b"\xde" + count.to_bytes(2, "big") + (key + b"\x01") * count

    assert sizer(packed(1000, key), NO_LIMIT) > 0
    assert sizer(packed(1001, key), NO_LIMIT) == ODD_KEYS
    # The cost of several maps is added.
    assert sizer(b"\x92" + packed(800, key) * 2, NO_LIMIT) == ODD_KEYS
    assert sizer(b"\x92" + packed(500, key) * 2, NO_LIMIT) > 0
    # The hashes of text and bytes are unpredictable, and values are not hashed.
    for fine in (b"\xa2ab", b"\xd9\x02ab", b"\xc4\x02ab"):
        assert sizer(packed(60_000, fine), NO_LIMIT) > 0
    assert sizer(b"\xdc\xff\xff" + key * 65535, NO_LIMIT) > 0


@SIZERS
def test_depth_is_limited(sizer: Callable[[bytes, int], int]) -> None:
    assert sizer(b"\x91" * 512 + b"\x01", NO_LIMIT) > 0
    assert sizer(b"\x91" * 513 + b"\x01", NO_LIMIT) == TOO_DEEP
    assert sizer(b"\x81\x01" * 513, NO_LIMIT) == TOO_DEEP
    assert sizer(b"\xdc\x03\xe8" + (b"\x91" * 511 + b"\x01") * 1000, NO_LIMIT) > 0


@SIZERS
def test_nothing_is_measured_far_beyond_the_limit(sizer: Callable[[bytes, int], int]) -> None:
    assert 1000 < sizer(b"\x90" * 1_000_000, 1000) < 1100
    assert sizer(b"\x01" * 1_000_000, NO_LIMIT) > 1_000_000


@pytest.mark.parametrize(
    "payload",
    [
        b'["' + b'\\"' * 500_000,
        b'"' * 1_000_000,
        b"\\" * 1_000_000,
        b'"\\' * 500_000,
        b'{"a":"' + b"[{," * 300_000 + b'"}',
    ],
    ids=["escapes without end", "quotes", "backslashes", "open strings", "braces in a string"],
)
def test_json_is_measured_in_proportion(payload: bytes) -> None:
    began = time.process_time()
    json_size(payload, 0)
    assert time.process_time() - began < 5  # a quadratic search for quotes would take hours


def test_braces_in_strings_do_not_count() -> None:
    payload = b'["' + b"[{," * 100_000 + b'"]'
    assert json_size(payload, 0) < 2 * len(payload)
    assert json_size(payload, NO_LIMIT) > 100 * len(payload)


def test_json_with_invalid_utf_8_is_measured() -> None:
    assert json_size(b'["\xff\xfe"]', 0) > 0
    assert json_size('["\ud800"]', 0) > 0


if extension is None:

    def test_python_is_used() -> None:
        assert msgpack_size is python_msgpack_size
