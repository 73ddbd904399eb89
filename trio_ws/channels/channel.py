"""The data that a hub manages: messages, channels and subscribers.

Invariants:

- A channel's log holds the messages that its *active* connections have yet to be sent. Each of them has a
  cursor into the log. After one fan-out round the log is empty again.
- A connection that accepts no more data is *stalled*. Its messages then wait in a backlog of its own, which
  references the same entries, in the order in which they were published, across all its channels.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from trio_ws.codecs.base import Packet, PacketSource
from trio_ws.errors import PacketError
from trio_ws.models import encode_model
from trio_ws.protocol.frames import BINARY, FIN, TEXT
from trio_ws.protocol.framing import Unframed, server_frame
from trio_ws.websocket.deferred_frame import deflated_frame
from trio_ws.websocket.internals import deflate_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_ws._types import Value
    from trio_ws.channels.history import ChannelHistory
    from trio_ws.channels.names import Glob
    from trio_ws.channels.subscription import Policy, Subscription
    from trio_ws.codecs.base import Codec, Position
    from trio_ws.options import Options
    from trio_ws.protocol.deflate import PerMessageDeflate
    from trio_ws.websocket.closing import ClosingHandshake
    from trio_ws.websocket.connection import WebSocket
    from trio_ws.websocket.deferred_frame import DeferredFrame
    from trio_ws.websocket.write_buffer import WriteBuffer

__all__ = [
    "Channel",
    "ConnectionSession",
    "ConnectionSubscriber",
    "Form",
    "PositionNotice",
    "PublishedMessage",
    "Subscriber",
    "TaskSubscriber",
    "UserChannel",
    "encode",
]

#: How a message is written to a connection: in a compressed frame, in a plain one (None), or without one.
Form: TypeAlias = "PerMessageDeflate | Unframed | None"

#: Bytes charged for each message that waits for a connection, in addition to its own.
ENTRY_OVERHEAD = 128
#: Bytes charged for each message in a history, in addition to its own, and for each of its frames. A message
#: that waits shares its objects with all connections; in a history they are what takes the memory.
_KEPT_OVERHEAD = 512
_FRAME_OVERHEAD = 256

_SETTLED = object()

#: The cursor of a connection that reads a channel from its history: beyond all entries of the log.
_CATCHING_UP = 2**63

_to_msgpack = msgspec.msgpack.Encoder(enc_hook=encode_model).encode
_from_msgpack = msgspec.msgpack.Decoder().decode


class PublishedMessage:
    """One message, encoded once per codec, and framed once per codec and compression setting.

    Attributes:
        order: sequence number among all messages of the hub.
        encoded: ``data`` as msgpack, the form that is validated, measured and given to a broker.
        skip: connections that do not receive it.
        position: its position in the channel, if that keeps a history.
    """

    __slots__ = ("_data", "_frames", "_marks", "channel", "encoded", "order", "position", "size", "skip")

    #: The number by which this entry increases the counter of delivered messages.
    counts = 1

    def __init__(
        self,
        channel: Channel,
        data: Value,
        encoded: bytes,
        order: int,
        skip: frozenset[ConnectionSubscriber] | None,
        given: Packet | None = None,
    ) -> None:
        # Timestamp and correlation id of a packet that was published.
        self._marks = None if given is None else (given.timestamp, given.correlation_id)
        self.channel = channel
        self._data = data  # until `finalize`
        self.encoded = encoded
        self.order = order
        self.skip = skip
        self.position: Position | None = None
        self.size = len(encoded) + ENTRY_OVERHEAD
        self._frames: dict[tuple[str, bool, object], str | bytes | DeferredFrame] = {}

    def frame(self, dialect: Codec, form: Form) -> str | bytes | DeferredFrame:
        """Return the frame for connections with this codec and this form; the message itself for `UNFRAMED`.

        Raises:
            PacketError: the codec cannot represent the data.
        """
        key = (dialect.name, dialect.binary, form and form.settings)
        made = self._frames.get(key)
        if made is None:
            made = self._frames[key] = self._make_frame(dialect, form)
        return made

    def _make_frame(self, dialect: Codec, form: Form) -> str | bytes | DeferredFrame:
        payload = dialect.packet(self._packet(dialect))
        if isinstance(form, Unframed):
            return payload if dialect.binary else payload.decode()
        first = FIN | (BINARY if dialect.binary else TEXT)
        if form is not None and len(payload) >= form.settings[-1]:
            return deflated_frame(first, payload, form)
        return server_frame(first, payload)

    def _packet(self, dialect: Codec) -> Packet:
        name = self.channel.name
        source = self.channel.source
        data = _from_msgpack(self.encoded) if self._data is _SETTLED else self._data
        position = self.position if dialect.supports_extensions else None
        return self._with_marks(Packet(source, data, name, position=position))

    def _with_marks(self, packet: Packet) -> Packet:
        if self._marks is not None:
            packet.timestamp, packet.correlation_id = self._marks
        return packet

    def finalize(self) -> None:
        """Record the size of the frames made so far, and release the publisher's object."""
        self._data = _SETTLED
        self.size += sum(map(len, self._frames.values()))

    def packet(self) -> Packet:
        """Return the message as other processes receive it: a copy that the publisher does not share."""
        data = _from_msgpack(self.encoded)
        return self._with_marks(Packet(PacketSource.CHANNEL, data, self.channel.name, position=self.position))

    def kept_size(self) -> int:
        """Return the bytes that it takes in a history, with all frames that were made of it so far."""
        frames = self._frames
        overhead = _KEPT_OVERHEAD + _FRAME_OVERHEAD * len(frames)
        return len(self.encoded) + overhead + sum(map(len, frames.values()))

    def for_history(self) -> PublishedMessage:
        """Return it as a history keeps it: without references to connections that may be gone."""
        kept = self
        if self.skip is not None:
            kept = PublishedMessage(self.channel, self._data, self.encoded, self.order, None)
            kept.position, kept.size, kept._frames = self.position, self.size, self._frames
            kept._marks = self._marks
        kept.encoded = bytes(memoryview(self.encoded))  # the encoder's buffer may be larger by a half
        return kept


class PositionNotice(PublishedMessage):
    """Tells a connection that recovers that messages are missing, or that one was not meant for it.

    Args:
        channel: the channel.
        position: the last message that the connection does not receive; None if that is unknown.
        missing: how many messages are missing; 0 for none, -1 if that is unknown.
    """

    __slots__ = ("missing",)

    counts = 0

    def __init__(self, channel: Channel, position: Position | None, missing: int) -> None:
        super().__init__(channel, None, b"\xc0", 0, None)
        self.position = position
        self.missing = missing

    def _packet(self, dialect: Codec) -> Packet:
        return Packet(PacketSource.CHANNEL, None, self.channel.name, position=self.position, gap=self.missing)


def encode(data: Value) -> bytes:
    """Encode ``data`` as msgpack.

    Raises:
        PacketError: ``data`` cannot be encoded.
    """
    try:
        return _to_msgpack(data)
    except Exception as exc:  # an application's own types may raise anything
        raise PacketError(f"cannot publish this message: {exc}") from exc


# Shared by all channels for as long as theirs are empty, and never modified. Separate empty containers would
# cost 180 KB per thousand channels.
_NO_LOG: list[PublishedMessage] = []
_NO_MEMBERS: dict[Any, None] = {}


class Channel:
    """One channel and its subscribers. The channel named None has every connection.

    Attributes:
        log: messages that active connections have yet to be sent; modified only by `append` and `trim`.
        stalled: connections without a cursor; modified only by `stall` and `resume`.
        task_subscribers: subscribed tasks; modified only by `TaskSubscriber.join` and ``leave``.
    """

    __slots__ = (
        "_kinds",
        "base",
        "cursors",
        "delivered",
        "direct_subscribers",
        "dropped",
        "history",
        "log",
        "log_bytes",
        "name",
        "stalled",
        "task_subscribers",
    )

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.log = _NO_LOG
        self.log_bytes = 0
        self.base = 0  # the position of the log's first entry
        self.cursors: dict[ConnectionSubscriber, int] = {}  # the next position for each connection
        self.stalled: dict[ConnectionSubscriber, None] = _NO_MEMBERS
        self.task_subscribers: dict[TaskSubscriber, None] = _NO_MEMBERS
        self._kinds: list[tuple[Codec, Form]] | None = None
        self.direct_subscribers = 0  # subscribers by name, not only through a glob
        self.delivered = 0
        self.dropped = 0
        self.history: ChannelHistory | None = None  # once something was published, if its name has one

    @property
    def source(self) -> PacketSource:
        """The type of its packets."""
        return PacketSource.CHANNEL if self.name is not None else PacketSource.BROADCAST

    @property
    def end(self) -> int:
        return self.base + len(self.log)

    @property
    def empty(self) -> bool:
        return not self.cursors and not self.task_subscribers

    def encodings(self) -> list[tuple[Codec, Form]]:
        """One example of each combination of codec and form among the connections."""
        if self._kinds is None:
            found: dict[object, tuple[Codec, Form]] = {}
            for member in self.cursors:
                if member.session is not None:
                    session = member.session
                    dialect = session.codec
                    form = session.write_buffer.whole or deflate_of(session.ws)
                    found[dialect.name, dialect.binary, form and form.settings] = dialect, form
            self._kinds = list(found.values())
        return self._kinds

    def changed(self) -> None:
        """Forget the cached encodings, because a connection joined, left or opened."""
        self._kinds = None

    def stall(self, member: ConnectionSubscriber) -> None:
        """Move a connection from its cursor to its backlog."""
        if self.stalled is _NO_MEMBERS:
            self.stalled = {}
        self.stalled[member] = None

    def resume(self, member: ConnectionSubscriber) -> None:
        """Give a connection that has caught up a cursor again, or forget one that left."""
        if self.stalled and self.stalled.pop(member, self) is None and not self.stalled:
            self.stalled = _NO_MEMBERS

    def append(self, entry: PublishedMessage) -> None:
        if self.log is _NO_LOG:
            self.log = []
        self.log.append(entry)
        self.log_bytes += entry.size

    def trim(self, position: int) -> None:
        """Drop entries before ``position``, which all active connections have passed."""
        if position > self.base:
            gone = self.log[: position - self.base]
            self.log_bytes -= sum(entry.size for entry in gone)
            if len(gone) < len(self.log):
                del self.log[: len(gone)]
            else:
                self.log = _NO_LOG
            self.base = position


class UserChannel(Channel):
    """All connections of one user, in this process. What is sent to them is data, as of `send`."""

    __slots__ = ("user",)

    def __init__(self, user: str) -> None:
        super().__init__(None)
        self.user = user

    @property
    def source(self) -> PacketSource:
        return PacketSource.CUSTOM


class Recovery:
    """The reading of one subscriber from the histories of its channels.

    Attributes:
        all: it gets gaps of all its channels.
        channels: it gets gaps of these channels.
        cursors: channels that it is catching up with, and the offset of the next message of each. Meanwhile
            nothing of them waits for it elsewhere, so that a slow one holds no memory.
        dropped: channels of which its policy has dropped the newest messages.
    """

    __slots__ = ("all", "channels", "cursors", "dropped")

    def __init__(self) -> None:
        self.all = False
        self.channels: set[Channel] = set()
        self.cursors: dict[Channel, int] = {}
        self.dropped: set[Channel] = set()

    def leave(self, channel: Channel) -> None:
        self.channels.discard(channel)
        self.cursors.pop(channel, None)
        self.dropped.discard(channel)


# The names of all subscribers without any. It is never modified.
_NO_NAMES: dict[str, Policy] = {}
_NO_CHANNELS: Mapping[Channel, int] = MappingProxyType({})


class Subscriber:
    """A member of channels. It records its own memberships, so that leaving costs only as much as it joined.

    Attributes:
        held: the subscribed names and globs; modified only by `hold` and `drop`.
        globs: those of them that are globs, or None.
        channels: the joined channels, each with the number of held names that match it. Subscribers with the
            same ones may share a read-only mapping.
        recovery: its reading from histories; None before it does.
    """

    __slots__ = ("channels", "globs", "held", "recovery")

    def __init__(self) -> None:
        self.held = _NO_NAMES
        self.globs: dict[str, Glob] | None = None
        self.channels = _NO_CHANNELS
        self.recovery: Recovery | None = None

    def hold(self, name: str, policy: Policy) -> None:
        """Record that a name or a glob was subscribed."""
        if self.held is _NO_NAMES:
            self.held = {}
        self.held[name] = policy

    def drop(self, name: str) -> None:
        """Record that a name or a glob was unsubscribed."""
        del self.held[name]

    def join(self, channel: Channel, alone: Mapping[Channel, int] | None = None) -> None:
        """Record that one more held name matches this channel.

        Args:
            channel: the channel.
            alone: a mapping to share with others that have joined this channel only.
        """
        if alone is not None and not self.channels:
            self.channels = alone
        else:
            self._set_count(channel, self.channels.get(channel, 0) + 1)

    def _set_count(self, channel: Channel, count: int) -> None:
        channels = self.channels
        if type(channels) is not dict:
            channels = self.channels = dict(channels)
        channels[channel] = count

    def release(self, channel: Channel) -> None:
        """Record that one held name fewer matches this channel."""
        count = self.channels.get(channel)
        if count == 1:
            self.leave(channel)
        elif count is not None:
            self._set_count(channel, count - 1)

    def leave(self, channel: Channel) -> None:
        """Leave this channel, however many held names match it."""
        channels = self.channels
        if channel in channels:
            if len(channels) == 1:
                self.channels = _NO_CHANNELS
            elif type(channels) is dict:
                del channels[channel]
            else:
                self.channels = {other: count for other, count in channels.items() if other is not channel}
        if self.recovery is not None:
            self.recovery.leave(channel)

    def policies_changed(self) -> None:
        """Note that a name or a glob was added or removed."""

    def is_told_of_gaps(self, channel: Channel) -> bool:
        """Whether the subscriber asked for gaps in this channel."""
        return self.recovery is not None and (self.recovery.all or channel in self.recovery.channels)

    def is_catching_up(self, channel: Channel) -> bool:
        """Whether the subscriber is reading this channel from its history."""
        return self.recovery is not None and channel in self.recovery.cursors

    def catch_up(self, channel: Channel, offset: int) -> None:
        """Read a channel from its history, from this offset on at the latest."""
        if self.recovery is None:
            self.recovery = Recovery()
        cursors = self.recovery.cursors
        cursors[channel] = min(offset, cursors.get(channel, offset))

    def caught_up(self, channel: Channel) -> None:
        """Receive the messages of a channel as they are published, from now on."""
        if self.recovery is not None:
            self.recovery.cursors.pop(channel, None)


class ConnectionSession(Protocol):
    """The operations of the session on a connection that a hub uses."""

    ws: WebSocket
    codec: Codec
    closing: ClosingHandshake
    write_buffer: WriteBuffer
    high_water: int

    def close_soon(self, code: int, reason: str) -> None:
        """Start to close, without waiting."""


class TaskSubscriber(Subscriber):
    """A task of the server, subscribed through a `Subscription`."""

    __slots__ = ("subscription",)

    def __init__(self) -> None:
        super().__init__()
        self.subscription: Subscription

    def join(self, channel: Channel, alone: Mapping[Channel, int] | None = None) -> None:
        super().join(channel, alone)
        if channel.task_subscribers is _NO_MEMBERS:
            channel.task_subscribers = {}
        channel.task_subscribers[self] = None

    def leave(self, channel: Channel) -> None:
        super().leave(channel)
        if channel.task_subscribers:
            channel.task_subscribers.pop(self, None)


class Writer(Protocol):
    """The operations of `Fanout` that write to connections."""

    def drained(self, member: ConnectionSubscriber) -> None:
        """Note that the write buffer of a connection is empty."""


class ConnectionSubscriber(Subscriber):
    """A subscribed connection.

    Attributes:
        fanout: writes to it; None until its session runs.
        backlog: messages waiting while the connection is stalled. It is stalled until its session runs.
    """

    __slots__ = (
        "_policies",
        "backlog",
        "backlog_bytes",
        "close_with",
        "connection",
        "default_policy",
        "fanout",
        "options",
        "present",
        "session",
        "user",
    )

    def __init__(self, connection: Any, options: Options, default_policy: Policy) -> None:
        super().__init__()
        self.connection = connection
        self.default_policy: Policy = default_policy
        self.options = options
        self.close_with: tuple[int, str] | None = None  # disconnected before it was open
        self.present: tuple[str, ...] = ()  # where
        self.user: str | None = None
        self.session: ConnectionSession | None = None
        self.fanout: Writer | None = None
        self.backlog: deque[PublishedMessage] | None = deque()
        self.backlog_bytes = 0
        self._policies: dict[Channel, Policy] | None = None  # cache of policies that come from globs

    def drained(self) -> None:
        """Note that the write buffer is empty."""
        if self.fanout is not None:
            self.fanout.drained(self)

    def join(self, channel: Channel, alone: Mapping[Channel, int] | None = None) -> None:
        if channel not in self.channels:
            channel.cursors[self] = channel.end
            channel.changed()
            if self.backlog is not None:
                channel.stall(self)
        super().join(channel, alone)

    def leave(self, channel: Channel) -> None:
        super().leave(channel)
        channel.cursors.pop(self, None)
        channel.changed()
        channel.resume(self)
        self._policies = None

    def catch_up(self, channel: Channel, offset: int) -> None:
        super().catch_up(channel, offset)
        channel.cursors[self] = _CATCHING_UP
        channel.resume(self)

    def caught_up(self, channel: Channel) -> None:
        super().caught_up(channel)
        channel.cursors[self] = channel.end
        if self.backlog is not None:
            channel.stall(self)

    def policies_changed(self) -> None:
        """Forget the cached policies, because a name or a glob was added or removed."""
        self._policies = None

    def policy_for(self, channel: Channel) -> Policy:
        """Return the policy given with the channel's name, or else with the first glob that matches it."""
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
        """Return the unsent log entries of all its channels, in order, and move its cursors past them."""
        found: list[PublishedMessage] = []
        for channel in self.channels:
            position = channel.cursors[self]
            if position < channel.end:
                found += channel.log[position - channel.base :]
                channel.cursors[self] = channel.end
        found.sort(key=attrgetter("order"))
        return found

    def stall(self) -> None:
        """Start to collect messages in the backlog."""
        self.backlog = deque()
        self.backlog_bytes = 0
        for channel in self.channels:
            if channel.cursors[self] != _CATCHING_UP:
                channel.stall(self)

    def resume(self) -> None:
        """Return from the backlog to cursors in the logs."""
        self.backlog = None
        for channel in self.channels:
            if channel.cursors[self] != _CATCHING_UP:
                channel.resume(self)
                channel.cursors[self] = channel.end
