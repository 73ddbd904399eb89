"""HubPresence: presence in the channels of a hub. A broker hears nothing of it before its first use."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from trio_ws.channels.presence import PRESENCE, PresenceRegistry

if TYPE_CHECKING:
    from trio_ws._types import Value
    from trio_ws.channels.broker import Broker
    from trio_ws.channels.channel import ConnectionSubscriber

__all__ = ["HubPresence"]


class HubPresence:
    """See the module docstring.

    Args:
        lease: see `PresenceRegistry`.
    """

    def __init__(self, lease: float) -> None:
        self._registry = PresenceRegistry(lease)
        self._used = False
        self._broker: Broker | None = None
        self._topic = ""

    def attach(self, broker: Broker | None, namespace: str) -> None:
        """Exchange members with other processes. None stops that."""
        self._broker = broker
        self._topic = f"{namespace}{PRESENCE}:"
        if broker is None:
            self._registry.attach(None)
        elif self._used:
            self._share(broker)

    def _share(self, broker: Broker) -> None:
        broker.subscribe(self._topic)
        self._registry.attach(functools.partial(broker.publish, self._topic))

    def use(self) -> PresenceRegistry:
        """Return the members of all channels. From now on the process takes part in presence."""
        if not self._used:
            self._used = True
            if self._broker is not None:
                self._share(self._broker)
        return self._registry

    def enter(self, member: ConnectionSubscriber, name: str, info: Value) -> None:
        """Add a connection to the presence of a channel. See `ClientConnection.present`."""
        self.use().enter(name, member.connection.uid, info)
        if name not in member.present:
            member.present = (*member.present, name)

    def leave(self, member: ConnectionSubscriber, name: str) -> None:
        """Remove a connection from the presence of a channel."""
        self._registry.leave(name, member.connection.uid)
        member.present = tuple(one for one in member.present if one != name)

    def left(self, member: ConnectionSubscriber) -> None:
        """Remove a connection from the presence of all channels."""
        for name in member.present:
            self._registry.leave(name, member.connection.uid)
        member.present = ()

    def receive(self, name: str, payload: bytes) -> None:
        """Handle a message of another process."""
        self._registry.receive(payload)

    def missed(self) -> None:
        """Exchange all members again, because messages may have been lost."""
        self._registry.missed()

    async def run(self) -> None:
        """Keep up with other processes, until cancelled."""
        await self._registry.run()
