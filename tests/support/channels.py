"""Subscribers for tests of channels: raw peers that can stop reading, and the handler that serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trio_ws import ClientConnection, WebSocketHandler
from trio_ws.testing import RawPeer

if TYPE_CHECKING:
    from tests.support.serving import MemoryServer
    from trio_ws import Packet, Subscription

__all__ = ["Listener", "PausableReader", "Rooms", "connection_of"]


class Rooms(WebSocketHandler):
    """Subscribes each client to the channels in its path, which are separated by commas."""

    async def on_connect(self, connection: ClientConnection) -> None:
        connection.name = connection.request.path[1:].partition("/")[0]
        names = [name for name in connection.request.path[1:].partition("/")[2].split(",") if name]
        if names:
            assert connection.subscribe(names)


class PausableReader:
    """Receives the messages of a subscription while reading is enabled."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.reading = True
        self.changed = trio.Event()

    def read(self, reading: bool) -> None:
        self.reading = reading
        self.changed.set()
        self.changed = trio.Event()

    async def run(self) -> None:
        while True:
            while not self.reading:
                await self.changed.wait()
            self.keep(await self.subscription.receive())

    def keep(self, packet: Packet) -> None:
        """Store a received message."""
        raise NotImplementedError


class Listener:
    """A JSON client that stops reading on request, and stores what it has received.

    Attributes:
        got: ``data`` of each received packet, in order.
        closed: the code and the reason of the server's Close frame.
    """

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.got: list[Any] = []
        self.packets: list[Any] = []
        self.closed: int | None = None
        self.reading = True
        self._changed = trio.Event()
        self.scope = trio.CancelScope()

    @classmethod
    async def join(
        cls,
        nursery: trio.Nursery,
        memory: MemoryServer,
        name: str,
        channels: str = "",
        *,
        capacity: int = 65536,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Listener:
        stream = await memory.stream(capacity=capacity)
        listener = cls(await RawPeer.connect(stream, f"/{name}/{channels}", headers=headers))
        nursery.start_soon(listener.run)
        await trio.testing.wait_all_tasks_blocked()
        return listener

    def read(self, reading: bool) -> None:
        self.reading = reading
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        with self.scope:
            while True:
                while not self.reading:
                    await self._changed.wait()
                frame = await self.peer.receive_frame()
                if frame is None:
                    return
                if frame.opcode == 8:
                    self.closed = int.from_bytes(frame.payload[:2], "big")
                    await self.peer.send_close()
                elif frame.opcode in (1, 2):
                    decode = msgspec.json.decode if frame.opcode == 1 else msgspec.msgpack.decode
                    self.packets.append(decode(frame.payload))
                    packet = self.packets[-1]
                    self.got.append(packet.get("data") if isinstance(packet, dict) else packet)

    async def leave(self) -> None:
        self.scope.cancel()
        await self.peer.aclose()


def connection_of(handler: Rooms, name: str) -> ClientConnection:
    """Return the server's connection to the listener of this name."""
    return next(one for one in handler.clients if one.name == name)
