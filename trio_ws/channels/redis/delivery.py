"""Delivery: from what arrives on a channel at Redis to the messages that the server receives.

Invariants:

- Any program may publish at that Redis. A message in another format, or without a valid signature, is
  counted, logged once a minute and dropped, before anything larger than the limits is decoded.
- A message is received once, however many subscriptions match it, and not by the broker that published it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trio_ws.channels.broker import KeptMessage
from trio_ws.channels.redis.duplicates import ReceivedMessages
from trio_ws.channels.redis.histories import KEPT, KEPT_GAP, LOST, parse_kept
from trio_ws.channels.redis.messages import MAX_AGE
from trio_ws.channels.redis.throttled import ThrottledWarning
from trio_ws.logs import logger_for, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_ws.channels.broker import Broker
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.histories import DeclaredHistories
    from trio_ws.channels.redis.messages import MessageFormat
    from trio_ws.channels.redis.patterns import DesiredSubscriptions, Key

__all__ = ["Delivery"]

logger = logger_for("trio_ws.channels")


class Delivery:
    """See the module docstring.

    Args:
        broker: of the server, which has set its ``receive_kept``.
        format: the format of messages.
        subscriptions: of the broker.
        max_message: maximum number of bytes of a payload.
        append: stores a message, with its header, that was published by a program that does not know of the
            channel's history: the channel, the message and the history.

    Attributes:
        declared: the histories of each namespace.
        format: as given.
        origin: how the origins of all messages of this broker begin.
        received: the number of received messages.
        rejected: the number of those in another format.
    """

    def __init__(
        self,
        broker: Broker,
        format: MessageFormat,
        subscriptions: DesiredSubscriptions,
        max_message: int,
        append: Callable[[bytes, bytes, History], None],
    ) -> None:
        self.declared: dict[str, DeclaredHistories] = {}
        self.format = format
        self.origin = b""
        self.received = 0
        self.rejected = 0
        self._broker = broker
        self._subscriptions = subscriptions
        self._max_message = max_message
        self._append = append
        self._foreign = ThrottledWarning()
        # Set by begin().
        self._receive: Callable[[str, bytes], None]
        self._received_messages: ReceivedMessages

    def begin(self, receive: Callable[[str, bytes], None], origin: bytes) -> None:
        """Start a run of the broker."""
        self._receive = receive
        self.origin = origin
        self._received_messages = ReceivedMessages()

    def deliver(self, key: Key, channel: bytes, data: bytes) -> None:
        """Take what arrived on a channel through a subscription."""
        if data.startswith((KEPT, KEPT_GAP)):
            name = self._subscriptions.match(key, channel)
            if name is not None:
                self._deliver_kept(name, channel, data)
            return
        origin = self.format.origin_of(data)
        if origin.startswith(self.origin):
            return
        name = self._subscriptions.match(key, channel)
        if name is None:
            return
        payload = self.format.unpack(channel, data, self._max_message)
        if payload is None:
            self._reject(channel, data)
            return
        history = self.history_of(name)
        if history is not None:
            # Published by a program that does not know of the history. Each process that receives the message
            # appends it, and Redis accepts only the first of these commands.
            if self._received_messages.add(origin, channel, data):
                self._append(channel, data, history)
            return
        if not self.format.is_new(data) or not self._received_messages.add(origin, channel, data):
            return
        self.received += 1
        try:
            self._receive(name, payload)
        except Exception:
            # receive() should never raise. If it does, only this message is lost.
            logger.exception("could not deliver a message for %r", name)

    def _deliver_kept(self, name: str, channel: bytes, data: bytes) -> None:
        """Deliver a message of a channel with a history, which has a position."""
        if self.history_of(name) is None or self._broker.receive_kept is None:
            return
        try:
            epoch, offset, packed = parse_kept(data)
        except ValueError:
            self._reject(channel, data)
            return
        message = self._unpack(channel, packed, data.startswith(KEPT_GAP), max_age=MAX_AGE)
        if (message.payload or message.missing) and self.format.is_new(packed):
            self.received += 1
            self._broker.receive_kept(name, epoch, message._replace(offset=offset))

    def history_of(self, name: str) -> History | None:
        """The history of a channel, by its name and its namespace."""
        namespace, _, channel = name.partition(":")
        declared = self.declared.get(namespace) if channel else None
        return declared.find(channel) if declared is not None else None

    def unpack_stored(self, channel: bytes, data: bytes, is_gap: bool) -> KeptMessage:
        """Return a message that was read from a history, without its position. No copy is delivered later.

        An invalid one is counted, and returned as an empty message.
        """
        message = self._unpack(channel, data, is_gap)
        if message.payload or message.missing:
            self.format.is_new(data)
        return message

    def _unpack(self, channel: bytes, data: bytes, is_gap: bool, *, max_age: float = math.inf) -> KeptMessage:
        payload = self.format.unpack(channel + LOST if is_gap else channel, data, self._max_message, max_age)
        if payload is None or (is_gap and not payload.isdigit()):
            self._reject(channel, data)
            return KeptMessage(0, b"")
        missing = int(payload) if is_gap else 0
        return KeptMessage(0, b"" if is_gap else payload, missing, id=self.format.id_of(data))

    def _reject(self, channel: bytes, data: bytes) -> None:
        self.rejected += 1
        self._foreign.warn(
            "dropped %d bytes on the channel '%s' at Redis: another format, or no valid signature",
            len(data),
            shown(channel),
        )
