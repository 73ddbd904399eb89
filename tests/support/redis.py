"""A real redis-server on a free port, which a test can kill, restart and pause.

Invariants: the server has no files outside of its own folder, listens only on the loopback address, and ends
with the block. It is ready when its log says so. Other states are polled.
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
    "Received",
    "RedisServer",
    "logged",
    "our_tasks",
    "redis_server",
    "running",
    "settled",
    "talk",
]

#: Seconds between two polls of a server's state, so that the server gets the processor.
_PAUSE = 0.01
#: The messages that a broker received: names and payloads.
Received = list[tuple[str, bytes]]


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
        """Start the server, on its previous port if it has one, and wait until it answers."""
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
        # If this is cancelled, the block that runs the server kills it.
        while b"Ready to accept connections" not in said:
            more = await process.stdout.receive_some()
            said += more
            if not more:
                await process.wait()
                assert b"in use" in said, said.decode()
                return False
        # It ignores SIGPIPE, and continues although its log is not read any more.
        await process.stdout.aclose()
        return True

    async def kill(self) -> None:
        """Kill the server with SIGKILL, and wait until it has exited."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):  # SIGKILL ends it, so this wait is short
                await process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the server was started, and not killed since then."""
        return self._process is not None

    def pause(self) -> None:
        """Stop the process with SIGSTOP; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def do(self, *words: str | bytes) -> Any:
        """Run one command on a new connection. Returns bytes, int or a list; raises AssertionError."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            return await talk(stream, *words)

    async def clients(self) -> list[str]:
        """Return the lines of CLIENT LIST about brokers."""
        listed: bytes = await self.do("CLIENT", "LIST")
        return [line for line in listed.decode().splitlines() if " name=trio_ws " in line]

    async def until_clients(self, count: int) -> None:
        """Wait until ``count`` brokers are connected. Redis notices the end of a connection with a delay."""
        while len(await self.clients()) != count:
            await trio.sleep(_PAUSE)

    async def subscriptions(self) -> set[str]:
        """Return the channels that have subscribers, not counting patterns."""
        return {name.decode() for name in await self.do("PUBSUB", "CHANNELS")}

    async def until_subscribed(self, count: int) -> None:
        """Wait until all brokers together have ``count`` subscriptions to names and patterns."""
        while True:
            lines = await self.clients()
            found = (re.search(r" sub=(\d+) psub=(\d+) ", line) for line in lines)
            if sum(int(match[1]) + int(match[2]) for match in found if match) == count:
                return
            await trio.sleep(_PAUSE)


async def talk(stream: trio.abc.Stream, *words: str | bytes) -> Any:
    """Send one command in RESP2, and return its reply."""
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
    """Return one reply and the data after it. IndexError or ValueError if it is incomplete."""
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
        rest[size + 1]  # raises IndexError if it is incomplete
        return rest[:size], rest[size + 2 :]
    assert kind == b"*", line
    items = []
    for _ in range(int(text)):
        item, rest = _read(rest)
        items.append(item)
    return items, rest


@asynccontextmanager
async def redis_server(*options: str) -> AsyncIterator[RedisServer]:
    """Run a redis-server for the duration of a block. Skips the test if it is not installed.

    Args:
        options: additional command-line arguments; ``{port}`` in them is replaced by the port.
    """
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed; on Debian: apt-get install redis-server")
    with trio.fail_after(guard()), tempfile.TemporaryDirectory(prefix="redis") as folder:
        server = RedisServer(folder, options)
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


#: Settings of a broker that reconnects quickly.
QUICK: dict[str, Any] = {"backoff_initial": 0.02, "backoff_max": 0.1}


@asynccontextmanager
async def running(
    server: RedisServer, *names: str, **options: Any
) -> AsyncIterator[tuple[RedisBroker, Received]]:
    """Run a broker that records the messages that it receives, and wait until it is subscribed."""
    broker = RedisBroker(server.url, **{**QUICK, **options})
    heard: Received = []
    async with broker.run(lambda name, payload: heard.append((name, payload)), 5):
        for name in names:
            broker.subscribe(name)
        await settled(broker)
        yield broker, heard


async def settled(broker: RedisBroker) -> None:
    """Wait until a broker is connected, and Redis has answered all commands."""
    await until(
        lambda: (
            all(
                link.exchange is not None
                and not link.changed
                and not link.exchange.pending_replies
                and not len(link.queue)
                for link in broker._routing.links
            )
            and not broker._routing.unlisted
        )
    )


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages that ``trio_ws.channels`` logged at this level."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "trio_ws.channels" and record.levelno == level
    ]


def our_tasks() -> list[str]:
    """Return the names of all tasks of trio_ws."""
    return [name for name in (task.name for task in all_tasks()) if name.startswith("trio_ws")]
