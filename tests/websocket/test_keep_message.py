"""Keeping and releasing single messages in C: the same as in Python, in any state of a connection."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.keeping import KeptMessages, keep_in_both, random_state
from trio_ws.protocol.masking import extension
from trio_ws.websocket.readers import keep_message
from trio_ws.websocket.receive_buffer import keep

if TYPE_CHECKING:
    import random

pytestmark = pytest.mark.skipif(
    extension is None, reason="the extension was not built, or TRIO_WS_PURE is set"
)


def test_the_extension_is_used() -> None:
    assert keep_message is extension.keep_message  # type: ignore[union-attr]


@given(chance=st.randoms(use_true_random=False))
def test_it_agrees_with_python(chance: random.Random) -> None:
    assert extension is not None
    trio.run(keep_in_both, extension, chance)


async def test_nothing_is_kept() -> None:
    kept = KeptMessages(random_state(None))
    message = bytes(300)
    before = sys.getrefcount(message)
    await kept.keep(keep_message, message)
    assert kept.buffer.messages == deque([message])
    kept.buffer.messages.clear()
    extension.release(kept.buffer)  # type: ignore[union-attr]
    assert sys.getrefcount(message) == before


def test_other_arguments_are_refused() -> None:
    cases: list[Any] = [(), (None, b""), (KeptMessages(random_state(None)).reader,)]
    for arguments in cases:
        with pytest.raises(TypeError, match="a reader and a message"):
            keep_message(*arguments)
    for wrong in (None, 5):
        with pytest.raises(AttributeError, match="release"):
            extension.release(wrong)  # type: ignore[union-attr]
    for arguments in ((), (None,), (None, b"", b"")):
        with pytest.raises(TypeError, match="a receive buffer and a message"):
            extension.keep(*arguments)  # type: ignore[union-attr]


@given(chance=st.randoms(use_true_random=False))
def test_a_message_that_wakes_no_task(chance: random.Random) -> None:
    state = random_state(chance)
    in_c, in_python = KeptMessages(state), KeptMessages(state)
    for message in (b"1", "2"):
        keep(in_c.buffer, message)
        in_python.buffer.keep(message)
        assert in_c.look() == in_python.look()
