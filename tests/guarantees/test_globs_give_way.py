"""A burst of subscriptions to globs, each of which matches many channels, lets other tasks run in between."""

from __future__ import annotations

from typing import ClassVar

import msgspec
import trio

from tests.adversary.hostile import BINARY, frame
from tests.support.serving import serving
from trio_ws import ClientConnection, History, WebSocketHandler
from trio_ws.testing import RawPeer

BURST = 40


class Latest(WebSocketHandler):
    """Each subscriber gets the newest messages. Counts subscriptions between two turns of another task."""

    client_globs = True
    channels_history: ClassVar = {"latest.*": History(latest=True)}

    def __init__(self) -> None:
        self.total = self.in_a_row = self.most = 0

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        self.total += 1
        self.in_a_row += 1
        self.most = max(self.most, self.in_a_row)
        return True

    async def watch(self) -> None:
        while True:
            self.in_a_row = 0
            await trio.lowlevel.checkpoint()


async def test_other_tasks_have_their_turns() -> None:
    handler = Latest()
    for number in range(200):
        handler.publish(f"latest.{number}", number)
    async with serving(handler) as server, trio.open_nursery() as nursery:
        nursery.start_soon(handler.watch)
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await RawPeer.connect(stream, headers=[("Sec-WebSocket-Protocol", "trio-ws.v1")]) as peer:
            methods = ("__subscribe__", "__unsubscribe__") * BURST
            burst = b"".join(frame(BINARY, request(name, f"{i}")) for i, name in enumerate(methods))
            await peer.send_raw(burst)
            while handler.total < BURST:
                await peer.receive_frame()
        assert handler.most <= 2
        nursery.cancel_scope.cancel()


def request(method: str, call_id: str) -> bytes:
    """A request for a glob that matches all channels."""
    rpc = {"type": "request", "method": method, "args": [["latest.*"]], "call_id": call_id}
    return msgspec.msgpack.encode({"source": 5, "rpc": rpc})
