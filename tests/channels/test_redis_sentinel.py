"""A primary that is killed, and a replica that Sentinel promotes: subscribers go on where they were."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.channels.test_redis_histories import Rooms, process, take
from tests.support.redis import QUICK, RedisServer, redis_server, settled, talk
from tests.support.serving import guard, serving_in_memory
from trio_ws import BrokerError, Publisher, RedisBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor primary 127.0.0.1 {primary} 1
sentinel down-after-milliseconds primary 300
sentinel failover-timeout primary 500
"""


class Sentinel:
    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, *words: str) -> Any:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            return await talk(stream, "SENTINEL", *words)

    async def is_tilted(self) -> bool:
        """Whether it is in TILT mode, because it did not run for two seconds."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            return b"sentinel_tilt:0" not in await talk(stream, "INFO", "sentinel")

    @property
    def url(self) -> str:
        """The URL with a Sentinel that does not exist, followed by this one."""
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.port}/primary"


@asynccontextmanager
async def sentinel(primary: int) -> AsyncIterator[Sentinel]:
    with tempfile.TemporaryDirectory(prefix="sentinel") as folder, trio.fail_after(guard()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = Path(folder) / "sentinel.conf"
        path.write_text(CONFIGURATION.format(port=port, folder=folder, primary=primary))
        running = await trio.lowlevel.open_process(
            ["redis-server", str(path), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            made = Sentinel(port)
            while True:
                try:
                    await made.ask("GET-MASTER-ADDR-BY-NAME", "primary")
                    break
                except OSError:
                    assert running.poll() is None
                    await trio.sleep(0.01)
            yield made
        finally:
            running.kill()
            with trio.CancelScope(shield=True):
                await running.wait()


@asynccontextmanager
async def replicated() -> AsyncIterator[tuple[RedisServer, RedisServer, Sentinel]]:
    """Run a primary, its replica, and a Sentinel that knows both."""
    at_once = "--repl-diskless-sync-delay 0"
    async with (
        redis_server(at_once) as primary,
        redis_server(f"--replicaof 127.0.0.1 {primary.port}", at_once) as replica,
    ):
        while b"master_link_status:up" not in await replica.do("INFO", "replication"):
            await trio.sleep(0.01)
        async with sentinel(primary.port) as watcher:
            # Its description of a replica: name, value, name, value, and so on. One that it has reached has
            # no other flag.
            while b"slave" not in [one[9] for one in await watcher.ask("REPLICAS", "primary")]:
                await trio.sleep(0.01)
            yield primary, replica, watcher


async def test_a_failover_causes_no_gap() -> None:
    async with replicated() as (primary, replica, watcher):
        one = RedisBroker(watcher.url, **QUICK)
        handler = Rooms()
        async with (
            serving_in_memory(handler, broker=one),
            process(watcher) as two,
            two.handler.channels.subscribe("room.1", recover=True) as subscription,
            Publisher(watcher.url) as publisher,
        ):
            await publisher.publish("room.1", 0)
            handler.publish("room.1", 1)
            assert await take(subscription, 1) == [0, 1]
            await settled(one)
            while await replica.do("XLEN", "trio_ws:h{:room.1}s") != 2:
                await trio.sleep(0.01)
            await primary.kill()
            handler.publish("room.1", 2)
            with trio.move_on_after(45) as waited:
                assert await take(subscription, 2) == [2]
            if waited.cancelled_caught and await watcher.is_tilted():
                pytest.skip("the machine is so busy that Sentinel does nothing for half a minute")
            assert b"role:master" in await replica.do("INFO", "replication")
            with pytest.raises(BrokerError):
                await publisher.publish("room.1", "it has yet to notice")
            await publisher.publish("room.1", 3)
            assert await take(subscription, 3) == [3]


async def test_sentinels_that_do_not_know() -> None:
    async with redis_server() as primary, sentinel(primary.port) as watcher:
        unknown = watcher.url.replace("/primary", "/other")
        with pytest.raises(BrokerError, match=r"no Sentinel of .*/other knows the primary: .*does not know"):
            async with serving_in_memory(Rooms(), broker=RedisBroker(unknown)):
                raise AssertionError("it serves without its broker")
        await primary.do("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BrokerError, match="not the primary"):
            async with serving_in_memory(Rooms(), broker=RedisBroker(watcher.url)):
                raise AssertionError("it serves with a replica")
