"""LinkState: what waits for one Redis server, and what is known of it. `Link` adds the connections."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trio_ws.channels.redis.publish_queue import PublishQueue
from trio_ws.channels.redis.throttled import ThrottledWarning
from trio_ws.errors import BrokerError
from trio_ws.logs import logger_for
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_ws._types import Reply
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.delivery import Delivery
    from trio_ws.channels.redis.patterns import DesiredSubscriptions, Key
    from trio_ws.channels.redis.questions import Question

__all__ = ["CurrentExchange", "LinkOwner", "LinkSettings", "LinkState"]

logger = logger_for("trio_ws.channels")


@dataclass
class LinkSettings:
    """The options of a `RedisBroker` with these names."""

    max_queue_items: int
    max_queue_bytes: int
    backoff_initial: float
    backoff_max: float
    ping_interval: float
    ping_timeout: float


class CurrentExchange(Protocol):
    """What a link knows of the commands and replies of its connection, see `Exchange`."""

    prepared: bool
    questions: deque[Question]
    pending_replies: deque[tuple[bytes, list[bytes]]]
    pinged: bool

    @property
    def is_subscribing(self) -> bool: ...

    def commands(self) -> bytes: ...

    async def send(self, data: bytes) -> None: ...

    async def aclose(self) -> None: ...

    async def run(self) -> str: ...


class LinkOwner:
    """What a link asks and tells its owner. With one server, there is nothing to do for most of it."""

    def origin(self) -> bytes:
        """Return the origin for the messages that are first sent on a new connection."""
        raise NotImplementedError

    def keys_of(self, link: LinkState) -> Iterable[Key]:
        """Return the desired subscriptions at a server."""
        return link.subscriptions.names

    def serves(self, link: LinkState, key: Key) -> bool:
        """Whether a desired subscription belongs to a server."""
        return True

    def subscribing(self, link: LinkState, keys: list[Key]) -> None:
        """Subscriptions are about to be sent."""

    def lost(self, link: LinkState) -> None:
        """A connection was lost."""

    def reconnected(self, link: LinkState) -> None:
        """There is a new connection, on which nothing was sent yet."""

    def resubscribed(self, link: LinkState) -> None:
        """All subscriptions at a server are in effect again."""

    def interrupted(self, link: LinkState, key: Key, *, lost: bool) -> None:
        """A node refuses, or has ended, a subscription, as the slot is at another one."""

    def redirected(self, link: LinkState, slot: int, kind: str, target: tuple[str, int] | None) -> None:
        """A node has redirected a message. Its slot is held."""

    def redirected_question(
        self, link: LinkState, question: Question, kind: str, target: tuple[str, int] | None
    ) -> None:
        """A node has redirected a question."""


class LinkState:
    """See the module docstring.

    Args:
        shown: the server's URL, for messages.
        settings: of the broker.
        delivery: receives the messages.
        subscriptions: those of the broker.
        owner: is told what happens.
        slot_of: as for `PublishQueue`.

    Attributes:
        changed: keys whose subscription at the server may have to be changed, oldest first.
        queue: messages to publish.
        questions: to be asked.
        exchange: the commands and replies of the connection, while connected.
        publish_not_before: when messages may be published, on trio's clock.
        resubscribing: whether the owner waits for `Routing.resubscribed`.
        work: notified when there is something to write.
        progress: notified when the queue is empty, or the connection was lost.
        losses: the number of lost connections.
        problem: why the connection is lost, or what was refused since it was made.
    """

    def __init__(
        self,
        shown: str,
        settings: LinkSettings,
        delivery: Delivery,
        subscriptions: DesiredSubscriptions,
        owner: LinkOwner,
        slot_of: Callable[[bytes], int] = len,
    ) -> None:
        self.shown = shown
        self.delivery = delivery
        self.subscriptions = subscriptions
        self.changed: dict[Key, None] = {}
        self.queue = PublishQueue(settings.max_queue_items, settings.max_queue_bytes, slot_of)
        self.questions: deque[Question] = deque()
        self.exchange: CurrentExchange | None = None
        self.publish_not_before = -math.inf
        self.resubscribing = False
        self.work = Notification()
        self.progress = Notification()
        self.losses = 0
        self.problem = ""
        self._settings = settings
        self.owner = owner
        self._overflow = 0  # messages dropped since the queue was last empty
        self._refusals = ThrottledWarning()
        self._run = b""

    @property
    def ping_interval(self) -> float:
        return self._settings.ping_interval

    @property
    def ping_timeout(self) -> float:
        return self._settings.ping_timeout

    # -- called by the broker -----------------------------------------------------------------------

    def change(self, key: Key) -> None:
        """Subscribe or unsubscribe, as the desired subscriptions say now."""
        if self.exchange is not None:  # otherwise the next connection subscribes to everything anyway
            self.changed[key] = None
        self.work.notify_all()

    def put(
        self, channel: bytes, payload: bytes, history: History | None = None, *, is_packed: bool = False
    ) -> None:
        """Publish a message."""
        queue = self.queue
        before = queue.dropped
        queue.put(channel, payload, history, is_packed=is_packed)
        if self.exchange is not None and queue.half_full:
            self.publish_not_before = -math.inf
        self.work.notify_all()
        if queue.dropped > before:
            if not self._overflow:
                logger.warning(
                    "published messages exceed %s: dropping the oldest"
                    " (max_queue_items %d, max_queue_bytes %d)",
                    self.shown,
                    self._settings.max_queue_items,
                    self._settings.max_queue_bytes,
                )
            self._overflow += queue.dropped - before

    def refuse(self, channel: bytes, history: History) -> None:
        """Mark the place of a message that cannot be published."""
        self.queue.refuse(channel, history)
        self.work.notify_all()

    async def ask(self, question: Question) -> Reply:
        """Ask a question, and wait for the answer. Raises `BrokerError` if it is refused."""
        self.ask_soon(question)
        try:
            await question.done.wait()
        finally:
            question.cancelled = True
        if question.problem:
            raise BrokerError(question.problem)
        return question.answer

    def ask_soon(self, question: Question) -> None:
        """Ask a question, without waiting for the answer."""
        self.questions.append(question)
        self.work.notify_all()

    def take_questions(self) -> list[Question]:
        """Return all questions without answers, which are not asked here any more."""
        questions = [*(self.exchange.questions if self.exchange is not None else ()), *self.questions]
        self.questions.clear()
        return questions

    @property
    def is_subscribed(self) -> bool:
        """Whether all subscriptions are in effect."""
        return self.exchange is not None and not self.changed and not self.exchange.is_subscribing

    def declare(self) -> None:
        """Tell Redis about histories that were declared."""
        if self.exchange is not None:
            self.exchange.prepared = False
        self.work.notify_all()

    async def drain(self) -> None:
        """Wait until the queue is empty, unless the connection is lost."""
        self.publish_not_before = -math.inf
        self.work.notify_all()
        while self.exchange is not None and len(self.queue):
            await self.progress.wait()

    def close(self) -> None:
        """Drop everything, when the broker ends."""
        for question in self.take_questions():
            question.fail("the broker is not running any more")
        self.exchange = None
        self.changed.clear()
        left = self.queue.drop_all()
        if left:
            logger.warning("dropped %d messages that could not be sent to %s", left, self.shown)

    # -- called by the exchange ---------------------------------------------------------------------

    def served_by(self, run: bytes) -> None:
        """Note which run of which Redis process is connected now. Nothing was published to it yet."""
        if run and self._run and run != self._run:
            self.queue.send_again()
        self._run = run or self._run

    def take_changes(self) -> dict[Key, None]:
        changed, self.changed = self.changed, {}
        return changed

    def answered(self, *, taken: bool) -> None:
        """Record that the oldest sent message was accepted or refused."""
        self.queue.answered(taken=taken)
        if len(self.queue) == 0:
            self._overflow = 0
            self.progress.notify_all()
        self.work.notify_all()

    def refused(self, what: str, *, log: bool = True) -> None:
        """Note what Redis has refused, and why."""
        self.problem = f"{self.shown} refused {what}"
        if log:
            self._refusals.warn("%s", self.problem)

    def resubscribed(self) -> None:
        self.resubscribing = False
        self.owner.resubscribed(self)
