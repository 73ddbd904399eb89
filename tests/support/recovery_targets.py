"""Targets of workers in tests of recovery: rooms with a history, and their members."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import trio

import trio_ws

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LEASE", "Rooms"]

#: Seconds for which the members of a process are there when it is not heard of.
LEASE = 2.0


class Rooms(trio_ws.WebSocketHandler):
    """Rooms that everybody may enter, and that miss nothing."""

    channels_history: ClassVar = {"room.*": trio_ws.History(items=100_000, bytes=64 * 1024 * 1024)}
    presence_lease = LEASE

    def may_subscribe(self, connection: trio_ws.ClientConnection, name: str) -> bool:
        return True

    @trio_ws.rpc_method()
    def pid(self, connection: trio_ws.ClientConnection) -> int:
        """Say which process this is."""
        return os.getpid()

    @trio_ws.rpc_method()
    async def enter(self, connection: trio_ws.ClientConnection, room: str, info: Any) -> AsyncIterator[int]:
        """Be present, as long as the stream is taken."""
        async with connection.present(room, info):
            yield os.getpid()
            await trio.sleep_forever()

    @trio_ws.rpc_method()
    def members(self, connection: trio_ws.ClientConnection, room: str) -> list[Any]:
        """Say who is there, as this process knows it."""
        return sorted(self.channels.presence(room).values())

    @trio_ws.rpc_method()
    def identify(self, connection: trio_ws.ClientConnection, user: str) -> int:
        """Be somebody; in which process."""
        connection.identify(user)
        return os.getpid()

    @trio_ws.rpc_method()
    def tell(self, connection: trio_ws.ClientConnection, user: str, data: Any) -> int:
        """Send to all connections of somebody; how many are in this process."""
        return self.channels.send_to_user(user, data)

    @trio_ws.rpc_method()
    def kick(self, connection: trio_ws.ClientConnection, user: str) -> int:
        """Close all connections of somebody; how many are in this process."""
        return self.channels.disconnect_user(user, 4001, "kicked")
