"""Buffering a frame in many write buffers and flushing them: the same in C as in Python."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.extension import load
from tests.support.flushed_buffers import FAILURES, WrittenBuffers, random_states, random_steps, spoil
from trio_ws.protocol.masking import extension
from trio_ws.websocket import write_buffer as write_buffer_module
from trio_ws.websocket.transport import SocketTransport
from trio_ws.websocket.write_buffer import (
    _NO_PARTS,
    FLUSH_COST,
    WriteBuffer,
    python_buffer_each,
    python_flush_row,
)

if TYPE_CHECKING:
    import random

needs_extension = pytest.mark.skipif(
    extension is None or not hasattr(extension, "flush_row"),
    reason="the extension was not built, TRIO_WS_PURE is set, or this is not Linux",
)


@pytest.fixture(scope="module")
def module() -> Any:
    """A module of its own."""
    assert extension is not None
    assert extension.__file__ is not None
    loaded = load(extension.__file__)
    loaded.watch_buffers(WriteBuffer, SocketTransport, _NO_PARTS)
    return loaded


@needs_extension
def test_the_extension_is_used() -> None:
    assert extension is not None
    assert write_buffer_module.flush_row is extension.flush_row
    assert write_buffer_module.buffer_each is extension.buffer_each


@needs_extension
@given(chance=st.randoms(use_true_random=False))
def test_it_agrees_with_python(module: Any, chance: random.Random) -> None:
    states, steps = random_states(chance), random_steps(chance)
    in_c, in_python = WrittenBuffers(states), WrittenBuffers(states)
    in_c.run(steps, module.buffer_each, module.flush_row)
    in_python.run(steps, python_buffer_each, python_flush_row)
    assert in_c.look() == in_python.look()
    assert _NO_PARTS == []


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=needs_extension), False])
def test_a_row_ends_after_its_work(in_c: bool, request: pytest.FixtureRequest) -> None:
    flush_row = request.getfixturevalue("module").flush_row if in_c else python_flush_row
    small: Any = ({"_parts": [b"x"], "flush_scheduled": True}, "large", "")
    large: Any = ({"_parts": [b"x" * 3 * FLUSH_COST], "flush_scheduled": True}, "large", "")
    written = WrittenBuffers([small, small, small, large, small])
    assert flush_row(written.buffers, 0, 2 * FLUSH_COST) == 2
    assert flush_row(written.buffers, 2, 2 * FLUSH_COST) == 4
    assert flush_row(written.buffers, 4, 2 * FLUSH_COST) == 5
    assert flush_row(written.buffers, 5, 2 * FLUSH_COST) == 5
    assert [one.size for one in written.buffers] == [0] * 5
    written.look()


@needs_extension
def test_nothing_is_kept(module: Any) -> None:
    frame = bytes(300)
    before = sys.getrefcount(frame)
    written = WrittenBuffers([({}, "large", ""), ({}, "no", ""), ({}, "gone", "")])
    for _ in range(3):
        assert module.buffer_each(written.buffers, frame)[0] is written.buffers[0]
        assert module.flush_row(written.buffers, 0, 1 << 20) == 3
    assert written.buffers[0]._parts is _NO_PARTS
    assert written.buffers[1]._parts == [frame] * 3
    written.buffers[1]._parts = written.buffers[2]._parts = _NO_PARTS
    assert sys.getrefcount(frame) == before
    written.look()


@needs_extension
def test_incomplete_buffers_do_no_harm(module: Any) -> None:
    for name in [*WriteBuffer.__slots__, "fd"]:
        for value in (None, 1 << 20, "five", -1, 1 << 70, [], [b"1"], (b"1",)):
            written = WrittenBuffers([({"_parts": [b"x"], "flush_scheduled": True}, "large", "")])
            buffer = written.buffers[0]
            spoil(buffer.transport if name == "fd" else buffer, name, value)
            with suppress(*FAILURES):
                module.buffer_each(written.buffers, b"frame")
            with suppress(*FAILURES):
                module.flush_row(written.buffers, 0, 1)
            written.close()


@needs_extension
def test_other_arguments_are_refused(module: Any) -> None:
    refused: Any = ((), ((), b""), ([], "text"), ([], b"", 1))
    for arguments in refused:
        with pytest.raises(TypeError):
            module.buffer_each(*arguments)
    refused = ((), ((), 0, 0), ([], "0", 0), ([], 0, "0"), ([], 0))
    for arguments in refused:
        with pytest.raises(TypeError):
            module.flush_row(*arguments)
    with pytest.raises(AttributeError):
        module.buffer_each([5], b"frame")
    with pytest.raises(AttributeError):
        module.flush_row([socket], 0, 0)
    refused = ((), (int, SocketTransport, []), (WriteBuffer, int, []), (WriteBuffer, SocketTransport, ()))
    for classes in refused:
        with pytest.raises(TypeError, match="two classes with slots"):
            module.watch_buffers(*classes)
