"""Subscriptions: the channels that a client subscribes to, on whatever connection it has.

Names are reference-counted. The first `Subscription` with a name subscribes on the wire, and the last one to
leave it unsubscribes. Responses are handled without a task, so the cancellation of one caller does not affect
others that wait for the same name.

Invariants:

- State changes in synchronous code only, in the order in which requests are sent.
- A packet reaches each subscription once, however many of its names match.
- Packets of an unsubscribed name that arrive before the server's response are dropped.
- While there is a subscription, unread packets never stop the reading (see `OutgoingCalls.read_demand`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trio_ws.channels.names import is_glob, matcher
from trio_ws.client.recovery import Progress
from trio_ws.codecs.base import RECOVER, SUBSCRIBE, UNSUBSCRIBE, Gap, PacketSource
from trio_ws.codecs.recovery import Recovered, RecoverFrom
from trio_ws.errors import PacketError, RPCAccessDeniedError, SubscriptionError
from trio_ws.logs import shown
from trio_ws.rpc.errors import error_from
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from trio_ws.channels.subscription import Subscription
    from trio_ws.codecs.base import Packet, Position, Response
    from trio_ws.errors import ConnectionClosedError
    from trio_ws.rpc.deadlines import Lease
    from trio_ws.rpc.session import RPCSession

__all__ = ["Subscriptions"]

#: Names to put into one request on a new connection.
_NAMES_AT_ONCE = 256
#: The response of a server of an earlier version to `RECOVER`.
_METHOD_NOT_FOUND = -32601


class _Subscription:
    """A name or a glob that at least one `Subscription` uses."""

    __slots__ = ("asked", "confirmed", "name", "subscriptions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.subscriptions: dict[Subscription, Progress] = {}
        self.asked = 0  # unanswered requests on the current connection
        self.confirmed = False  # by the server, on the current connection


class _PendingSubscribe:
    """A response sink for a request that no task waits for."""

    __slots__ = ("_take", "sent_offset")

    lease: Lease | None = None

    def __init__(self, take: Callable[[Response], None]) -> None:
        self._take = take
        self.sent_offset = 0

    def on_response(self, response: Response, size: int) -> bool:
        self._take(response)
        return True

    def on_connection_lost(self, error: ConnectionClosedError) -> None:
        """Do nothing: the next connection sends the request again."""


class Subscriptions:
    """All subscriptions of a client. See the module docstring."""

    def __init__(self) -> None:
        self._session: RPCSession | None = None
        self._names: dict[str, _Subscription] = {}
        self._globs: dict[str, Callable[[str], object]] = {}
        self._held: dict[Subscription, list[str]] = {}
        self._leaving: dict[str, int] = {}  # requests under way for unsubscribed names
        self._changed = Notification()

    # -- connections --------------------------------------------------------------------------------

    def attach(self, session: RPCSession) -> None:
        """Use a new connection: subscribe to all names again, before any call is sent."""
        self._session = session
        if not self._held:
            return
        if not session.transport.supports_extensions:
            self.end(lambda: no_channels(session))
            return
        self._listen(session)
        names = list(self._names)
        for start in range(0, len(names), _NAMES_AT_ONCE):
            self._subscribe_new(names[start : start + _NAMES_AT_ONCE])

    def _subscribe_new(self, names: Sequence[str]) -> None:
        """Subscribe to names that are new on this connection."""
        plain: list[str] = []
        recovered: list[Progress] = []
        for name in names:
            waiting = [one for one in self._names[name].subscriptions.values() if one.waiting]
            recovered += waiting
            if not waiting:
                plain.append(name)
        if plain:
            self._subscribe(plain)
        self._recover(recovered)

    def detach(self) -> None:
        """Note that the connection is lost, and another may follow."""
        self._session = None
        self._leaving.clear()
        for entry in self._names.values():
            entry.asked = 0
            entry.confirmed = False
            for subscription, progress in entry.subscriptions.items():
                if not is_glob(entry.name):
                    progress.connection_lost()
                elif subscription.tells_gaps:
                    subscription.put_gap(Gap(PacketSource.CHANNEL, channel=entry.name, gap=-1))

    def end(self, error: Callable[[], BaseException] | None) -> None:
        """End all subscriptions, because no other connection will follow."""
        self._session = None
        self._leaving.clear()
        for subscription in list(self._held):
            subscription.end(error)

    def _listen(self, session: RPCSession) -> None:
        session.route = self._route
        session.incoming.on_unsubscribed = self._unsubscribed
        session.transport.read_demand.__enter__()

    # -- subscriptions ------------------------------------------------------------------------------

    def add(
        self,
        session: RPCSession,
        subscription: Subscription,
        names: Iterable[str],
        starts: Mapping[str, Position | None],
        *,
        recover: bool,
        last: int,
    ) -> None:
        """Subscribe over an open connection."""
        if not self._held:
            self._listen(session)
        held = self._held[subscription] = list(names)
        new = []
        recovered = []
        for name in held:
            entry = self._names.get(name)
            if entry is None:
                new.append(name)
                entry = self._names[name] = _Subscription(name)
                if is_glob(name):
                    self._globs[name] = matcher(name)
            progress = entry.subscriptions[subscription] = Progress(
                subscription,
                name,
                recovers=recover and not is_glob(name),
                after=starts.get(name),
                last=last,
            )
            if progress.waiting and name not in new:
                recovered.append(progress)
        if new:
            self._subscribe_new(new)
        self._recover(recovered)

    async def confirmed(self, subscription: Subscription) -> None:
        """Wait until the server has confirmed all names of a subscription, or it has ended."""
        while not all(
            self._names[name].confirmed and not self._names[name].subscriptions[subscription].waiting
            for name in self._held.get(subscription, ())
        ):
            await self._changed.wait()

    def leave(self, subscription: Subscription) -> None:
        """Remove a subscription that has ended."""
        names = self._held.pop(subscription, None)
        if names is None:
            return
        left = []
        for name in names:
            entry = self._names[name]
            entry.subscriptions.pop(subscription, None)
            if not entry.subscriptions:
                del self._names[name]
                self._globs.pop(name, None)
                if entry.asked:
                    # The subscribe is in flight; an unsubscribe now could be processed before it.
                    self._leaving[name] = self._leaving.get(name, 0) + entry.asked
                elif entry.confirmed:
                    left.append(name)
        self._changed.notify_all()
        session = self._session
        if session is not None and not self._held:
            session.transport.read_demand.__exit__(None, None, None)
        if session is not None and left and not session.over:
            self._unsubscribe(session, left)

    # -- requests and responses ---------------------------------------------------------------------

    def _subscribe(self, names: Sequence[str]) -> None:
        session = self._session
        assert session is not None
        entries = [self._names[name] for name in names]
        for entry in entries:
            entry.asked += 1

        def take(response: Response) -> None:
            refusal = _refusal(response, names)
            current = self._answered(session, entries)
            if refusal is None:
                for entry in current:
                    entry.confirmed = True
            elif len(names) > 1:
                # Retry one by one, to find the invalid name: the others may be valid.
                for entry in current:
                    self._subscribe([entry.name])
            else:
                for entry in current:
                    for subscription in list(entry.subscriptions):
                        subscription.end(refusal)
            self._changed.notify_all()

        session.outgoing.request_nowait(_PendingSubscribe(take), SUBSCRIBE, [list(names)])

    def _unsubscribed(self, args: Sequence[object]) -> None:
        """Handle the end of a subscription by the server, because it is no longer allowed."""
        name = args[0] if args else None
        entry = self._names.get(name) if isinstance(name, str) else None
        if entry is None or not entry.confirmed:
            return
        entry.confirmed = False
        text = f"the right to the channel '{shown(entry.name)}' has ended"
        for subscription in list(entry.subscriptions):
            subscription.end(lambda: RPCAccessDeniedError(text))
        self._changed.notify_all()

    def _answered(self, session: RPCSession, entries: Iterable[_Subscription]) -> list[_Subscription]:
        """Handle the response to a request for names. Return the names that still have subscriptions."""
        current = []
        left = []
        for entry in entries:
            entry.asked -= 1
            if self._names.get(entry.name) is entry:
                current.append(entry)
            else:
                left.append(entry)
        # A name may have been unsubscribed and subscribed again meanwhile, with its own request.
        gone = [entry.name for entry in left if entry.name not in self._names and not entry.asked]
        if gone:
            self._unsubscribe(session, gone)
        self._stop_dropping(entry.name for entry in left)
        return current

    def _recover(self, progresses: Sequence[Progress]) -> None:
        """Subscribe to names from given positions, by one request if each name has a single position."""
        while progresses:
            starts: dict[str, RecoverFrom] = {}
            alike: list[Progress] = []
            others: list[Progress] = []
            for progress in progresses:
                start = progress.start
                (alike if starts.setdefault(progress.channel, start) == start else others).append(progress)
            self._recover_from(starts, alike)
            progresses = others

    def _recover_from(self, starts: Mapping[str, RecoverFrom], progresses: Sequence[Progress]) -> None:
        session = self._session
        assert session is not None
        entries = [self._names[name] for name in starts]
        for entry in entries:
            entry.asked += 1

        def take(response: Response) -> None:
            refusal, answers = _parse_response(response, starts)
            current = self._answered(session, entries)
            waiting = [
                progress
                for progress in progresses
                for entry in current
                if entry.subscriptions.get(progress.subscription) is progress
            ]
            if response.error == _METHOD_NOT_FOUND:
                for progress in waiting:
                    progress.begin(Recovered())
                if current:
                    self._subscribe([entry.name for entry in current])
            elif refusal is None:
                for entry in current:
                    entry.confirmed = True
                for progress in waiting:
                    progress.begin(answers.get(progress.channel, Recovered()))
            elif len(starts) > 1:
                for entry in current:
                    self._recover([one for one in waiting if one.channel == entry.name])
            else:
                for entry in current:
                    ended = (
                        [one.subscription for one in waiting]
                        if entry.confirmed
                        else list(entry.subscriptions)
                    )
                    for subscription in ended:
                        subscription.end(refusal)
            self._changed.notify_all()

        session.outgoing.request_nowait(_PendingSubscribe(take), RECOVER, [starts])

    def _unsubscribe(self, session: RPCSession, names: list[str]) -> None:
        for name in names:
            self._leaving[name] = self._leaving.get(name, 0) + 1

        session.outgoing.request_nowait(
            _PendingSubscribe(lambda _: self._stop_dropping(names)), UNSUBSCRIBE, [names]
        )

    def _stop_dropping(self, names: Iterable[str]) -> None:
        for name in names:
            self._leaving[name] -= 1
            if not self._leaving[name]:
                del self._leaving[name]

    def _route(self, packet: Packet, size: int) -> bool:
        """Deliver a packet of ``size`` decoded bytes to subscriptions, and return whether it is handled."""
        channel = packet.channel
        if channel is None:
            return False
        entry = self._names.get(channel)
        if packet.gap is not None:
            for progress in list(entry.subscriptions.values()) if entry is not None else ():
                progress.gap(packet)
            return True
        found: dict[Subscription, Progress] = {}
        for glob, matches in self._globs.items():
            if matches(channel):
                found.update(self._names[glob].subscriptions)
        if entry is not None:
            found.update(entry.subscriptions)
        for subscription, progress in found.items():
            if progress.channel != channel or progress.takes(packet):
                subscription.put(packet, size)
        return bool(found) or (bool(self._leaving) and self._was_unsubscribed(channel))

    def _was_unsubscribed(self, channel: str) -> bool:
        return channel in self._leaving or any(
            is_glob(name) and matcher(name)(channel) for name in self._leaving
        )


def no_channels(session: RPCSession) -> PacketError:
    """Return the error for a server whose codec has no subscriptions."""
    return PacketError(f"{session.codec.name} does not support subscriptions; use trio-ws.v1")


def _parse_response(
    response: Response, starts: Mapping[str, RecoverFrom]
) -> tuple[Callable[[], Exception] | None, dict[str, Recovered]]:
    """Return a function that makes the error for a refusal, or None and the positions by channel."""
    if response.error is not None or not isinstance(response.response, dict):
        return _refusal(response, list(starts)), {}
    try:
        return None, msgspec.convert(response.response, dict[str, Recovered])
    except msgspec.ValidationError as exc:
        text = f"the server's answer to {RECOVER} is invalid: {exc}"
        return lambda: PacketError(text), {}


def _refusal(response: Response, names: Sequence[str]) -> Callable[[], Exception] | None:
    """Return a function that makes the error for a refusal by the server, or None."""
    if response.error is not None:
        return lambda: error_from(response, ours=True)
    if response.response is True:
        return None
    return lambda: SubscriptionError(f"the server allows no more channels: {', '.join(names)}")
