"""A client of trio_ws whose server is simulated by the test, message by message."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from tests.support.serving import guard
from trio_ws import WebSocketClient
from trio_ws.testing import Link, RawPeer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["SimulatedServer", "simulated_server"]


class SimulatedServer:
    """A simulated third-party server.

    Attributes:
        peer: sends and receives frames.
    """

    peer: RawPeer

    async def receive(self) -> Any:
        """Return the client's next JSON value, or the code and the reason of its Close frame."""
        frame = await self.peer.receive_frame()
        assert frame is not None
        if frame.opcode == 8:
            return int.from_bytes(frame.payload[:2], "big"), frame.payload[2:].decode()
        assert frame.opcode == 1
        return json.loads(frame.payload)

    async def send(self, *messages: Any) -> None:
        """Send JSON values; a string is sent unchanged."""
        for message in messages:
            await self.peer.send_text(message if isinstance(message, str) else json.dumps(message))


@asynccontextmanager
async def simulated_server(
    selects: str | None = None, **settings: Any
) -> AsyncIterator[tuple[WebSocketClient, SimulatedServer]]:
    """Connect a client with these settings to a simulated server, which selects this subprotocol."""
    link = Link()
    server = SimulatedServer()
    ready = trio.Event()

    async def accept() -> None:
        headers = [("Sec-WebSocket-Protocol", selects)] if selects is not None else []
        server.peer = await RawPeer.accept(link.server, headers)
        ready.set()

    with trio.fail_after(guard()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            async with WebSocketClient("ws://test", stream=link.client, **settings) as client:
                await ready.wait()
                yield client, server
                await server.peer.send_close()
