"""Client counts: which of several servers accepts a client of a socket that they share."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.serving import guard
from trio_ws import WebSocketServer, connect
from trio_ws.server.client_task import count_clients
from trio_ws.server.processes.client_counts import SharedCounts, WorkerCount, new_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_ws import WebSocket

SLOTS = 3


@pytest.fixture
def memory() -> Iterator[SharedCounts]:
    with SharedCounts(new_memory(SLOTS)) as counts:
        yield counts


@pytest.fixture
def workers(memory: SharedCounts) -> Iterator[list[WorkerCount]]:
    with ExitStack() as stack:
        yield [stack.enter_context(WorkerCount(os.dup(memory.fd), slot)) for slot in range(SLOTS)]


def test_the_one_with_many_more_clients_than_another_exceeds_it(workers: list[WorkerCount]) -> None:
    first, second, third = workers
    for few, many in ((0, 4), (16, 21), (160, 174)):
        second.clients_changed(few)
        third.clients_changed(many)
        first.clients_changed(many)
        assert not any(worker.exceeds_others() for worker in workers)
        first.clients_changed(many + 1)
        assert [worker.exceeds_others() for worker in workers] == [True, False, False]


def test_a_worker_that_is_gone_is_waited_for_by_none(
    memory: SharedCounts, workers: list[WorkerCount]
) -> None:
    first, second, third = workers
    first.clients_changed(100)
    second.clients_changed(99)
    assert first.exceeds_others()
    memory.worker_gone(2)
    assert not first.exceeds_others()
    for slot in range(SLOTS):
        memory.worker_gone(slot)
    assert not third.exceeds_others()


def test_it_leaves_no_descriptor() -> None:
    def descriptors() -> list[str]:
        return os.listdir("/dev/fd")  # noqa: PTH208 - their names

    before = descriptors()
    with SharedCounts(new_memory(2)) as counts, WorkerCount(os.dup(counts.fd), 1):
        assert len(descriptors()) > len(before)
    assert descriptors() == before


async def wait_for_end(ws: WebSocket) -> None:
    await ws.accept()
    await ws.wait_closed()


async def test_servers_of_one_socket_have_about_as_many_clients(workers: list[WorkerCount]) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    url = "ws://{}:{}".format(*listener.socket.getsockname())
    shared = [trio.SocketListener(listener.socket.dup()) for _ in workers]
    servers = [WebSocketServer(wait_for_end, listeners=[one]) for one in shared]
    for server, count in zip(servers, workers, strict=True):
        count_clients(server, count)
    with trio.fail_after(guard()):
        async with listener, AsyncExitStack() as stack:
            await stack.enter_async_context(servers[0])
            for _ in range(20):
                await stack.enter_async_context(connect(url))
            for server in servers[1:]:
                await stack.enter_async_context(server)
            for _ in range(30):
                await stack.enter_async_context(connect(url))
            held = [len(server.connections) for server in servers]
            assert sum(held) == 50
            # It takes one only if the others are kept from running.
            assert held[0] <= 22, held
            assert abs(held[1] - held[2]) <= 6, held
