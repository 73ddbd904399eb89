"""Where the commands of a broker go: to one server, or to the nodes of a cluster (see cluster_routing.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from trio_ws.channels.redis.connection import open_connection
from trio_ws.channels.redis.histories import latest_key
from trio_ws.channels.redis.link import Link
from trio_ws.channels.redis.link_state import LinkOwner

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    import trio

    from trio_ws._types import Reply
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.delivery import Delivery
    from trio_ws.channels.redis.link_state import LinkSettings, LinkState
    from trio_ws.channels.redis.patterns import DesiredSubscriptions, Key
    from trio_ws.channels.redis.questions import Question
    from trio_ws.channels.redis.url import RedisURL

__all__ = ["Routing", "RoutingParts", "SingleServer"]


class RoutingParts(NamedTuple):
    """What a routing is made of.

    Attributes:
        url: of Redis.
        ssl_context: for TLS.
        settings: of the broker.
        delivery: of the broker.
        subscriptions: of the broker.
        on_missed: called when messages may have been missed: with a function that tells whether those of a
            channel are affected, or None if all are.
        on_resubscribed: called when these are received again.
    """

    url: RedisURL
    ssl_context: ssl.SSLContext | None
    settings: LinkSettings
    delivery: Delivery
    subscriptions: DesiredSubscriptions
    on_missed: Callable[[Callable[[str], bool] | None], None]
    on_resubscribed: Callable[[], None]


class Routing(LinkOwner, ABC):
    """The links of a broker.

    Attributes:
        links: the current links.
        past: published and dropped messages, and lost connections, of former links.
        connect_timeout: seconds within which a server must answer.
    """

    def __init__(self, parts: RoutingParts) -> None:
        self.links: list[Link] = []
        self.past = [0, 0, 0]
        self.connect_timeout = 0.0
        self._url = parts.url
        self._ssl_context = parts.ssl_context
        self._settings = parts.settings
        self._delivery = parts.delivery
        self._subscriptions = parts.subscriptions
        self._on_missed = parts.on_missed
        self._on_resubscribed = parts.on_resubscribed

    # -- called by the broker -----------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `BrokerError`."""

    @abstractmethod
    async def run(self, scope: trio.CancelScope) -> None:
        """Stay connected until the scope is cancelled."""

    @abstractmethod
    def link_of(self, channel: bytes) -> Link:
        """Return the link for a channel."""

    @abstractmethod
    async def ask(self, question: Question) -> Reply:
        """Ask a question. Raises `BrokerError`."""

    def change(self, key: Key) -> None:
        """Subscribe or unsubscribe, as the desired subscriptions say now."""
        self.link_of(key[1]).change(key)

    def append(self, channel: bytes, payload: bytes, history: History, *, is_packed: bool = False) -> None:
        """Publish a message of a channel with a history."""
        self.link_of(channel).put(channel, payload, history, is_packed=is_packed)

    def declare(self) -> None:
        """Tell Redis about histories that were declared."""
        for link in self.links:
            link.declare()

    def latest_key(self, namespace: str) -> bytes:
        """Return the key that lists the channels of a namespace that keep only their newest message."""
        prefix = self._subscriptions.prefix
        return latest_key(prefix, prefix + namespace.encode("utf-8", "surrogatepass"))

    @property
    def unlisted(self) -> int:
        """The number of messages that wait for an entry in such a list."""
        return 0

    async def listen_to_globs(self) -> None:
        """Wait until the subscriptions of globs are in effect, unless commands take effect in order."""

    @property
    def prefix(self) -> bytes:
        """The prefix of all names at Redis."""
        return self._subscriptions.prefix

    @property
    def connected(self) -> bool:
        return all(link.exchange is not None for link in self.links)

    async def drain(self) -> None:
        """Wait until everything is published, or the connections are lost."""
        for link in self.links:
            await link.drain()

    def close(self) -> None:
        """Drop everything, when the broker ends."""
        for link in self.links:
            link.close()

    # -- called by links ----------------------------------------------------------------------------

    def origin(self) -> bytes:
        return self._delivery.origin

    def resubscribed(self, link: LinkState) -> None:
        self._on_resubscribed()


class SingleServer(Routing):
    """One link to one server, the primary if there are several with Sentinel."""

    def __init__(self, parts: RoutingParts) -> None:
        super().__init__(parts)
        self._link = Link(
            self._url.shown, self._settings, self._delivery, self._subscriptions, self, self._open
        )
        self.links = [self._link]

    async def open(self) -> None:
        self._link.publish_not_before = 0.0
        self._link.begin(await self._open())

    async def _open(self) -> RedisConnection:
        return await open_connection(self._url, self._ssl_context, self.connect_timeout)

    async def run(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._link.run()

    def link_of(self, channel: bytes) -> Link:
        return self._link

    async def ask(self, question: Question) -> Reply:
        return await self._link.ask(question)

    def reconnected(self, link: LinkState) -> None:
        self._on_missed(None)
