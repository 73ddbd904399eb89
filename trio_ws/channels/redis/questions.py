"""Questions to Redis: commands whose replies a task waits for, also over the loss of a connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import trio

from trio_ws.channels.redis.histories import latest_words, parse_page, read_words
from trio_ws.channels.redis.patterns import name_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws._types import Reply
    from trio_ws.channels.broker import HistoryPage, KeptMessage
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.publish_queue import Outgoing

__all__ = ["HistoryRead", "Listing", "Question", "Server"]


class Server(Protocol):
    """The server that is asked, see `Exchange`."""

    @property
    def prefix(self) -> bytes: ...

    @property
    def run_id(self) -> bytes: ...

    def append_words(self, message: Outgoing, *more: bytes) -> list[bytes]: ...


class Question(ABC):
    """A pending question. A connection that is lost before the reply arrives is followed by another one.

    Attributes:
        done: set when there is an answer or a problem.
        cancelled: whether nobody waits any more.
        key: a key or a sharded channel whose slot decides which node of a cluster is asked.
        asking: whether a node of a cluster is asked to which the slot is being moved.
        answer: the answer, in a form that depends on the question.
        problem: why Redis refused; empty if it did not.
    """

    #: What Redis is asked to do, for messages.
    purpose = "read a history"

    def __init__(self) -> None:
        self.done = trio.Event()
        self.cancelled = False
        self.key = b""
        self.asking = False
        self.answer: Reply = None
        self.problem = ""

    @abstractmethod
    def words(self, server: Server) -> list[bytes]:
        """Return the words of the command on a connection."""

    @abstractmethod
    def parse(self, reply: Reply) -> Reply:
        """Return the answer in a reply.

        Raises:
            ValueError, TypeError, IndexError, AttributeError: the reply is malformed.
        """

    def resolve(self, answer: Reply) -> None:
        self.answer = answer
        self.done.set()

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.done.set()


class HistoryRead(Question):
    """Reads a page of a history; the answer is a `HistoryPage`.

    Args:
        channel: the name of the channel at Redis.
        after: the offset after which to read.
        history: of the channel.
        unpack: returns a message of this channel without its position, as for `parse_page`.
    """

    def __init__(
        self,
        channel: bytes,
        after: int,
        history: History,
        unpack: Callable[[bytes, bytes, bool], KeptMessage],
    ) -> None:
        super().__init__()
        self.channel = channel
        self._after = after
        self._history = history
        self._unpack = unpack

    def words(self, server: Server) -> list[bytes]:
        return read_words(server.prefix, server.run_id, self.channel, self._after, self._history)

    def parse(self, reply: Reply) -> HistoryPage:
        return parse_page(reply, lambda data, is_gap: self._unpack(self.channel, data, is_gap))


class Listing(Question):
    """Lists the channels that keep only their newest message; the answer is a list of names."""

    def __init__(self, key: bytes, prefix: bytes) -> None:
        super().__init__()
        self.key = key
        self._prefix = prefix

    def words(self, server: Server) -> list[bytes]:
        return latest_words(self.key)

    def parse(self, reply: Reply) -> list[str]:
        names = (name_of(self._prefix, channel) for channel in reply)
        return [name for name in names if name is not None]  # others may have written there
