"""What a hub is made of: messages, channels, and who is subscribed to them.

What always holds:

- A channel's log holds what its *active* connections have yet to be sent; a cursor says where each of them
  stands. One flush round later the log is empty again.
- A connection that takes no more is *stalled*. Its part of the logs is then in a backlog of its own:
  references to the same entries, in the order in which they were published, whatever the channel.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from trio_ws.codecs.base import Packet, PacketSource
from trio_ws.errors import PacketError
from trio_ws.protocol.frames import BINARY, FIN, TEXT
from trio_ws.protocol.framing import server_frame
from trio_ws.websocket.deferred_frame import deflated_frame

if TYPE_CHECKING:
    from trio_ws.channels.names import Glob
    from trio_ws.channels.subscription import Policy, Subscription
    from trio_ws.codecs.base import Codec
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.deferred_frame import DeferredFrame

__all__ = [
    "Channel",
    "ConnectionSession",
    "ConnectionSubscriber",
    "PublishedMessage",
    "Subscriber",
    "TaskSubscriber",
    "encode",
]

#: Charged for each message that waits for a connection, beside its bytes.
ENTRY_OVERHEAD = 128

_SETTLED = object()

_to_msgpack = msgspec.msgpack.Encoder().encode
_from_msgpack = msgspec.msgpack.Decoder().decode


class PublishedMessage:
    """One message: encoded once per dialect, and framed once per dialect and compression setting.

    Attributes:
        order: counts all messages of the hub.
        encoded: ``data`` as msgpack, the form in which it is checked, measured and given to a broker.
        skip: connections that do not get it.
    """

    __slots__ = ("_data", "_frames", "channel", "encoded", "order", "size", "skip")

    def __init__(
        self,
        channel: Channel,
        data: Any,
        encoded: bytes,
        order: int,
        skip: frozenset[ConnectionSubscriber] | None,
    ) -> None:
        self.channel = channel
        self._data = data  # until `settle`
        self.encoded = encoded
        self.order = order
        self.skip = skip
        self.size = len(encoded) + ENTRY_OVERHEAD
        self._frames: dict[tuple[str, bool, object], bytes | DeferredFrame] = {}

    def frame(self, dialect: Codec, deflate: PerMessageDeflate | None) -> bytes | DeferredFrame:
        """The frame for connections of this dialect and these compression settings.

        Raises:
            PacketError: the dialect cannot carry the data.
        """
        key = (dialect.name, dialect.binary, deflate and deflate.settings)
        made = self._frames.get(key)
        if made is None:
            made = self._frames[key] = self._make_frame(dialect, deflate)
        return made

    def _make_frame(self, dialect: Codec, deflate: PerMessageDeflate | None) -> bytes | DeferredFrame:
        name = self.channel.name
        source = PacketSource.CHANNEL if name is not None else PacketSource.BROADCAST
        data = _from_msgpack(self.encoded) if self._data is _SETTLED else self._data
        payload = dialect.packet(Packet(source, data, name))
        first = FIN | (BINARY if dialect.binary else TEXT)
        if deflate is not None and len(payload) >= deflate.settings[-1]:
            return deflated_frame(first, payload, deflate)
        return server_frame(first, payload)

    def finalize(self) -> None:
        """All frames that are needed now are made: count what they weigh, and let the publisher's data go."""
        self._data = _SETTLED
        self.size += sum(map(len, self._frames.values()))

    def packet(self) -> Packet:
        """The message as other processes get it, for inboxes: a copy that the publisher does not share."""
        return Packet(PacketSource.CHANNEL, _from_msgpack(self.encoded), self.channel.name)


def encode(data: Any) -> bytes:
    """``data`` as msgpack.

    Raises:
        PacketError: that cannot be.
    """
    try:
        return _to_msgpack(data)
    except Exception as exc:  # an application's own types may raise anything
        raise PacketError(f"this cannot be published: {exc}") from exc


# What most channels have of these most of the time; never changed. A thousand channels with an empty list and
# two empty dicts of their own would weigh 180 KB more.
_NO_LOG: list[PublishedMessage] = []
_NO_MEMBERS: dict[Any, None] = {}


class Channel:
    """One name, or with None the name of everyone: its log, and who is in it.

    Attributes:
        log: what active connections lack; read it, and change it by `append` and `trim`.
        stalled: connections whose cursors count no more; change it by `stall` and `resume`.
        inboxes: tasks; change it by `InboxMember.join` and ``leave``.
    """

    __slots__ = (
        "_kinds",
        "base",
        "cursors",
        "delivered",
        "direct_subscribers",
        "dropped",
        "inboxes",
        "log",
        "log_bytes",
        "name",
        "stalled",
    )

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.log = _NO_LOG
        self.log_bytes = 0
        self.base = 0  # the position of the log's first entry
        self.cursors: dict[ConnectionSubscriber, int] = {}  # the next position for each connection
        self.stalled: dict[ConnectionSubscriber, None] = _NO_MEMBERS
        self.inboxes: dict[TaskSubscriber, None] = _NO_MEMBERS
        self._kinds: list[tuple[Codec, PerMessageDeflate | None]] | None = None
        self.direct_subscribers = 0  # subscribers that hold this name, and not only a glob
        self.delivered = 0
        self.dropped = 0

    @property
    def end(self) -> int:
        return self.base + len(self.log)

    @property
    def empty(self) -> bool:
        return not self.cursors and not self.inboxes

    def encodings(self) -> list[tuple[Codec, PerMessageDeflate | None]]:
        """Of each combination of dialect and compression settings that its connections have, an example."""
        if self._kinds is None:
            found: dict[object, tuple[Codec, PerMessageDeflate | None]] = {}
            for member in self.cursors:
                if member.peer is not None:
                    dialect, deflate = member.peer.codec, member.peer.ws._deflate
                    found[dialect.name, dialect.binary, deflate and deflate.settings] = dialect, deflate
            self._kinds = list(found.values())
        return self._kinds

    def changed(self) -> None:
        """A connection came, went, or began to speak."""
        self._kinds = None

    def stall(self, member: ConnectionSubscriber) -> None:
        """Its part goes to its backlog."""
        if self.stalled is _NO_MEMBERS:
            self.stalled = {}
        self.stalled[member] = None

    def resume(self, member: ConnectionSubscriber) -> None:
        """It has caught up, or left."""
        if self.stalled and self.stalled.pop(member, self) is None and not self.stalled:
            self.stalled = _NO_MEMBERS

    def append(self, entry: PublishedMessage) -> None:
        if self.log is _NO_LOG:
            self.log = []
        self.log.append(entry)
        self.log_bytes += entry.size

    def trim(self, position: int) -> None:
        """Forget what is before ``position``; all active connections are past it."""
        if position > self.base:
            gone = self.log[: position - self.base]
            self.log_bytes -= sum(entry.size for entry in gone)
            if len(gone) < len(self.log):
                del self.log[: len(gone)]
            else:
                self.log = _NO_LOG
            self.base = position


class Subscriber:
    """Whoever may be in channels. What it holds is kept here, so that leaving costs no more than that.

    Attributes:
        held: names and globs.
        globs: those of them that are globs; None for none.
        channels: where it is, and by how many of the names that it holds.
    """

    __slots__ = ("channels", "globs", "held")

    def __init__(self) -> None:
        self.held: dict[str, Policy] = {}
        self.globs: dict[str, Glob] | None = None
        self.channels: dict[Channel, int] = {}

    def join(self, channel: Channel) -> None:
        """One of its names stands for this channel."""
        self.channels[channel] = self.channels.get(channel, 0) + 1

    def release(self, channel: Channel) -> None:
        """One of its names stands for this channel no more."""
        count = self.channels.get(channel)
        if count == 1:
            self.leave(channel)
        elif count is not None:
            self.channels[channel] = count - 1

    def leave(self, channel: Channel) -> None:
        """None of its names does."""
        self.channels.pop(channel, None)


class ConnectionSession(Protocol):
    """What is on the other end of a connection, as far as a hub is concerned."""

    ws: WebSocket
    codec: Codec

    def close_soon(self, code: int, reason: str) -> None:
        """Begin to close, without waiting."""


class TaskSubscriber(Subscriber):
    """A task of the server, by its inbox."""

    __slots__ = ("inbox",)

    def __init__(self) -> None:
        super().__init__()
        self.inbox: Subscription

    def join(self, channel: Channel) -> None:
        super().join(channel)
        if channel.inboxes is _NO_MEMBERS:
            channel.inboxes = {}
        channel.inboxes[self] = None

    def leave(self, channel: Channel) -> None:
        super().leave(channel)
        if channel.inboxes:
            channel.inboxes.pop(self, None)


class ConnectionSubscriber(Subscriber):
    """A connection.

    Attributes:
        backlog: what waits for it, while it is stalled; at first it is, until its peer runs.
    """

    __slots__ = (
        "_policies",
        "backlog",
        "backlog_bytes",
        "connection",
        "default_policy",
        "options",
        "peer",
        "too_slow",
    )

    def __init__(self, connection: Any, options: Options, default_policy: Policy) -> None:
        super().__init__()
        self.connection = connection
        self.default_policy: Policy = default_policy
        self.options = options
        self.too_slow = False  # and disconnected, before it was even open
        self.peer: ConnectionSession | None = None
        self.backlog: deque[PublishedMessage] | None = deque()
        self.backlog_bytes = 0
        self._policies: dict[Channel, Policy] | None = None  # by globs, found out since these last changed

    def join(self, channel: Channel) -> None:
        if channel not in self.channels:
            channel.cursors[self] = channel.end
            channel.changed()
            if self.backlog is not None:
                channel.stall(self)
        super().join(channel)

    def leave(self, channel: Channel) -> None:
        super().leave(channel)
        channel.cursors.pop(self, None)
        channel.changed()
        channel.resume(self)
        self._policies = None

    def policies_changed(self) -> None:
        """A name or a glob was taken, with a policy of its own, or let go."""
        self._policies = None

    def policy_for(self, channel: Channel) -> Policy:
        """What to do when it does not keep up: as said with the name, else with the first glob."""
        name = channel.name
        if name is None:
            return self.default_policy
        if name in self.held:
            return self.held[name]
        if self._policies is None:
            self._policies = {}
        policy = self._policies.get(channel)
        if policy is None:
            globs = self.globs or {}
            first = next((text for text, glob in globs.items() if glob.matches(name)), None)
            policy = self._policies[channel] = self.default_policy if first is None else self.held[first]
        return policy

    def pending(self) -> list[PublishedMessage]:
        """What the logs hold for it, of all its channels, in order. Its cursors move past that."""
        found: list[PublishedMessage] = []
        for channel in self.channels:
            position = channel.cursors[self]
            if position != channel.end:
                found += channel.log[position - channel.base :]
                channel.cursors[self] = channel.end
        found.sort(key=attrgetter("order"))
        return found

    def stall(self) -> None:
        """From here on its part goes to its backlog."""
        self.backlog = deque()
        self.backlog_bytes = 0
        for channel in self.channels:
            channel.stall(self)

    def resume(self) -> None:
        """It has caught up."""
        self.backlog = None
        for channel in self.channels:
            channel.resume(self)
            channel.cursors[self] = channel.end
