"""Exchange: the commands and replies of one connection to Redis, until it breaks.

Invariants:

- One task reads and one writes. All state changes happen between their waits.
- The subscriptions to send follow from two sets: those that are desired, and those of this connection. Losing
  a connection therefore requires no cleanup.
- Redis executes the commands in the order in which they are sent, and answers in this order. Subscriptions
  are sent first, so they are in effect before a history is read.
- A connection on which something was refused that another one may accept is closed when all messages that
  were sent are answered, so that it is known which of them are published. Nothing more is sent until then.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trio_ws.channels.redis.connection import CLOSING_ERRORS, command, error_code, error_text
from trio_ws.channels.redis.histories import (
    LOST,
    OUT_OF_ORDER,
    SCRIPTS,
    append_words,
    declared_key,
    pack_declared,
    parse_run,
)
from trio_ws.errors import BrokerError
from trio_ws.logs import logger_for, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_ws._types import Reply
    from trio_ws.channels.redis.connection import RedisConnection
    from trio_ws.channels.redis.link_state import LinkState
    from trio_ws.channels.redis.patterns import Key
    from trio_ws.channels.redis.publish_queue import Outgoing
    from trio_ws.channels.redis.questions import Question

__all__ = ["Exchange"]

logger = logger_for("trio_ws.channels")

#: Limits on the messages, and their bytes, that were sent to Redis and are not yet answered.
_WINDOW_ITEMS = 1000
_WINDOW_BYTES = 1_048_576
#: Names in one SUBSCRIBE.
_MAX_NAMES = 500
#: Messages to deliver before yielding to other tasks.
_YIELD_EVERY = 16
#: Maximum number of questions that are asked concurrently.
_QUESTIONS = 16

_ASKING = b"ASKING"
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


class Exchange:
    """See the module docstring. `ClusterExchange` overrides what is different in a cluster.

    Args:
        link: of which this is the current exchange.
        connection: it is logged in. The exchange closes it.

    Attributes:
        pending_replies: the commands whose replies are outstanding, oldest first, and the names of those that
            subscribe.
        questions: those that were asked, oldest first.
        pinged: whether a PING is due or unanswered, and nothing was received since.
        prepared: whether the scripts were loaded, and histories declared.
    """

    PUBLISH = b"PUBLISH"
    APPEND = b"EVALSHA"
    QUESTION = b"question"
    #: The scripts to load.
    scripts: tuple[bytes, ...] = SCRIPTS

    def __init__(self, link: LinkState, connection: RedisConnection) -> None:
        self.pending_replies: deque[tuple[bytes, list[bytes]]] = deque()
        self.questions: deque[Question] = deque()
        self.pinged = False
        self.prepared = False
        self._link = link
        self._delivery = link.delivery
        self._connection = connection
        self._subscribed: set[Key] = set()
        self._refused: list[tuple[bytes, bytes]] = []  # refused subscriptions, to be retried one by one
        self._ping_sent = False
        self._unanswered: dict[bytes, Outgoing] = {}  # the last one of each channel with a history
        self._run: bytes | None = None  # identifies the run of the Redis process, once it is known
        self._closing = ""  # why the connection is closed when the sent messages are answered

    async def run(self) -> str:
        """Read and write until the connection breaks, close it, and return the reason."""
        reasons = []

        @enable_ki_protection
        async def until_broken(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except BrokerError as exc:
                reasons.append(str(exc))
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_broken, self._read, name="trio_ws redis reader")
                nursery.start_soon(until_broken, self._write, name="trio_ws redis writer")
        finally:
            await self._connection.aclose()
        return reasons[0]

    async def send(self, data: bytes) -> None:
        """Send commands. See `RedisConnection.send`."""
        await self._connection.send(data)

    async def aclose(self) -> None:
        """Close the connection at once; `run` then returns."""
        await self._connection.aclose()

    # -- writing ------------------------------------------------------------------------------------

    async def _write(self) -> None:
        link = self._link
        while True:
            data = self.commands()
            if data:
                await self._connection.send(data)
            else:
                holding = link.publish_not_before > trio.current_time()
                with trio.move_on_at(link.publish_not_before if holding else math.inf):
                    await link.work.wait()

    def commands(self) -> bytes:
        """Return the commands to send now: first subscriptions, then messages."""
        if self._closing:
            return b""
        link, pending = self._link, self.pending_replies
        parts: list[bytes] = []
        self._take_subscriptions(parts)
        if self.pinged and not self._ping_sent:
            self._ping_sent = True
            parts.append(command(_PING))
            pending.append((_PING, []))
        needs_run = self._needs_run
        if needs_run and not self.prepared:
            self.prepared = True
            parts += self._preparations()
        if needs_run and self._run is None:
            return b"".join(parts)
        self._take_questions(parts)
        holding = link.publish_not_before > trio.current_time()
        for message in () if holding else link.queue.take(_WINDOW_ITEMS, _WINDOW_BYTES):
            if message.history is None:
                data = self._delivery.format.pack(
                    message.origin, message.sequence, message.channel, message.payload
                )
                parts.append(self._publish_command(message.channel, data))
                pending.append((self.PUBLISH, []))
            else:
                before = self._unanswered.get(message.channel)
                after = None if before is None else self._identify(before)
                if not message.accepted:  # Redis may skip it
                    self._unanswered[message.channel] = message
                parts.append(command(*self.append_words(message, after=after)))
                pending.append((self.APPEND, []))
        return b"".join(parts)

    @property
    def _needs_run(self) -> bool:
        """Whether the scripts are needed."""
        return bool(self._delivery.declared)

    def _publish_command(self, channel: bytes, data: bytes) -> bytes:
        return command(self.PUBLISH, channel, data)

    def _take_subscriptions(self, parts: list[bytes]) -> None:
        link = self._link
        names = link.subscriptions.names
        verbs: dict[bytes, list[bytes]] = {}
        added: list[Key] = []
        for key in link.take_changes():
            wanted = key in names and link.owner.serves(link, key)
            if wanted != (key in self._subscribed):
                (self._subscribed.add if wanted else self._subscribed.discard)(key)
                verbs.setdefault(_SUBSCRIPTION_COMMANDS[wanted, key[0]], []).append(key[1])
                if wanted:
                    added.append(key)
        if added:
            link.owner.subscribing(link, added)
        batches = [
            (verb, channels[start : start + _MAX_NAMES])
            for verb, channels in verbs.items()
            for start in range(0, len(channels), _MAX_NAMES)
        ]
        batches += [(verb, [channel]) for verb, channel in self._refused]
        self._refused.clear()
        for verb, channels in batches:
            self._subscribe(verb, channels, parts)

    def _subscribe(self, verb: bytes, channels: list[bytes], parts: list[bytes]) -> None:
        parts.append(command(verb, *channels))
        self.pending_replies.append((verb, channels[::-1]))

    def _preparations(self) -> list[bytes]:
        """Return the commands that each connection sends once, before it uses histories."""
        parts = []
        for script in self.scripts if self._run is None else ():
            parts.append(command(_SCRIPT, b"LOAD", script))
            self.pending_replies.append((_SCRIPT, []))
        for words in self._declarations():
            parts.append(command(*words))
            self.pending_replies.append((_SET, []))
        if self._run is None:
            parts.append(command(_INFO, b"server"))
            self.pending_replies.append((_INFO, []))
        return parts

    def _declarations(self) -> list[list[bytes]]:
        prefix = self._link.subscriptions.prefix
        return [
            [_SET, declared_key(prefix, namespace), pack_declared(declared.patterns)]
            for namespace, declared in self._delivery.declared.items()
        ]

    def _take_questions(self, parts: list[bytes]) -> None:
        waiting = self._link.questions
        while waiting and len(self.questions) < _QUESTIONS:
            question = waiting.popleft()
            if question.cancelled:
                continue
            if question.asking:
                parts.append(command(_ASKING))
                self.pending_replies.append((_ASKING, []))
            parts.append(command(*question.words(self)))
            self.pending_replies.append((self.QUESTION, []))
            self.questions.append(question)

    def _identify(self, message: Outgoing) -> tuple[bytes, int]:
        """Return the origin and the sequence number of a message."""
        if message.is_packed:
            form = self._delivery.format
            return form.origin_of(message.payload), form.sequence_of(message.payload)
        return message.origin, message.sequence

    def append_words(
        self, message: Outgoing, *more: bytes, after: tuple[bytes, int] | None = None
    ) -> list[bytes]:
        """Return the words of the command that appends a message to its history, see `append_words`."""
        origin, sequence = self._identify(message)
        data = message.payload
        if not message.is_packed:
            channel = message.channel
            if message.lost:
                channel, data = channel + LOST, b"%d" % message.lost
            data = self._delivery.format.pack(origin, sequence, channel, data)
        return append_words(self.prefix, self.run_id, origin, sequence, message, data, *more, after=after)

    @property
    def prefix(self) -> bytes:
        """The prefix of all names at Redis."""
        return self._link.subscriptions.prefix

    @property
    def run_id(self) -> bytes:
        """Identifies the run of the Redis process; empty if it does not say so."""
        return self._run or b""

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        link = self._link
        while True:
            replies = None
            with trio.move_on_after(link.ping_timeout if self.pinged else link.ping_interval):
                replies = await self._connection.receive()
            if replies is None:
                if self.pinged:
                    raise BrokerError(f"{link.shown} did not answer a PING for {link.ping_timeout} s")
                self.pinged = True
                self._ping_sent = False
                link.queue.forget_accepted()
                link.work.notify_all()
                continue
            self.pinged = False  # any data shows that Redis is alive
            for number, (is_push, reply) in enumerate(replies, 1):
                if number % _YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
                if is_push:
                    self._pushed(reply)
                else:
                    self._answered(reply)

    def _pushed(self, reply: list[Reply]) -> None:
        kind = reply[0]
        if kind == b"message":
            self._delivery.deliver((False, reply[1]), reply[1], reply[2])
        elif kind == b"pmessage":
            self._delivery.deliver((True, reply[1]), reply[2], reply[3])
        elif isinstance(kind, bytes) and kind.endswith(b"subscribe"):
            # One SUBSCRIBE is answered with one push for each of its names.
            verb, names = self.pending_replies[0] if self.pending_replies else (b"", [])
            if kind.upper() != verb or not names or names.pop() != reply[1]:
                raise BrokerError(f"{self._link.shown} sent an unexpected {kind!r}")
            if not names:
                self.pending_replies.popleft()
                if self._link.resubscribing:
                    self._check_resubscribed()

    def _check_resubscribed(self) -> None:
        if not self._link.changed and not self.is_subscribing:
            self._link.resubscribed()

    @property
    def is_subscribing(self) -> bool:
        """Whether Redis has not confirmed all subscriptions yet."""
        return any(verb in (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE") for verb, _ in self.pending_replies)

    def _answered(self, reply: Reply) -> None:
        self._take_reply(reply)
        if self._closing and not self._link.queue.has_unanswered:
            raise BrokerError(self._closing)

    def _take_reply(self, reply: Reply) -> None:
        link = self._link
        if not self.pending_replies:
            raise BrokerError(f"{link.shown} sent an unexpected reply: {reply!r:.200}")
        verb, names = self.pending_replies.popleft()
        refused = isinstance(reply, Exception)
        if verb is self.APPEND:
            message = link.queue.first_sent
            if self._unanswered.get(message.channel) is message:
                del self._unanswered[message.channel]
        if refused and self._redirected(verb, names, reply):
            return
        if verb is self.PUBLISH or verb is self.APPEND:
            if verb is self.APPEND and reply == OUT_OF_ORDER:
                self._out_of_order()
                return
            if refused:
                link.refused(f"a message: {error_text(reply)}", log=error_code(reply) not in CLOSING_ERRORS)
                if error_code(reply) in CLOSING_ERRORS:
                    link.queue.refused_for_now()
                    self._close_soon(link.problem)
                    return
            link.answered(taken=not refused)
        elif verb is self.QUESTION:
            self._answered_question(reply)
        elif verb is _INFO:
            self._run = b"" if refused else parse_run(reply)
            link.served_by(self._run)
            if not self._run:
                logger.warning("%s does not say when it was started; it must not lose data", link.shown)
            link.work.notify_all()
        elif verb is _SCRIPT or verb is _SET:
            if refused:
                link.refused(f"{verb.decode()}: {error_text(reply)}")
                if error_code(reply) in CLOSING_ERRORS:
                    self._close_soon(link.problem)
        elif not names:
            pass  # the answer to PING or ASKING
        elif not refused:
            raise BrokerError(f"{link.shown} answered {verb!r} with {reply!r:.200}")
        elif len(names) > 1:
            self._refused += [(verb, name) for name in names]
            link.work.notify_all()
        else:
            link.problem = f"{link.shown} refused {verb.decode()} of '{shown(names[0])}': {error_text(reply)}"
            logger.warning("%s", link.problem)

    def _out_of_order(self) -> None:
        """Take a message back, because another one must be taken first."""
        self._link.queue.refused_for_now()
        self._close_soon(f"{self._link.shown} accepts messages again")

    def _close_soon(self, reason: str) -> None:
        """Close the connection when all messages that were sent are answered."""
        self._closing = self._closing or reason

    def _redirected(self, verb: bytes, names: list[bytes], error: Exception) -> bool:
        """Whether an error says that another server must be asked."""
        return False

    def _answered_question(self, reply: Reply) -> None:
        question = self.questions.popleft()
        link = self._link
        link.work.notify_all()
        if isinstance(reply, Exception):
            link.problem = f"{link.shown} refused to {question.purpose}: {error_text(reply)}"
            if error_code(reply) in CLOSING_ERRORS:
                link.questions.appendleft(question)
                self._close_soon(link.problem)
                return
            question.fail(link.problem)
            return
        try:
            answer = question.parse(reply)
        except (ValueError, TypeError, IndexError, AttributeError) as exc:
            raise BrokerError(f"{link.shown} sent an unexpected reply: {reply!r:.200}") from exc
        question.resolve(answer)
