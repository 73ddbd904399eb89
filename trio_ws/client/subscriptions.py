"""Subscriptions: what a client listens to, whatever connection it has.

Names are counted: the first inbox on a name subscribes to it over the wire, the last one to leave it
unsubscribes. Answers are taken by slots without a task, so that a caller's cancellation changes nothing for
others who wait for the same name.

What always holds:

- All state changes in synchronous code, in the order in which it goes over the wire.
- A packet reaches each inbox once, however many of its names match.
- A name that was left takes its late packets with it: they reach nobody until the server has answered.
- While there is an inbox, reading never stops for packets that nobody takes (see `Caller.needing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_ws.channels.names import is_glob, matcher
from trio_ws.codecs.base import SUBSCRIBE, UNSUBSCRIBE
from trio_ws.errors import PacketError, SubscriptionError
from trio_ws.rpc.errors import error_from
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from trio_ws.channels.subscription import Subscription
    from trio_ws.codecs.base import Packet, Response
    from trio_ws.errors import ConnectionClosedError
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.session import RPCSession

__all__ = ["Subscriptions"]

#: Names in one request when a connection is new.
_NAMES_AT_ONCE = 256


class _Subscription:
    """A name, or a glob, that there are inboxes for."""

    __slots__ = ("asked", "confirmed", "inboxes", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.inboxes: dict[Subscription, None] = {}
        self.asked = False  # for on the connection of now, and not answered yet
        self.confirmed = False  # by the server, on the connection of now


class _PendingSubscribe:
    """The slot of a request whose answer nobody's task waits for."""

    __slots__ = ("_take", "sent_offset")

    lease: Lease | None = None

    def __init__(self, take: Callable[[Response], None]) -> None:
        self._take = take
        self.sent_offset = 0

    def on_response(self, response: Response, size: int) -> bool:
        self._take(response)
        return True

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """The next connection asks again."""


class Subscriptions:
    """See the module's text."""

    def __init__(self) -> None:
        self._session: RPCSession | None = None
        self._names: dict[str, _Subscription] = {}
        self._globs: dict[str, Callable[[str], object]] = {}
        self._held: dict[Subscription, list[str]] = {}
        self._leaving: dict[str, int] = {}  # what is under way for names that were left
        self._changed = Notification()

    # -- connections come and go --------------------------------------------------------------------

    def attach(self, peer: RPCSession) -> None:
        """There is a new connection: subscribe to all names again, before anybody else sends a call."""
        self._session = peer
        if not self._held:
            return
        if not peer.supports_extensions:
            self.end(lambda: no_channels(peer))
            return
        self._listen(peer)
        names = list(self._names)
        for start in range(0, len(names), _NAMES_AT_ONCE):
            self._subscribe(names[start : start + _NAMES_AT_ONCE])

    def detach(self) -> None:
        """The connection is lost, and another will come."""
        self._session = None
        self._leaving.clear()
        for entry in self._names.values():
            entry.asked = entry.confirmed = False

    def end(self, error: Callable[[], BaseException] | None) -> None:
        """No other connection will come: all inboxes end."""
        self._session = None
        self._leaving.clear()
        for inbox in list(self._held):
            inbox.end(error)

    def _listen(self, peer: RPCSession) -> None:
        peer.route = self._route
        peer.read_demand.__enter__()

    # -- inboxes come and go ------------------------------------------------------------------------

    def add(self, peer: RPCSession, inbox: Subscription, names: Iterable[str]) -> None:
        """Subscribe an inbox, over a connection that is up."""
        if not self._held:
            self._listen(peer)
        held = self._held[inbox] = list(names)
        new = []
        for name in held:
            entry = self._names.get(name)
            if entry is None:
                new.append(name)
                entry = self._names[name] = _Subscription(name)
                if is_glob(name):
                    self._globs[name] = matcher(name)
            entry.inboxes[inbox] = None
        if new:
            self._subscribe(new)

    async def confirmed(self, inbox: Subscription) -> None:
        """Wait until the server has said yes to all names of an inbox, or the inbox has ended."""
        while not all(self._names[name].confirmed for name in self._held.get(inbox, ())):
            await self._changed.wait()

    def leave(self, inbox: Subscription) -> None:
        """An inbox takes no more: the hook of its end."""
        names = self._held.pop(inbox, None)
        if names is None:
            return
        left = []
        for name in names:
            entry = self._names[name]
            entry.inboxes.pop(inbox, None)
            if not entry.inboxes:
                del self._names[name]
                self._globs.pop(name, None)
                if entry.asked:
                    # The server may still ponder, and would come to a request to unsubscribe first.
                    self._leaving[name] = self._leaving.get(name, 0) + 1
                elif entry.confirmed:
                    left.append(name)
        self._changed.notify_all()
        peer = self._session
        if peer is not None and not self._held:
            peer.read_demand.__exit__(None, None, None)
        if peer is not None and left and not peer.over:
            self._unsubscribe(peer, left)

    # -- over the wire ------------------------------------------------------------------------------

    def _subscribe(self, names: Sequence[str]) -> None:
        peer = self._session
        assert peer is not None
        entries = [self._names[name] for name in names]
        for entry in entries:
            entry.asked = True

        def take(response: Response) -> None:
            refusal = _refusal(response, names)
            current = []
            left = []
            for entry in entries:
                entry.asked = False
                if self._names.get(entry.name) is entry:
                    current.append(entry)
                else:
                    left.append(entry.name)
            # What was left meanwhile may have been taken anew, and that was asked for apart.
            gone = [name for name in left if name not in self._names]
            if gone:
                self._unsubscribe(peer, gone)
            self._stop_dropping(left)
            if refusal is None:
                for entry in current:
                    entry.confirmed = True
            elif len(names) > 1:
                # One by one, to see which it was: others may be on good names of these.
                for entry in current:
                    self._subscribe([entry.name])
            else:
                for entry in current:
                    for inbox in list(entry.inboxes):
                        inbox.end(refusal)
            self._changed.notify_all()

        peer.ask_soon(_PendingSubscribe(take), SUBSCRIBE, [list(names)])

    def _unsubscribe(self, peer: RPCSession, names: list[str]) -> None:
        for name in names:
            self._leaving[name] = self._leaving.get(name, 0) + 1

        peer.ask_soon(_PendingSubscribe(lambda _: self._stop_dropping(names)), UNSUBSCRIBE, [names])

    def _stop_dropping(self, names: Iterable[str]) -> None:
        for name in names:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]

    def _route(self, packet: Packet, size: int) -> bool:
        """Give a packet of ``size`` bytes, as decoded, to all who listen; whether it has found its place."""
        channel = packet.channel
        if channel is None:
            return False
        entry = self._names.get(channel)
        found: dict[Subscription, None] = dict(entry.inboxes) if entry is not None else {}
        for glob, matches in self._globs.items():
            if matches(channel):
                found.update(self._names[glob].inboxes)
        for inbox in found:
            inbox.put(packet, size)
        return bool(found) or (bool(self._leaving) and self._was_left(channel))

    def _was_left(self, channel: str) -> bool:
        return channel in self._leaving or any(
            is_glob(name) and matcher(name)(channel) for name in self._leaving
        )


def no_channels(peer: RPCSession) -> PacketError:
    """What a client says whose server speaks a dialect without subscriptions."""
    return PacketError(f"{peer.codec.name} lets no client subscribe; trio-ws.v1 does")


def _refusal(response: Response, names: Sequence[str]) -> Callable[[], Exception] | None:
    """What makes the error where the server does not let us in, or None."""
    if response.error is not None:
        return lambda: error_from(response, ours=True)
    if response.response is True:
        return None
    return lambda: SubscriptionError(f"the server has no room for one more channel: {', '.join(names)}")
