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
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from trio.lowlevel import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from trio_ws.channels.history import History
    from trio_ws.codecs.base import Position

__all__ = [
    "Broker",
    "BrokerState",
    "BrokerStatistics",
    "HistoryPage",
    "KeptMessage",
]

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


class KeptMessage(NamedTuple):
    """A message of a channel with a history, as a broker keeps it.

    Attributes:
        offset: its number in the channel, from 1. Offsets of one epoch have no holes.
        payload: as it was given to `Broker.append`; empty if there is none.
        missing: how many messages are missing here, because a publisher had no room for them; the message has
            no payload then.
        age: seconds since it was published.
        id: names the message in its channel, if its publisher may have to append it again to a history that
            was lost. Subscribers do not receive it again then.
    """

    offset: int
    payload: bytes
    missing: int = 0
    age: float = 0.0
    id: bytes = b""


class HistoryPage(NamedTuple):
    """A part of a channel's history.

    Attributes:
        epoch: names the history, in up to 64 characters. It changes when messages were lost, or may be.
        end: the offset of the newest message, kept or not; 0 if there was none.
        messages: the messages after the requested offset, oldest first, without holes.
        earlier: former epochs, each with the last offset up to which it is the same history as this epoch.
        more: whether there may be more after these.
    """

    epoch: str
    end: int
    messages: list[KeptMessage]
    earlier: tuple[Position, ...] = ()
    more: bool = False


class OnMissed(Protocol):
    """Reports that messages may have been missed: of names for which ``affected`` is true; None for all."""

    def __call__(self, affected: Callable[[str], bool] | None = None, /) -> None: ...


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

    A broker that keeps histories sets ``keeps_histories`` and has `append` and `read`. Subscribers then
    recover in any process what they missed in another.

    - `append` gives a message the next offset of its channel, and keeps it within the bounds of the
      `History`. ``receive_kept`` is called with it in every process that is subscribed to the name, also in
      the one that published it, in the order of the offsets.
    - A message that is lost on the way is not called twice or in another order. The server notices by the
      offsets that some are missing, and reads them.
    - ``receive_kept`` receives all messages that are published after a `read` has looked at the history,
      because earlier subscriptions are in effect by then.

    Attributes:
        keeps_histories: whether it has `append` and `read`. Default False: each process has histories of its
            own.
        receive_kept: set by the server. Call it with the name, the epoch and the message.
        on_missed: set by the server. Call it when messages may have been missed, before the next one is
            received, such as when the connection is back. Subscribers that asked for it receive a `Gap`. If
            only some names are affected, pass a function that returns whether a given name is.
        on_resubscribed: set by the server. Call it when all that is published is received again.
    """

    keeps_histories: bool = False
    receive_kept: Callable[[str, str, KeptMessage], None] | None = None
    on_missed: OnMissed | None = None
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

    def append(self, name: str, payload: bytes, history: History) -> None:
        """Append a message to the history of a channel. Like `publish`, this never blocks.

        If a message is lost before it is kept, such as because a queue is full, the broker must keep a
        message with ``missing`` in its place. This does not apply where only the newest message is kept.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no histories")

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        """Read the history of a channel after an offset; 0 for all of it.

        If the channel has no epoch, a new one is begun. This waits while the connection is lost.

        Raises:
            BrokerError: the broker is not running any more, or refuses.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no histories")

    async def latest(self, namespace: str) -> list[str]:
        """List the channels that keep only their newest message, those that were appended to last first.

        New subscribers of a glob receive these messages, of up to 1,024 channels. By default nothing is
        listed, and they receive those of channels that this process has received messages of.

        Args:
            namespace: with a colon it precedes the names, which are as of `append`.

        Raises:
            BrokerError: the broker is not running any more, or refuses.
        """
        await checkpoint()
        return []

    def declare_histories(  # noqa: B027 - most need not know
        self, namespace: str, patterns: Mapping[str, History]
    ) -> None:
        """Note which channels have a history: those whose name is ``namespace:`` and matches a pattern.

        It is called once for each handler, before anything is appended. By default nothing happens.
        """

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
