"""DisconnectWatch: whether the client of a plain HTTP request is still there while the answer is made.

Invariants:

- A request that is answered within two sweeps of the monitor (see runtime.py) costs no task.
- After `DisconnectWatch.leave` nothing reads here any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import checkpoint, enable_ki_protection

from trio_ws.websocket.sockets import LINK_ERRORS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.websocket.transport import Transport

__all__ = ["DisconnectWatch"]

#: Bytes that a client may send behind its request, such as another one that is not going to be answered.
_MOST_BYTES = 256 * 1024


class MonitorRuntime(Protocol):
    """The part of the runtime that a watch uses (see runtime.py)."""

    sweep_count: int

    def connection_idle(self, connection: DisconnectWatch) -> None:
        """Lend a task that reads, unless the watch is left soon."""


class DisconnectWatch:
    """Cancels a scope when the client has left: closed its side of the connection, or reset it.

    One that sends more than 256 KiB instead of waiting for its answer counts as gone.

    Args:
        transport: of the client. Nothing else may read until `leave`.
        runtime: lends the task that reads.
        scope: around the code that makes the answer.
    """

    def __init__(self, transport: Transport, runtime: MonitorRuntime, scope: trio.CancelScope) -> None:
        self._transport = transport
        self._scope = scope
        self._watching: trio.CancelScope | None = None
        self._left = False
        self.monitored = False
        self.unread_since = runtime.sweep_count
        runtime.connection_idle(self)

    @property
    def unread(self) -> bool:
        """For the monitor: whether the watch lasts."""
        return not self._left

    def lent_task(self) -> Callable[[], Awaitable[None]] | None:
        """The function for a task that the monitor provides."""
        return None if self._left else self._watch

    @enable_ki_protection
    async def _watch(self) -> None:
        if self._left:
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

    async def leave(self) -> None:
        """The answer is made: stop reading. That takes no time, also where this is cancelled."""
        self._left = True
        watching = self._watching
        if watching is not None:
            watching.cancel()
            with trio.CancelScope(shield=True):
                while self._watching is watching:
                    await checkpoint()
