"""Two processes and a broker that is lost, drops messages or is emptied: all messages once, or a gap.

Subscribers are clients that reconnect to either process, and tasks of both. Connections are cut at any byte,
readers are slow, and histories are trimmed. A gap is exactly where messages are missing, and has their number
if it can be known. There is no gap where nothing was lost.
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.support.channels import PausableReader
from tests.support.examples import examples
from tests.support.network import Network
from tests.support.serving import MemoryServer, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    Gap,
    History,
    KeptMessage,
    Options,
    Packet,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from trio_ws import Subscription

ITEMS = 12
CHANNELS = ["room", "price"]
PROCESSES = 2
CLIENTS = 2
READERS = CLIENTS + PROCESSES  # the last ones are tasks of the servers
OPTIONS = Options(send_high_water=400, channel_max_items=6, channel_max_bytes=2000)
#: Maximum number of seconds without a broker; reading a history is not retried for longer.
LONGEST = 15.0

processes = st.integers(0, PROCESSES - 1)
clients = st.integers(0, CLIENTS - 1)
readers = st.integers(0, READERS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), processes, st.integers(0, 300)),
        st.tuples(st.just("burst"), processes, st.integers(2, 30)),
        st.tuples(st.just("lose"), processes),
        st.tuples(st.just("recover"), processes),
        st.tuples(st.just("deaf"), processes),
        st.tuples(st.just("hear"), processes),
        st.tuples(st.just("forget")),
        st.tuples(st.just("cut"), clients, processes),
        st.tuples(st.just("cut after"), clients, processes, st.integers(0, 900)),
        st.tuples(st.just("stall"), readers),
        st.tuples(st.just("resume"), readers),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 10.0])),
        st.tuples(st.just("yield")),
    ),
    min_size=4,
    max_size=60,
)


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {
        "room": History(items=ITEMS, seconds=40, bytes=6000),
        "price": History(latest=True),
    }
    channel_policy: ClassVar = "drop_oldest"

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True


class Bus(InMemoryBus):
    """Records the events of the channel: a published number, lost messages, or the loss of its history."""

    def __init__(self) -> None:
        super().__init__(keeps_histories=True)
        self.truth: list[tuple[str, int]] = []
        self.price = 0  # the newest

    def forget(self) -> None:
        super().forget()
        self.truth.append(("emptied", 0))


class Lossy(InMemoryBroker):
    """Silently drops the messages that are delivered while ``deaf`` is true."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.bus = bus
        self.deaf = False
        self.dropped = False  # whether a message was dropped since the history was lost
        self.lost_at = 0.0

    def _append(self, name: str, payload: bytes, missing: int, history: History) -> None:
        if history.latest:
            self.bus.price = msgspec.msgpack.decode(payload)[0]
        else:
            entry = ("lost", missing) if missing else ("number", msgspec.msgpack.decode(payload)[0][0])
            self.bus.truth.append(entry)
        super()._append(name, payload, missing, history)

    def _deliver(self, name: str, epoch: str, message: KeptMessage) -> None:
        if self.deaf:
            self.dropped = True
        else:
            super()._deliver(name, epoch, message)


class Reader(PausableReader):
    """Stores the messages that it receives, in order."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self.got: list[Packet] = []

    def keep(self, packet: Packet) -> None:
        self.got.append(packet)

    def check(self, bus: Bus) -> None:
        """Compare the received messages with the events."""
        prices = [packet.data for packet in self.got if packet.channel == "price"]
        assert prices == sorted(set(prices)), "an older price came after a newer one, or a gap"
        assert prices[-1] == bus.price
        truth = bus.truth
        index = 0
        gaps: list[Gap] = []
        for packet in self.got:
            if packet.channel == "price":
                continue
            if isinstance(packet, Gap):
                gaps.append(packet)
                continue
            entry = ("number", packet.data[0])
            assert entry in truth[index:], f"{entry} came twice, or too late: {self.got}"
            found = truth.index(entry, index)
            skipped = truth[index:found]
            check_gaps(gaps, skipped)
            index, gaps = found + 1, []
        assert not gaps
        assert not [one for one in truth[index:] if one[0] == "number"]


def check_gaps(gaps: list[Gap], skipped: list[tuple[str, int]]) -> None:
    """Compare the gaps between two messages with the events between them."""
    missing = [one for one in skipped if one[0] != "emptied"]
    emptied = len(missing) < len(skipped)
    if not gaps:
        assert not missing, f"{missing} are missing, and nobody was told"
        return
    assert missing or emptied, f"nothing was lost, but there is {gaps}"
    numbers = [gap.missing for gap in gaps]
    if None in numbers:
        assert emptied, f"{gaps}, though it can be known that these are missing: {missing}"
        return
    # If the message that marks lost ones was dropped itself, it counts as one message.
    most = sum(count if kind == "lost" else 1 for kind, count in missing)
    assert len(missing) <= sum(number or 0 for number in numbers) <= most, (gaps, missing)


class Model:
    def __init__(self, bus: Bus, brokers: list[Lossy], handlers: list[Rooms]) -> None:
        self.bus = bus
        self.brokers = brokers
        self.handlers = handlers
        self.number = 0
        self.networks: list[list[Network]] = []  # by client and process
        self.at = [0] * CLIENTS
        self.readers: list[Reader] = []

    async def dial(self, client: int) -> trio.abc.Stream:
        return await self.networks[client][self.at[client]]()

    def publish(self, process: int, size: int) -> None:
        self.number += 1
        self.handlers[process].publish("room", [self.number, "x" * size])
        self.handlers[process].publish("price", self.number)

    def recover(self, process: int) -> None:
        self.brokers[process].recover()

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("publish", process, size):
                self.publish(process, size)
            case ("burst", process, count):
                for _ in range(count):
                    self.publish(process, 40)
            case ("lose", process) if self.brokers[process].state == "connected":
                self.brokers[process].lose()
                self.brokers[process].lost_at = trio.current_time()
            case ("recover", process):
                self.recover(process)
            case ("deaf", process):
                self.brokers[process].deaf = True
            case ("hear", process):
                self.brokers[process].deaf = False
            case ("forget",):
                for process, broker in enumerate(self.brokers):
                    if broker.dropped:  # subscribers that may have missed a message get a gap
                        broker.deaf = broker.dropped = False
                        broker.lose()
                        self.recover(process)
                self.bus.forget()
            case ("cut", client, process):
                self.cut(client, process, 0)
            case ("cut after", client, process, count):
                self.cut(client, process, count)
            case ("stall", reader):
                self.readers[reader].read(False)
            case ("resume", reader):
                self.readers[reader].read(True)
            case ("wait", seconds):
                for process, broker in enumerate(self.brokers):
                    if broker.state == "lost" and trio.current_time() + seconds - broker.lost_at > LONGEST:
                        self.recover(process)
                await trio.sleep(seconds)
            case ("yield",):
                await trio.lowlevel.checkpoint()
            case _:
                pass

    def cut(self, client: int, process: int, count: int) -> None:
        """Cut a client's connection after ``count`` bytes; the next one is to this process."""
        links = self.networks[client][self.at[client]].links
        self.at[client] = process
        if not links or links[-1].broken:
            return
        if count:
            links[-1].cut_after(count)
        else:
            links[-1].cut()


async def play(script: list[tuple[Any, ...]]) -> None:
    bus = Bus()
    brokers = [Lossy(bus) for _ in range(PROCESSES)]
    handlers = [Rooms() for _ in range(PROCESSES)]
    model = Model(bus, brokers, handlers)
    async with AsyncExitStack() as stack:
        servers: list[MemoryServer] = [
            await stack.enter_async_context(serving_in_memory(handler, options=OPTIONS, broker=broker))
            for handler, broker in zip(handlers, brokers, strict=True)
        ]
        for client in range(CLIENTS):
            model.networks.append([Network(server.listener, capacity=600) for server in servers])
            model.at[client] = client % PROCESSES
            backoff = Backoff(initial=0.5, maximum=2, random=random.Random(client))
            dial = trio_partial(model.dial, client)
            made = WebSocketClient("ws://test/", stream=dial, reconnect=backoff)
            await stack.enter_async_context(made)
            subscription = await stack.enter_async_context(
                made.subscribe(CHANNELS, recover=True, max_items=10_000)
            )
            model.readers.append(Reader(subscription))
        for handler in handlers:
            subscribed = handler.channels.subscribe(CHANNELS, recover=True, max_items=3)
            model.readers.append(Reader(await stack.enter_async_context(subscribed)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for reader in model.readers:
            nursery.start_soon(reader.run)
        for step in script:
            await model.do(step)
        for process in range(PROCESSES):
            model.recover(process)
            brokers[process].deaf = False
        for index in range(READERS):
            await model.do(("resume", index))
        for networks in model.networks:
            for link in [link for network in networks for link in network.links]:
                link.cut()  # including those whose cut has not happened yet
        await trio.sleep(30)
        model.publish(0, 1)
        await trio.sleep(30)
        for reader in model.readers:
            reader.check(bus)
        nursery.cancel_scope.cancel()


def trio_partial(function: Any, *args: Any) -> Any:
    async def call() -> Any:
        return await function(*args)

    return call


@examples(60)
@given(steps)
def test_in_order_and_once_or_a_gap(script: list[tuple[Any, ...]]) -> None:
    trio.run(play, script, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("first", [1, 5, 9, 10, 12, 20, 30])
@pytest.mark.parametrize("second", [1, 10, 12, 30])
def test_a_slow_subscriber_is_told_what_is_lost_with_its_history(first: int, second: int) -> None:
    """The offsets of what waits for it are of the former epoch, and others in the next one."""
    script = [("burst", 0, first), ("forget",), ("burst", 0, second), ("wait", 1.0)]
    trio.run(play, script, clock=trio.testing.MockClock(autojump_threshold=0))
