"""``trio-ws.v1.json``: everything that trio-ws.v1 can do, by our client with JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - the handler's annotations are read
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.serving import serving_in_memory
from trio_ws import (
    ClientConnection,
    ConnectionFailedError,
    Options,
    WebSocketClient,
    WebSocketHandler,
    rpc_method,
)

DIALECT = "trio-ws.v1.json"


class Handler(WebSocketHandler):
    made = 0
    cancelled = False

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True

    @rpc_method()
    async def reverse(self, connection: ClientConnection, data: bytes) -> bytes:
        return data[::-1]

    @rpc_method()
    async def texts(self, connection: ClientConnection, n: int, text: str) -> AsyncIterator[str]:
        for _ in range(n):
            self.made += 1
            yield text

    @rpc_method()
    async def lengths(self, connection: ClientConnection, texts: AsyncIterator[str]) -> int:
        total = 0
        async for text in texts:
            total += len(text)
        return total

    @rpc_method()
    async def wait(self, connection: ClientConnection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled = True


def client(stream: trio.abc.Stream, **kwargs: Any) -> WebSocketClient:
    return WebSocketClient("ws://test/", stream=stream, dialect=DIALECT, **kwargs)


async def test_bytes_streams_deadlines_and_channels(autojump_clock: MockClock) -> None:
    handler = Handler()
    async with serving_in_memory(handler) as memory, client(await memory.stream()) as caller:
        assert caller.dialect == DIALECT
        assert await caller.call("reverse", b"\x00\xff", returns=bytes) == b"\xff\x00"
        async with caller.stream("texts", 100, "a", items=str) as texts:
            await texts.receive()
            await wait_all_tasks_blocked()
            assert handler.made < 100  # there is credit
        with trio.move_on_after(2):
            await caller.call("wait")
        await wait_all_tasks_blocked()
        assert handler.cancelled
        async with caller.subscribe("news") as subscription:
            handler.publish("news", "\N{EURO SIGN}")
            assert (await subscription.receive()).data == "\N{EURO SIGN}"


@pytest.mark.parametrize("text", ["a" * 300, "\N{EURO SIGN}" * 300, "\N{GRINNING FACE}" * 300, "\x00" * 300])
async def test_credit_counts_bytes_of_utf8_on_both_sides(text: str, autojump_clock: MockClock) -> None:
    """Counted in characters, the credit of the two sides would differ, and the stream would stop."""
    options = Options(stream_window_bytes=2000)

    async def texts() -> AsyncIterator[str]:
        for _ in range(300):
            yield text

    async with serving_in_memory(Handler(), options=options) as memory:
        async with client(await memory.stream(), options=options) as caller:
            async with caller.stream("texts", 300, text, items=str) as items:
                assert [item async for item in items] == [text] * 300
                assert items._granted_bytes + items._owed_bytes == items._window_bytes or items._ended
            assert await caller.call("lengths", texts()) == 300 * len(text)
            assert caller._live.outgoing.granted_bytes == 0


async def test_a_server_that_does_not_know_it_is_refused() -> None:
    async def plain(ws: Any) -> None:
        await ws.accept()
        await ws.recv()

    async with serving_in_memory(plain) as memory:
        with pytest.raises(ConnectionFailedError, match=r"does not support trio-ws\.v1\.json"):
            async with client(await memory.stream()):
                pass
