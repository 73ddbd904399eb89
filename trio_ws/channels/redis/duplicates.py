"""What a broker has heard already.

Redis sends a message once for each subscription that it matches, and what was on its way when a connection
broke is sent again.

What always holds: a message is known by all its bytes, so nothing that another program publishes can make us
deaf for one that it has not repeated. As many of each sender are remembered as it can have on their way, and
the senders that were heard last.
"""

from __future__ import annotations

__all__ = ["Heard"]

#: Messages of one sender that are remembered: more than `redis._WINDOW_ITEMS`.
_EACH = 1024
#: Senders, and messages of all of them, that are remembered.
_MAX_SENDERS = 4096
_MAX_MESSAGES = 65_536


class Heard:
    """See the module's text."""

    def __init__(self) -> None:
        self._senders: dict[bytes, dict[int, None]] = {}  # the one heard last at the end
        self._messages = 0

    def add(self, sender: bytes, channel: bytes, data: bytes) -> bool:
        """Whether this is the first time; it is remembered."""
        message = hash((channel, data))  # of a secret of this process, as hashes of bytes are
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
