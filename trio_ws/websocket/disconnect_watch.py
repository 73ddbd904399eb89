"""Presence: whether the client of a plain HTTP request is still there while that is being answered.

Invariants: a request that is answered within two ticks of the minder (see service.py) costs no task; after
`Presence.leave` nobody reads here any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from trio_ws.websocket.sockets import LINK_ERRORS

if TYPE_CHECKING:
    from trio_ws.websocket.runtime import ConnectionRuntime
    from trio_ws.websocket.transport import Transport

__all__ = ["DisconnectWatch"]

#: Bytes that a client may send behind its request, such as another one that is not going to be answered.
_MOST_BYTES = 256 * 1024


class DisconnectWatch:
    """Cancels a scope when the client has left: closed its side of the connection, or reset it.

    One that sends more than 256 KiB instead of waiting for its answer counts as gone.

    Args:
        transport: of the client. Nobody else may read until `leave`.
        service: has the minder.
        scope: around what makes the answer.
    """

    _frames = None

    def __init__(self, transport: Transport, runtime: ConnectionRuntime, scope: trio.CancelScope) -> None:
        self._transport = transport
        self._scope = scope
        self._watching: trio.CancelScope | None = None
        self._is_closed = False
        self._reading = False
        self._monitored = False
        self._unread_since = runtime.sweep_count
        runtime.connection_idle(self)

    @enable_ki_protection
    async def _watch(self) -> None:
        if self._is_closed:
            return
        try:
            with trio.CancelScope() as self._watching:
                await self._read_to_end()
                self._scope.cancel()
        finally:
            self._watching = None

    async def _read_to_end(self) -> None:
        left = _MOST_BYTES
        try:
            while left > 0:
                data = await self._transport.receive()
                left = left - len(data) if data else 0
        except LINK_ERRORS:
            pass  # that is an end as well

    async def _read_while_idle(self) -> None:
        """It has no other readers."""

    async def leave(self) -> None:
        """The answer is made: stop to read. It takes no time, also where this is cancelled."""
        self._is_closed = True
        watching = self._watching
        if watching is not None:
            watching.cancel()
            with trio.CancelScope(shield=True):
                while self._watching is watching:
                    await checkpoint()
