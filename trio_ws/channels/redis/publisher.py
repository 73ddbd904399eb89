"""Publisher: publishing to the channels of servers from other programs, through their Redis."""

from __future__ import annotations

import functools
import secrets
import ssl
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from trio_ws._blocks import EnteredOnly, check_trio
from trio_ws.channels.channel import encode
from trio_ws.channels.history import History
from trio_ws.channels.names import check_name
from trio_ws.channels.redis.cluster import sharded_channel
from trio_ws.channels.redis.cluster_publisher import ClusterClient
from trio_ws.channels.redis.connection import command, error_text, open_connection, require_hiredis
from trio_ws.channels.redis.histories import (
    SCRIPTS,
    DeclaredHistories,
    append_words,
    declared_key,
    latest_key,
    note_words,
    parse_run,
    publish_words,
)
from trio_ws.channels.redis.messages import MessageFormat, check_key
from trio_ws.channels.redis.patterns import channel_of
from trio_ws.channels.redis.publish_queue import Outgoing
from trio_ws.channels.redis.url import parse_redis_url
from trio_ws.errors import BrokerError

if TYPE_CHECKING:
    from types import TracebackType

    from trio_ws._types import Reply, Value
    from trio_ws.channels.redis.cluster_publisher import Node
    from trio_ws.channels.redis.connection import RedisConnection

__all__ = ["BlockingPublisher", "Publisher"]

#: Seconds after which the declared histories are read again.
_DECLARATIONS_TTL = 10.0
#: Number of replies to `_Settings.queries`.
_QUERIES = len(SCRIPTS) + 2

_to_msgpack = msgspec.msgpack.Encoder().encode


class _Settings:
    """The state and the encoding that both publishers share."""

    def __init__(
        self, url: str, path: str, prefix: str, key: bytes | str | None, ssl_context: ssl.SSLContext | None
    ) -> None:
        self.url = parse_redis_url(url)
        if ssl_context is not None and not self.url.secure:
            raise ValueError("ssl_context requires a rediss:// URL")
        require_hiredis()
        if self.url.secure and ssl_context is None:
            ssl_context = ssl.create_default_context()
        self.ssl_context = ssl_context
        if self.url.nodes and ("{" in prefix or "}" in prefix):
            raise ValueError("prefix must not contain '{' or '}' with a cluster, whose slots depend on them")
        self.namespace = path.replace(":", "=")
        self.prefix = prefix.encode("utf-8", "surrogatepass")
        self._text_prefix = prefix
        self.format = MessageFormat(check_key(key))
        self.origin = secrets.token_bytes(16)
        self.sequence = 0

        self.declared = DeclaredHistories({})
        self.run = b""
        self.sent = b""  # the last message that was sent to a history in a cluster

    @property
    def queries(self) -> bytes:
        """The commands that load the scripts and read the declared histories."""
        key = declared_key(self.prefix, self.namespace)
        scripts = b"".join(command(b"SCRIPT", b"LOAD", script) for script in SCRIPTS)
        return scripts + command(b"INFO", b"server") + command(b"GET", key)

    def store_replies(self, replies: list[Reply]) -> None:
        """Store the replies to `queries`."""
        *_, info, declared = replies
        self.run = b"" if isinstance(info, Exception) else parse_run(info)
        self.store_declared(declared)

    def store_declared(self, declared: Reply) -> None:
        """Store the declared histories."""
        self.declared = DeclaredHistories({})
        if isinstance(declared, bytes):
            try:
                self.declared = DeclaredHistories.unpack(declared, History)
            except (msgspec.MsgspecError, ValueError, TypeError) as exc:
                raise BrokerError(f"{self.url.shown} has an unknown declaration of histories: {exc}") from exc

    def find(self, name: str) -> History | None:
        """Return the history of a channel, if it has one."""
        return self.declared.find(name)

    def pack(self, name: str, data: Value) -> tuple[bytes, bytes]:
        """Return the name of the channel at Redis, and the payload."""
        channel = channel_of(self._text_prefix, f"{self.namespace}:{check_name(name)}")
        return channel, _to_msgpack([msgspec.Raw(encode(data)), None])

    def command(self, name: str, channel: bytes, payload: bytes) -> bytes:
        """Return the command that publishes a message."""
        self.sequence += 1
        data = self.format.pack(self.origin, self.sequence, channel, payload)
        history = self.find(name)
        if history is None:
            return command(b"PUBLISH", channel, data)
        message = Outgoing(self.sequence, channel, payload, history)
        return command(*append_words(self.prefix, self.run, self.origin, self.sequence, message, data))

    def words_for(self, node: Node, channel: bytes, payload: bytes, history: History | None) -> list[bytes]:
        """Return the words of the command that publishes a message at a node of a cluster."""
        self.sequence += 1
        data = self.format.pack(node.origin, self.sequence, channel, payload)
        sharded = sharded_channel(self.prefix, channel)
        if history is None:
            return publish_words(sharded, channel, data)
        message = Outgoing(self.sequence, channel, payload, history)
        more = (sharded, b"1") if node.asking else (sharded,)
        words = append_words(self.prefix, node.run, node.origin, self.sequence, message, data, *more)
        self.sent = data
        return words


class Publisher(EnteredOnly):
    """Publishes to the channels of servers that share a Redis, from another program.

    ``async with trio_ws.Publisher("redis://localhost") as publisher: await publisher.publish("room.7", 1)``.
    It connects when it first publishes, and again after a failure. Any number of tasks may publish. Servers
    declare in Redis which channels have a history; messages to these channels are added to it.

    Args:
        url: the URL of Redis, as for `RedisBroker`.
        path: the path of the handler in its `App`, such as ``"/ws"``; empty if the server has only a handler.
        prefix: the same as for the servers' `RedisBroker`.
        key: the same as for the servers' `RedisBroker`.
        ssl_context: for ``rediss://``.
        timeout: seconds within which Redis must answer. Default 10.

    Raises:
        TypeError, ValueError: an argument is invalid.
        BrokerError: hiredis is not installed.
    """

    _usage = "async with trio_ws.Publisher(...) as publisher:"

    def __init__(
        self,
        url: str,
        *,
        path: str = "",
        prefix: str = "trio_ws:",
        key: bytes | str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._settings = _Settings(url, path, prefix, key, ssl_context)
        self._timeout = timeout
        self._lock = trio.Lock()
        self._connection: RedisConnection | None = None
        self._cluster: ClusterClient | None = None
        if self._settings.url.nodes:
            self._cluster = ClusterClient(self._settings.url, self._settings.ssl_context, timeout)
        self._queried = 0.0
        self._closed = False

    async def __aenter__(self) -> Self:
        check_trio("Publisher")
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()
        if self._cluster is not None:
            await self._cluster.aclose()

    async def publish(self, name: str, data: Value) -> int:
        """Publish ``data`` to a channel.

        After a cancellation, or an error while waiting for the reply, the message may have been published.

        Returns:
            The number of processes that received the message. With a cluster, those that are subscribed only
            to a glob are counted only if they use the same node for it.

        Raises:
            PacketError: ``data`` cannot be encoded; nothing was sent.
            ValueError, TypeError: the name is invalid.
            BrokerError: Redis cannot be reached, refuses the message, or does not answer in time.
            trio.ClosedResourceError: the publisher was closed.
        """
        if self._closed:
            raise trio.ClosedResourceError("the publisher is closed; its block has ended")
        async with self._lock:
            channel, payload = self._settings.pack(name, data)
            done = False
            reply: Reply = None
            try:
                with trio.move_on_after(self._timeout):
                    if self._cluster is not None:
                        reply = await self._publish_in(self._cluster, name, channel, payload)
                    else:
                        await self._prepare()
                        (reply,) = await self._exchange(self._settings.command(name, channel, payload), 1)
                    done = True
            finally:
                if not done:
                    await self._disconnect()  # a late reply would be mistaken for that to the next command
            if not done:
                raise BrokerError(f"{self._settings.url.shown} did not answer within {self._timeout} seconds")
        if isinstance(reply, Exception):
            raise BrokerError(f"{self._settings.url.shown} refused a message: {error_text(reply)}")
        return int(reply)

    async def _prepare(self) -> None:
        """Connect if necessary, and read the declared histories unless they were read recently."""
        settings = self._settings
        if self._connection is None:
            self._connection = await open_connection(settings.url, settings.ssl_context, self._timeout)
        elif trio.current_time() < self._queried + _DECLARATIONS_TTL:
            return
        settings.store_replies(await self._exchange(settings.queries, _QUERIES))
        self._queried = trio.current_time()

    async def _publish_in(self, cluster: ClusterClient, name: str, channel: bytes, payload: bytes) -> Reply:
        settings = self._settings
        if not self._queried or trio.current_time() >= self._queried + _DECLARATIONS_TTL:
            key = declared_key(settings.prefix, settings.namespace)
            settings.store_declared((await cluster.send(key, lambda _: [b"GET", key]))[0])
            self._queried = trio.current_time()
        history = settings.find(name)
        if history is not None and history.latest:
            listed = latest_key(settings.prefix, channel)
            reply, _ = await cluster.send(listed, lambda _: note_words(listed, [channel]))
            if isinstance(reply, Exception):
                return reply
        sharded = sharded_channel(settings.prefix, channel)
        reply, former = await cluster.send(
            sharded, lambda node: settings.words_for(node, channel, payload, history)
        )
        if former is not None and isinstance(reply, bytes):
            # The slot is being moved. Subscribers are still at the former node.
            words = [b"SPUBLISH", sharded, reply + settings.sent]
            (reply,) = await former.connection.request(command(*words), 1)
            if isinstance(reply, Exception):
                return 0  # it has just moved
        return reply

    async def _exchange(self, data: bytes, count: int) -> list[Reply]:
        """Send commands, and return their ``count`` replies."""
        assert self._connection is not None
        return await self._connection.request(data, count)


class BlockingPublisher:
    """A `Publisher` for programs without trio, such as a Django application or a cron job.

    ``trio_ws.BlockingPublisher("redis://localhost").publish("room.7", 1)``. Each call opens its own
    connection, so it may be used in any thread and after a fork. The arguments are those of `Publisher`.
    """

    def __init__(
        self,
        url: str,
        *,
        path: str = "",
        prefix: str = "trio_ws:",
        key: bytes | str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        _Settings(url, path, prefix, key, ssl_context)  # validates the arguments
        self._make = functools.partial(
            Publisher, url, path=path, prefix=prefix, key=key, ssl_context=ssl_context, timeout=timeout
        )

    def publish(self, name: str, data: Value) -> int:
        """Publish ``data`` to a channel. See `Publisher.publish`.

        Raises:
            RuntimeError: the caller is a trio task; use `Publisher` there.
        """

        async def publish() -> int:
            async with self._make() as publisher:
                return await publisher.publish(name, data)

        return trio.run(publish)
