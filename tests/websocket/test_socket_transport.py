"""A socket as a transport: how it ends."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.serving import guard, serving
from trio_ws.testing import RawPeer
from trio_ws.websocket.transport import SocketTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def fill_and_send(transport: SocketTransport) -> None:
    while True:
        await transport.send_some(memoryview(bytes(65536)))


@pytest.mark.parametrize("wait", [SocketTransport.receive, fill_and_send])
async def test_closing_wakes_the_task_that_waits(wait: Callable[[SocketTransport], Awaitable[Any]]) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = SocketTransport(ours)
    with theirs, trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waits() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await wait(transport)

            await trio.testing.wait_all_tasks_blocked(0.01)
            transport.close()
            transport.close()
        with pytest.raises(trio.ClosedResourceError):
            await transport.receive()


async def test_a_descriptor_that_is_used_again_is_waited_for_again() -> None:
    """trio has no memory of the connection that had it before, waited for or not."""
    for waited in (False, True, False, True):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport = SocketTransport(ours)
        theirs.sendall(b"hello")
        if waited:
            assert await transport.receive() == b"hello"
        assert transport.waited_for is waited
        transport.close()
        theirs.close()


async def test_the_answer_to_a_close_comes_before_the_end_of_tcp() -> None:
    async with serving() as server:
        for _ in range(8):  # some read for themselves, others are read by the shared reader
            peer = await RawPeer.connect(await trio.open_tcp_stream("127.0.0.1", server.port))
            await peer.send_close(1000, "bye")
            assert await peer.receive_until_close() == (1000, "")
            await peer.expect_eof()
            await peer.aclose()
