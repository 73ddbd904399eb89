"""Targets of workers in tests of recovery: rooms with a history, and their members."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import trio

import trio_ws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LEASE", "Rooms"]

#: Seconds after which the members of a process that sends no signs of life are removed.
LEASE = 2.0


class Rooms(trio_ws.WebSocketHandler):
    """Rooms with a history and presence, to which everybody may subscribe."""

    channels_history: ClassVar = {"room.*": trio_ws.History(items=100_000, bytes=64 * 1024 * 1024)}
    presence_lease = LEASE

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return True

    @trio_ws.rpc_method()
    def pid(self, connection: trio_ws.ClientConnection) -> int:
        """Return the id of this process."""
        return os.getpid()

    @trio_ws.rpc_method()
    async def enter(self, connection: trio_ws.ClientConnection, room: str, info: Any) -> AsyncIterator[int]:
        """Be present in a room while the stream is open."""
        async with connection.present(room, info):
            yield os.getpid()
            await trio.sleep_forever()

    @trio_ws.rpc_method()
    def members(self, connection: trio_ws.ClientConnection, room: str) -> list[Any]:
        """Return the members of a room, as this process knows them."""
        return sorted(self.channels.presence(room).values())

    @trio_ws.rpc_method()
    def identify(self, connection: trio_ws.ClientConnection, user: str) -> int:
        """Identify the connection as that of a user, and return the id of this process."""
        connection.identify(user)
        return os.getpid()

    @trio_ws.rpc_method()
    def tell(self, connection: trio_ws.ClientConnection, user: str, data: Any) -> int:
        """Send to all connections of a user, and return how many are in this process."""
        return self.channels.send_to_user(user, data)

    @trio_ws.rpc_method()
    def kick(self, connection: trio_ws.ClientConnection, user: str) -> int:
        """Close all connections of a user, and return how many are in this process."""
        return self.channels.disconnect_user(user, 4001, "kicked")
