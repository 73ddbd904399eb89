"""Histories: which messages they keep, for how long, and what tasks of the server read from them."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.inspect import histories_of
from tests.support.serving import serving_in_memory
from trio_ws import ClientConnection, Gap, History, Packet, WebSocketClient, WebSocketHandler
from trio_ws.codecs.packets import JSONPacketCodec, TrioWSCodec, TrioWSJSONCodec, WebshocketCodec
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_ws import Subscription
    from trio_ws.channels.history import ChannelHistories


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {
        "room.*": History(items=10, seconds=60),
        "price.*": History(latest=True),
        "few.*": History(channels=2),
        "large.*": History(bytes=4000, total_bytes=9000),
    }

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True


def seen(packet: Packet) -> Any:
    return ("gap", packet.missing) if isinstance(packet, Gap) else packet.data


def waiting(subscription: Subscription) -> list[Any]:
    """Return all messages of the histories."""
    found = []
    while True:
        try:
            found.append(seen(subscription.receive_nowait()))
        except trio.WouldBlock:
            return found


def histories(handler: WebSocketHandler) -> ChannelHistories:
    return histories_of(handler.channels)


async def test_a_task_begins_at_a_position(autojump_clock: MockClock) -> None:
    channels = Rooms().channels
    for number in range(20):
        channels.publish("room.1", number)
    async with channels.subscribe("room.1", last=3) as subscription:
        first = await subscription.receive()
        assert (first.data, first.offset) == (17, 18)
        assert waiting(subscription) == [18, 19]
    assert first.position is not None
    async with channels.subscribe("room.1", after=first.position) as subscription:
        channels.publish("room.1", "live")
        assert waiting(subscription) == [18, 19, "live"]
    old = first.position._replace(offset=2)
    async with channels.subscribe("room.1", after={"room.1": old}) as subscription:
        gap = await subscription.receive()
        assert isinstance(gap, Gap)
        assert (gap.missing, gap.offset, gap.channel, gap.data) == (9, 11, "room.1", None)
        assert waiting(subscription) == [*range(11, 20), "live"]
    channels.publish("room.2", 1)
    async with channels.subscribe("room.2", last=1) as subscription:
        elsewhere = (await subscription.receive()).position
    assert elsewhere is not None
    for wrong in (("other", 3), first.position._replace(offset=1000), elsewhere):
        async with channels.subscribe("room.1", after=wrong) as subscription:
            channels.publish("room.1", "new")
            assert waiting(subscription) == [("gap", None), "new"]
    async with channels.subscribe("plain", after=("other", 3)) as subscription:
        channels.publish("plain", "new")
        assert waiting(subscription) == [("gap", None), "new"]


async def test_a_slow_task_reads_the_history(autojump_clock: MockClock) -> None:
    channels = Rooms().channels
    async with channels.subscribe(["room.*", "plain"], recover=True, max_items=3) as subscription:
        for number in range(8):
            channels.publish("room.1", number)
        assert subscription.dropped == 0
        assert waiting(subscription) == list(range(8))
        for number in range(20):
            channels.publish("room.1", number)
        # Three wait in it, and ten are kept.
        assert waiting(subscription) == [0, 1, 2, ("gap", 7), *range(10, 20)]
        for number in range(5):
            channels.publish("plain", number)
        assert waiting(subscription) == [("gap", 2), 2, 3, 4]


async def test_a_task_that_waits_is_woken_after_it_has_caught_up(autojump_clock: MockClock) -> None:
    channels = Rooms().channels
    async with (
        channels.subscribe("room.1", recover=True, max_items=1) as subscription,
        trio.open_nursery() as nursery,
    ):
        got: list[Any] = []

        async def read() -> None:
            while True:
                got.append(seen(await subscription.receive()))

        nursery.start_soon(read)
        for number in range(5):
            channels.publish("room.1", number)
        await wait_all_tasks_blocked()
        channels.publish("room.1", 5)
        await wait_all_tasks_blocked()
        assert got == list(range(6))
        nursery.cancel_scope.cancel()


async def test_the_latest_value_is_all_that_waits(autojump_clock: MockClock) -> None:
    channels = Rooms().channels
    channels.publish("price.a", 1)
    async with channels.subscribe(["price.*", "price.a"], max_items=1) as subscription:
        assert waiting(subscription) == [1]
        for number in range(10):
            channels.publish("price.a", number)
        assert waiting(subscription) == [0, 9]
        channels.publish("price.b", 5)
        assert waiting(subscription) == [5]


async def test_a_task_that_has_the_latest_value_does_not_get_it_again(autojump_clock: MockClock) -> None:
    channels = Rooms().channels
    channels.publish("price.a", 1)
    async with channels.subscribe("price.a") as subscription:
        position = subscription.receive_nowait().position
    async with channels.subscribe("price.a", after=position) as subscription:
        assert waiting(subscription) == []
        channels.publish("price.a", 2)
        assert waiting(subscription) == [2]
    async with channels.subscribe("price.a", after=position) as subscription:
        assert waiting(subscription) == [2]


async def test_a_glob_gets_the_latest_values_of_channels_that_were_published_to_last(
    autojump_clock: MockClock,
) -> None:
    channels = Rooms().channels
    for number in range(1100):
        channels.publish(f"price.{number}", number)
    channels.publish("price.0", 2000)
    async with channels.subscribe("price.*", max_items=5000) as subscription:
        assert sorted(waiting(subscription)) == [*range(1100 - 1023, 1100), 2000]


async def test_total_size_of_all_histories_is_bounded(autojump_clock: MockClock) -> None:
    handler = Rooms()
    for name in ("large.a", "large.b", "large.c"):
        for number in range(10):
            handler.publish(name, [number, "x" * 300])
    kept = {name: histories(handler).find(f"large.{name}") for name in "abc"}
    sizes = {name: one.size for name, one in kept.items() if one is not None}
    assert 0 < sizes["a"] < sizes["b"] == sizes["c"] <= 4000
    assert sum(sizes.values()) <= 9000
    await trio.sleep(1000)
    handler.publish("large.d", 1)
    assert [one.size for one in kept.values() if one is not None] == [0, 0, 0]


@pytest.mark.parametrize("size", [0, 50, 1000, 20_000])
@pytest.mark.parametrize("codecs", range(5))
async def test_a_history_takes_no_more_memory_than_it_counts(
    size: int, codecs: int, autojump_clock: MockClock
) -> None:
    """Return the size with the frames for this number of codecs. They are made when the message is read."""
    dialects = [TrioWSCodec(), WebshocketCodec(), TrioWSJSONCodec(), JSONPacketCodec()][:codecs]

    class Log(WebSocketHandler):
        channels_history: ClassVar = {"*": History(items=10_000, bytes=64 * 1024 * 1024)}

    handler = Log()
    handler.publish("log", 0)
    history = histories(handler).find("log")
    assert history is not None
    gc.collect()
    tracemalloc.start()
    try:
        taken, counted = -tracemalloc.get_traced_memory()[0], -history.size
        for number in range(300):
            handler.publish("log", f"{number:03}" + "x" * size)
        for record in history.read(2, 300)[1]:
            for dialect in dialects:
                record.message.frame(dialect, None)
            history.recharge(record)
            del record
        gc.collect()
        taken += tracemalloc.get_traced_memory()[0]
        counted += history.size
    finally:
        tracemalloc.stop()
    assert taken <= counted <= 1.5 * taken


async def test_a_channel_takes_little_besides_its_messages(autojump_clock: MockClock) -> None:
    class Log(WebSocketHandler):
        channels_history: ClassVar = {"*": History()}

    handler = Log()
    names = [f"room.{number}" for number in range(2000)]
    for name in names[:1000]:
        handler.publish(name, 0)
    gc.collect()
    tracemalloc.start()
    try:
        taken = -tracemalloc.get_traced_memory()[0]
        for name in names[1000:]:
            handler.publish(name, 0)
        gc.collect()
        taken += tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    found = [histories(handler).find(name) for name in names[1000:]]
    counted = sum(one.size for one in found if one is not None)
    assert taken - counted <= 1024 * len(found)


async def test_channels_that_are_forgotten(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with handler.channels.subscribe(["few.a", "few.b"], recover=True) as subscription:
        handler.publish("few.a", 1)
        handler.publish("few.b", 2)
        packets = [await subscription.receive() for _ in range(2)]
        for number in range(100):
            handler.publish(f"few.{number}", number)
        # Channels with subscribers are remembered.
        handler.publish("few.a", 3)
        assert (await subscription.receive()).offset == 2
    for number in range(100):
        handler.publish(f"few.{number}", number)
    async with handler.channels.subscribe("few.a", after=packets[0].position) as subscription:
        assert waiting(subscription) == [("gap", None)]
    assert len(histories(handler)._patterns[2].histories) <= 3


async def test_a_lost_broker_is_a_gap(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    here, there = Rooms(), Rooms()
    broker = InMemoryBroker(bus)
    async with (
        serving_in_memory(here, broker=broker) as memory,
        serving_in_memory(there, broker=InMemoryBroker(bus)),
        WebSocketClient("ws://test/", stream=await memory.stream()) as client,
        client.subscribe(["room.1", "plain", "price.1"], recover=True, max_items=100) as remote,
        client.subscribe("plain") as unaware,
        here.channels.subscribe(["room.1", "plain"], recover=True) as local,
    ):
        there.publish("room.1", 1)
        there.publish("plain", 1)
        assert waiting(local) == [1, 1]
        broker.lose()
        there.publish("room.1", "lost")
        broker.recover()
        there.publish("room.1", 2)
        there.publish("plain", 2)
        await wait_all_tasks_blocked()
        assert waiting(local) == [("gap", None), ("gap", None), 2, 2]
        assert waiting(remote) == [1, 1, ("gap", None), ("gap", None), 2, 2]
        assert waiting(unaware) == [1, 2]


async def test_messages_of_other_processes_without_local_subscribers(autojump_clock: MockClock) -> None:
    bus = InMemoryBus()
    here, there = Rooms(), Rooms()
    async with (
        serving_in_memory(here, broker=InMemoryBroker(bus)),
        serving_in_memory(there, broker=InMemoryBroker(bus)),
    ):
        async with here.channels.subscribe(["room.1", "room.2"], recover=True) as subscription:
            there.publish("room.1", 1)
            position = (await subscription.receive()).position
        there.publish("room.1", "lost")
        async with here.channels.subscribe("room.1", after=position) as subscription:
            there.publish("room.1", 2)
            assert waiting(subscription) == [("gap", None), 2]


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ({"items": 0}, ValueError),
        ({"items": True}, TypeError),
        ({"bytes": 1.5}, TypeError),
        ({"seconds": 0}, ValueError),
        ({"seconds": "1"}, TypeError),
        ({"channels": -1}, ValueError),
        ({"total_bytes": 0}, ValueError),
    ],
)
def test_bounds_that_cannot_be(bounds: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        History(**bounds)


def test_patterns_that_cannot_be() -> None:
    class Wrong(WebSocketHandler):
        channels_history: ClassVar[Any] = {"a": 5}

    with pytest.raises(TypeError, match="must be a History"):
        Wrong().channels  # noqa: B018

    class Long(WebSocketHandler):
        channels_history: ClassVar = {"a" * 300: History()}

    with pytest.raises(ValueError, match="name"):
        Long().channels  # noqa: B018


async def test_a_history_holds_no_connection(autojump_clock: MockClock) -> None:
    handler = Rooms()
    async with serving_in_memory(handler) as memory:
        async with (
            WebSocketClient("ws://test/", stream=await memory.stream()) as client,
            client.subscribe("room.1"),
        ):
            (connection,) = handler.clients
            handler.publish("room.1", 1, exclude=[connection])
            gone = weakref.ref(connection)
            del connection
        await wait_all_tasks_blocked()
        gc.collect()
        assert gone() is None
        assert histories(handler).find("room.1") is not None
