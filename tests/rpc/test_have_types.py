"""The types of arguments, compared in C and in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_ws.protocol.masking import extension
from trio_ws.rpc.methods import have_types, python_have_types

if TYPE_CHECKING:
    from collections.abc import Callable

with_each = pytest.mark.parametrize("function", [python_have_types, have_types], ids=["python", "selected"])

values = st.lists(st.sampled_from((1, True, 1.5, "x", b"x", None)), max_size=4)
types = st.lists(st.sampled_from((int, bool, float, str, bytes, type(None))), max_size=4)


@given(values=values, kinds=types)
def test_both_agree(values: list[Any], kinds: list[type]) -> None:
    for expected in (tuple(kinds), tuple(map(type, values)), None):
        assert have_types(values, expected) is python_have_types(values, expected)


@with_each
def test_types_are_exact(function: Callable[[Any, Any], bool]) -> None:
    assert function([], ())
    assert function([1, "x"], (int, str))
    assert not function([True], (int,))
    assert not function([1], (int, int))
    assert not function([1, 2], (int,))
    assert not function([], None)


@pytest.mark.skipif(extension is None, reason="the extension was not built, or TRIO_WS_PURE is set")
def test_only_lists_are_compared_in_c() -> None:
    assert extension is not None
    assert not extension.have_types((1,), (int,))
    assert not extension.have_types([int], [type])
    with pytest.raises(TypeError):
        extension.have_types([])
