"""Broker: exchange published messages between the hubs of several processes.

A hub tells its broker which names and globs have local subscribers. It passes every locally published message
to the broker, and receives those published elsewhere. Names are opaque to a broker, except that it expands
globs.

Invariants of a broker:

- ``publish``, ``subscribe`` and ``unsubscribe`` are synchronous and never block. Work that cannot be done at
  once is queued, within a bound, for the broker's own tasks.
- A message reaches ``receive`` once, however many subscribed names match it. It never reaches the process, or
  the broker, that published it.
- Losing the connection raises nothing. It is logged, shown in ``state``, and retried with back-off. Messages
  lost in the meantime are counted in ``statistics``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

from trio.lowlevel import checkpoint

from trio_ws.channels.names import is_glob, matcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["Broker", "BrokerState", "BrokerStatistics", "InMemoryBroker", "InMemoryBus"]

#: ``"new"`` until it runs, then ``"connected"`` or ``"lost"`` (reconnecting), and finally ``"closed"``.
BrokerState = Literal["new", "connected", "lost", "closed"]


class BrokerStatistics(NamedTuple):
    """Counters of a broker since it was started.

    Attributes:
        published: messages sent to the other side.
        received: messages received from it, each counted once.
        unpublished: messages dropped because the connection was lost for too long.
        losses: times the connection was lost.
        waiting: messages waiting to be sent now.
    """

    published: int
    received: int
    unpublished: int
    losses: int
    waiting: int


class Broker(ABC):
    """Connects the channels of several servers. Subclass it and pass an instance to a server as ``broker``.

    A server tells its broker which names have local subscribers, passes it every locally published message,
    and receives those published elsewhere. Names and payloads are opaque, except for globs: a name with one
    of ``*?[`` matches names as in ``fnmatch.fnmatchcase``. A broker serves one server at a time.

    - ``publish``, ``subscribe`` and ``unsubscribe`` never block. Work that cannot be done at once is queued,
      within a bound, for the tasks that `run` starts.
    - A message reaches ``receive`` once, however many subscribed names match it, and never reaches the broker
      that published it.
    - Losing the connection raises nothing. It is logged, shown in `state`, and retried. Messages lost in the
      meantime are counted in `statistics`.

    Attributes:
        on_missed: set by the server. Call it when messages may have been missed, before the next one is
            received, such as when the connection is back. Subscribers that asked for it receive a `Gap`.
        on_resubscribed: set by the server. Call it when all that is published is received again.
    """

    on_missed: Callable[[], None] | None = None
    on_resubscribed: Callable[[], None] | None = None

    @abstractmethod
    def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,
    ) -> AbstractAsyncContextManager[None]:
        """Exchange messages for the duration of a block.

        Entering the block connects, and no task outlives it. Leaving the block sends the messages that are
        still waiting, for up to one second.

        Args:
            receive: called with the name and the payload of each message published elsewhere. It never raises
                and never blocks.
            timeout: seconds in which the first connection must succeed.

        Raises:
            BrokerError: on entering, if the other side cannot be reached within ``timeout`` or refuses.
        """

    @abstractmethod
    def subscribe(self, name: str) -> None:
        """Start receiving messages for ``name``. A glob stands for all names that it matches."""

    @abstractmethod
    def unsubscribe(self, name: str) -> None:
        """Stop receiving messages for ``name``."""

    @abstractmethod
    def publish(self, name: str, payload: bytes) -> None:
        """Send a message to all other processes that subscribed to ``name``."""

    @property
    @abstractmethod
    def state(self) -> BrokerState:
        """The state of the connection to the other side."""

    @abstractmethod
    def statistics(self) -> BrokerStatistics:
        """The current counters."""

    @property
    def problem(self) -> str:
        """Why the connection is lost, or what was refused since it was made; an empty string for neither."""
        return ""

    @property
    def rejected(self) -> int:
        """Messages that were received but are not in this library's format."""
        return 0


class InMemoryBus:
    """Connects the `InMemoryBroker` objects of one process."""

    def __init__(self) -> None:
        self.brokers: set[InMemoryBroker] = set()


class InMemoryBroker(Broker):
    """Connects servers in one process: give each its own broker on a common `InMemoryBus`.

    Messages are delivered immediately. Use it in tests under the mock clock, or as a model for your own
    broker.
    """

    def __init__(self, hub: InMemoryBus) -> None:
        self._hub = hub
        self._names: set[str] = set()
        self._receive: Callable[[str, bytes], None] | None = None
        self._state: BrokerState = "new"
        self._published = 0
        self._received = 0
        self._unpublished = 0
        self._losses = 0

    def lose(self) -> None:
        """Behave as a broker whose connection is lost: nothing is received or published until `recover`."""
        if self._state == "connected":
            self._state = "lost"
            self._losses += 1
            self._hub.brokers.discard(self)

    def recover(self) -> None:
        """Be connected again after `lose`."""
        if self._state == "lost":
            self._state = "connected"
            self._hub.brokers.add(self)
            if self.on_missed is not None:
                self.on_missed()
            if self.on_resubscribed is not None:
                self.on_resubscribed()

    @asynccontextmanager
    async def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,  # noqa: ASYNC109
    ) -> AsyncIterator[None]:
        if self._state == "connected":
            raise RuntimeError("a broker serves one server at a time; make another one on the same bus")
        await checkpoint()
        self._receive = receive
        self._state = "connected"
        self._hub.brokers.add(self)
        try:
            yield
        finally:
            self._hub.brokers.discard(self)
            self._state = "closed"
            self._names.clear()

    def subscribe(self, name: str) -> None:
        self._names.add(name)

    def unsubscribe(self, name: str) -> None:
        self._names.discard(name)

    def publish(self, name: str, payload: bytes) -> None:
        if self._state != "connected":
            self._unpublished += 1
            return
        self._published += 1
        for broker in list(self._hub.brokers):
            if broker is not self and broker._wants(name):
                broker._received += 1
                assert broker._receive is not None
                broker._receive(name, payload)

    def _wants(self, name: str) -> bool:
        return name in self._names or any(is_glob(glob) and matcher(glob)(name) for glob in self._names)

    @property
    def state(self) -> BrokerState:
        return self._state

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(self._published, self._received, self._unpublished, self._losses, 0)
