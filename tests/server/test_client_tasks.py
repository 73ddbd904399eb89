"""The tasks of a server's clients serve one client after the other (see server/client_task.py)."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio
import trio.testing

from tests.support.serving import all_tasks, serving_in_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from trio_ws import WebSocket


class Value:
    """A value that a handler stores."""


variable: ContextVar[Value | None] = ContextVar("variable", default=None)


async def test_a_task_serves_the_next_client_in_a_context_of_its_own(autojump_clock: MockClock) -> None:
    tasks: list[trio.lowlevel.Task] = []
    values: list[Value | None] = []
    stored: list[weakref.ref[Value]] = []

    async def handler(ws: WebSocket) -> None:
        tasks.append(trio.lowlevel.current_task())
        values.append(variable.get())
        value = Value()
        stored.append(weakref.ref(value))
        variable.set(value)
        async for _ in ws:
            pass

    async with serving_in_memory(handler) as memory:
        for _ in range(3):
            async with memory.connect():
                pass
            await trio.testing.wait_all_tasks_blocked()
            gc.collect()
            assert stored[-1]() is None, "the idle task keeps what the handler has stored"
        assert len(set(tasks)) == 1, "the same task"
        assert values == [None] * 3
        async with memory.connect(), memory.connect():
            await trio.testing.wait_all_tasks_blocked()
            assert len(set(tasks[-2:])) == 2, "a task for each"


async def test_a_task_that_a_handler_has_left_in_a_scope_serves_nobody_else(
    autojump_clock: MockClock,
) -> None:
    tasks: list[trio.lowlevel.Task] = []
    scopes: list[trio.CancelScope] = []

    async def in_a_scope() -> AsyncIterator[None]:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            yield

    kept: list[AsyncIterator[None]] = []  # so that no garbage collection closes them

    async def handler(ws: WebSocket) -> None:
        tasks.append(trio.lowlevel.current_task())
        await ws.send("here")
        if len(tasks) == 1:
            kept.append(in_a_scope())
            await anext(kept[0])
        else:
            scopes[0].cancel()
            await ws.send("still here")

    async with serving_in_memory(handler) as memory:
        for expected in (["here"], ["here", "still here"]):
            async with memory.connect() as ws:
                assert [message.text async for message in ws] == expected
        assert len(set(tasks)) == 2


async def test_few_tasks_wait_for_clients_and_none_outlives_the_server(autojump_clock: MockClock) -> None:
    async def handler(ws: WebSocket) -> None:
        await ws.accept()
        await ws.wait_closed()

    before = all_tasks()
    async with serving_in_memory(handler) as memory:
        await trio.testing.wait_all_tasks_blocked()
        alone = all_tasks()
        async with trio.open_nursery() as nursery:

            async def client() -> None:
                async with memory.connect():
                    await trio.sleep(1)

            for _ in range(100):
                nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        assert 0 < len(all_tasks() - alone) <= 64
    assert all_tasks() == before
