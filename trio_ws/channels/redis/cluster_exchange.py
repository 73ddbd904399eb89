"""ClusterExchange: the exchange with one node of a Redis Cluster.

Invariants:

- A command that the node has redirected (MOVED, ASK, TRYAGAIN) was not executed. It goes back to where it
  came from, and the routing decides what becomes of it.
- A node ends subscriptions of a slot that it gives away, by a push. Therefore a push does not show which
  command it answers. Commands that unsubscribe are followed by an ECHO. Before its reply, one push for each
  of their names belongs to them; a channel may be subscribed again by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.channels.redis.cluster import parse_redirect, plain_channel, sharded_channel
from trio_ws.channels.redis.connection import CLOSING_ERRORS, command, error_code, error_text
from trio_ws.channels.redis.exchange import Exchange
from trio_ws.channels.redis.histories import CLUSTER_SCRIPTS, SCRIPTS, publish_words
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    from trio_ws._types import Reply
    from trio_ws.channels.redis.publish_queue import Outgoing

__all__ = ["ClusterExchange"]

_SSUBSCRIBE = b"SSUBSCRIBE"
_SUNSUBSCRIBE = b"SUNSUBSCRIBE"
#: What ECHO returns.
_END = b"trio_ws"


class ClusterExchange(Exchange):
    """See the module docstring."""

    scripts = SCRIPTS + CLUSTER_SCRIPTS

    @property
    def _needs_run(self) -> bool:
        return True

    def _publish_command(self, channel: bytes, data: bytes) -> bytes:
        return command(*publish_words(self._sharded(channel), channel, data))

    def append_words(
        self, message: Outgoing, *more: bytes, after: tuple[bytes, int] | None = None
    ) -> list[bytes]:
        return super().append_words(message, self._sharded(message.channel), *more, after=after)

    def _declarations(self) -> list[list[bytes]]:
        return []  # the router knows where they belong

    def _sharded(self, channel: bytes) -> bytes:
        return sharded_channel(self._link.subscriptions.prefix, channel)

    # -- subscriptions ------------------------------------------------------------------------------

    def _subscribe(self, verb: bytes, channels: list[bytes], parts: list[bytes]) -> None:
        if verb.startswith(b"P"):
            super()._subscribe(verb, channels, parts)
        elif verb == b"SUBSCRIBE":
            for channel in channels:  # one command may name only channels of one slot
                parts.append(command(_SSUBSCRIBE, self._sharded(channel)))
                self.pending_replies.append((_SSUBSCRIBE, [channel]))
        else:
            parts += [command(_SUNSUBSCRIBE, self._sharded(channel)) for channel in channels]
            parts.append(command(b"ECHO", _END))
            self.pending_replies.append((_SUNSUBSCRIBE, channels[:]))

    def _pushed(self, reply: list[Reply]) -> None:
        kind = reply[0]
        if kind == b"smessage":
            channel = self._plain(reply[1])
            self._delivery.deliver((False, channel), channel, reply[2])
        elif kind == b"ssubscribe":
            verb, names = self.pending_replies[0] if self.pending_replies else (b"", [])
            if verb is not _SSUBSCRIBE or names[0] != self._plain(reply[1]):
                raise BrokerError(f"{self._link.shown} sent an unexpected {kind!r}")
            self.pending_replies.popleft()
            if self._link.resubscribing:
                self._check_resubscribed()
        elif kind == b"sunsubscribe":
            channel = self._plain(reply[1])
            verb, names = self.pending_replies[0] if self.pending_replies else (b"", [])
            if verb is _SUNSUBSCRIBE and channel in names:
                names.remove(channel)
            elif (False, channel) in self._subscribed:
                self._subscribed.discard((False, channel))
                self._link.owner.interrupted(self._link, (False, channel), lost=True)
        else:
            super()._pushed(reply)

    def _plain(self, sharded: bytes) -> bytes:
        return plain_channel(self._link.subscriptions.prefix, sharded)

    # -- redirections -------------------------------------------------------------------------------

    def _answered(self, reply: Reply) -> None:
        if self.pending_replies and self.pending_replies[0][0] is _SUNSUBSCRIBE:
            if reply == _END:
                self.pending_replies.popleft()
            return  # an error is about a channel that has moved, which needs no command
        super()._answered(reply)

    def _out_of_order(self) -> None:
        link = self._link
        link.owner.redirected(link, link.queue.give_back(), "TRYAGAIN", None)
        link.work.notify_all()

    def _redirected(self, verb: bytes, names: list[bytes], error: Exception) -> bool:
        kind, target = parse_redirect(error)
        link = self._link
        if not kind:
            if verb is _SSUBSCRIBE and error_code(error) in CLOSING_ERRORS:
                self._close_soon(f"{link.shown} refused a subscription: {error_text(error)}")
                return True
            return False
        if verb is self.QUESTION:
            link.owner.redirected_question(link, self.questions.popleft(), kind, target)
        elif verb is self.PUBLISH or verb is self.APPEND:
            link.owner.redirected(link, link.queue.give_back(), kind, target)
        elif verb is _SSUBSCRIBE:
            key = (False, names[0])
            self._subscribed.discard(key)
            link.owner.interrupted(link, key, lost=False)
        else:
            return False
        link.work.notify_all()
        return True
