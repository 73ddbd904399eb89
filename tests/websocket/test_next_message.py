"""The next message of a burst, in C: step by step what the coroutine of `WebSocket.__anext__` does."""

from __future__ import annotations

import collections.abc
import gc
import inspect
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.next_messages import STEPS, Buffer, Connection, next_by_python, run_script
from trio_ws import WebSocket, WebSocketMessage
from trio_ws.protocol.masking import extension

if TYPE_CHECKING:
    from tests.support.next_messages import NextMethod

pytestmark = pytest.mark.skipif(
    extension is None, reason="the extension was not built, or TRIO_WS_PURE is set"
)


def next_in_c(python: NextMethod = next_by_python) -> NextMethod:
    assert extension is not None
    method: NextMethod = extension.next_method(python, Connection, Buffer, deque, WebSocketMessage)
    return method


scripts = st.lists(
    st.tuples(st.sampled_from((*STEPS, "put", "put", "next", "next", "await")), st.integers(0, 3)),
    max_size=30,
)


@given(script=scripts)
def test_it_agrees_with_the_coroutine(script: list[tuple[str, int]]) -> None:
    assert trio.run(run_script, next_in_c(), script) == trio.run(run_script, next_by_python, script)


def test_it_is_used_and_shows_the_method_in_python() -> None:
    method: Any = vars(WebSocket)["__anext__"]
    assert type(method).__name__ == "next_method"
    assert inspect.iscoroutinefunction(method.__wrapped__)
    assert inspect.signature(WebSocket.__anext__) == inspect.signature(method.__wrapped__)


def filled(*messages: str | bytes) -> Connection:
    connection = Connection()
    connection._receive_buffer.messages.extend(messages)
    return connection


async def test_only_what_waits_is_taken_without_a_coroutine() -> None:
    method = next_in_c()
    connection = filled(b"1", "2", b"3")
    assert await method(connection) == WebSocketMessage("binary", b"1")
    second = method(connection)
    assert not inspect.iscoroutine(second)
    assert isinstance(second, collections.abc.Coroutine)  # for trio's start_soon
    assert await second == WebSocketMessage("text", "2")
    last = method(connection)
    assert inspect.iscoroutine(last)
    last.close()
    assert list(connection._receive_buffer.messages) == [b"3"]


async def test_a_cancelled_task_gets_the_coroutine() -> None:
    connection = filled(b"1", b"2")
    with trio.CancelScope() as scope:  # noqa: ASYNC100 - it is about what happens without waiting
        scope.cancel()
        awaitable = next_in_c()(connection)
        assert awaitable.send(None) == "waiting"
        awaitable.close()
    assert len(connection._receive_buffer.messages) == 2


async def test_a_task_of_its_own() -> None:
    connection = filled(b"1", b"2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(next_in_c(), connection)
    assert list(connection._receive_buffer.messages) == [b"2"]


async def test_other_arguments_are_refused_as_by_python() -> None:
    method: Any = next_in_c()
    for arguments in ((), (filled(b"1", b"2"), 1)):
        with pytest.raises(TypeError, match="next_by_python"):
            method(*arguments)
    with pytest.raises(AttributeError, match="_receive_buffer"):
        await method(5)
    assert extension is not None
    for classes in ((Connection, int), (int, Buffer), (5, Buffer)):
        with pytest.raises(TypeError, match="slots"):
            extension.next_method(next_by_python, *classes, deque, WebSocketMessage)
    with pytest.raises(AttributeError, match="popleft"):
        extension.next_method(next_by_python, Connection, Buffer, list, WebSocketMessage)


async def test_nothing_is_kept() -> None:
    method = next_in_c()
    connection = filled(b"1", b"2", b"3", b"4")
    freed = weakref.ref(connection)
    await method(connection)
    unused = method(connection)
    closed = method(connection)
    closed.close()
    raced = method(connection)
    connection._receive_buffer.messages.clear()
    assert raced.send(None) == "waiting"
    del connection, unused, closed, raced
    assert freed() is None


async def test_a_cycle_is_freed() -> None:
    class Holder(list[Any]):
        pass

    async def python(connection: Connection) -> None:
        del connection

    method = next_in_c(python)
    connection = filled(b"1", b"2")
    holder = Holder([method(connection), connection])
    connection._receive_buffer.messages.append(holder)  # type: ignore[arg-type]
    freed = weakref.ref(holder)
    del holder, connection, method
    gc.collect()
    assert freed() is None
