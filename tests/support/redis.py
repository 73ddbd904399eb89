"""A real redis-server on a free port, which a test may kill, restart and stop.

Invariants: the server has no files outside of its own folder, listens on the loopback address only, and ends
with the block. It is "ready" when its log says so; other states are polled until they are reached.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.serving import all_tasks, guard
from tests.support.watching import until
from trio_ws import RedisBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "QUICK",
    "Heard",
    "RedisServer",
    "logged",
    "our_tasks",
    "redis_server",
    "running",
    "settled",
    "talk",
]

#: Seconds before a server that is asked how far it is is asked again: it needs the processor more than we do.
_PAUSE = 0.01
#: What a broker heard: names and payloads.
Heard = list[tuple[str, bytes]]


class RedisServer:
    """See the module docstring. Made by `redis_server`."""

    def __init__(self, folder: str, options: tuple[str, ...]) -> None:
        self.port = 0
        self.socket_path = f"{folder}/redis.sock"
        self._folder = folder
        self._options = options
        self._process: trio.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, again on the port that it had, and wait until it answers."""
        if self.port:
            assert await self._try_port(), "another process has taken the port"
            return
        for _ in range(20):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            if await self._try_port():
                return
        raise AssertionError("redis-server found no free port")

    async def _try_port(self) -> bool:
        options = " ".join(self._options).replace("{port}", str(self.port)).split()
        self._process = process = await trio.lowlevel.open_process(
            [
                *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--unixsocket", self.socket_path, "--dir", self._folder),
                *("--save", "", "--appendonly", "no", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = b""
        # Cancelled here, the block that runs the server kills it.
        while b"Ready to accept connections" not in said:
            more = await process.stdout.receive_some()
            said += more
            if not more:
                await process.wait()
                assert b"in use" in said, said.decode()
                return False
        # It ignores SIGPIPE, and goes on when nobody reads its log.
        await process.stdout.aclose()
        return True

    async def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):  # nothing survives SIGKILL
                await process.wait()

    def pause(self) -> None:
        """It is there, its connections are open, and it does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def do(self, *words: str | bytes) -> Any:
        """One command on a connection of its own: bytes, int, list, or an AssertionError."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            return await talk(stream, *words)

    async def clients(self) -> list[str]:
        """The lines of CLIENT LIST about brokers."""
        listed: bytes = await self.do("CLIENT", "LIST")
        return [line for line in listed.decode().splitlines() if " name=trio_ws " in line]

    async def until_clients(self, count: int) -> None:
        """Wait until so many brokers are connected: Redis sees the end of a connection a moment later."""
        while len(await self.clients()) != count:
            await trio.sleep(_PAUSE)

    async def subscriptions(self) -> set[str]:
        """The channels that anyone is subscribed to, without those of patterns."""
        return {name.decode() for name in await self.do("PUBSUB", "CHANNELS")}

    async def until_subscribed(self, count: int) -> None:
        """Wait until the brokers are subscribed to so many names and patterns, all together."""
        while True:
            lines = await self.clients()
            found = (re.search(r" sub=(\d+) psub=(\d+) ", line) for line in lines)
            if sum(int(match[1]) + int(match[2]) for match in found if match) == count:
                return
            await trio.sleep(_PAUSE)


async def talk(stream: trio.abc.Stream, *words: str | bytes) -> Any:
    """Say one command and read its reply, in RESP2."""
    encoded = [word.encode("utf-8", "surrogatepass") if isinstance(word, str) else word for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    await stream.send_all(b"*%d\r\n" % len(parts) + b"".join(parts))
    said = b""
    while True:
        said += await stream.receive_some()
        try:
            reply, rest = _read(said)
        except (IndexError, ValueError):
            continue
        assert rest == b""
        return reply


def _read(said: bytes) -> tuple[Any, bytes]:
    """One reply and what is behind it; IndexError or ValueError if it is not all there."""
    line, rest = said[: said.index(b"\r\n")], said[said.index(b"\r\n") + 2 :]
    kind, text = line[:1], line[1:]
    if kind == b"-":
        raise AssertionError(text.decode())
    if kind == b"+":
        return text, rest
    if kind == b":":
        return int(text), rest
    if kind == b"$":
        size = int(text)
        if size < 0:
            return None, rest
        rest[size + 1]  # is it all there?
        return rest[:size], rest[size + 2 :]
    assert kind == b"*", line
    items = []
    for _ in range(int(text)):
        item, rest = _read(rest)
        items.append(item)
    return items, rest


@asynccontextmanager
async def redis_server(*options: str, patience: float | None = None) -> AsyncIterator[RedisServer]:
    """Run one for the length of a block; the test is skipped where there is no redis-server.

    Args:
        options: more of its command line; ``{port}`` in them is the port.
        patience: seconds after which the test counts as hung, if it needs more than others.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; on Debian: apt-get install redis-server")
    with trio.fail_after(patience or guard()), tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = RedisServer(folder, options)
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


#: A broker that comes back soon.
QUICK: dict[str, Any] = {"backoff_initial": 0.02, "backoff_max": 0.1}


@asynccontextmanager
async def running(
    server: RedisServer, *names: str, **options: Any
) -> AsyncIterator[tuple[RedisBroker, Heard]]:
    """A broker that runs and writes down what it hears; Redis knows of its subscriptions."""
    broker = RedisBroker(server.url, **{**QUICK, **options})
    heard: Heard = []
    async with broker.run(lambda name, payload: heard.append((name, payload)), 5):
        for name in names:
            broker.subscribe(name)
        await settled(broker)
        yield broker, heard


async def settled(broker: RedisBroker) -> None:
    """Until it is connected, and Redis has answered all that it was told and given."""
    await until(
        lambda: (
            broker._connection is not None
            and not broker._wanted.changed
            and not broker._connection.pending_replies
            and not len(broker._queue)
        )
    )


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """What channels logged at this level."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "trio_ws.channels" and record.levelno == level
    ]


def our_tasks() -> list[str]:
    """The names of all tasks of trio_ws."""
    return [name for name in (task.name for task in all_tasks()) if name.startswith("trio_ws")]
