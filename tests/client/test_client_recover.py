"""Channels with a history: missed messages arrive in order and once, or a `Gap` takes their place."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.network import Network
from tests.support.serving import serving_in_memory
from trio_ws import (
    Backoff,
    ClientConnection,
    Gap,
    History,
    Options,
    Packet,
    Position,
    RPCAccessDeniedError,
    RPCInvalidParamsError,
    RPCMethodNotFoundError,
    Subscription,
    SubscriptionError,
    WebSocket,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.codecs.base import Request
from trio_ws.codecs.packets import TrioWSCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from tests.support.serving import MemoryServer

CODEC = TrioWSCodec()


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {
        "room.*": History(items=10, seconds=60),
        "price.*": History(latest=True),
        "small": History(bytes=300),
    }
    client_globs = True

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return not name.startswith("secret")


@asynccontextmanager
async def reconnecting(memory: MemoryServer, **kwargs: Any) -> AsyncIterator[tuple[WebSocketClient, Network]]:
    network = Network(memory.listener)
    backoff = Backoff(random=random.Random(1))
    async with WebSocketClient("ws://test/", stream=network, reconnect=backoff, **kwargs) as client:
        yield client, network


def seen(packet: Packet) -> Any:
    """Return the data of a packet, or the number of missing messages of a gap."""
    return ("gap", packet.missing) if isinstance(packet, Gap) else packet.data


async def drained(subscription: Subscription) -> list[Any]:
    """Return all packets that have arrived when no task has anything to do."""
    await wait_all_tasks_blocked()
    found = []
    while True:
        try:
            found.append(seen(subscription.receive_nowait()))
        except trio.WouldBlock:
            return found


async def test_missed_messages_follow(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("room.1", recover=True) as subscription:
            handler.publish("room.1", 1)
            packet = await subscription.receive()
            assert (packet.data, packet.offset) == (1, 1)
            assert packet.position is not None
            assert packet.epoch == packet.position.epoch
            for _ in range(3):
                network.down = True
                network.cut()
                await wait_all_tasks_blocked()
                for number in range(3):
                    handler.publish("room.1", number)
                network.down = False
                await trio.sleep(30)
                assert await drained(subscription) == [0, 1, 2]
            handler.publish("room.1", "live")
            assert await drained(subscription) == ["live"]


async def test_there_is_no_gap_if_nothing_was_missed(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe(["room.1", "room.never"], recover=True) as subscription:
            handler.publish("room.1", 1)
            assert await drained(subscription) == [1]
            for _ in range(3):
                network.cut()
                await trio.sleep(1000)  # the stored messages have expired, but none is missing
                assert await drained(subscription) == []
            handler.publish("room.never", 2)
            handler.publish("room.1", 3)
            assert sorted(await drained(subscription)) == [2, 3]


async def test_a_gap_takes_the_place_of_missing_messages(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("room.1", recover=True) as subscription:
            handler.publish("room.1", "first")
            assert await drained(subscription) == ["first"]
            network.down = True
            network.cut()
            await wait_all_tasks_blocked()
            for number in range(15):  # items=10
                handler.publish("room.1", number)
            network.down = False
            await trio.sleep(30)
            assert await drained(subscription) == [("gap", 5), *range(5, 15)]
            network.cut()
            handler.publish("room.1", "old")
            network.down = True
            await trio.sleep(100)  # seconds=60
            handler.publish("room.1", "new")
            network.down = False
            await trio.sleep(30)
            assert await drained(subscription) == [("gap", 1), "new"]


async def test_without_a_history_there_is_one_gap_after_each_loss(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with (
            client.subscribe("plain", recover=True) as plain,
            client.subscribe("pl*", recover=True) as glob,
            client.subscribe("plain") as unaware,
        ):
            handler.publish("plain", 1)
            for subscription in (plain, glob, unaware):
                assert await drained(subscription) == [1]
            network.cut()
            await trio.sleep(30)
            handler.publish("plain", 2)
            assert await drained(plain) == [("gap", None), 2]
            assert await drained(glob) == [("gap", None), 2]
            assert await drained(unaware) == [2]


async def test_a_position_of_another_server_is_a_gap(autojump_clock: MockClock) -> None:
    handlers = [Rooms(), Rooms()]
    async with (
        serving_in_memory(handlers[0]) as first,
        serving_in_memory(handlers[1]) as second,
        reconnecting(first) as (client, network),
        client.subscribe("room.1", recover=True) as subscription,
    ):
        handlers[0].publish("room.1", 1)
        assert await drained(subscription) == [1]
        handlers[1].publish("room.1", "maybe seen")
        network.listener = second.listener
        network.cut()
        await trio.sleep(30)
        handlers[1].publish("room.1", 2)
        assert await drained(subscription) == [("gap", None), 2]


async def test_from_a_stored_position_and_with_the_last(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, _):
        async with client.subscribe("room.1", last=3) as subscription:
            handler.publish("room.1", 0)
            packet = await subscription.receive()
        position = packet.position
        assert position is not None
        for number in range(1, 6):
            handler.publish("room.1", number)
        for stored in (position, (position.epoch, position.offset), {"room.1": position}):
            async with client.subscribe("room.1", after=stored) as subscription:
                handler.publish("room.1", "live")
                assert (await drained(subscription))[:5] == [1, 2, 3, 4, 5]
        async with client.subscribe("room.1", last=2) as subscription:
            assert await drained(subscription) == ["live", "live"]
        async with client.subscribe(["room.1", "room.2"], last=100) as subscription:
            assert len(await drained(subscription)) == 9

        for wrong in (Position(position.epoch, 99), Position("other", 1)):
            async with client.subscribe("room.1", after=wrong) as subscription:
                handler.publish("room.1", "new")
                assert await drained(subscription) == [("gap", None), "new"]
        async with client.subscribe("room.2", after=position) as subscription:  # of another channel
            assert await drained(subscription) == [("gap", None)]
        async with client.subscribe("plain", after=position) as subscription:
            assert await drained(subscription) == [("gap", None)]


async def test_several_subscriptions_of_one_channel(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("room.1", recover=True) as first:
            for number in range(5):
                handler.publish("room.1", number)
            packets = [await first.receive() for _ in range(5)]
            async with client.subscribe("room.1", after=packets[1].position) as second:
                handler.publish("room.1", 5)
                async with client.subscribe("room.1") as third:
                    handler.publish("room.1", 6)
                    network.cut()
                    handler.publish("room.1", 7)
                    await trio.sleep(30)
                    assert await drained(first) == [5, 6, 7]
                    assert await drained(second) == [2, 3, 4, 5, 6, 7]
                    assert 7 in await drained(third)
            handler.publish("room.1", 8)
            assert await drained(first) == [8]


async def test_a_channel_that_the_server_subscribed(autojump_clock: MockClock) -> None:
    class Subscribing(Rooms):
        async def on_connect(self, connection: ClientConnection) -> None:
            connection.subscribe("room.secret")
            self.publish("room.secret", "welcome")

        def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
            return False

    handler = Subscribing()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("room.secret", recover=True) as subscription:
            handler.publish("room.secret", 1)
            assert await drained(subscription) == [1]
            network.cut()
            handler.publish("room.secret", 2)
            await trio.sleep(30)
            assert await drained(subscription) == [2, "welcome"]
        with pytest.raises(RPCAccessDeniedError):
            async with client.subscribe("room.other", recover=True):
                pass


async def test_messages_that_are_not_meant_for_all(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("room.1", recover=True) as subscription:
            (connection,) = handler.clients
            handler.publish("room.1", 1)
            handler.publish("room.1", "own", exclude=[connection])
            handler.publish("room.1", "others", predicate=lambda one: False)
            handler.publish("room.1", 2)
            assert await drained(subscription) == [1, 2]
            handler.publish("room.1", "own", exclude=[connection])
            assert await drained(subscription) == []
            network.cut()
            handler.publish("room.1", "others", predicate=lambda one: False)
            handler.publish("room.1", 3)
            await trio.sleep(30)
            assert await drained(subscription) == [3]


async def test_the_latest_value(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        for number in range(5):
            handler.publish("price.eur", number)
            handler.publish("price.usd", -number)
        async with client.subscribe("price.eur") as subscription:
            assert await drained(subscription) == [4]
        async with client.subscribe("price.*") as subscription:
            assert sorted(await drained(subscription)) == [-4, 4]
        async with client.subscribe("price.eur", recover=True) as subscription:
            assert await drained(subscription) == [4]
            network.cut()
            await trio.sleep(30)
            assert await drained(subscription) == []
            network.cut()
            for number in range(10, 20):
                handler.publish("price.eur", number)
            await trio.sleep(30)
            assert await drained(subscription) == [19]


async def test_no_value_comes_that_is_older_than_the_one_it_has(autojump_clock: MockClock) -> None:
    """As if another process had given the position of a value that this one has not received yet."""
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, _):
        handler.publish("price.eur", 1)
        async with client.subscribe("price.eur") as subscription:
            position = (await subscription.receive()).position
        assert position is not None
        async with client.subscribe("price.eur", after=(position.epoch, 2)) as subscription:
            assert await drained(subscription) == []
            handler.publish("price.eur", 2)
            assert await drained(subscription) == []
            handler.publish("price.eur", 3)
            assert await drained(subscription) == [3]


async def test_a_client_that_drops_messages_gets_a_gap(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, _):
        async with (
            client.subscribe("plain", recover=True, max_items=3) as oldest,
            client.subscribe("plain", recover=True, max_items=3, policy="drop_newest") as newest,
        ):
            for number in range(8):
                handler.publish("plain", number)
            assert await drained(oldest) == [("gap", 5), 5, 6, 7]
            assert await drained(newest) == [0, 1, 2, ("gap", 5)]
            handler.publish("plain", 8)
            assert await drained(oldest) == [8]
            assert await drained(newest) == [8]
            assert oldest.dropped == newest.dropped == 5


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("name", ["room.1", "plain"])
async def test_a_slow_connection_reads_the_history_or_gets_a_gap(
    autojump_clock: MockClock, policy: Any, name: str
) -> None:
    class Policed(Rooms):
        channel_policy = policy
        channels_history: ClassVar = {"room.*": History(items=50, seconds=60)}

    handler = Policed()
    options = Options(channel_max_items=4, send_high_water=300)
    async with serving_in_memory(handler, options=options) as memory:
        network = Network(memory.listener, capacity=300)
        async with (
            WebSocketClient("ws://test/", stream=network) as client,
            client.subscribe(name, recover=True, max_items=1000) as subscription,
        ):
            for number in range(200):
                handler.publish(name, [number, "x" * 100])
                if number == 20:
                    await wait_all_tasks_blocked()
            got = await drained(subscription)
    numbers = [item[0] if isinstance(item, list) else item for item in got]
    check_in_order_or_gaps(numbers, 200)
    if name == "room.1":
        assert numbers[-50:] == list(range(150, 200))
        assert sum(isinstance(one, tuple) for one in numbers) <= 2


def check_in_order_or_gaps(got: list[Any], count: int) -> None:
    """Check that the numbers start with 0, and that each gap has the size of a hole between them."""
    expected = 0
    hole: int | None = 0
    for item in got:
        if isinstance(item, tuple):
            hole = None if item[1] is None or hole is None else hole + item[1]
            continue
        if hole is None:
            assert item > expected, got
        else:
            assert item == expected + hole, got
        expected, hole = item + 1, 0
    assert hole is None or expected + hole == count, got


async def test_a_message_that_is_larger_than_the_history(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("small", recover=True) as subscription:
            handler.publish("small", "x" * 400)
            assert await drained(subscription) == ["x" * 400]
            network.down = True
            network.cut()
            await wait_all_tasks_blocked()
            handler.publish("small", "y" * 400)
            network.down = False
            await trio.sleep(30)
            assert await drained(subscription) == [("gap", 1)]


async def test_a_list_with_a_name_that_is_refused(autojump_clock: MockClock) -> None:
    handler = Rooms()
    options = Options(max_subscribed_channels=3)
    async with serving_in_memory(handler, options=options) as memory, reconnecting(memory) as (client, _):
        async with client.subscribe(["room.1", "room.2"], recover=True) as good:
            with pytest.raises(RPCAccessDeniedError):
                async with client.subscribe(["room.3", "secret", "room.1"], recover=True):
                    pass
            with pytest.raises(SubscriptionError):
                async with client.subscribe(["room.3", "room.4"], last=1):
                    pass
            handler.publish("room.1", 1)
            assert await drained(good) == [1]
        (connection,) = handler.clients
        await wait_all_tasks_blocked()
        assert connection.subscribed_channel == set()


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"after": ("e", -1)}, TypeError),
        ({"after": "e:1"}, TypeError),
        ({"after": ("e", True)}, TypeError),
        ({"last": -1}, ValueError),
        ({"last": True}, TypeError),
        ({"after": {"b": ("e", 1)}}, ValueError),
    ],
)
async def test_starts_that_cannot_be(kwargs: Any, error: type[Exception]) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, _):
        with pytest.raises(error):
            async with client.subscribe("a", **kwargs):
                pass
        with pytest.raises(error):
            async with handler.channels.subscribe("a", **kwargs):
                pass
        with pytest.raises(ValueError, match="globs"):
            async with client.subscribe("a*", last=1):
                pass
        with pytest.raises(ValueError, match="mapping"):
            async with client.subscribe(["a", "b"], after=("e", 1)):
                pass


async def test_bad_requests_over_the_wire(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory, reconnecting(memory) as (client, _):
        wrong: list[Any] = [
            {"room.*": {}},
            {"": {}},
            {"room.1": {"after": ["e", -1]}},
            {"room.1": {"after": ["e" * 65, 1]}},
            {"room.1": {"after": ["e", 2**63]}},
            {"room.1": {"last": -1}},
            ["room.1"],
        ]
        for starts in wrong:
            with pytest.raises(RPCInvalidParamsError):
                await client.call("__recover__", starts)
        assert await client.call("__recover__", {f"room.{n}": {} for n in range(2000)}) is False
        answer = await client.call("__recover__", {"room.1": {"last": 2**31 - 1}, "plain": {}})
        assert answer["plain"] == {}
        assert answer["room.1"]["position"][1] == 0
        (connection,) = handler.clients
        assert connection.subscribed_channel == {"room.1", "plain"}

    async with serving_in_memory(handler) as memory:
        network = Network(memory.listener)
        async with WebSocketClient("ws://test/", stream=network, dialect="jsonrpc") as other:
            with pytest.raises(RPCMethodNotFoundError):
                await other.call("__recover__", {"room.1": {}})


async def test_dialects_that_carry_no_positions(autojump_clock: MockClock) -> None:
    class Subscribing(Rooms):
        async def on_connect(self, connection: ClientConnection) -> None:
            connection.subscribe("room.1")

    handler = Subscribing()
    async with serving_in_memory(handler) as memory:
        for dialect, carries in (("trio-ws.v1.json", True), ("webshocket.v1", False), ("json", False)):
            network = Network(memory.listener)
            async with WebSocketClient("ws://test/", stream=network, dialect=dialect) as client:
                await client.connect()
                await wait_all_tasks_blocked()
                handler.publish("room.1", 1)
                packet = await client.recv()
                assert packet is not None
                assert packet.data == 1
                assert (packet.position is not None) is carries


class OldServer:
    """A server with the version of trio-ws.v1 before histories."""

    def __init__(self) -> None:
        self.methods: list[str] = []
        self.ws: WebSocket | None = None

    async def __call__(self, ws: WebSocket) -> None:
        await ws.accept("trio-ws.v1")
        self.ws = ws
        async for message in ws:
            assert message.data is not None
            request = CODEC.decode(message.data).rpc
            assert isinstance(request, Request)
            self.methods.append(request.method)
            if request.method == "__recover__":
                await ws.send(CODEC.error(request, -32601, "no such method"))
            else:
                await ws.send(CODEC.result(request, True))

    async def publish(self, channel: str, data: Any) -> None:
        assert self.ws is not None
        await self.ws.send(CODEC.packet(Packet(2, data, channel)))  # type: ignore[arg-type]


async def test_a_server_of_an_earlier_version(autojump_clock: MockClock) -> None:
    server = OldServer()
    async with serving_in_memory(server) as memory, reconnecting(memory) as (client, network):
        async with client.subscribe("a", recover=True) as subscription:
            await server.publish("a", 1)
            assert await drained(subscription) == [1]
            network.cut()
            await trio.sleep(30)
            await server.publish("a", 2)
            assert await drained(subscription) == [("gap", None), 2]
        await wait_all_tasks_blocked()
        assert server.methods == [*["__recover__", "__subscribe__"] * 2, "__unsubscribe__"]
        async with client.subscribe("a", after=("e", 3)) as subscription:
            assert await drained(subscription) == [("gap", None)]


async def test_one_channel_does_not_push_another_out_of_a_backlog(autojump_clock: MockClock) -> None:
    class Policed(Rooms):
        channel_policy: ClassVar = "drop_oldest"

    handler = Policed()
    options = Options(channel_max_items=4, send_high_water=300)
    async with serving_in_memory(handler, options=options) as memory:
        network = Network(memory.listener, capacity=300)
        async with (
            WebSocketClient("ws://test/", stream=network) as client,
            client.subscribe(["room.1", "plain"], recover=True, max_items=1000) as subscription,
        ):
            for _ in range(3):  # the link is full, and then the connection is stalled
                handler.publish("plain", "x" * 1000)
            network.links[-1].partition(direction="to_client")
            await wait_all_tasks_blocked()
            handler.publish("plain", "x")
            await wait_all_tasks_blocked()
            for number in range(5):
                handler.publish("room.1", number)
            for number in range(10, 20):
                handler.publish("plain", number)
            network.links[-1].heal()
            got = await drained(subscription)
            assert [item for item in got if item in range(5)] == [0, 1, 2, 3, 4]
            plain = [item for item in got if item not in range(5)]
            gaps = [item for item in plain if isinstance(item, tuple)]
            assert len(gaps) == 1
            assert plain[-4:] == [16, 17, 18, 19]
            assert len(plain) - 1 + gaps[0][1] == 14
