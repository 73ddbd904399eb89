"""Subscribers that recover receive all messages in order and once, or a `Gap` exactly where some are missing.

Connections are cut at any byte, clients and tasks of the server stop reading for a while, and histories drop
old messages. There is no gap unless messages were lost there.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, ClassVar

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import PausableReader
from tests.support.examples import examples
from tests.support.inspect import histories_of
from tests.support.network import Network
from tests.support.serving import MemoryServer, serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    Gap,
    History,
    Options,
    Packet,
    WebSocketClient,
    WebSocketHandler,
)

if TYPE_CHECKING:
    from trio_ws import Subscription

ITEMS = 12
SECONDS = 100
CHANNELS = ["kept", "plain"]
CLIENTS = 2
OPTIONS = Options(send_high_water=400, channel_max_items=6, channel_max_bytes=2000)

clients = st.integers(0, CLIENTS - 1)
readers = st.integers(0, CLIENTS)  # the last one is a task of the server
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.integers(0, 300)),
        st.tuples(st.just("burst"), st.sampled_from(CHANNELS), st.integers(2, 30)),
        st.tuples(st.just("others"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("without"), st.sampled_from(CHANNELS), clients),
        st.tuples(st.just("cut"), clients),
        st.tuples(st.just("cut after"), clients, st.integers(0, 900)),
        st.tuples(st.just("unreachable"), clients),
        st.tuples(st.just("reachable"), clients),
        st.tuples(st.just("stall"), readers),
        st.tuples(st.just("resume"), readers),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 1.0, 40.0, 200.0])),
        st.tuples(st.just("yield")),
    ),
    min_size=4,
    max_size=60,
)


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {"kept": History(items=ITEMS, seconds=SECONDS, bytes=6000)}

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True


class Reader(PausableReader):
    """Sorts the messages that it receives by channel.

    Attributes:
        got: the received messages by channel.
        meant: the numbers by channel that it should have received, or be told are missing.
        losses: the number of lost connections.
    """

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(subscription)
        self.got: dict[str, list[Packet]] = {name: [] for name in CHANNELS}
        self.meant: dict[str, list[int]] = {name: [] for name in CHANNELS}
        self.losses = 0

    def keep(self, packet: Packet) -> None:
        assert packet.channel is not None
        self.got[packet.channel].append(packet)

    def check_kept(self, first: int) -> None:
        """Check the messages of the channel with a history, which keeps those from ``first`` on.

        There is only one epoch, so its gaps have numbers, which show which messages are missing.
        """
        seen = 0
        told: set[int] = set()
        for packet in self.got["kept"]:
            if isinstance(packet, Gap):
                assert packet.missing is not None
                assert packet.offset is not None
                assert packet.offset > seen, (packet, seen)
                numbers = set(range(seen + 1, packet.offset + 1))
                # A gap may include dropped messages that this reader would not have received.
                assert len(numbers & set(self.meant["kept"])) <= packet.missing <= len(numbers), packet
                assert self.subscription.dropped or packet.offset < first, (packet, first)
                told |= numbers
                seen = packet.offset
                continue
            number = packet.data[0]
            assert packet.offset == number
            assert number > seen, (seen, number)
            seen = number
        got = {packet.data[0] for packet in self.got["kept"] if not isinstance(packet, Gap)}
        assert not got & told
        assert set(self.meant["kept"]) <= got | told, "something is missing, and nobody was told"

    def check_plain(self) -> None:
        """Check the messages of the channel without a history: each missing message needs a gap."""
        seen = 0
        gap = False
        gaps = 0
        for packet in self.got["plain"]:
            if isinstance(packet, Gap):
                gap = True
                gaps += packet.missing is None
                continue
            number = packet.data[0]
            assert number > seen, (seen, number)
            assert gap or not [one for one in self.meant["plain"] if seen < one < number], (seen, number)
            seen, gap = number, False
        self.unnumbered = gaps


class Model:
    def __init__(self, handler: Rooms, networks: list[Network], readers: list[Reader]) -> None:
        self.handler = handler
        self.networks = networks
        self.readers = readers
        self.numbers = dict.fromkeys(CHANNELS, 0)

    def publish(self, channel: str, size: int, *, only: list[int] | None = None, **kwargs: Any) -> None:
        self.numbers[channel] += 1
        number = self.numbers[channel]
        for index, reader in enumerate(self.readers):
            if only is None or index in only or index == CLIENTS:
                reader.meant[channel].append(number)
        self.handler.publish(channel, [number, "x" * size], **kwargs)

    async def do(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("publish", channel, size):
                self.publish(channel, size)
            case ("burst", channel, count):
                for _ in range(count):
                    self.publish(channel, 40)
            case ("others", channel):
                self.publish(channel, 20, only=[], predicate=lambda _: False)
            case ("without", channel, client):
                # An exclusion is for one connection. If that was lost, the message may have arrived or not.
                await wait_all_tasks_blocked()
                found = [one for one in self.handler.clients if one.client == client]
                if len(found) == 1 and not self.networks[client].links[-1].broken:
                    others = [one for one in range(CLIENTS) if one != client]
                    self.publish(channel, 20, only=others, exclude=found)
            case ("cut", client) if not self.networks[client].links[-1].broken:
                self.networks[client].cut()
                self.readers[client].losses += 1
            case ("cut after", client, count) if not self.networks[client].links[-1].broken:
                self.networks[client].links[-1].cut_after(count)
                self.readers[client].losses += 1
            case ("unreachable", client):
                self.networks[client].down = True
            case ("reachable", client):
                self.networks[client].down = False
            case ("stall", reader):
                self.readers[reader].read(False)
            case ("resume", reader):
                self.readers[reader].read(True)
            case ("wait", seconds):
                await trio.sleep(seconds)
            case ("yield",):
                await trio.lowlevel.checkpoint()
            case _:
                pass


class Named(Rooms):
    channel_policy: ClassVar = "drop_oldest"

    async def on_connect(self, connection: ClientConnection) -> None:
        connection.client = int(connection.request.path[1:])


def client_of(memory: MemoryServer, index: int) -> tuple[WebSocketClient, Network]:
    network = Network(memory.listener, capacity=600)
    backoff = Backoff(initial=0.5, maximum=2, random=random.Random(index))
    return WebSocketClient(f"ws://test/{index}", stream=network, reconnect=backoff), network


async def play(script: list[tuple[Any, ...]]) -> None:
    handler = Named()
    async with serving_in_memory(handler, options=OPTIONS) as memory:
        first, second = client_of(memory, 0), client_of(memory, 1)
        async with (
            first[0],
            second[0],
            first[0].subscribe(CHANNELS, recover=True, max_items=5) as one,
            second[0].subscribe(CHANNELS, recover=True, max_items=1000) as two,
            handler.channels.subscribe("*", recover=True, max_items=3) as three,
            trio.open_nursery() as nursery,
        ):
            readers = [Reader(subscription) for subscription in (one, two, three)]
            for reader in readers:
                nursery.start_soon(reader.run)
            model = Model(handler, [first[1], second[1]], readers)
            for step in script:
                await model.do(step)
            for client in range(CLIENTS):
                await model.do(("reachable", client))
                await model.do(("cut", client))  # including links whose cut has not happened yet
            for index in range(CLIENTS + 1):
                await model.do(("resume", index))
            await trio.sleep(30)
            for channel in CHANNELS:
                model.publish(channel, 1)
            await trio.sleep(30)
            for reader in readers:
                for channel in CHANNELS:
                    assert reader.got[channel][-1].data is not None, reader.got[channel]
                    assert reader.got[channel][-1].data[0] == model.numbers[channel]
            kept = histories_of(handler.channels).find("kept")
            assert kept is not None
            for reader in readers:
                reader.check_kept(kept.first)
                reader.check_plain()
            nursery.cancel_scope.cancel()


@examples(60)
@given(steps)
def test_in_order_and_once_or_a_gap(script: list[tuple[Any, ...]]) -> None:
    trio.run(play, script, clock=trio.testing.MockClock(autojump_threshold=0))
