"""Masking in C and in Python, for any size, key and kind of bytes, compared with the RFC; and fresh keys."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.masking import IMPLEMENTATION, extension, mask, mask_keys, python_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.protocol.masking import Mask

c_mask: Mask | None = None if extension is None else extension.mask
ONLY_C = pytest.mark.skipif(c_mask is None, reason="the extension was not built, or TRIO_WS_PURE is set")
IMPLEMENTATIONS = pytest.mark.parametrize(
    "implementation", [pytest.param(python_mask, id="python"), pytest.param(c_mask, id="c", marks=ONLY_C)]
)
KEY = b"\x00\xff\x12\x80"

keys = st.binary(min_size=4, max_size=4)


def by_the_rfc(data: bytes, key: bytes) -> bytes:
    """RFC 6455 section 5.3, byte by byte."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def test_one_place_chooses() -> None:
    if c_mask is None:
        assert (IMPLEMENTATION, mask) == ("python", python_mask)
    else:
        assert (IMPLEMENTATION, mask) == ("c", c_mask)


@IMPLEMENTATIONS
def test_the_example_of_the_rfc(implementation: Mask) -> None:
    # RFC 6455 section 5.7: a single-frame masked text message.
    assert implementation(b"\x7f\x9f\x4d\x51\x58", b"\x37\xfa\x21\x3d") == b"Hello"


# On both sides of 384 another way begins in Python; 8 and 16 are words and vectors in C.
@IMPLEMENTATIONS
@pytest.mark.parametrize("sizes", [range(301), range(376, 396), range(4090, 4100), [65535, 65536, 65537]])
def test_every_size_is_masked_as_the_rfc_says(implementation: Mask, sizes: Any) -> None:
    for size in sizes:
        data = os.urandom(size)
        assert implementation(data, KEY) == by_the_rfc(data, KEY)


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 33, 64, 300, 1000])
def test_every_alignment_is_masked_the_same(implementation: Mask, size: int) -> None:
    data = os.urandom(size + 16)
    for start in range(17):
        piece = memoryview(data)[start : start + size]
        assert implementation(piece, KEY) == by_the_rfc(bytes(piece), KEY)


@IMPLEMENTATIONS
def test_pieces_with_the_key_turned_are_the_whole(implementation: Mask) -> None:
    data = os.urandom(2000)
    whole = by_the_rfc(data, KEY)
    for turn, start in itertools.product(range(4), (0, 4, 8, 64, 400, 1996)):
        cut = start + turn
        turned = KEY[turn:] + KEY[:turn]
        assert implementation(data[:cut], KEY) + implementation(data[cut:], turned) == whole


@IMPLEMENTATIONS
def test_megabytes(implementation: Mask) -> None:
    data = os.urandom(12) * 250_001
    masked = implementation(data, KEY)
    assert masked == by_the_rfc(data[:12], KEY) * 250_001
    assert implementation(masked, KEY) == data


@IMPLEMENTATIONS
@given(data=st.binary(max_size=600) | st.integers(0, 3000).map(lambda n: b"x" * n), key=keys)
def test_masking_is_its_own_inverse(implementation: Mask, data: bytes, key: bytes) -> None:
    masked = implementation(data, key)
    assert masked == by_the_rfc(data, key)
    assert implementation(masked, key) == data


@IMPLEMENTATIONS
@pytest.mark.parametrize("size", [100, 1000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_gives_bytes_and_is_left_alone(
    implementation: Mask, kind: Callable[[bytes], bytes], size: int
) -> None:
    data = os.urandom(size)
    given_data = kind(data)
    masked = implementation(given_data, b"abcd")
    assert type(masked) is bytes
    assert masked == by_the_rfc(data, b"abcd")
    assert bytes(given_data) == data


@ONLY_C
@pytest.mark.parametrize(
    "args",
    [
        (),
        (b"data",),
        (b"data", b"key"),
        (b"data", b"a key"),
        (b"data", "keys"),
        (1, b"keys"),
        (b"", b"keys", 1),
    ],
)
def test_in_c_wrong_arguments_are_an_error_and_no_crash(args: tuple[Any, ...]) -> None:
    assert c_mask is not None
    with pytest.raises(TypeError):
        c_mask(*args)


@ONLY_C
def test_in_c_a_view_with_gaps_is_refused_and_a_released_one_too() -> None:
    assert c_mask is not None
    view = memoryview(bytes(100))
    with pytest.raises(BufferError):
        c_mask(view[::2], KEY)
    view.release()
    with pytest.raises(ValueError, match="released"):
        c_mask(view, KEY)


@ONLY_C
def test_in_c_nothing_keeps_the_data_or_the_key() -> None:
    assert c_mask is not None
    data = bytearray(b"x" * 1000)
    c_mask(data, KEY)
    data.append(1)  # a buffer that was still held would refuse


def test_keys_are_four_bytes_and_fresh_over_several_pages() -> None:
    drawn = list(itertools.islice(mask_keys(), 1000))
    assert {len(key) for key in drawn} == {4}
    # A repeat by chance has a probability of about one in ten thousand; more than a few are a fault.
    assert len(set(drawn)) > 990


def test_two_sources_share_no_keys() -> None:
    one, other = mask_keys(), mask_keys()
    assert list(itertools.islice(one, 4)) != list(itertools.islice(other, 4))
