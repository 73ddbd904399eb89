"""ClusterRouting: the links to the primaries of a Redis Cluster, and which slots belong to which.

Invariants:

- A channel has one slot, and a slot one link. A message waits in the queue of that link. If the slot moves,
  it is held there until what was sent is answered, and then moves with all others of the slot, in order. A
  slot moves again only after that.
- A subscription that moves, or whose connection is lost, is interrupted. Before it is sent again, the server
  is told that messages of this channel may have been missed. Histories are read after that, over the same
  link. A history that was read while a node refused its subscription is read again.
- A view of the cluster replaces a former one, slot by slot, only if its epoch is greater, or if the owner of
  the slot says that it is at another node.
- A node that says that its cluster is down is given up, since others may have taken its slots. One without
  slots that cannot be reached, such as one to which a slot was being moved, is forgotten.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.channels.redis.cluster import (
    SLOTS,
    Health,
    Owner,
    key_slot,
    sharded_channel,
)
from trio_ws.channels.redis.cluster_exchange import ClusterExchange
from trio_ws.channels.redis.cluster_nodes import close_all, fetch_owners, open_node
from trio_ws.channels.redis.cluster_questions import Declare, LatestNotes, Nudge, RedirectedAppend
from trio_ws.channels.redis.link import Link
from trio_ws.channels.redis.routing import Routing
from trio_ws.errors import BrokerError
from trio_ws.logs import logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_ws._types import Reply
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.cluster import Address
    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.link_state import LinkState
    from trio_ws.channels.redis.patterns import Key
    from trio_ws.channels.redis.questions import Question
    from trio_ws.channels.redis.routing import RoutingParts

__all__ = ["ClusterRouting"]

logger = logger_for("trio_ws.channels")

#: Seconds between two views of the cluster, if it is in trouble.
_PAUSE = 0.05
#: Seconds for which messages of a slot that has moved wait, so that other processes subscribe first.
_MOVE_SECONDS = 0.25

_uniform = random.SystemRandom().uniform


class ClusterRouting(Routing):
    """See the module docstring, and `Routing`."""

    def __init__(self, parts: RoutingParts) -> None:
        super().__init__(parts)
        self._unrouted = self._make_link(("", 0))  # what is published before the cluster is known
        self._owners: list[Link] = [self._unrouted] * SLOTS
        self._epochs = [-1] * SLOTS
        self._by_address: dict[Address, Link] = {}
        self._scopes: dict[Link, trio.CancelScope] = {}
        self._nodes: list[Address] = []  # all that were known last
        self._glob_slot = random.SystemRandom().randrange(SLOTS)  # where this process subscribes to globs
        self._interrupted: set[Key] = set()
        self._refused: set[Key] = set()  # subscriptions that a node has redirected
        self._again: set[Key] = set()  # to be subscribed when there is a new view
        self._doubted: set[int] = set()  # slots that are not at the node that had them
        self._in_transit: set[int] = set()  # slots whose messages are being moved to another link
        self._settling: set[tuple[LinkState, int]] = set()  # slots whose messages a node has redirected
        self.links = [self._unrouted]
        self._connections = 0
        self._moving = trio.Lock()
        self._notes = LatestNotes(self.prefix, self.link_of, self.ask, lambda: self.connected)
        # Views of the cluster.
        self._wanted_view = False
        self._hint: Address | None = None
        self._views = self._views_begun = 0
        self._view_wanted = Notification()
        self._view_taken = Notification()
        self._nursery: trio.Nursery

    def _make_link(self, address: Address) -> Link:
        async def open_link() -> RedisConnection:
            return await open_node(self._url, address, self._ssl_context, self.connect_timeout)

        shown = f"{address[0]}:{address[1]} of {self._url.shown}"
        return Link(
            shown,
            self._settings,
            self._delivery,
            self._subscriptions,
            self,
            open_link,
            ClusterExchange,
            self._slot_of,
        )

    def _slot_of(self, channel: bytes) -> int:
        return key_slot(sharded_channel(self._subscriptions.prefix, channel))

    def _slot_of_key(self, key: Key) -> int:
        return self._glob_slot if key[0] else self._slot_of(key[1])

    # -- called by the broker -----------------------------------------------------------------------

    async def open(self) -> None:
        self._owners = [self._unrouted] * SLOTS
        self._epochs = [-1] * SLOTS
        for state in (
            self._interrupted,
            self._refused,
            self._again,
            self._doubted,
            self._in_transit,
            self._settling,
        ):
            state.clear()
        owners = await self._fetch()
        if len(owners) < SLOTS:
            raise BrokerError(
                f"{self._url.shown}: {SLOTS - len(owners)} slots of the cluster have no primary"
            )
        addresses = {owner.address for owner in owners.values()}
        connections: dict[Address, RedisConnection] = {}
        try:
            for address in addresses:
                connections[address] = await open_node(
                    self._url, address, self._ssl_context, self.connect_timeout
                )
        except BaseException:
            await close_all(connections.values())
            raise
        self._by_address = {address: self._make_link(address) for address in addresses}
        for slot, owner in owners.items():
            self._owners[slot] = self._by_address[owner.address]
            self._epochs[slot] = owner.epoch
        for link in self.links:
            self._remember(link)
        self.links = list(self._by_address.values())
        for address, link in self._by_address.items():
            link.begin(connections[address])
        self._route_first()

    def _route_first(self) -> None:
        """Give the links what was published before."""
        slots = self._unrouted.queue.waiting_slots
        self._unrouted.queue.hold(slots)
        for slot in slots:
            queue = self._owners[slot].queue
            queue.hold([slot])
            self._unrouted.queue.move([slot], queue)
            queue.release([slot])

    async def run(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as self._nursery:
                for link in self.links:
                    self._start(link)
                self.declare()
                self._nursery.start_soon(self._notes.run, name="trio_ws latest values")
                self._nursery.start_soon(self._check_health, name="trio_ws redis health")
                await self._watch()

    def _start(self, link: Link) -> None:
        scope = self._scopes[link] = trio.CancelScope()

        @enable_ki_protection
        async def run() -> None:
            with scope:
                await link.run()

        self._nursery.start_soon(run, name="trio_ws redis")

    def link_of(self, channel: bytes) -> Link:
        return self._owners[self._slot_of(channel)]

    def change(self, key: Key) -> None:
        if key not in self._subscriptions.names:
            self._interrupted.discard(key)
            self._refused.discard(key)
        self._owners[self._slot_of_key(key)].change(key)

    def append(self, channel: bytes, payload: bytes, history: History, *, is_packed: bool = False) -> None:
        if not history.latest or self._notes.note(channel, payload, history, is_packed=is_packed):
            super().append(channel, payload, history, is_packed=is_packed)

    async def ask(self, question: Question) -> Reply:
        return await self._owners[key_slot(question.key)].ask(question)

    def ask_soon(self, question: Question) -> None:
        """Ask a question whose answer nobody waits for."""
        self._owners[key_slot(question.key)].ask_soon(question)

    def declare(self) -> None:
        for namespace, declared in self._delivery.declared.items():
            self.ask_soon(Declare(self._subscriptions.prefix, namespace, declared.patterns))

    @property
    def unlisted(self) -> int:
        return len(self._notes)

    async def listen_to_globs(self) -> None:
        while not (link := self._owners[self._glob_slot]).is_subscribed:
            await link.work.wait()

    async def drain(self) -> None:
        await self._notes.drain()
        for link in list(self.links):
            await link.drain()

    def close(self) -> None:
        self._notes.close()
        super().close()
        self._unrouted.close()

    # -- called by links ----------------------------------------------------------------------------

    def origin(self) -> bytes:
        self._connections += 1
        return self._delivery.origin + struct.pack(">I", self._connections % 2**32)

    def keys_of(self, link: LinkState) -> Iterable[Key]:
        return [key for key in self._subscriptions.names if self.serves(link, key)]

    def serves(self, link: LinkState, key: Key) -> bool:
        return self._owners[self._slot_of_key(key)] is link

    def subscribing(self, link: LinkState, keys: list[Key]) -> None:
        missed, refused = self._interrupted.intersection(keys), self._refused.intersection(keys)
        if not missed and not refused:
            return
        self._interrupted -= missed
        self._refused -= refused
        link.resubscribing = True
        names = self._subscriptions.names
        exact = {name for key in missed if not key[0] for name in names[key]}
        unread = {name for key in refused for name in names[key]}
        globs = [glob for key in missed if key[0] for glob in names[key].values() if glob is not None]

        def is_affected(name: str) -> bool:
            if name in exact or (name in unread and self._delivery.history_of(name) is not None):
                return True
            return any(glob.matches(name) for glob in globs) and not self._subscriptions.has_name(name)

        self._on_missed(is_affected)

    def lost(self, link: LinkState) -> None:
        self._interrupted.update(self.keys_of(link))
        self.want_view()

    def reconnected(self, link: LinkState) -> None:
        self.declare()

    def interrupted(self, link: LinkState, key: Key, *, lost: bool) -> None:
        (self._interrupted if lost else self._refused).add(key)
        self._again.add(key)
        self._doubted.add(self._slot_of_key(key))
        self.want_view(link)

    def redirected(self, link: LinkState, slot: int, kind: str, target: Address | None) -> None:
        if kind == "MOVED":
            self._doubted.add(slot)
        if (link, slot) not in self._settling:
            self._settling.add((link, slot))
            self._nursery.start_soon(self._settle, link, slot, kind, target, name="trio_ws redis slot")

    def redirected_question(
        self, link: LinkState, question: Question, kind: str, target: Address | None
    ) -> None:
        if question.cancelled:
            return
        if isinstance(question, RedirectedAppend):
            question.resolve(None)
            return
        self._nursery.start_soon(self._ask_elsewhere, link, question, kind, target, name="trio_ws redis slot")

    # -- redirections -------------------------------------------------------------------------------

    @enable_ki_protection
    async def _ask_elsewhere(
        self, link: LinkState, question: Question, kind: str, target: Address | None
    ) -> None:
        question.asking = kind == "ASK" and target is not None
        if question.asking:
            assert target is not None
            self._link_to(target).ask_soon(question)
            return
        if kind == "MOVED":
            self._doubted.add(key_slot(question.key))
            await self.view(link)
        else:
            await trio.sleep(_PAUSE)
        self.ask_soon(question)

    @enable_ki_protection
    async def _settle(self, link: LinkState, slot: int, kind: str, target: Address | None) -> None:
        """Publish the messages of a slot which a node has redirected."""
        await self._until_answered(link)
        if kind == "ASK" and target is not None:
            await self._follow(link, slot, self._link_to(target))
        elif kind == "MOVED":
            await self.view(link)
            await trio.sleep(_PAUSE)
        else:
            await trio.sleep(_PAUSE)
        self._settling.discard((link, slot))
        if self._owners[slot] is link and slot not in self._in_transit:
            link.queue.release([slot])
            link.work.notify_all()

    async def _until_answered(self, link: LinkState) -> None:
        """Wait until the messages that were sent are answered, or their connection is lost."""
        end = link.queue.unanswered
        while link.queue.answers < end:
            await link.work.wait()

    async def _follow(self, link: LinkState, slot: int, target: Link) -> None:
        """Publish held messages at the node that a slot is being moved to, one after the other.

        Subscribers are still at the former node, so the message is repeated there.
        """
        while (message := link.queue.first_held(slot)) is not None:
            if message.history is None:
                return  # it needs no key, and is published by the former node as long as that has the slot
            sharded = sharded_channel(self._subscriptions.prefix, message.channel)
            question = RedirectedAppend(message, sharded)
            question.asking = True
            try:
                head = await target.ask(question)
            except BrokerError as exc:
                link.problem = str(exc)
                link.queue.held_answered(message, taken=False)
                continue
            if head is None:
                return  # neither node has all keys of the channel
            link.queue.held_answered(message, taken=True)
            if head:
                link.ask_soon(Nudge(sharded, head + question.data))

    def _link_to(self, address: Address) -> Link:
        link = self._by_address.get(address)
        if link is None:
            link = self._by_address[address] = self._make_link(address)
            self.links.append(link)
            self._start(link)
        return link

    # -- views of the cluster -----------------------------------------------------------------------

    def want_view(self, link: LinkState | None = None) -> None:
        """Look at the cluster soon, preferably as a node sees it."""
        self._wanted_view = True
        if link is not None:
            self._hint = next((one for one, known in self._by_address.items() if known is link), None)
        self._view_wanted.notify_all()

    async def view(self, link: LinkState | None = None) -> None:
        """Wait until the cluster was looked at."""
        begun = self._views_begun
        self.want_view(link)
        while self._views <= begun:
            await self._view_taken.wait()

    async def _watch(self) -> None:
        while True:
            seconds = self._settings.ping_interval if self.connected else 4 * _PAUSE
            with trio.move_on_after(seconds * _uniform(0.5, 1.0)):
                while not self._wanted_view:
                    await self._view_wanted.wait()
            self._wanted_view = False
            self._views_begun += 1
            try:
                owners = await self._fetch()
            except BrokerError as exc:
                logger.debug("could not look at the cluster, will retry: %s", exc)
                await trio.sleep(4 * _PAUSE * _uniform(0.5, 1.0))
                self._wanted_view = True
                continue
            self._apply(owners)
            self._views = self._views_begun
            self._view_taken.notify_all()
            again, self._again = self._again, set()
            for key in again:
                if key in self._subscriptions.names:
                    self._owners[self._slot_of_key(key)].change(key)
            await trio.sleep(_PAUSE)

    async def _fetch(self) -> dict[int, Owner]:
        hint, self._hint = self._hint, None
        owners, self._nodes = await fetch_owners(
            self._url, [*([hint] if hint else []), *self._nodes], self._ssl_context, self.connect_timeout
        )
        return owners

    async def _check_health(self) -> None:
        while True:
            await trio.sleep(self._settings.ping_interval)
            for link in self.links:
                if link.exchange is not None:
                    link.ask_soon(Health(link.shown))

    def _apply(self, owners: dict[int, Owner]) -> None:
        moves: dict[tuple[Link, Link], set[int]] = {}
        for slot, owner in owners.items():
            is_newer = owner.epoch > self._epochs[slot]
            if slot in self._in_transit:
                if is_newer:
                    self._doubted.add(slot)
                continue
            if not is_newer and slot not in self._doubted:
                continue
            self._epochs[slot] = owner.epoch
            link, former = self._link_to(owner.address), self._owners[slot]
            if former is not link:
                self._owners[slot] = link
                moves.setdefault((former, link), set()).add(slot)
        self._doubted &= self._in_transit
        for one in [one for one in self.links if one.exchange is None and one.problem]:
            if one not in self._owners:
                self._retire(one)
        if not moves:
            return
        moved = {slot: links for links, slots in moves.items() for slot in slots}
        for (former, link), slots in moves.items():
            logger.info("%d slots have moved from %s to %s", len(slots), former.shown, link.shown)
            self._in_transit |= slots
            former.queue.hold(slots)
            link.queue.hold(slots)
            self._nursery.start_soon(self._move, former, link, slots, name="trio_ws redis slots")
            waiting = [one for one in former.questions if one.key and key_slot(one.key) in slots]
            for question in waiting:
                former.questions.remove(question)
                link.ask_soon(question)
        for key in self._subscriptions.names:
            links = moved.get(self._slot_of_key(key))
            if links is not None:
                if key not in self._refused:
                    self._interrupted.add(key)
                for link in links:
                    link.change(key)

    @enable_ki_protection
    async def _move(self, former: Link, link: Link, slots: set[int]) -> None:
        """Move what waits for slots to their new link, after what was sent to the former is answered."""
        async with self._moving:
            await self._until_answered(former)
            former.queue.move(slots, link.queue)
        await trio.sleep(_MOVE_SECONDS)
        self._in_transit -= slots
        link.queue.release(slots)
        link.work.notify_all()
        if not self._doubted.isdisjoint(slots):
            self.want_view()
        if former not in self._owners:
            self._retire(former)

    def _retire(self, link: Link) -> None:
        """End a link whose node has no slots any more."""
        scope = self._scopes.pop(link, None)
        if scope is None:
            return
        scope.cancel()
        self.links.remove(link)
        self._by_address = {address: one for address, one in self._by_address.items() if one is not link}
        for question in link.take_questions():
            if question.key:
                self.ask_soon(question)
        link.exchange = None
        self._remember(link)

    def _remember(self, link: Link) -> None:
        for index, count in enumerate((link.queue.published, link.queue.dropped, link.losses)):
            self.past[index] += count
