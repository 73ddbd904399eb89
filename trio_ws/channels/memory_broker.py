"""InMemoryBroker: a broker within one process, for tests and as a model."""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import checkpoint

from trio_ws.channels.broker import Broker, BrokerState, BrokerStatistics, HistoryPage, KeptMessage
from trio_ws.channels.names import is_glob, matcher
from trio_ws.errors import BrokerError
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_ws.channels.history import History

__all__ = ["InMemoryBroker", "InMemoryBus"]

#: Messages of one page.
_PAGE_ITEMS = 100
#: Bytes charged for each message, in addition to its own.
_OVERHEAD = 512


class _Log:
    """The history of one channel."""

    def __init__(self) -> None:
        self.epoch = secrets.token_urlsafe(9)
        self.end = 0
        self.size = 0
        self.latest = False
        self.entries: deque[tuple[float, KeptMessage]] = deque()

    def append(self, payload: bytes, missing: int, history: History) -> KeptMessage:
        self.end += 1
        message = KeptMessage(self.end, payload, missing)
        self.entries.append((trio.current_time(), message))
        self.size += len(payload) + _OVERHEAD
        self.latest = history.latest
        items = 1 if history.latest else history.items
        while len(self.entries) > items or self.size > history.bytes:
            self._drop_oldest()
        self.expire(history)
        return message

    def expire(self, history: History) -> None:
        while self.entries and self.entries[0][0] <= trio.current_time() - history.seconds:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, message = self.entries.popleft()
        self.size -= len(message.payload) + _OVERHEAD


class InMemoryBus:
    """Connects the `InMemoryBroker` objects of one process.

    Args:
        keeps_histories: whether channels have one history for all brokers. Default False: each server has
            histories of its own, as with a broker that has none.
    """

    def __init__(self, *, keeps_histories: bool = False) -> None:
        self.brokers: set[InMemoryBroker] = set()
        self.keeps_histories = keeps_histories
        self._logs: dict[str, _Log] = {}

    def forget(self) -> None:
        """Lose all histories, as a broker that was emptied."""
        self._logs.clear()

    def _log(self, name: str) -> _Log:
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = _Log()
        return log

    def _names_of_latest(self) -> list[str]:
        """The channels that keep only their newest message, those that were appended to last first."""
        found = [(log.entries[-1][0], name) for name, log in self._logs.items() if log.latest and log.entries]
        return [name for _, name in sorted(found, reverse=True)]


class InMemoryBroker(Broker):
    """Connects servers in one process: give each its own broker on a common `InMemoryBus`.

    Messages are delivered immediately. Use it in tests under the mock clock, or as a model for your own
    broker.
    """

    def __init__(self, hub: InMemoryBus) -> None:
        self._hub = hub
        self.keeps_histories = hub.keeps_histories
        self._names: set[str] = set()
        self._receive: Callable[[str, bytes], None] | None = None
        self._state: BrokerState = "new"
        self._state_changed = Notification()
        self._lost: dict[str, tuple[int, History]] = {}  # messages that could not be appended, by channel
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
            lost, self._lost = self._lost, {}
            for name, (count, history) in lost.items():
                self._append(name, b"", count, history)
            self._state_changed.notify_all()

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
            self._state_changed.notify_all()
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
            if broker is not self and broker._is_subscribed(name):
                broker._received += 1
                assert broker._receive is not None
                broker._receive(name, payload)

    def append(self, name: str, payload: bytes, history: History) -> None:
        if self._state != "connected":
            self._unpublished += 1
            if not history.latest:
                self._lost[name] = self._lost.get(name, (0, history))[0] + 1, history
            return
        self._published += 1
        self._append(name, payload, 0, history)

    async def latest(self, namespace: str) -> list[str]:
        await self._until_connected()
        names = self._hub._names_of_latest()
        return [name for name in names if name.startswith(f"{namespace}:")]

    def _append(self, name: str, payload: bytes, missing: int, history: History) -> None:
        log = self._hub._log(name)
        message = log.append(payload, missing, history)
        epoch = log.epoch
        for broker in list(self._hub.brokers):
            if broker._is_subscribed(name):
                broker._deliver(name, epoch, message)

    def _deliver(self, name: str, epoch: str, message: KeptMessage) -> None:
        self._received += 1
        if self.receive_kept is not None:
            self.receive_kept(name, epoch, message)

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        await self._until_connected()
        log = self._hub._log(name)
        log.expire(history)
        now = trio.current_time()
        found = [
            message._replace(age=now - published)
            for published, message in log.entries
            if message.offset > after
        ]
        return HistoryPage(log.epoch, log.end, found[:_PAGE_ITEMS], more=len(found) > _PAGE_ITEMS)

    async def _until_connected(self) -> None:
        await checkpoint()
        while self._state == "lost":
            await self._state_changed.wait()
        if self._state != "connected":
            raise BrokerError("the broker is not running")

    def _is_subscribed(self, name: str) -> bool:
        return name in self._names or any(is_glob(glob) and matcher(glob)(name) for glob in self._names)

    @property
    def state(self) -> BrokerState:
        return self._state

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(self._published, self._received, self._unpublished, self._losses, 0)
