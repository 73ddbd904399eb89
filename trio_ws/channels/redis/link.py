"""Link: the connections to one Redis server, one after the other.

Invariants:

- One task owns the connection, with one child task that reads and one that writes. ``publish`` and
  ``subscribe`` of the broker never wait: they change the state here and wake the writer.
- What is not answered when a connection breaks is sent again on the next one.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.channels.redis.connection import RefusedError
from trio_ws.channels.redis.exchange import Exchange
from trio_ws.channels.redis.link_state import LinkOwner, LinkSettings, LinkState
from trio_ws.channels.redis.throttled import ThrottledWarning
from trio_ws.errors import BrokerError
from trio_ws.logs import logger_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.delivery import Delivery
    from trio_ws.channels.redis.link_state import CurrentExchange
    from trio_ws.channels.redis.patterns import DesiredSubscriptions

__all__ = ["Link"]

logger = logger_for("trio_ws.channels")

#: Seconds to wait after reconnecting before queued messages are published, so that other processes can
#: reconnect too: at most this much of ``backoff_max`` for their next attempt, and `_LOGIN_SECONDS` to log in.
_RECONNECT_SECONDS = 0.5
_LOGIN_SECONDS = 0.25

#: The system's random source: two processes get different numbers, even after a fork or with the same seed.
_uniform = random.SystemRandom().uniform


class Link(LinkState):
    """See the module docstring.

    Args:
        shown: the server's URL, for messages.
        settings: of the broker.
        delivery: receives the messages.
        subscriptions: those of the broker.
        owner: is told what happens.
        open: makes a connection, and raises `BrokerError` if that fails.
        exchange_class: for the commands and replies of a connection.
        slot_of: as for `PublishQueue`.
    """

    def __init__(
        self,
        shown: str,
        settings: LinkSettings,
        delivery: Delivery,
        subscriptions: DesiredSubscriptions,
        owner: LinkOwner,
        open: Callable[[], Awaitable[RedisConnection]],
        exchange_class: type[Exchange] = Exchange,
        slot_of: Callable[[bytes], int] = len,
    ) -> None:
        super().__init__(shown, settings, delivery, subscriptions, owner, slot_of)
        self._open = open
        self._exchange_class = exchange_class
        self._last_loss = ""
        self._lost = ThrottledWarning()

    def begin(self, connection: RedisConnection) -> None:
        """Start to use a connection."""
        self.exchange = self._exchange_class(self, connection)
        self.problem = ""
        self.queue.origin = self.owner.origin()
        self.changed = dict.fromkeys(self.owner.keys_of(self))

    @enable_ki_protection
    async def run(self) -> None:
        """Connect, unless `begin` was called before, and stay connected until cancelled."""
        delay = self._settings.backoff_initial
        lost = trio.current_time()
        while True:
            if self.exchange is None:
                connection, delay = await self._connect_again(delay)
                logger.info(
                    "%s to %s after %.1f seconds; %d messages are waiting, %d were dropped",
                    "reconnected" if self.losses else "connected",
                    self.shown,
                    trio.current_time() - lost,
                    len(self.queue),
                    self._overflow,
                )
                self.begin(connection)
                self.resubscribing = True
                self.owner.reconnected(self)
                self.publish_not_before = (
                    trio.current_time() + min(self._settings.backoff_max, _RECONNECT_SECONDS) + _LOGIN_SECONDS
                )
            exchange = self.exchange
            assert exchange is not None
            began = trio.current_time()
            reason = await exchange.run()
            lost = trio.current_time()
            self._connection_lost(exchange, reason)
            if lost - began > self._settings.backoff_max:
                delay = self._settings.backoff_initial

    def _connection_lost(self, exchange: CurrentExchange, reason: str) -> None:
        self.owner.lost(self)
        self.questions.extendleft(reversed(exchange.questions))
        self.exchange = None
        self.losses += 1
        self.problem = reason
        self.queue.connection_lost()
        self.changed.clear()
        self.progress.notify_all()
        self.work.notify_all()
        if reason != self._last_loss:
            self._lost = ThrottledWarning()
        self._last_loss = reason
        self._lost.warn("lost the connection to Redis, reconnecting: %s", reason)

    async def _connect_again(self, delay: float) -> tuple[RedisConnection, float]:
        """Retry until connected, and return the connection and the delay to start with next time.

        The reason why Redis refuses us is logged once, and again when it changes.
        """
        said = ""
        while True:
            # Spread out the attempts of many processes.
            await trio.sleep(delay * _uniform(0.5, 1.0))
            delay = min(2 * delay, self._settings.backoff_max)
            try:
                return await self._open(), delay
            except BrokerError as exc:
                self.problem = str(exc)
                if isinstance(exc, RefusedError) and self.problem != said:
                    said = self.problem
                    logger.warning("reconnecting failed, will retry: %s", said)
                else:
                    logger.debug("reconnecting failed, will retry: %s", exc)
