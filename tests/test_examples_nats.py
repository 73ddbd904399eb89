"""examples/nats_broker.py, a broker that a user could write, with a real NATS that is killed and emptied."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio

from examples.nats_broker import NatsBroker
from tests.support.serving import guard, serving_in_memory
from tests.support.watching import until
from trio_ws import BrokerError, Gap, History, Subscription, WebSocketHandler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ITEMS = 50


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {"room.*": History(items=ITEMS), "price": History(latest=True)}


class NatsServer:
    """Run a nats-server with JetStream in a temporary folder."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = 0
        self._program = program
        self._folder = folder
        self._process: trio.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, again on the port that it had."""
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        self._process = await trio.lowlevel.open_process(
            [
                *(self._program, "-a", "127.0.0.1", "-p", str(self.port or -1)),
                *("-js", "-sd", str(self._folder / "data"), "--ports_file_dir", str(ports)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self.port or not await self._answers():
            assert self._process.poll() is None
            for path in ports.glob("*.ports"):
                text = path.read_text()
                if text.endswith("}"):
                    self.port = int(json.loads(text)["nats"][0].rpartition(":")[2])
            await trio.sleep(0.01)

    async def _answers(self) -> bool:
        """Return whether it accepts connections, and JetStream has restored its streams."""
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            return False
        async with stream:
            await stream.send_all(b"CONNECT {}\r\nSUB in 1\r\nPUB $JS.API.INFO in 0\r\n\r\nPING\r\n")
            said = b""
            while b'"type"' not in said:
                more = await stream.receive_some()
                if not more:
                    return False
                said += more
                if b"PONG" in said and b"MSG" not in said:
                    await stream.send_all(b"PUB $JS.API.INFO in 0\r\n\r\n")
                    await trio.sleep(0.01)
        return True

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    def empty(self) -> None:
        """Remove all streams, while it does not run."""
        shutil.rmtree(self._folder / "data")


@asynccontextmanager
async def nats_server() -> AsyncIterator[NatsServer]:
    program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nats-server on this machine")
    with trio.fail_after(guard()), tempfile.TemporaryDirectory(prefix="nats") as folder:
        server = NatsServer(program, Path(folder))
        try:
            await server.start()
            yield server
        finally:
            await server.kill()


@asynccontextmanager
async def two_processes(**options: Any) -> AsyncIterator[tuple[NatsServer, list[Rooms], list[NatsBroker]]]:
    async with nats_server() as nats:
        handlers = [Rooms(), Rooms()]
        brokers = [NatsBroker(nats.url, **options) for _ in handlers]
        async with (
            serving_in_memory(handlers[0], broker=brokers[0]),
            serving_in_memory(handlers[1], broker=brokers[1]),
        ):
            yield nats, handlers, brokers


async def lost_and_back(nats: NatsServer, brokers: list[NatsBroker], meanwhile: Any = lambda: None) -> None:
    losses = [broker.statistics().losses for broker in brokers]
    await nats.kill()
    await until(
        lambda: all(
            broker.statistics().losses > before for broker, before in zip(brokers, losses, strict=True)
        )
    )
    meanwhile()
    await nats.start()
    await until(lambda: all(broker.state == "connected" for broker in brokers))


async def take(subscription: Subscription, last: Any) -> list[Any]:
    """Data, or a gap and how many are missing, up to the data ``last``."""
    got: list[Any] = []
    while not got or got[-1] != last:
        packet = await subscription.receive()
        got.append(("gap", packet.missing) if isinstance(packet, Gap) else packet.data)
    return got


async def test_channels_with_and_without_a_history() -> None:
    async with (
        two_processes() as (_, (here, there), _brokers),
        here.channels.subscribe(["room.1", "plain"], recover=True) as one,
        there.channels.subscribe(["room.*", "plain", "*"], recover=True) as two,
    ):
        here.publish("room.1", "before")
        assert await take(one, "before") == ["before"]
        async with there.channels.subscribe("room.1", last=5) as late:
            assert await take(late, "before") == ["before"]
        there.publish("room.1", 1)
        here.publish("room.1", 2)
        there.publish("plain", "plain")
        got = [await one.receive() for _ in range(3)]
        assert sorted(str(packet.data) for packet in got) == ["1", "2", "plain"]
        offsets = [packet.offset for packet in got if packet.offset]
        assert offsets == [2, 3]
        elsewhere = [await two.receive() for _ in range(4)]
        assert [packet.data for packet in elsewhere if packet.offset is None] == ["plain"]
        here.publish("price", 1)
        here.publish("price", 2)
        await until(lambda: not here.channels._broker.statistics().waiting)  # type: ignore[union-attr]
        async with there.channels.subscribe("price") as price:
            assert (await price.receive()).data == 2


async def test_messages_that_were_published_without_subscribers() -> None:
    async with two_processes() as (_, (here, there), brokers):
        for number in range(ITEMS + 150):
            here.publish("room.1", number)
        await until(lambda: not brokers[0].statistics().waiting)
        async with there.channels.subscribe("room.1", last=1000, max_items=1000) as subscription:
            assert await take(subscription, ITEMS + 149) == list(range(150, ITEMS + 150))


async def test_a_killed_nats_that_keeps_its_streams_causes_no_gap() -> None:
    async with (
        two_processes() as (nats, (here, there), brokers),
        here.channels.subscribe("room.1", recover=True) as one,
        there.channels.subscribe("room.1", recover=True) as two,
    ):
        for round_ in range(2):
            for number in range(5):
                here.publish("room.1", [round_, number])
            await until(lambda: not brokers[0].statistics().waiting)

            def meanwhile(round_: int = round_) -> None:
                for number in range(5, 10):
                    here.publish("room.1", [round_, number])

            await lost_and_back(nats, brokers, meanwhile)
        everything = [[round_, number] for round_ in range(2) for number in range(10)]
        assert await take(one, [1, 9]) == await take(two, [1, 9]) == everything


async def test_an_emptied_nats_causes_a_gap() -> None:
    async with (
        two_processes() as (nats, (here, there), brokers),
        there.channels.subscribe("room.1", recover=True) as subscription,
    ):
        here.publish("room.1", 1)
        assert await take(subscription, 1) == [1]
        await lost_and_back(nats, brokers, nats.empty)
        here.publish("room.1", 2)
        assert await take(subscription, 2) == [("gap", None), 2]


async def test_messages_that_have_no_room_are_a_gap() -> None:
    async with (
        two_processes(max_queue=5) as (nats, (here, there), brokers),
        there.channels.subscribe("room.1", recover=True) as subscription,
    ):
        here.publish("room.1", "first")
        assert await take(subscription, "first") == ["first"]

        def meanwhile() -> None:
            for number in range(12):
                here.publish("room.1", number)

        await lost_and_back(nats, brokers, meanwhile)
        assert await take(subscription, 11) == [("gap", 7), 7, 8, 9, 10, 11]


async def test_a_nats_that_is_not_there() -> None:
    with trio.fail_after(guard()), pytest.raises(BrokerError, match="could not reach NATS"):
        async with serving_in_memory(Rooms(), broker=NatsBroker("nats://127.0.0.1:1")):
            raise AssertionError("it serves without its broker")
