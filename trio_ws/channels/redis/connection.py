"""One connection to Redis: open it, send commands, receive replies.

Replies are parsed by hiredis. coredis 6.9, whose clients also run on trio, does not offer the guarantees that
a broker needs. Messages for a slow subscriber wait in an unbounded buffer (199,689 messages of a burst of
200,000), and so do commands. An unanswered PING is awaited forever, delays do not follow trio's clock, and
failed attempts are logged with tracebacks.

With RESP3 one connection can both publish and subscribe. There is therefore one connection, and Redis
executes everything in the order in which it was sent.

Invariant: every failure here is a `BrokerError`, whose text contains the URL without the password. The caller
then closes the connection.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import trio

from trio_ws.errors import BrokerError
from trio_ws.logs import shown
from trio_ws.websocket.sockets import close_forcefully, open_tcp, text_of_cause
from trio_ws.websocket.tls import tls_client

if TYPE_CHECKING:
    import ssl
    from types import ModuleType

    from trio_ws._types import Reply
    from trio_ws.channels.redis.url import RedisURL

__all__ = [
    "CLOSING_ERRORS",
    "RedisConnection",
    "RefusedError",
    "command",
    "error_code",
    "error_text",
    "open_connection",
    "require_hiredis",
]

#: Errors that a new connection may avoid, so the current one is closed.
CLOSING_ERRORS = frozenset({"WRONGPASS", "NOAUTH", "LOADING", "CLUSTERDOWN", "MOVED", "NOSCRIPT", "READONLY"})

_RECEIVE_SIZE = 65_536
#: Seconds in which a Sentinel must answer before the next one is asked.
_SENTINEL_TIMEOUT = 1.0
#: Maximum number of bytes up to the end of the greeting, which takes about a tenth of this.
_MAX_GREETING = 65_536
#: Limit on one reply. Another program may publish half a GiB at once.
_MAX_REPLY_BYTES = 64 * 1_048_576

# The parser returns this if it needs more data. Its default, False, may also be a reply.
_NOT_ENOUGH = object()


def require_hiredis() -> ModuleType:
    """Import hiredis, an optional dependency that only this module uses.

    Raises:
        BrokerError: it is not installed.
    """
    try:
        return importlib.import_module("hiredis")
    except ImportError as exc:
        raise BrokerError("RedisBroker requires hiredis: pip install 'trio-ws[redis]'") from exc


class RefusedError(BrokerError):
    """Redis was reached, but refused the login."""


def error_code(error: Exception) -> str:
    """The first word of an error from Redis, such as NOAUTH."""
    return str(error).partition(" ")[0]


def error_text(error: object) -> str:
    """An error from Redis, safe to log."""
    return shown(str(error), 200)


def command(*words: bytes) -> bytes:
    """Encode a command in RESP."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


async def open_connection(
    url: RedisURL,
    ssl_context: ssl.SSLContext | None,
    timeout: float,  # noqa: ASYNC109
) -> RedisConnection:
    """Connect and log in.

    Raises:
        BrokerError: it failed, or took longer than ``timeout`` seconds.
    """
    with trio.move_on_after(timeout):
        return await _open(url, ssl_context)
    raise BrokerError(f"{url.shown} did not answer within {timeout} seconds")


async def _open(url: RedisURL, ssl_context: ssl.SSLContext | None) -> RedisConnection:
    try:
        stream: trio.abc.Stream
        if url.path is not None:
            stream = await trio.open_unix_socket(url.path)
        elif url.sentinels:
            stream = await open_tcp(*await _primary(url))
        else:
            stream = await open_tcp(url.host, url.port)
    except (OSError, ValueError) as exc:  # ValueError: an impossible host or path
        raise BrokerError(f"could not reach {url.shown}: {text_of_cause(exc)}") from exc
    try:
        if ssl_context is not None:
            stream = tls_client(stream, ssl_context, url.host.removesuffix("."))
            await stream.do_handshake()
        link = RedisConnection(stream, url.shown)
        await link.log_in(url.username, url.password)
        if url.sentinels and link.role != b"master":
            raise RefusedError(f"{url.shown} named a server that is not the primary")
    except BaseException as exc:
        await close_forcefully(stream)
        if isinstance(exc, trio.BrokenResourceError):
            raise BrokerError(f"TLS with {url.shown} failed: {text_of_cause(exc)}") from exc
        raise
    return link


async def _primary(url: RedisURL) -> tuple[str, int]:
    """Ask the Sentinels, one after the other, where the primary is.

    Raises:
        BrokerError: none of them knows.
    """
    problems = []
    for host, port in url.sentinels:
        problems.append(f"{host}:{port} did not answer within {_SENTINEL_TIMEOUT} seconds")
        with trio.move_on_after(_SENTINEL_TIMEOUT):
            try:
                return await _ask_sentinel(host, port, url.service)
            except (OSError, ValueError, BrokerError) as exc:
                problems[-1] = str(exc)
    raise BrokerError(f"no Sentinel of {url.shown} knows the primary: {'; '.join(problems)}")


async def _ask_sentinel(host: str, port: int, service: str) -> tuple[str, int]:
    stream = await open_tcp(host, port)
    try:
        link = RedisConnection(stream, f"{host}:{port}")
        await link.send(command(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service.encode()))
        replies: list[tuple[bool, Reply]] = []
        while not replies:
            replies = await link.receive()
        answer = replies[0][1]
        if not isinstance(answer, list) or len(answer) != 2:
            said = error_text(answer) if isinstance(answer, Exception) else "it does not know that name"
            raise BrokerError(f"{host}:{port}: {said}")
        return answer[0].decode(), int(answer[1])
    finally:
        await close_forcefully(stream)


class RedisConnection:
    """A connection that is logged in. Made by `open_connection`; one task receives and one sends.

    Attributes:
        role: ``b"master"`` or ``b"replica"``, as Redis said after logging in.
    """

    def __init__(self, stream: trio.abc.Stream, shown: str) -> None:
        self.role = b""
        self._stream = stream
        self._shown = shown
        self._received = 0  # bytes so far
        hiredis = require_hiredis()
        self._parser = hiredis.Reader(notEnoughData=_NOT_ENOUGH)
        self._parser_error: type[Exception] = hiredis.HiredisError
        self._push: type = hiredis.PushNotification

    async def log_in(self, username: str | None, password: str | None) -> None:
        """Send HELLO, with the password if there is one."""
        words = [b"HELLO", b"3"]
        if username is not None or password is not None:
            words += [b"AUTH", (username or "default").encode(), (password or "").encode()]
        await self.send(command(*words, b"SETNAME", b"trio_ws"))
        replies: list[tuple[bool, Reply]] = []
        while not replies:
            replies = await self.receive()
            if not replies and self._received > _MAX_GREETING:
                raise BrokerError(f"{self._shown} does not look like Redis: its greeting exceeds 64 KiB")
        _, greeting = replies[0]
        if isinstance(greeting, Exception):
            raise RefusedError(f"{self._shown} refused the login: {error_text(greeting)}")
        if not isinstance(greeting, dict) or len(replies) > 1:
            raise BrokerError(f"{self._shown} does not look like Redis 6 or later")
        self.role = greeting.get(b"role", b"")

    async def send(self, data: bytes) -> None:
        """Send commands. A cancellation may leave a command half sent; the connection must then be closed."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise BrokerError(f"the connection to {self._shown} broke: {text_of_cause(exc)}") from exc

    async def receive(self) -> list[tuple[bool, Reply]]:
        """Wait for data, and return the replies that it completes, if any. A cancellation loses nothing.

        Returns:
            For each reply, whether it is a push, and its value: bytes, int, list or dict, or an exception for
            an error that Redis reported.
        """
        try:
            data = await self._stream.receive_some(_RECEIVE_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise BrokerError(f"the connection to {self._shown} broke: {text_of_cause(exc)}") from exc
        if not data:
            raise BrokerError(f"{self._shown} closed the connection")
        self._received += len(data)
        try:
            return self._parse(bytes(data))
        except self._parser_error as exc:
            raise BrokerError(f"{self._shown} does not look like Redis: {shown(str(exc), 200)}") from exc

    def _parse(self, data: bytes) -> list[tuple[bool, Reply]]:
        parser = self._parser
        parser.feed(data)
        replies: list[tuple[bool, Reply]] = []
        while True:
            reply = parser.gets()
            if reply is _NOT_ENOUGH:
                break
            replies.append((isinstance(reply, self._push), reply))
        if parser.len() > _MAX_REPLY_BYTES:
            raise BrokerError(f"{self._shown} sent a reply of more than {_MAX_REPLY_BYTES} bytes")
        return replies

    async def request(self, data: bytes, count: int) -> list[Reply]:
        """Send commands, and return their ``count`` replies. For a connection without subscriptions."""
        await self.send(data)
        replies: list[Reply] = []
        while len(replies) < count:
            replies += [reply for is_push, reply in await self.receive() if not is_push]
        return replies

    async def aclose(self) -> None:
        """Close at once, even if cancelled."""
        await close_forcefully(self._stream)
