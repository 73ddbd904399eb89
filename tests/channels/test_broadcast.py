"""broadcast: one message to many plain WebSockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.serving import EchoHandler, serving_in_memory
from trio_ws import Compression, Options, WebSocket, WebSocketMessage, broadcast, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@pytest.mark.parametrize(
    "message", ["text", b"binary", bytearray(b"x"), memoryview(b"y"), WebSocketMessage.text("t"), ""]
)
@pytest.mark.parametrize("compression", [False, True])
async def test_all_get_it_once(message: Any, compression: bool, autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    options = Options(compression=Compression(threshold=1) if compression else False)
    async with serving_in_memory(handler, options=options) as memory:
        plain = Options()
        async with (
            memory.connect(options=options) as first,
            memory.connect(options=options) as second,
            memory.connect(options=plain) as third,
            memory.connect() as fourth,
        ):
            await wait_all_tasks_blocked()
            assert broadcast(handler.open, message, exclude=handler.open[3:]) == 3
            for ws in (first, second, third):
                got = await ws.recv()
                assert got is not None
                expected = message.payload if isinstance(message, WebSocketMessage) else message
                assert got.payload == expected
                # What follows on the same connection can still be inflated.
                for text in ("and on", "and on and on"):
                    await ws.send(text * 20)
                    assert await ws.receive_text() == text * 20
                assert broadcast(handler.open, "again", exclude=iter(handler.open)) == 0
            await fourth.send("none came before this")
            assert await fourth.receive_text() == "none came before this"


async def test_clients_mask_for_themselves(autojump_clock: MockClock) -> None:
    async with serving_in_memory() as memory, memory.connect() as first, memory.connect() as second:
        assert broadcast([first, second], "hello") == 2
        assert [await first.receive_text(), await second.receive_text()] == ["hello", "hello"]


async def test_a_connection_that_cannot_accept_it_is_skipped(autojump_clock: MockClock) -> None:
    handler = EchoHandler()
    go_on = trio.Event()

    async def parts() -> AsyncIterator[str]:
        yield "one "
        await go_on.wait()
        yield "message"

    async with serving_in_memory(handler) as memory, trio.open_nursery() as nursery:
        async with memory.connect() as busy, memory.connect() as closed:
            await wait_all_tasks_blocked()
            await closed.close()
            await wait_all_tasks_blocked()
            nursery.start_soon(handler.open[0].send, parts())
            await wait_all_tasks_blocked()
            assert broadcast(handler.open, "in between") == 0
            go_on.set()
            assert await busy.receive_text() == "one message"
            assert broadcast(handler.open, "after") == 1
            assert await busy.receive_text() == "after"


@pytest.mark.parametrize(
    "message", [None, 1, ["a"], WebSocketMessage.ping(), WebSocketMessage.close(1000, "")]
)
def test_an_invalid_message_is_a_type_error(message: Any) -> None:
    with pytest.raises(TypeError, match="broadcast"):
        broadcast([], message)


async def test_a_connection_that_has_not_accepted_yet_gets_nothing(autojump_clock: MockClock) -> None:
    early: list[int] = []

    async def handler(ws: WebSocket) -> None:
        early.append(broadcast([ws], "too early"))
        await ws.send("in time")

    async with serving_in_memory(handler) as memory:
        async with connect("ws://test/", stream=await memory.stream()) as ws:
            assert await ws.receive_text() == "in time"
    assert early == [0]
