"""Recognise messages that were received before.

Redis delivers a message once for each matching subscription. Messages that were in flight when a connection
broke are published again.

Invariants: messages are compared by all their bytes, so another program can suppress a message only by an
exact copy. For each sender, as many messages are remembered as it can have in flight. If there are too many
senders, those that have been silent longest are forgotten.
"""

from __future__ import annotations

__all__ = ["ReceivedMessages"]

#: Messages remembered per sender: more than `broker._WINDOW_ITEMS`.
_EACH = 1024
#: Senders remembered, and messages of all of them.
_MAX_SENDERS = 4096
_MAX_MESSAGES = 65_536


class ReceivedMessages:
    """A bounded set of received messages. See the module docstring."""

    def __init__(self) -> None:
        self._senders: dict[bytes, dict[int, None]] = {}  # least recently heard first
        self._messages = 0

    def add(self, sender: bytes, channel: bytes, data: bytes) -> bool:
        """Remember a message, and return whether it is new."""
        message = hash((channel, data))  # keyed with a secret of this process, as all hashes of bytes
        known = self._senders.pop(sender, None)
        if known is None:
            known = {}
        self._senders[sender] = known
        if message in known:
            return False
        known[message] = None
        self._messages += 1
        if len(known) > _EACH:
            del known[next(iter(known))]
            self._messages -= 1
        while len(self._senders) > _MAX_SENDERS or (
            self._messages > _MAX_MESSAGES and len(self._senders) > 1
        ):
            self._messages -= len(self._senders.pop(next(iter(self._senders))))
        return True
