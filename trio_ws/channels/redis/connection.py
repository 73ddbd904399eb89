"""One connection to Redis: opening it, commands out, replies in.

Of coredis this uses the parser alone. Its clients, tried on trio in version 6.9, do not keep what a broker
must hold: what a subscriber is slow to take waits in buffers without a bound (of 200,000 messages in a
burst 199,689 were in them at once), commands wait in another one, a PING that is never answered is waited
for without end, its pauses are not by trio's clock, and failed attempts are logged with tracebacks.

RESP3 lets one connection publish and be subscribed, so there is one, and the order of what is done on it is
the order in which Redis does it.

What always holds: whatever goes wrong here is a `BrokerError`, which names Redis without the password. Who
gets one closes the link.
"""

from __future__ import annotations

import importlib
import warnings
from collections import deque
from typing import TYPE_CHECKING, Any

import trio

from trio_ws.errors import BrokerError
from trio_ws.logs import shown
from trio_ws.websocket.sockets import close_forcefully
from trio_ws.websocket.tls import tls_client

if TYPE_CHECKING:
    import ssl

    from coredis.parser import Parser

    from trio_ws.channels.redis.url import RedisURL

__all__ = [
    "UNFIT",
    "RedisConnection",
    "RefusedError",
    "command",
    "error_code",
    "error_text",
    "open_connection",
    "require_coredis",
]

# coredis takes the first word off, and makes an exception of it.
_CODES = {
    "AuthenticationFailureError": "WRONGPASS",
    "AuthenticationRequiredError": "NOAUTH",
    "AuthorizationError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MovedError": "MOVED",
    "ReadOnlyError": "READONLY",
}
#: Errors that say that this connection is of no use now, and another one may be.
UNFIT = frozenset({"WRONGPASS", "NOAUTH", "LOADING", "CLUSTERDOWN", "MOVED", "READONLY"})

_RECEIVE_SIZE = 65_536
#: What a server may say before it has greeted us; a greeting is a tenth of it.
_MAX_GREETING = 65_536
#: The parser gives the room of what it has read back only when it has read all. We help it from here on.
_MAX_READ_BYTES = 1_048_576
#: What one reply may be. Another program may publish half a GiB at once.
_MAX_REPLY_BYTES = 64 * 1_048_576


def require_coredis() -> None:
    """Import what is needed of coredis, or say how to get it.

    Raises:
        BrokerError: it is not there.
    """
    try:
        with warnings.catch_warnings():
            # Its byte code has constants that mix bytes and text, and cannot be loaded under python -bb.
            warnings.simplefilter("ignore", BytesWarning)
            importlib.import_module("coredis.parser")  # it is slow, so it is not done before
    except ImportError as exc:
        raise BrokerError("RedisBroker needs coredis; it comes with: pip install 'trio-ws[redis]'") from exc


class RefusedError(BrokerError):
    """Redis is there, and does not let us in."""


def error_code(error: Exception) -> str:
    """The first word of an error that Redis answered, as far as coredis keeps it apart."""
    return _CODES.get(type(error).__name__, "")


def error_text(error: object) -> str:
    """What Redis answered, with that word, fit to be logged."""
    code = error_code(error) if isinstance(error, Exception) else ""
    return f"{code} {shown(str(error), 200)}".strip()


def command(*words: bytes) -> bytes:
    """A command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def open_connection(
    url: RedisURL,
    ssl_context: ssl.SSLContext | None,
    timeout: float,  # noqa: ASYNC109
) -> RedisConnection:
    """Connect, and log in.

    Raises:
        BrokerError: that failed, or took longer than ``timeout`` seconds.
    """
    with trio.move_on_after(timeout):
        return await _open(url, ssl_context)
    raise BrokerError(f"{url.shown} did not answer within {timeout} seconds")


async def _open(url: RedisURL, ssl_context: ssl.SSLContext | None) -> RedisConnection:
    try:
        stream: trio.abc.Stream
        if url.path is not None:
            stream = await trio.open_unix_socket(url.path)
        else:
            stream = await trio.open_tcp_stream(url.host, url.port)
    except (OSError, ValueError) as exc:  # ValueError: a host, or a path, that cannot be one
        raise BrokerError(f"could not reach {url.shown}: {_why(exc)}") from exc
    try:
        if ssl_context is not None:
            stream = tls_client(stream, ssl_context, url.host.removesuffix("."))
            await stream.do_handshake()
        link = RedisConnection(stream, url.shown)
        await link.log_in(url.username, url.password)
    except BaseException as exc:
        await close_forcefully(stream)
        if isinstance(exc, trio.BrokenResourceError):
            raise BrokerError(f"no TLS with {url.shown}: {_why(exc)}") from exc
        raise
    return link


def _why(exc: BaseException) -> str:
    """The innermost reason, for people: trio says that a stream broke, and OpenSSL why."""
    cause = exc.__cause__
    return str(cause if isinstance(cause, OSError) else exc) or type(exc).__name__


class RedisConnection:
    """See the module's text. Made by `open_link`; one task receives, one sends.

    Attributes:
        awaited: what the replies still to come are to, oldest first. It is the owner's.
        told: what Redis was asked to send here. It is the owner's.
        pinged: whether a PING was asked for, and nothing was heard since. It is the owner's.
        ping_sent: whether that PING was sent. It is the owner's.
    """

    def __init__(self, stream: trio.abc.Stream, shown: str) -> None:
        from coredis.constants.resp import DataType  # noqa: PLC0415 - see require_coredis
        from coredis.parser import NotEnoughData, Parser  # noqa: PLC0415

        self.pending_replies: deque[tuple[bytes, list[bytes]]] = deque()
        self.subscribed: set[tuple[bool, bytes]] = set()
        self.pinged = False
        self.ping_sent = False
        self._stream = stream
        self._shown = shown
        self._parser: Parser = Parser()
        self._not_enough = NotEnoughData
        self._push = DataType.PUSH

    async def log_in(self, username: str | None, password: str | None) -> None:
        """Say HELLO, with the password if there is one."""
        words = [b"HELLO", b"3"]
        if username is not None or password is not None:
            words += [b"AUTH", (username or "default").encode(), (password or "").encode()]
        await self.send(command(*words, b"SETNAME", b"trio_ws"))
        replies: list[tuple[bool, Any]] = []
        while not replies:
            replies = await self.receive()
            if not replies and self._parser.bytes_written > _MAX_GREETING:
                raise BrokerError(f"what answers at {self._shown} is no Redis: it says too much")
        _, greeting = replies[0]
        if isinstance(greeting, Exception):
            raise RefusedError(f"{self._shown} refused us: {error_text(greeting)}")
        if not isinstance(greeting, dict) or len(replies) > 1:
            raise BrokerError(f"what answers at {self._shown} is no Redis of version 6 or later")

    async def send(self, data: bytes) -> None:
        """Send commands. A cancellation may leave half a command sent: then the link must be closed."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise BrokerError(f"the connection to {self._shown} broke: {_why(exc)}") from exc

    async def receive(self) -> list[tuple[bool, Any]]:
        """Wait for bytes, and give the replies that they complete, which may be none.

        Returns:
            For each whether it is a push, and what it says: bytes, int, list and dict; an exception stands
            for an error that Redis answered. A cancellation loses nothing.
        """
        try:
            data = await self._stream.receive_some(_RECEIVE_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise BrokerError(f"the connection to {self._shown} broke: {_why(exc)}") from exc
        if not data:
            raise BrokerError(f"{self._shown} closed the connection")
        try:
            return self._parse(bytes(data))
        except BrokerError:
            raise
        except Exception as exc:  # the parser stumbles over what is no RESP in many ways
            raise BrokerError(f"what answers at {self._shown} is no Redis: {shown(str(exc), 200)}") from exc

    def _parse(self, data: bytes) -> list[tuple[bool, Any]]:
        parser = self._parser
        parser.feed(data)
        replies: list[tuple[bool, Any]] = []
        while True:
            reply = parser.parse(decode=False)
            if isinstance(reply, self._not_enough):
                break
            replies.append((reply[0] == self._push, reply[1]))
        if parser.bytes_written - parser.bytes_read > _MAX_REPLY_BYTES:
            raise BrokerError(f"{self._shown} says more than {_MAX_REPLY_BYTES} bytes at once")
        if parser.bytes_read > _MAX_READ_BYTES:
            rest = parser.localbuffer.getvalue()[parser.bytes_read : parser.bytes_written]
            parser.localbuffer.seek(0)
            parser.localbuffer.truncate()
            parser.bytes_read = parser.bytes_written = 0
            parser.feed(rest)
        return replies

    async def aclose(self) -> None:
        """Close at once, also when cancelled."""
        await close_forcefully(self._stream)
