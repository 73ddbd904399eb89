"""The next message of a burst, in C: step by step what the coroutine of `WebSocket.__anext__` does."""

from __future__ import annotations

import collections.abc
import functools
import gc
import inspect
import random
import signal
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio._core import _run
from trio.lowlevel import wait_task_rescheduled

from tests.fuzz.extension import load
from tests.support.next_messages import (
    CLASSES,
    STEPS,
    idle_connection,
    next_by_python,
    run_script,
    spoil_connections,
    watch_connection,
)
from tests.support.serving import echo, serving
from tests.support.waits import never_aborted
from trio_ws import WebSocket, WebSocketMessage, connect
from trio_ws.protocol.masking import extension
from trio_ws.websocket import epoll_reader
from trio_ws.websocket._notify import WAKE
from trio_ws.websocket._wait import ReusableOutcome
from trio_ws.websocket.closing import OPEN
from trio_ws.websocket.readers import EPOLL, FULL_EPOLL

if TYPE_CHECKING:
    from tests.support.next_messages import NextMethod
    from tests.support.sends_at_once import Connection

pytestmark = pytest.mark.skipif(
    extension is None, reason="the extension was not built, or TRIO_WS_PURE is set"
)


@functools.cache
def module() -> Any:
    """A module of its own, which knows the classes of these tests."""
    assert extension is not None
    module = load(str(extension.__file__))
    trap = wait_task_rescheduled(never_aborted).send(None)  # noqa: ASYNC105 - driven by hand
    module.watch_waits(wait_task_rescheduled, type(trap), "abort_func", ReusableOutcome)
    assert module.watch_task(_run.GLOBAL_RUN_CONTEXT, _run.Task, _run.CancelStatus, _run.Runner)
    watch_connection(module)
    return module


def next_in_c(python: NextMethod = next_by_python) -> NextMethod:
    method: NextMethod = module().next_method(python)
    return method


scripts = st.lists(
    st.tuples(
        st.sampled_from((*STEPS, "put", "put", "next", "next", "send", "send", "wake")), st.integers(0, 3)
    ),
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


async def test_what_can_be_taken_at_once_needs_no_coroutine() -> None:
    method = next_in_c()
    connection = idle_connection(b"1", "2", b"3", b"4")
    assert await method(connection) == WebSocketMessage("binary", b"1")
    second = method(connection)
    assert not inspect.iscoroutine(second)
    assert isinstance(second, collections.abc.Coroutine)  # for trio's start_soon
    assert await second == WebSocketMessage("text", "2")
    connection._reader.by = FULL_EPOLL
    assert (await method(connection)).payload == b"3"
    last = method(connection)
    assert inspect.iscoroutine(last)
    last.close()
    connection._reader.by = EPOLL
    last = method(connection)
    assert not inspect.iscoroutine(last)
    assert (await last).payload == b"4"


def awaited_by(task: trio.lowlevel.Task) -> list[str]:
    return [frame.f_code.co_name for frame, _ in task.iter_await_frames()]


async def test_a_task_waits_without_a_coroutine() -> None:
    method, connection = next_in_c(), idle_connection()
    seen: list[bytes] = []

    async def receive() -> None:
        seen.append((await method(connection)).payload)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        awaited: Any = task.coro.cr_await
        assert type(awaited).__name__ == "next_message"
        assert awaited.cr_await is None
        assert awaited_by(task) == ["receive"]
        with pytest.raises(RuntimeError, match="awaited already"):
            await awaited
        notification = connection._reader.input_arrived
        for _ in range(3):  # nothing has come
            assert notification.notify_all() == 1
            await trio.testing.wait_all_tasks_blocked()
        connection._receive_buffer.messages.append(b"1")
        notification.notify_all()
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [b"1"]
        assert connection._sends_since_yield == 0
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert notification._waiting is None
    assert notification.notify_all() == 0


def test_the_main_task_is_interrupted_while_it_waits() -> None:
    connection = idle_connection()

    async def interrupt() -> None:
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(KeyboardInterrupt):
                await next_in_c()(connection)
        assert connection._reader.input_arrived._waiting is None

    trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)


async def test_what_a_task_waits_for_is_seen_behind_it() -> None:
    async def python(connection: Connection) -> None:
        await trio.sleep_forever()

    connection = idle_connection(b"1", b"2")
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            awaitable = next_in_c(python)(connection)
            connection._receive_buffer.messages.clear()
            connection._reader.by = FULL_EPOLL
            await awaitable

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        (task,) = nursery.child_tasks
        assert awaited_by(task)[:3] == ["receive", "python", "sleep_forever"]
        nursery.cancel_scope.cancel()


async def test_a_handler_waits_without_a_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoll_reader, "SHARE_THRESHOLD", 0)
    tasks: list[Any] = []

    async def handler(ws: WebSocket) -> None:
        tasks.append(trio.lowlevel.current_task())
        await echo(ws)

    async with serving(handler) as server, connect(f"ws://127.0.0.1:{server.port}") as ws:
        for data in (b"1", b"x" * 100_000, b"2"):
            await ws.send(data)
            assert (await ws.receive()).payload == data
        await ws.ping()
        await trio.testing.wait_all_tasks_blocked()
        inner = tasks[0].coro
        while type(inner).__name__ == "coroutine":
            inner = inner.cr_await
        if sys.platform == "linux":
            assert (type(inner).__name__, inner.cr_await) == ("next_message", None)


async def test_the_first_of_several_waits_without_a_coroutine() -> None:
    method, connection = next_in_c(), idle_connection()
    notification = connection._reader.input_arrived
    async with trio.open_nursery() as nursery:
        nursery.start_soon(method, connection)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(notification.wait)
        second = method(connection)
        assert second.send(None) == "waiting"
        second.close()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert notification.notify_all() == 0


async def test_a_cancelled_task_gets_the_coroutine() -> None:
    connection = idle_connection(b"1", b"2")
    with trio.CancelScope() as scope:  # noqa: ASYNC100 - it is about what happens without waiting
        scope.cancel()
        awaitable = next_in_c()(connection)
        assert awaitable.send(None) == "waiting"
        awaitable.close()
    assert len(connection._receive_buffer.messages) == 2


async def test_a_task_of_its_own() -> None:
    connection = idle_connection(b"1", b"2")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(next_in_c(), connection)
    assert list(connection._receive_buffer.messages) == [b"2"]


async def test_other_arguments_are_refused_as_by_python() -> None:
    method: Any = next_in_c()
    for arguments in ((), (idle_connection(b"1", b"2"), 1)):
        with pytest.raises(TypeError, match="next_by_python"):
            method(*arguments)
    with pytest.raises(AttributeError, match="_receive_buffer"):
        await method(5)
    values: tuple[Any, ...] = deque(), OPEN, EPOLL, trio.lowlevel.reschedule, WAKE
    for number in range(len(CLASSES)):
        classes = (*CLASSES[:number], int, *CLASSES[number + 1 :])
        with pytest.raises(TypeError, match="slots"):
            load(str(extension.__file__)).watch_connection(classes, *values)  # type: ignore[union-attr]
    for wrong in ((), (CLASSES,), (CLASSES[1:], *values), (5, *values)):
        with pytest.raises(TypeError, match="classes with slots"):
            module().watch_connection(*wrong)


async def test_a_module_that_knows_nothing_leaves_all_to_python() -> None:
    other: Any = load(str(extension.__file__))  # type: ignore[union-attr]
    method = other.next_method(next_by_python)
    for connection in (idle_connection(), idle_connection(b"1", b"2")):
        awaitable = method(connection)
        assert inspect.iscoroutine(awaitable)
        awaitable.close()
    watch_connection(other)
    waiting = other.next_method(next_by_python)(idle_connection())
    assert waiting.send(None) is not None  # by the coroutine
    waiting.close()


async def test_incomplete_connections_are_left_to_python() -> None:
    await spoil_connections(next_in_c(), random.Random(1), 1000)


async def test_nothing_is_kept() -> None:
    method = next_in_c()
    connection = idle_connection(b"1", b"2", b"3", b"4")
    freed = weakref.ref(connection)
    await method(connection)
    unused = method(connection)
    closed = method(connection)
    closed.close()
    raced = method(connection)
    connection._receive_buffer.messages.clear()
    connection._reader.by = FULL_EPOLL
    assert raced.send(None) == "waiting"
    connection._reader.by = EPOLL
    waiting = method(connection)
    waiting.send(None)
    assert connection._reader.input_arrived._waiting is not None
    waiting.close()
    del connection, unused, closed, raced, waiting
    assert freed() is None


async def test_a_cycle_is_freed() -> None:
    class Holder(list[Any]):
        pass

    async def python(connection: Connection) -> None:
        del connection

    method = next_in_c(python)
    connection = idle_connection(b"1", b"2")
    holder = Holder([method(connection), connection])
    connection._receive_buffer.messages.append(holder)
    freed = weakref.ref(holder)
    del holder, connection, method
    gc.collect()
    assert freed() is None
