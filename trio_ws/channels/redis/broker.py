"""RedisBroker: channels that several processes, or machines, share through Redis.

Each published payload has a header, see messages.py: 16 random bytes that identify one run of a broker, and
the sequence number of the message in that run. The random bytes let a broker recognise its own messages. The
sequence number distinguishes two messages with the same payload, see duplicates.py.

Invariants:

- One task owns the connection, with one child task that reads and one that writes. All state changes happen
  between their waits. ``publish`` and ``subscribe`` never wait: they change the state and wake the writer.
- The commands to send follow from two sets: the desired subscriptions, and those of the current connection.
  Losing a connection therefore requires no cleanup.
- Any program may publish at that Redis. A message in another format is counted, logged once a minute and
  dropped, before anything larger than the limits is decoded.
- Cancelling the block does not cancel these tasks at once. They end when the block has ended and the queue is
  empty, or one second later.
"""

from __future__ import annotations

import functools
import math
import random
import secrets
import ssl
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws._nurseries import unwrap_exception_group
from trio_ws.channels.broker import Broker, BrokerStatistics, HistoryPage, KeptMessage
from trio_ws.channels.redis.connection import (
    CLOSING_ERRORS,
    RedisConnection,
    RefusedError,
    command,
    error_code,
    error_text,
    open_connection,
    require_hiredis,
)
from trio_ws.channels.redis.duplicates import ReceivedMessages
from trio_ws.channels.redis.histories import (
    KEPT,
    KEPT_GAP,
    LOST,
    SCRIPTS,
    DeclaredHistories,
    append_words,
    declared_key,
    latest_words,
    pack_declared,
    parse_kept,
    parse_page,
    parse_run,
    read_words,
)
from trio_ws.channels.redis.messages import MAX_AGE, MessageFormat, check_key
from trio_ws.channels.redis.patterns import DesiredSubscriptions, channel_of, name_of
from trio_ws.channels.redis.publish_queue import PublishQueue
from trio_ws.channels.redis.url import parse_redis_url
from trio_ws.errors import BrokerError
from trio_ws.logs import logger_for, shown
from trio_ws.websocket._notify import Notification

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from trio_ws._types import Reply
    from trio_ws.channels.broker import BrokerState
    from trio_ws.channels.history import History
    from trio_ws.channels.redis.patterns import Key
    from trio_ws.channels.redis.publish_queue import Outgoing

__all__ = ["RedisBroker"]

logger = logger_for("trio_ws.channels")

#: Limits on the messages, and their bytes, that were sent to Redis and are not yet answered.
_WINDOW_ITEMS = 1000
_WINDOW_BYTES = 1_048_576
#: Names in one SUBSCRIBE.
_MAX_NAMES = 500
#: Maximum number of seconds to spend on sending the queue when the block ends.
_DRAIN_SECONDS = 1.0
#: Seconds to wait after reconnecting before queued messages are published, so that other processes can
#: reconnect too: at most this much of ``backoff_max`` for their next attempt, and `_LOGIN_SECONDS` to log in.
_RECONNECT_SECONDS = 0.5
_LOGIN_SECONDS = 0.25
#: Seconds in which the same warning is logged once.
_WARNING_INTERVAL = 60.0
#: Messages to deliver before yielding to other tasks.
_YIELD_EVERY = 16

#: The system's random source: two processes get different numbers, even after a fork or with the same seed.
_uniform = random.SystemRandom().uniform

#: Maximum number of histories that are read concurrently.
_READS = 16

_PUBLISH = b"PUBLISH"
_APPEND = b"EVALSHA"
_READ = b"EVALSHA to read"
_SCRIPT = b"SCRIPT"
_INFO = b"INFO"
_SET = b"SET"
_PING = b"PING"
# The Redis command, by whether to subscribe and whether to a pattern.
_SUBSCRIPTION_COMMANDS = {
    (True, False): b"SUBSCRIBE",
    (True, True): b"PSUBSCRIBE",
    (False, False): b"UNSUBSCRIBE",
    (False, True): b"PUNSUBSCRIBE",
}


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
            know by this name. User and password are those of Redis.
        prefix: prefix of every channel's name at Redis. Processes with the same prefix exchange messages.
        max_queue_items: messages that may wait for Redis.
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
        ssl_context: for ``rediss://``; by default `ssl.create_default_context`, which verifies certificates.

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
        self._ssl_context = ssl_context
        self._prefix = prefix
        self._format = MessageFormat(check_key(key))
        self._limits = f"max_queue_items {max_queue_items}, max_queue_bytes {max_queue_bytes}"
        self._max_message = max_message_bytes
        self._backoff_initial = backoff_initial
        self._backoff_max = backoff_max
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._state: BrokerState = "new"
        self._running = False
        self._connection: RedisConnection | None = None  # while connected
        self._wanted = DesiredSubscriptions(prefix)
        self._publish_not_before = -math.inf  # trio's clock
        self._declared: dict[str, DeclaredHistories] = {}  # by namespace
        self._reads: deque[_HistoryRead | _Listing] = deque()  # to be sent
        self._sent_reads: deque[_HistoryRead | _Listing] = deque()  # sent, unanswered
        self._refused: list[tuple[bytes, bytes]] = []  # refused subscriptions, to be retried one by one
        self._queue = PublishQueue(max_queue_items, max_queue_bytes)
        self._overflow = 0  # messages dropped since the queue was last empty
        self._work = Notification()  # there is something to write
        self._progress = Notification()  # the queue is empty, or the connection was lost
        self._received = 0
        self._losses = 0
        self._rejected = 0
        self._problem = ""
        self._resubscribing = False
        self._last_loss = ""
        self._lost = _ThrottledWarning()
        self._foreign = _ThrottledWarning()
        self._too_large = _ThrottledWarning()
        self._refusals = _ThrottledWarning()
        # Set while running.
        self._receive: Callable[[str, bytes], None]
        self._connect_timeout: float
        self._origin: bytes
        self._received_messages: ReceivedMessages

    def __repr__(self) -> str:
        return f"<RedisBroker {self._url.shown} {self._state}>"

    # -- called by a hub ----------------------------------------------------------------------------

    def subscribe(self, name: str) -> None:
        self._wanted.add(name)
        self._subscriptions_changed()

    def unsubscribe(self, name: str) -> None:
        self._wanted.discard(name)
        self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        if self._connection is None:
            self._wanted.changed.clear()  # a new connection subscribes to everything anyway
        self._work.notify_all()

    def publish(self, name: str, payload: bytes) -> None:
        if self._state == "closed":
            self._queue.dropped += 1
            return
        if len(payload) > self._max_message:
            self._queue.dropped += 1
            self._warn_too_large(payload)
            return
        self._put(channel_of(self._prefix, name), payload)

    def append(self, name: str, payload: bytes, history: History) -> None:
        if self._state == "closed":
            self._queue.dropped += 1
            return
        channel = channel_of(self._prefix, name)
        if len(payload) > self._max_message:
            self._queue.refuse(channel, history)
            self._work.notify_all()
            self._warn_too_large(payload)
            return
        self._put(channel, payload, history)

    def _warn_too_large(self, payload: bytes) -> None:
        text = "not publishing a message of %d bytes: max_message_bytes is %d"
        self._too_large.warn(text, len(payload), self._max_message)

    def _put(
        self, channel: bytes, payload: bytes, history: History | None = None, *, is_packed: bool = False
    ) -> None:
        before = self._queue.dropped
        self._queue.put(channel, payload, history, is_packed=is_packed)
        if self._connection is not None and self._queue.half_full:
            self._publish_not_before = -math.inf
        self._work.notify_all()
        if self._queue.dropped > before:
            if not self._overflow:
                logger.warning(
                    "published messages exceed %s: dropping the oldest (%s)",
                    self._url.shown,
                    self._limits,
                )
            self._overflow += self._queue.dropped - before

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        await trio.lowlevel.checkpoint()
        if not self._running or self._state == "closed":
            raise BrokerError("the broker is not running")
        channel = channel_of(self._prefix, name)
        page: HistoryPage = await self._ask(_HistoryRead(channel, after, history))
        return page

    async def latest(self, namespace: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if not self._running or self._state == "closed":
            raise BrokerError("the broker is not running")
        names: list[str] = await self._ask(_Listing(namespace))
        return names

    async def _ask(self, question: _HistoryRead | _Listing) -> Reply:
        self._reads.append(question)
        self._work.notify_all()
        try:
            await question.done.wait()
        finally:
            question.cancelled = True
        if question.problem:
            raise BrokerError(question.problem)
        return question.answer

    def declare_histories(self, namespace: str, patterns: Mapping[str, History]) -> None:
        self._declared[namespace] = DeclaredHistories(patterns)
        if self._connection is not None:
            self._connection.prepared = False
        self._work.notify_all()

    def _history(self, name: str) -> History | None:
        """The history of a channel, by its name and its namespace."""
        namespace, _, channel = name.partition(":")
        declared = self._declared.get(namespace) if channel else None
        return declared.find(channel) if declared is not None else None

    @property
    def state(self) -> BrokerState:
        return self._state

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            self._queue.published,
            self._received,
            self._queue.dropped,
            self._losses,
            len(self._queue),
        )

    @property
    def problem(self) -> str:
        return self._problem

    @property
    def rejected(self) -> int:
        return self._rejected

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
            self._receive = receive
            self._connect_timeout = timeout
            # New for each run: a broker may have been copied by a fork.
            self._origin = secrets.token_bytes(16)
            self._received_messages = ReceivedMessages()
            self._publish_not_before = -math.inf
            connection = await open_connection(self._url, self._ssl_context, timeout)
            failure: BaseException | None = None
            try:
                async with trio.open_nursery() as nursery:
                    scope = trio.CancelScope(shield=True)
                    self._begin(connection)
                    nursery.start_soon(self._stay_connected, connection, scope, name="trio_ws redis")
                    try:
                        yield
                    except BaseException as exc:  # noqa: BLE001 - raised again below
                        failure = exc
                    await self._drain()
                    scope.cancel()
            except BaseExceptionGroup as group:
                failure = unwrap_exception_group(group)  # only a bug makes our task raise
            finally:
                self._close()
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # break the traceback/frame reference cycle
        finally:
            self._running = False

    async def _drain(self) -> None:
        """Wait a moment until the queue is empty, whether the block was cancelled or not."""
        with trio.move_on_after(_DRAIN_SECONDS, shield=True):
            self._publish_not_before = -math.inf
            self._work.notify_all()
            while self._connection is not None and len(self._queue):
                await self._progress.wait()

    def _close(self) -> None:
        self._state = "closed"
        self._connection = None
        self._wanted.clear()
        self._declared.clear()
        for read in (*self._sent_reads, *self._reads):
            read.fail("the broker is not running any more")
        self._reads.clear()
        self._sent_reads.clear()
        self._overflow = 0
        left = self._queue.drop_all()
        if left:
            logger.warning("dropped %d messages that could not be sent to %s", left, self._url.shown)

    @enable_ki_protection
    async def _stay_connected(self, connection: RedisConnection, scope: trio.CancelScope) -> None:
        with scope:
            delay = self._backoff_initial
            while True:
                began = trio.current_time()
                reason = await self._run_connection(connection)
                lost = trio.current_time()
                self._connection_lost(reason)
                if lost - began > self._backoff_max:
                    delay = self._backoff_initial
                connection, delay = await self._connect_again(delay)
                logger.info(
                    "reconnected to %s after %.1f seconds; %d messages are waiting, %d were dropped",
                    self._url.shown,
                    trio.current_time() - lost,
                    len(self._queue),
                    self._overflow,
                )
                self._begin(connection)
                self._resubscribing = True
                if self.on_missed is not None:
                    self.on_missed()
                self._publish_not_before = (
                    trio.current_time() + min(self._backoff_max, _RECONNECT_SECONDS) + _LOGIN_SECONDS
                )

    def _begin(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._state = "connected"
        self._problem = ""
        self._refused.clear()
        self._wanted.mark_all_changed()

    def _connection_lost(self, reason: str) -> None:
        self._connection = None
        self._state = "lost"
        self._losses += 1
        self._problem = reason
        self._queue.connection_lost()
        self._reads.extendleft(reversed(self._sent_reads))
        self._sent_reads.clear()
        self._wanted.changed.clear()
        self._progress.notify_all()
        if reason != self._last_loss:
            self._lost = _ThrottledWarning()
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
            delay = min(2 * delay, self._backoff_max)
            try:
                return await open_connection(self._url, self._ssl_context, self._connect_timeout), delay
            except BrokerError as exc:
                self._problem = str(exc)
                if isinstance(exc, RefusedError) and self._problem != said:
                    said = self._problem
                    logger.warning("reconnecting failed, will retry: %s", said)
                else:
                    logger.debug("reconnecting failed, will retry: %s", exc)

    async def _run_connection(self, connection: RedisConnection) -> str:
        """Read and write until the connection breaks, close it, and return the reason."""
        reasons = []

        @enable_ki_protection
        async def until_broken(work: Callable[[RedisConnection], Awaitable[None]]) -> None:
            try:
                await work(connection)
            except BrokerError as exc:
                reasons.append(str(exc))
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_broken, self._read, name="trio_ws redis reader")
                nursery.start_soon(until_broken, self._write, name="trio_ws redis writer")
        finally:
            await connection.aclose()
        return reasons[0]

    # -- writing ------------------------------------------------------------------------------------

    async def _write(self, connection: RedisConnection) -> None:
        while True:
            data = self._commands(connection)
            if data:
                await connection.send(data)
            else:
                holding = self._publish_not_before > trio.current_time()
                with trio.move_on_at(self._publish_not_before if holding else math.inf):
                    await self._work.wait()

    def _commands(self, connection: RedisConnection) -> bytes:
        """Return the commands to send now: first subscriptions, then messages."""
        verbs: dict[bytes, list[bytes]] = {}
        for key in self._wanted.take_changes():
            wanted = key in self._wanted.names
            if wanted != (key in connection.subscribed):
                (connection.subscribed.add if wanted else connection.subscribed.discard)(key)
                verbs.setdefault(_SUBSCRIPTION_COMMANDS[wanted, key[0]], []).append(key[1])
        batches = [
            (verb, names[start : start + _MAX_NAMES])
            for verb, names in verbs.items()
            for start in range(0, len(names), _MAX_NAMES)
        ]
        batches += [(verb, [name]) for verb, name in self._refused]
        self._refused.clear()
        parts = []
        for verb, names in batches:
            parts.append(command(verb, *names))
            connection.pending_replies.append((verb, names[::-1]))
        if connection.pinged and not connection.ping_sent:
            connection.ping_sent = True
            parts.append(command(_PING))
            connection.pending_replies.append((_PING, []))
        if self._declared and not connection.prepared:
            connection.prepared = True
            parts += self._preparations(connection)
        if self._declared and connection.run is None:
            return b"".join(parts)
        self._take_reads(connection, parts)
        holding = self._publish_not_before > trio.current_time()
        for message in () if holding else self._queue.take(_WINDOW_ITEMS, _WINDOW_BYTES):
            if message.history is None:
                data = self._format.pack(self._origin, message.sequence, message.channel, message.payload)
                parts.append(command(_PUBLISH, message.channel, data))
                connection.pending_replies.append((_PUBLISH, []))
            else:
                parts.append(self._append_command(connection, message))
                connection.pending_replies.append((_APPEND, []))
        return b"".join(parts)

    def _preparations(self, connection: RedisConnection) -> list[bytes]:
        """Return the commands that each connection sends once, before it uses histories."""
        parts = []
        for script in SCRIPTS if connection.run is None else ():
            parts.append(command(_SCRIPT, b"LOAD", script))
            connection.pending_replies.append((_SCRIPT, []))
        for namespace, declared in self._declared.items():
            key = declared_key(self._wanted.prefix, namespace)
            parts.append(command(_SET, key, pack_declared(declared.patterns)))
            connection.pending_replies.append((_SET, []))
        if connection.run is None:
            parts.append(command(_INFO, b"server"))
            connection.pending_replies.append((_INFO, []))
        return parts

    def _take_reads(self, connection: RedisConnection, parts: list[bytes]) -> None:
        while self._reads and len(self._sent_reads) < _READS:
            read = self._reads.popleft()
            if read.cancelled:
                continue
            assert connection.run is not None
            parts.append(command(*read.words(self._wanted.prefix, connection.run)))
            connection.pending_replies.append((_READ, []))
            self._sent_reads.append(read)

    def _append_command(self, connection: RedisConnection, message: Outgoing) -> bytes:
        assert connection.run is not None
        if message.is_packed:
            data = message.payload
            origin, sequence = self._format.origin_of(data), self._format.sequence_of(data)
        else:
            origin, sequence = self._origin, message.sequence
            channel, payload = message.channel, message.payload
            if message.lost:
                channel, payload = channel + LOST, b"%d" % message.lost
            data = self._format.pack(origin, sequence, channel, payload)
        return command(*append_words(self._wanted.prefix, connection.run, origin, sequence, message, data))

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self, connection: RedisConnection) -> None:
        while True:
            replies = None
            with trio.move_on_after(self._ping_timeout if connection.pinged else self._ping_interval):
                replies = await connection.receive()
            if replies is None:
                if connection.pinged:
                    raise BrokerError(f"{self._url.shown} did not answer a PING for {self._ping_timeout} s")
                connection.pinged = True
                connection.ping_sent = False
                self._work.notify_all()
                continue
            connection.pinged = False  # any data shows that Redis is alive
            for number, (is_push, reply) in enumerate(replies, 1):
                if number % _YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
                if is_push:
                    self._pushed(connection, reply)
                else:
                    self._answered(connection, reply)

    def _pushed(self, connection: RedisConnection, reply: list[Reply]) -> None:
        kind = reply[0]
        if kind == b"message":
            self._deliver((False, reply[1]), reply[1], reply[2])
        elif kind == b"pmessage":
            self._deliver((True, reply[1]), reply[2], reply[3])
        elif isinstance(kind, bytes) and kind.endswith(b"subscribe"):
            # One SUBSCRIBE is answered with one push for each of its names.
            verb, names = connection.pending_replies[0] if connection.pending_replies else (b"", [])
            if kind.upper() != verb or not names or names.pop() != reply[1]:
                raise BrokerError(f"{self._url.shown} sent an unexpected {kind!r}")
            if not names:
                connection.pending_replies.popleft()
                if self._resubscribing and not self._wanted.changed:
                    self._check_resubscribed(connection)

    def _check_resubscribed(self, connection: RedisConnection) -> None:
        if any(verb in (b"SUBSCRIBE", b"PSUBSCRIBE") for verb, _ in connection.pending_replies):
            return
        self._resubscribing = False
        if self.on_resubscribed is not None:
            self.on_resubscribed()

    def _answered(self, connection: RedisConnection, reply: Reply) -> None:
        if not connection.pending_replies:
            raise BrokerError(f"{self._url.shown} sent an unexpected reply: {reply!r:.200}")
        verb, names = connection.pending_replies.popleft()
        refused = isinstance(reply, Exception)
        if verb is _READ:
            self._answered_read(reply)
        elif verb is _INFO:
            connection.run = b"" if refused else parse_run(reply)
            if not connection.run:
                logger.warning("%s does not say when it was started; it must not lose data", self._url.shown)
            self._work.notify_all()
        elif verb is _SCRIPT or verb is _SET:
            if refused:
                self._problem = f"{self._url.shown} refused {verb.decode()}: {error_text(reply)}"
                self._refusals.warn("%s", self._problem)
                if error_code(reply) in CLOSING_ERRORS:
                    raise BrokerError(self._problem)
        elif verb is _PUBLISH or verb is _APPEND:
            if refused:
                self._problem = f"{self._url.shown} refused a message: {error_text(reply)}"
                if error_code(reply) in CLOSING_ERRORS:
                    raise BrokerError(self._problem)  # the message is queued again
                self._refusals.warn("%s", self._problem)
            self._queue.answered(taken=not refused)
            if len(self._queue) == 0:
                self._overflow = 0
                self._progress.notify_all()
            self._work.notify_all()
        elif not names:
            pass  # the answer to a PING
        elif not refused:
            raise BrokerError(f"{self._url.shown} answered {verb!r} with {reply!r:.200}")
        elif len(names) > 1:
            self._refused += [(verb, name) for name in names]
            self._work.notify_all()
        else:
            self._problem = (
                f"{self._url.shown} refused {verb.decode()} of '{shown(names[0])}': {error_text(reply)}"
            )
            logger.warning("%s", self._problem)

    def _answered_read(self, reply: Reply) -> None:
        read = self._sent_reads.popleft()
        self._work.notify_all()
        if isinstance(reply, Exception):
            self._problem = f"{self._url.shown} refused to read a history: {error_text(reply)}"
            if error_code(reply) in CLOSING_ERRORS:
                self._reads.appendleft(read)
                raise BrokerError(self._problem)
            read.fail(self._problem)
            return
        try:
            if isinstance(read, _Listing):
                read.answer = self._parse_names(reply)
            else:
                read.answer = parse_page(reply, functools.partial(self._unpack_stored, read.channel))
        except (ValueError, TypeError, IndexError, AttributeError) as exc:
            raise BrokerError(f"{self._url.shown} sent an unexpected history: {reply!r:.200}") from exc
        read.done.set()

    def _parse_names(self, channels: list[bytes]) -> list[str]:
        """The names of channels at Redis, without those that are not ours."""
        names = (name_of(self._wanted.prefix, channel) for channel in channels)
        return [name for name in names if name is not None]

    def _unpack_kept(
        self, channel: bytes, data: bytes, is_gap: bool, *, max_age: float = math.inf
    ) -> KeptMessage:
        """Return a message of a history without its position, or an empty message if it is invalid."""
        payload = self._format.unpack(channel + LOST if is_gap else channel, data, self._max_message, max_age)
        if payload is None or (is_gap and not payload.isdigit()):
            self._reject(channel, data)
            return KeptMessage(0, b"")
        missing = int(payload) if is_gap else 0
        return KeptMessage(0, b"" if is_gap else payload, missing, id=self._format.id_of(data))

    def _unpack_stored(self, channel: bytes, data: bytes, is_gap: bool) -> KeptMessage:
        """Like `_unpack_kept`, for an entry read from a stream. No copy of it is delivered later."""
        message = self._unpack_kept(channel, data, is_gap)
        if message.payload or message.missing:
            self._format.is_new(data)
        return message

    def _deliver_kept(self, name: str, channel: bytes, data: bytes) -> None:
        """Deliver a message of a channel with a history, which has a position."""
        if self._history(name) is None or self.receive_kept is None:
            return
        try:
            epoch, offset, packed = parse_kept(data)
        except ValueError:
            self._reject(channel, data)
            return
        message = self._unpack_kept(channel, packed, data.startswith(KEPT_GAP), max_age=MAX_AGE)
        if (message.payload or message.missing) and self._format.is_new(packed):
            self._received += 1
            self.receive_kept(name, epoch, message._replace(offset=offset))

    def _reject(self, channel: bytes, data: bytes) -> None:
        self._rejected += 1
        self._foreign.warn(
            "dropped %d bytes on the channel '%s' at Redis: another format, or no valid signature",
            len(data),
            shown(channel),
        )

    def _deliver(self, key: Key, channel: bytes, data: bytes) -> None:
        if data.startswith((KEPT, KEPT_GAP)):
            name = self._wanted.match(key, channel)
            if name is not None:
                self._deliver_kept(name, channel, data)
            return
        origin = self._format.origin_of(data)
        if origin == self._origin:
            return
        name = self._wanted.match(key, channel)
        if name is None:
            return
        payload = self._format.unpack(channel, data, self._max_message)
        if payload is None:
            self._reject(channel, data)
            return
        history = self._history(name)
        if history is not None:
            # Published by a program that does not know of the history. Each process that receives the message
            # appends it, and Redis accepts only the first of these commands.
            if self._received_messages.add(origin, channel, data):
                self._put(channel, data, history, is_packed=True)
            return
        if not self._format.is_new(data) or not self._received_messages.add(origin, channel, data):
            return
        self._received += 1
        try:
            self._receive(name, payload)
        except Exception:
            # receive() should never raise. If it does, only this message is lost.
            logger.exception("could not deliver a message for %r", name)


class _Question:
    """A pending request. If it fails, ``problem`` is the reason."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.cancelled = False
        self.answer: Reply = None
        self.problem = ""

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.done.set()


class _HistoryRead(_Question):
    """A pending request to read a history."""

    def __init__(self, channel: bytes, after: int, history: History) -> None:
        super().__init__()
        self.channel = channel
        self.after = after
        self.history = history

    def words(self, prefix: bytes, run: bytes) -> list[bytes]:
        return read_words(prefix, run, self.channel, self.after, self.history)


class _Listing(_Question):
    """A pending request to list the channels that keep only their newest message."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.namespace = namespace

    def words(self, prefix: bytes, run: bytes) -> list[bytes]:
        return latest_words(prefix, self.namespace)


class _ThrottledWarning:
    """Logs a warning at most once a minute, with the number of occurrences."""

    def __init__(self) -> None:
        self._count = 0
        self._next = -math.inf

    def warn(self, text: str, *args: object) -> None:
        self._count += 1
        now = trio.current_time()
        if now >= self._next:
            logger.warning(text + " (%d in the last minute)", *args, self._count)  # noqa: G003
            self._count = 0
            self._next = now + _WARNING_INTERVAL


def _check_seconds(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {value}")
