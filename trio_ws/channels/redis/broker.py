"""RedisBroker: channels that several processes, or machines, share through Redis.

Each published payload has a header, see messages.py: 16 random bytes that identify one run of a broker, and
the sequence number of the message in that run. The random bytes let a broker recognise its own messages. The
sequence number distinguishes two messages with the same payload, see duplicates.py.

What goes out is sent by a link to the server, see link.py, or by one to each primary of a cluster, see
routing.py. What comes in goes through delivery.py.

Invariant: cancelling the block does not cancel the tasks of links at once. They end when the block has ended
and the queue is empty, or one second later.
"""

from __future__ import annotations

import secrets
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.channels.broker import Broker, BrokerStatistics
from trio_ws.channels.redis.cluster import sharded_channel
from trio_ws.channels.redis.cluster_routing import ClusterRouting
from trio_ws.channels.redis.connection import require_hiredis
from trio_ws.channels.redis.delivery import Delivery
from trio_ws.channels.redis.histories import DeclaredHistories
from trio_ws.channels.redis.link_state import LinkSettings
from trio_ws.channels.redis.messages import MessageFormat, check_key
from trio_ws.channels.redis.patterns import DesiredSubscriptions, channel_of
from trio_ws.channels.redis.questions import HistoryRead, Listing
from trio_ws.channels.redis.routing import RoutingParts, SingleServer
from trio_ws.channels.redis.throttled import ThrottledWarning
from trio_ws.channels.redis.url import parse_redis_url
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from trio_ws.channels.broker import BrokerState, HistoryPage
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.routing import Routing

__all__ = ["RedisBroker"]

#: Maximum number of seconds to spend on sending the queue when the block ends.
_DRAIN_SECONDS = 1.0


class RedisBroker(Broker):
    """Connects processes through Redis 6 or later. Requires ``pip install trio-ws[redis]``.

    Redis stores the messages of channels that have a history (``channels_history``), in one stream per
    channel. It does not store messages of other channels, so a process misses those that are published while
    it is disconnected. Messages that the process itself publishes in the meantime are queued, within two
    bounds. If the queue is full, the oldest messages are dropped and counted as ``unpublished``. After
    reconnecting, the queue is held back for 0.75 seconds
    (0.25 plus ``backoff_max``, if that is less), so that other processes can reconnect first and receive it.
    It is sent earlier if half of a bound is reached.

    Args:
        url: ``redis://[user:password@]host[:port]``, ``rediss://`` for TLS,
            ``unix://[user:password@]/path``, or
            ``redis+sentinel://[user:password@]host[:port][,host[:port]]/name`` for the primary that Sentinels
            know by this name, or ``redis+cluster://[user:password@]host[:port][,host[:port]]`` for a cluster
            of Redis 7 with these nodes among others, ``rediss+cluster://`` with TLS. User and password are
            those of Redis.
        prefix: prefix of every channel's name at Redis. Processes with the same prefix exchange messages.
        max_queue_items: messages that may wait for Redis, or for each primary of a cluster. As far as there
            is room, messages with a history are remembered for 30 seconds after Redis has accepted them, and
            sent again to a server that replaces it.
        max_queue_bytes: bytes of their names and payloads; default 16 MiB.
        max_message_bytes: bytes of one payload; default 1 MiB. A larger message is neither published nor
            accepted; both cases are counted and logged.
        backoff_initial: seconds before the first attempt to reconnect. The delay doubles with each attempt,
            and a random part of up to a half is subtracted.
        backoff_max: the longest such delay; default 1 second. A connection that lasted longer than this
            resets the delay.
        ping_interval: seconds of silence after which a PING is sent to Redis.
        ping_timeout: seconds without an answer after which the connection is considered lost.
        key: a secret of at least 16 bytes that all processes and publishers share. With it each message has
            a signature (HMAC-SHA256) that other users of the same Redis cannot make. Messages without a valid
            one are dropped, counted and logged. The clocks of the processes may differ by 300 seconds. By
            default, messages are not signed.
        ssl_context: for ``rediss://`` and ``rediss+cluster://``; by default `ssl.create_default_context`,
            which verifies certificates.

    Raises:
        TypeError, ValueError: immediately, for invalid arguments. No message contains the password.
        BrokerError: immediately, if hiredis is not installed.
    """

    keeps_histories = True

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "trio_ws:",
        max_queue_items: int = 10_000,
        max_queue_bytes: int = 16 * 1024 * 1024,
        max_message_bytes: int = 1024 * 1024,
        backoff_initial: float = 0.1,
        backoff_max: float = 1.0,
        ping_interval: float = 10.0,
        ping_timeout: float = 5.0,
        key: bytes | str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = parse_redis_url(url)
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        for name, value in (
            ("max_queue_items", max_queue_items),
            ("max_queue_bytes", max_queue_bytes),
            ("max_message_bytes", max_message_bytes),
        ):
            if not value >= 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name, seconds in (
            ("backoff_initial", backoff_initial),
            ("backoff_max", backoff_max),
            ("ping_interval", ping_interval),
            ("ping_timeout", ping_timeout),
        ):
            _check_seconds(name, seconds)
        if ssl_context is not None and not self._url.secure:
            raise ValueError("ssl_context requires a rediss:// URL")
        require_hiredis()
        if self._url.secure and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self._prefix = prefix
        self._max_message = max_message_bytes
        self._settings = LinkSettings(
            max_queue_items, max_queue_bytes, backoff_initial, backoff_max, ping_interval, ping_timeout
        )
        self._subscriptions = DesiredSubscriptions(prefix)
        is_cluster = bool(self._url.nodes)
        if is_cluster and ("{" in prefix or "}" in prefix):
            raise ValueError("prefix must not contain '{' or '}' with a cluster, whose slots depend on them")
        message_format = MessageFormat(check_key(key), in_order=not is_cluster)
        self._delivery = Delivery(
            self, message_format, self._subscriptions, max_message_bytes, self._append_packed
        )
        parts = RoutingParts(
            self._url,
            ssl_context,
            self._settings,
            self._delivery,
            self._subscriptions,
            self._missed,
            self._resubscribed,
        )
        self._routing: Routing = ClusterRouting(parts) if is_cluster else SingleServer(parts)
        self._origin_bytes = 12 if is_cluster else 16  # a cluster adds the number of the connection
        self._running = False
        self._state: Literal["new", "running", "closed"] = "new"
        self._too_large = ThrottledWarning()

    def __repr__(self) -> str:
        return f"<RedisBroker {self._url.shown} {self.state}>"

    # -- called by a hub ----------------------------------------------------------------------------

    def subscribe(self, name: str) -> None:
        self._routing.change(self._subscriptions.add(name))

    def unsubscribe(self, name: str) -> None:
        key = self._subscriptions.discard(name)
        if key is not None:
            self._routing.change(key)

    def publish(self, name: str, payload: bytes) -> None:
        channel = channel_of(self._prefix, name)
        link = self._routing.link_of(channel)
        if self._state == "closed":
            link.queue.dropped += 1
        elif len(payload) > self._max_message:
            link.queue.dropped += 1
            self._warn_too_large(payload)
        else:
            link.put(channel, payload)

    def append(self, name: str, payload: bytes, history: History) -> None:
        channel = channel_of(self._prefix, name)
        if self._state == "closed":
            self._routing.link_of(channel).queue.dropped += 1
        elif len(payload) > self._max_message:
            self._routing.link_of(channel).refuse(channel, history)
            self._warn_too_large(payload)
        else:
            self._routing.append(channel, payload, history)

    def _append_packed(self, channel: bytes, data: bytes, history: History) -> None:
        self._routing.append(channel, data, history, is_packed=True)

    def _warn_too_large(self, payload: bytes) -> None:
        text = "not publishing a message of %d bytes: max_message_bytes is %d"
        self._too_large.warn(text, len(payload), self._max_message)

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        self._check_running()
        channel = channel_of(self._prefix, name)
        question = HistoryRead(channel, after, history, self._delivery.unpack_stored)
        question.key = sharded_channel(self._subscriptions.prefix, channel)
        page: HistoryPage = await self._routing.ask(question)
        return page

    async def latest(self, namespace: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        self._check_running()
        await self._routing.listen_to_globs()
        key = self._routing.latest_key(namespace)
        names: list[str] = await self._routing.ask(Listing(key, self._subscriptions.prefix))
        return names

    def _check_running(self) -> None:
        if not self._running or self._state == "closed":
            raise BrokerError("the broker is not running")

    def declare_histories(self, namespace: str, patterns: Mapping[str, History]) -> None:
        self._delivery.declared[namespace] = DeclaredHistories(patterns)
        self._routing.declare()

    @property
    def state(self) -> BrokerState:
        if self._state == "running":
            return "connected" if self._routing.connected else "lost"
        return self._state

    def statistics(self) -> BrokerStatistics:
        published, dropped, losses = self._routing.past
        waiting = 0
        for link in self._routing.links:
            published += link.queue.published
            dropped += link.queue.dropped
            losses += link.losses
            waiting += len(link.queue)
        return BrokerStatistics(published, self._delivery.received, dropped, losses, waiting)

    @property
    def problem(self) -> str:
        return next((link.problem for link in self._routing.links if link.problem), "")

    @property
    def rejected(self) -> int:
        return self._delivery.rejected

    # -- called by the routing ----------------------------------------------------------------------

    def _missed(self, affected: Callable[[str], bool] | None) -> None:
        if self.on_missed is not None:
            self.on_missed(affected)

    def _resubscribed(self) -> None:
        if self.on_resubscribed is not None:
            self.on_resubscribed()

    # -- running ------------------------------------------------------------------------------------

    @asynccontextmanager
    @enable_ki_protection
    async def run(
        self,
        receive: Callable[[str, bytes], None],
        timeout: float,  # noqa: ASYNC109
    ) -> AsyncIterator[None]:
        if self._running:
            raise RuntimeError(
                "a broker serves one server at a time; make another RedisBroker with the same URL"
            )
        _check_seconds("timeout", timeout)
        self._running = True
        try:
            self._routing.connect_timeout = timeout
            # The origin is new for each run: a broker may have been copied by a fork.
            self._delivery.begin(receive, secrets.token_bytes(self._origin_bytes))
            await self._routing.open()
            failure: BaseException | None = None
            try:
                async with trio.open_nursery() as nursery:
                    scope = trio.CancelScope(shield=True)
                    self._state = "running"
                    nursery.start_soon(self._routing.run, scope, name="trio_ws redis")
                    try:
                        yield
                    except BaseException as exc:  # noqa: BLE001 - raised again below
                        failure = exc
                    # Wait a moment until the queue is empty, whether the block was cancelled or not.
                    with trio.move_on_after(_DRAIN_SECONDS, shield=True):
                        await self._routing.drain()
                    scope.cancel()
            except BaseExceptionGroup as group:
                failure = unwrap_exception_group(group)  # only a bug makes our task raise
            finally:
                self._state = "closed"
                self._routing.close()
                self._subscriptions.names.clear()
                self._delivery.declared.clear()
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # break the traceback/frame reference cycle
        finally:
            self._running = False


def _check_seconds(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value}")
