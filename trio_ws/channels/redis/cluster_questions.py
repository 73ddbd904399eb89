"""Questions to the nodes of a Redis Cluster, and the lists of channels with a latest value."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_ws.channels.redis.histories import declared_key, latest_key, note_words, pack_declared
from trio_ws.channels.redis.questions import Question
from trio_ws.errors import BrokerError
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trio_ws._types import Reply
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.link_state import LinkState
    from trio_ws.channels.redis.publish_queue import Outgoing
    from trio_ws.channels.redis.questions import Server

__all__ = ["Declare", "LatestNotes", "Nudge", "RedirectedAppend"]

#: Channels that are listed by one command.
_AT_ONCE = 500
#: Channels that are known to be listed. Redis lists as many of a namespace.
_MAX_LISTED = 10_000


class Declare(Question):
    """Stores the histories of a namespace for publishers in other programs."""

    purpose = "declare histories"

    def __init__(self, prefix: bytes, namespace: str, patterns: Mapping[str, History]) -> None:
        super().__init__()
        self.key = declared_key(prefix, namespace)
        self._value = pack_declared(patterns)

    def words(self, server: Server) -> list[bytes]:
        return [b"SET", self.key, self._value]

    def parse(self, reply: Reply) -> None:
        pass


class RedirectedAppend(Question):
    """Appends a message at a node to which its slot is being moved.

    The answer is the head of the delivered message, empty if it was appended before, or None if a key of the
    channel is still at the other node.
    """

    purpose = "append a message"

    def __init__(self, message: Outgoing, sharded: bytes) -> None:
        super().__init__()
        self.key = sharded
        self._message = message
        self.data = b""

    def words(self, server: Server) -> list[bytes]:
        words = server.append_words(self._message, b"1")
        self.data = words[_DATA + int(words[2])]
        return words

    def parse(self, reply: Reply) -> bytes:
        return reply if isinstance(reply, bytes) else b""


#: The place of the message in the words, after the keys: EVALSHA, name, number of keys, and 5 arguments.
_DATA = 8


class Nudge(Question):
    """Delivers a message at the node that still has the subscribers of a slot that is being moved."""

    purpose = "publish a message"

    def __init__(self, sharded: bytes, data: bytes) -> None:
        super().__init__()
        self.key = sharded
        self._data = data

    def words(self, server: Server) -> list[bytes]:
        return [b"SPUBLISH", self.key, self._data]

    def parse(self, reply: Reply) -> None:
        pass


class _Note(Question):
    """Lists channels as those that keep only their newest message."""

    purpose = "list channels"

    def __init__(self, key: bytes, channels: list[bytes]) -> None:
        super().__init__()
        self.key = key
        self._channels = channels

    def words(self, server: Server) -> list[bytes]:
        return note_words(self.key, self._channels)

    def parse(self, reply: Reply) -> None:
        pass


class _Waiting(NamedTuple):
    payload: bytes
    history: History
    is_packed: bool


class LatestNotes:
    """Lists channels that keep only their newest message, at the node that has the list.

    A channel is listed before its first message is appended, at another node. A subscriber of a glob
    therefore finds the channel, or receives the message. Of several messages that wait for that only the
    newest is sent.

    Args:
        prefix: of all names at Redis.
        link_of: returns the link of a channel.
        ask: asks a question.
        is_connected: returns whether all nodes can be reached.
    """

    def __init__(
        self,
        prefix: bytes,
        link_of: Callable[[bytes], LinkState],
        ask: Callable[[Question], Awaitable[Reply]],
        is_connected: Callable[[], bool],
    ) -> None:
        self._prefix = prefix
        self._link_of = link_of
        self._ask = ask
        self._is_connected = is_connected
        self._listed: OrderedDict[bytes, None] = OrderedDict()  # least recently published first
        self._due: dict[bytes, None] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._work = Notification()
        self._done = Notification()

    def note(self, channel: bytes, payload: bytes, history: History, *, is_packed: bool) -> bool:
        """Note that a channel is published to. Return False if the message is kept here for a moment."""
        self._due[channel] = None
        self._work.notify_all()
        if channel in self._listed:
            self._listed.move_to_end(channel)
            return True
        self._waiting.pop(channel, None)
        self._waiting[channel] = _Waiting(payload, history, is_packed)
        if len(self._waiting) > _MAX_LISTED:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._due.pop(oldest, None)
            self._link_of(oldest).queue.dropped += 1
        return False

    def __len__(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """List channels, until cancelled."""
        while True:
            while not self._due:
                await self._work.wait()
            prefix = self._prefix
            key = latest_key(prefix, next(iter(self._due)))
            channels = [one for one in self._due if latest_key(prefix, one) == key][:_AT_ONCE]
            for channel in channels:
                del self._due[channel]
            try:
                await self._ask(_Note(key, channels))
            except BrokerError:
                self._due = dict.fromkeys([*channels, *self._due])
                await trio.sleep(1)
                continue
            for channel in channels:
                self._listed[channel] = None
                self._listed.move_to_end(channel)
                waiting = self._waiting.pop(channel, None)
                if waiting is not None:
                    self._link_of(channel).put(
                        channel, waiting.payload, waiting.history, is_packed=waiting.is_packed
                    )
            while len(self._listed) > _MAX_LISTED:
                self._listed.popitem(last=False)
            self._done.notify_all()

    async def drain(self) -> None:
        """Wait until nothing is kept here."""
        while self._waiting and self._is_connected():
            await self._done.wait()

    def close(self) -> None:
        for channel in self._waiting:
            self._link_of(channel).queue.dropped += 1
        self._waiting.clear()
        self._due.clear()
        self._listed.clear()
