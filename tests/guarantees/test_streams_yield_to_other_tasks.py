"""A stream whose items are always available lets other tasks run, however much credit it has."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - annotations of methods are read

import msgspec
import pytest
import trio

from tests.support.serving import serving
from trio_ws import ClientConnection, WebSocketHandler, rpc_method
from trio_ws.testing import RawPeer

CREDIT = 100_000
#: Maximum number of items between two turns of another task: a small multiple of 256.
ROW = 1024


class Endless(WebSocketHandler):
    """Counts the items of its stream that were sent while no other task ran."""

    def __init__(self) -> None:
        self.total = self.in_a_row = self.most = 0

    @rpc_method()
    async def numbers(self, connection: ClientConnection) -> AsyncIterator[int]:
        while True:
            self.total += 1
            self.in_a_row += 1
            self.most = max(self.most, self.in_a_row)
            yield self.total

    async def watch(self) -> None:
        while True:
            self.in_a_row = 0
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("leaves", [False, True])
async def test_other_tasks_have_their_turns(leaves: bool) -> None:
    handler = Endless()
    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(handler.watch)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await RawPeer.connect(stream, headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]) as peer:
            request = {"type": "request", "method": "numbers", "call_id": "1", "credits": CREDIT}
            await peer.send_frame(2, msgspec.msgpack.encode({"source": 5, "rpc": request}))
            await peer.receive_frame()
            if not leaves:
                while handler.total < CREDIT:
                    await peer.receive_frame()
        while server.connections:
            await trio.sleep(0)
        assert handler.total <= CREDIT
        assert handler.most <= ROW
        nursery.cancel_scope.cancel()
