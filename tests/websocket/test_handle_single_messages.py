"""Handling the single messages of many connections: the same in C as in Python."""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.extension import load, watch_readers
from tests.support.single_messages import FAILURES, Round, State, random_states, spoil_something
from tests.support.wire import frame
from trio_ws.protocol.frames import BINARY
from trio_ws.protocol.masking import extension
from trio_ws.websocket.single_messages import (
    END_COST,
    MESSAGE_COST,
    python_handle_single_messages,
    single_message_handler,
)

needs_extension = pytest.mark.skipif(
    extension is None or not hasattr(extension, "handle_single_messages"),
    reason="the extension was not built, TRIO_WS_PURE is set, or this is not Linux",
)

#: A listener that echoes, with one message of its peer.
ECHO = State("listener", "echo", True, "either", False, frame(BINARY, b"12"), "large", 0, True, False)


@pytest.fixture(scope="module")
def module() -> Any:
    """A module of its own."""
    assert extension is not None
    assert extension.__file__ is not None
    loaded = load(extension.__file__)
    watch_readers(loaded)
    return loaded


@needs_extension
async def test_the_extension_is_used() -> None:
    assert single_message_handler() is not python_handle_single_messages


@needs_extension
@given(chance=st.randoms(use_true_random=False))
def test_it_agrees_with_python(module: Any, chance: random.Random) -> None:
    states = random_states(chance)
    left = chance.choice((1, MESSAGE_COST + 3, 128 * 1024))
    in_c, in_python = Round(states), Round(states)
    in_c.run(functools.partial(module.handle_single_messages, in_c.nurseries), left)
    in_python.run(python_handle_single_messages, left)
    assert in_c.look() == in_python.look()


@needs_extension
@given(seed=st.integers(0, 1 << 64))
def test_impossible_states_are_left_to_python(module: Any, seed: int) -> None:
    chance = random.Random(seed)
    spoilt = Round(random_states(chance))
    spoil_something(spoilt, chance)
    with suppress(*FAILURES):
        spoilt.run(functools.partial(module.handle_single_messages, spoilt.nurseries), 128 * 1024)
    spoilt.close()


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=needs_extension), False])
def test_a_round_of_listeners_takes_one_call(in_c: bool, request: pytest.FixtureRequest) -> None:
    turn = Round([ECHO] * 64)
    handle: Any = python_handle_single_messages
    if in_c:
        handle = functools.partial(request.getfixturevalue("module").handle_single_messages, turn.nurseries)
    result = handle(turn.ready, turn.connections, 128 * 1024, turn)
    assert result == (128 * 1024 - 64 * (MESSAGE_COST + 2), None, None, None)
    assert not turn.ready
    for received, *_ in turn.look()[2::5]:
        assert received == b"\x82\x0212"


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=needs_extension), False])
def test_it_stops_when_the_work_is_done(in_c: bool, request: pytest.FixtureRequest) -> None:
    turn = Round([ECHO] * 20)
    handle: Any = python_handle_single_messages
    if in_c:
        handle = functools.partial(request.getfixturevalue("module").handle_single_messages, turn.nurseries)
    assert handle(turn.ready, turn.connections, 10 * (MESSAGE_COST + 2), turn) == (0, None, None, None)
    assert len(turn.ready) == 10
    for reader in turn.connections.values():
        reader.transport.close()
    first = turn.connections[turn.ready[0]]
    left, connection, received, going_on = handle(turn.ready, turn.connections, 1, turn)
    assert (left, connection, received, going_on) == (1 - END_COST, first, None, None)  # a closed descriptor
    turn.connections.clear()  # those that were closed since the poll
    assert handle(turn.ready, turn.connections, 1, turn) == (1, None, None, None)
    assert not turn.ready
    turn.close()


@needs_extension
def test_nothing_is_kept(module: Any) -> None:
    payload = frame(BINARY, b"12")
    for does in ("echo", "number", "fail", "wait", "buffer", "nothing"):
        turn = Round([ECHO._replace(does=does)])
        (reader,) = turn.connections.values()
        counted = reader, reader.observer, reader.receive_buffer, turn.nurseries, payload
        before = [sys.getrefcount(one) for one in counted]
        turn.run(functools.partial(module.handle_single_messages, turn.nurseries), 1)
        turn.calls.clear()
        reader.observer._failure = None
        assert [sys.getrefcount(one) for one in counted] == before
        turn.close()


@needs_extension
def test_other_arguments_are_refused(module: Any) -> None:
    others: Any = ((), ([], deque(), {}, 1), ({}, deque(), {}, 1, None), ([], deque(), [], 1, None))
    for arguments in others:
        with pytest.raises(TypeError):
            module.handle_single_messages(*arguments)
    for left in ("1", None, 1 << 70):
        with pytest.raises((TypeError, OverflowError)):
            module.handle_single_messages([], deque([1]), {}, left, None)
    with pytest.raises(TypeError):
        module.handle_single_messages([], 5, {}, 1, None)


@needs_extension
def test_classes_without_slots_are_refused() -> None:
    assert extension is not None
    assert extension.__file__ is not None
    module = load(extension.__file__)
    for watch in (module.watch_reader, module.watch_listener):
        for classes in ((), (int, int), (int,)):
            with pytest.raises(TypeError, match="two classes"):
                watch(*classes)
