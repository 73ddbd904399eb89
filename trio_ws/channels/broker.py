"""Broker: how the hubs of several processes, or of one, share an audience.

A hub tells its broker which names and globs have subscribers here, gives it what is published here, and gets
what was published elsewhere. The names that a broker sees are opaque to it, but for the globs among them.

What always holds for a broker:

- ``publish``, ``subscribe`` and ``unsubscribe`` are plain calls that never block: what cannot be done at once
  is kept, within a bound, and done by the broker's own tasks.
- A message reaches ``receive`` once, however many of the subscribed names match, and never in the process (or
  the broker) that published it.
- Losing the other side ends nothing: it is logged, seen in ``state``, and tried again with back-off. What was
  lost meanwhile is counted in ``statistics``.
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

#: ``"new"`` before it runs, then ``"connected"`` or ``"lost"`` (and trying again), at last ``"closed"``.
BrokerState = Literal["new", "connected", "lost", "closed"]


class BrokerStatistics(NamedTuple):
    """What went through a broker since it began.

    Attributes:
        published: messages that were given to the other side.
        received: messages that came from it, each once.
        unpublished: messages that could not be given to it, because it was gone for too long.
        losses: how often it was lost.
        waiting: messages that wait to be given to it now.
    """

    published: int
    received: int
    unpublished: int
    losses: int
    waiting: int


class Broker(ABC):
    """What joins the channels of several servers. Subclass it, and give an object to a server as ``broker``.

    A server tells its broker which names have subscribers here, gives it what is published here, and gets
    what was published elsewhere. Names and payloads are opaque, but for globs: a name with one of ``*?[``
    stands for all names that it matches, as in ``fnmatch.fnmatchcase``. A broker serves one server at a time.

    - ``publish``, ``subscribe`` and ``unsubscribe`` never block: what cannot be done at once is kept, within
      a bound, and done by tasks that `run` has.
    - A message reaches ``receive`` once, however many of the subscribed names match, and never in the broker
      that published it.
    - Losing the other side ends nothing: it is logged, seen in `state`, and tried again. What was lost
      meanwhile is counted in `statistics`.
    """

    @abstractmethod
    def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,
    ) -> AbstractAsyncContextManager[None]:
        """Carry messages for the length of a block.

        Entering connects; no task outlives the block. On leaving, what waits to be published is given out as
        far as that is done within a second.

        Args:
            receive: is called with the name and the payload of each message from elsewhere. It never raises
                and never blocks.
            timeout: seconds in which the first connection must succeed.

        Raises:
            BrokerError: on entering, where the other side cannot be reached in ``timeout``, or refuses.
        """

    @abstractmethod
    def subscribe(self, name: str) -> None:
        """From now on messages for ``name`` are wanted, for all that it matches if it is a glob."""

    @abstractmethod
    def unsubscribe(self, name: str) -> None:
        """They are wanted no more."""

    @abstractmethod
    def publish(self, name: str, payload: bytes) -> None:
        """Give a message to all other processes that want it."""

    @property
    @abstractmethod
    def state(self) -> BrokerState:
        """Whether it carries messages now."""

    @abstractmethod
    def statistics(self) -> BrokerStatistics:
        """Counters, as they are now."""

    @property
    def problem(self) -> str:
        """Why it is lost, or what the other side has refused since it was connected; "" for nothing."""
        return ""

    @property
    def rejected(self) -> int:
        """Messages that came from the other side and were none of ours."""
        return 0


class InMemoryBus:
    """What the `InMemoryBroker` objects of one process meet in."""

    def __init__(self) -> None:
        self.brokers: set[InMemoryBroker] = set()


class InMemoryBroker(Broker):
    """Joins servers of one process: give each a broker of its own on the same `InMemoryBus`.

    Messages are there at once. It is for tests under the mock clock, and shows what a broker must do.
    """

    def __init__(self, hub: InMemoryBus) -> None:
        self._hub = hub
        self._names: set[str] = set()
        self._receive: Callable[[str, bytes], None] | None = None
        self._state: BrokerState = "new"
        self._published = 0
        self._received = 0
        self._unpublished = 0

    @asynccontextmanager
    async def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,  # noqa: ASYNC109
    ) -> AsyncIterator[None]:
        if self._state == "connected":
            raise RuntimeError("a broker serves one server; make another on the same hub")
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
        return BrokerStatistics(self._published, self._received, self._unpublished, 0, 0)
