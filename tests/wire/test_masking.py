"""Masking: any size, any key, any kind of bytes, against the RFC's own words; and fresh keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.wire.masking import MaskKeys, mask

if TYPE_CHECKING:
    from collections.abc import Callable

keys = st.binary(min_size=4, max_size=4)


def by_the_rfc(data: bytes, key: bytes) -> bytes:
    """RFC 6455 section 5.3, byte by byte."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def test_the_example_of_the_rfc() -> None:
    # RFC 6455 section 5.7: a single-frame masked text message.
    assert mask(b"\x7f\x9f\x4d\x51\x58", b"\x37\xfa\x21\x3d") == b"Hello"


# Both sides of 384, where another way begins, and all remainders of four.
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 125, 126, 381, 382, 383, 384, 385, 386, 387, 388, 65537])
def test_every_size_is_masked_as_the_rfc_says(size: int) -> None:
    data, key = os.urandom(size), b"\x00\xff\x12\x80"
    assert mask(data, key) == by_the_rfc(data, key)


@given(st.binary(max_size=600) | st.integers(0, 3000).map(lambda n: b"x" * n), keys)
def test_masking_is_its_own_inverse(data: bytes, key: bytes) -> None:
    masked = mask(data, key)
    assert masked == by_the_rfc(data, key)
    assert mask(masked, key) == data


@pytest.mark.parametrize("size", [100, 1000])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_gives_bytes_and_is_left_alone(kind: Callable[[bytes], bytes], size: int) -> None:
    data = os.urandom(size)
    given_data = kind(data)
    masked = mask(given_data, b"abcd")
    assert type(masked) is bytes
    assert masked == by_the_rfc(data, b"abcd")
    assert bytes(given_data) == data


def test_keys_are_four_bytes_and_fresh_over_several_pages() -> None:
    source = MaskKeys()
    drawn = [source.next() for _ in range(1000)]
    assert {len(key) for key in drawn} == {4}
    # A repeat by chance has a probability of about one in ten thousand; more than a few are a fault.
    assert len(set(drawn)) > 990


def test_two_sources_share_no_keys() -> None:
    one, other = MaskKeys(), MaskKeys()
    assert [one.next() for _ in range(4)] != [other.next() for _ in range(4)]
