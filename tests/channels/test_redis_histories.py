"""Histories through a real Redis that is killed, stopped, emptied and restarted.

Each subscriber has all messages in order and once, or a gap exactly where some were lost.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pytest
import trio

from tests.support.examples import how_many
from tests.support.redis import QUICK, RedisServer, redis_server, settled
from tests.support.serving import serving_in_memory
from tests.support.watching import until
from trio_ws import (
    BlockingPublisher,
    Gap,
    History,
    Packet,
    Publisher,
    RedisBroker,
    Subscription,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.channels.redis.connection import command
from trio_ws.channels.redis.histories import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.serving import MemoryServer

ITEMS = 100
DURABLE = "--appendonly yes --appendfsync always"


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {
        "room.*": History(items=ITEMS),
        "small.*": History(items=1000, bytes=2000),
        "short.*": History(seconds=30),
        "price.*": History(latest=True),
        "long": History(items=100_000, bytes=64 * 1024 * 1024),
    }

    def may_subscribe(self, connection: Any, name: str) -> bool:
        return True


class HasURL(Protocol):
    @property
    def url(self) -> str: ...


class Process:
    """One of the simulated processes of a test, which share a Redis."""

    def __init__(self, handler: Rooms, broker: RedisBroker, memory: MemoryServer) -> None:
        self.handler = handler
        self.broker = broker
        self.memory = memory

    @property
    def losses(self) -> int:
        return self.broker.statistics().losses


@asynccontextmanager
async def process(redis: HasURL, **options: Any) -> AsyncIterator[Process]:
    handler = Rooms()
    broker = RedisBroker(redis.url, **{**QUICK, **options})
    async with serving_in_memory(handler, broker=broker) as memory:
        yield Process(handler, broker, memory)


@asynccontextmanager
async def two_processes(*server: str, **options: Any) -> AsyncIterator[tuple[Process, Process, RedisServer]]:
    async with (
        redis_server(*server) as redis,
        process(redis, **options) as one,
        process(redis, **options) as two,
    ):
        yield one, two, redis


async def connected_again(processes: tuple[Process, Process], losses: list[int]) -> None:
    """Wait until both have noticed that Redis was lost, and have reconnected."""
    await until(
        lambda: (
            all(one.losses > before for one, before in zip(processes, losses, strict=True))
            and all(one.broker.state == "connected" for one in processes)
        )
    )


async def take(subscription: Subscription, last: Any) -> list[Any]:
    """Return received data, and gaps with the number of missing messages, up to the data ``last``."""
    got: list[Any] = []
    while not got or got[-1] != last:
        packet = await subscription.receive()
        got.append(("gap", packet.missing) if isinstance(packet, Gap) else packet.data)
    return got


async def test_all_processes_have_one_order() -> None:
    async with (
        two_processes() as (one, two, _),
        one.handler.channels.subscribe("room.1", recover=True, max_items=500) as here,
        two.handler.channels.subscribe("room.*", recover=True, max_items=500) as there,
    ):
        await settled(two.broker)
        for number in range(100):
            (one, two)[number % 2].handler.publish("room.1", number)
            if number % 7 == 0:
                await trio.lowlevel.checkpoint()
        got = [[await subscription.receive() for _ in range(100)] for subscription in (here, there)]
        assert [packet.data for packet in got[0]] == [packet.data for packet in got[1]]
        assert [packet.position for packet in got[0]] == [packet.position for packet in got[1]]
        assert [packet.offset for packet in got[0]] == list(range(1, 101))
        for remainder in (0, 1):
            each = [packet.data for packet in got[0] if packet.data % 2 == remainder]
            assert each == sorted(each)


async def test_histories_survive_the_processes() -> None:
    async with redis_server() as redis:
        async with process(redis) as one:
            for number in range(ITEMS + 5):
                one.handler.publish("room.1", number)
            await settled(one.broker)
        async with process(redis) as two:
            async with two.handler.channels.subscribe(
                "room.1", last=ITEMS + 5, max_items=500
            ) as subscription:
                packets = [await subscription.receive() for _ in range(ITEMS)]
                assert [packet.data for packet in packets] == list(range(5, ITEMS + 5))
            position = packets[0].position
            assert position is not None
            async with two.handler.channels.subscribe(
                "room.1", after=position, max_items=500
            ) as subscription:
                assert (await subscription.receive()).data == 6
            async with two.handler.channels.subscribe(
                "room.1", after=position._replace(offset=2)
            ) as subscription:
                assert (await take(subscription, 5)) == [("gap", 3), 5]


async def test_a_restart_of_redis_without_data_loss_causes_no_gap() -> None:
    async with (
        two_processes(DURABLE) as (one, two, redis),
        one.handler.channels.subscribe("room.1", recover=True, max_items=500) as subscription,
        WebSocketClient("ws://test/", stream=await two.memory.stream()) as client,
        client.subscribe("room.1", recover=True, max_items=500) as remote,
    ):
        number = 0
        for _ in range(3):
            for _ in range(20):
                number += 1
                one.handler.publish("room.1", number)
            await settled(one.broker)
            losses = [one.losses, two.losses]
            await redis.kill()
            for _ in range(10):
                number += 1
                two.handler.publish("room.1", number)
            await until(lambda losses=losses: one.losses > losses[0] and two.losses > losses[1])  # type: ignore[misc]
            await redis.start()
            await connected_again((one, two), losses)
            await settled(two.broker)
        two.handler.publish("room.1", "end")
        assert await take(subscription, "end") == [*range(1, number + 1), "end"]
        assert await take(remote, "end") == [*range(1, number + 1), "end"]
        # A position of before the restarts is still one.
        async with client.subscribe("room.1", last=5) as late:
            assert await take(late, "end") == [*range(number - 3, number + 1), "end"]
        two.handler.publish("room.1", "more")
        assert await take(remote, "more") == ["more"], "what was replayed to one subscription reached another"


async def test_a_redis_that_loses_a_part_is_a_gap_where_that_was_seen() -> None:
    async with (
        two_processes("--appendonly no") as (one, two, redis),
        one.handler.channels.subscribe("room.1", recover=True) as subscription,
    ):
        for number in range(5):
            one.handler.publish("room.1", number)
        await settled(one.broker)
        await redis.do("SAVE")
        one.handler.publish("room.1", "lost")
        packet = None
        for _ in range(6):
            packet = await subscription.receive()
        assert packet is not None
        assert packet.data == "lost"
        losses = [one.losses, two.losses]
        await redis.kill()
        await redis.start()
        await connected_again((one, two), losses)
        for number in range(5, 15):
            two.handler.publish("room.1", number)
        # Its offset is used again, in another epoch. What came before does not come again.
        assert await take(subscription, 14) == [("gap", None), *range(5, 15)]
        async with one.handler.channels.subscribe("room.1", after=packet.position, max_items=50) as late:
            two.handler.publish("room.1", "end")
            assert await take(late, "end") == [("gap", None), "end"]


async def test_positions_that_redis_has_not_given() -> None:
    """In the future, of another epoch, and of another channel: a gap, and what is published from then on."""
    async with two_processes() as (one, two, redis):
        for name in ("room.1", "room.2", "room.2"):
            one.handler.publish(name, "before")
        async with one.handler.channels.subscribe("room.2", last=1) as inbox:
            elsewhere = (await inbox.receive()).position
        async with one.handler.channels.subscribe("room.1", last=1) as inbox:
            position = (await inbox.receive()).position
        assert position is not None
        assert elsewhere is not None
        for number, wrong in enumerate((position._replace(offset=2**52), ("other", 1), elsewhere)):
            for each in (one, two):
                async with (
                    WebSocketClient("ws://test/", stream=await each.memory.stream()) as client,
                    client.subscribe("room.1", after=wrong) as remote,
                    each.handler.channels.subscribe("room.1", after=wrong) as local,
                ):
                    one.handler.publish("room.1", number)
                    assert await take(local, number) == [("gap", None), number]
                    packets = [await remote.receive() for _ in range(2)]
                    assert [(type(packet), packet.data) for packet in packets] == [
                        (Gap, None),
                        (Packet, number),
                    ]
        # One that was given before Redis was emptied is of another epoch then.
        async with one.handler.channels.subscribe("room.3", last=1) as inbox:
            one.handler.publish("room.3", "lost")
            position = (await inbox.receive()).position
        await redis.do("FLUSHALL")
        async with two.handler.channels.subscribe("room.3", after=position) as inbox:
            two.handler.publish("room.3", "after")
            assert await take(inbox, "after") == [("gap", None), "after"]


async def test_a_hanging_redis_causes_no_gap() -> None:
    async with (
        two_processes(ping_interval=0.1, ping_timeout=0.2) as (one, two, redis),
        one.handler.channels.subscribe("room.1", recover=True, max_items=500) as here,
        two.handler.channels.subscribe("room.1", recover=True, max_items=500) as there,
    ):
        for number in range(50):
            (one, two)[number % 2].handler.publish("room.1", number)
        redis.pause()
        for number in range(50, 80):
            one.handler.publish("room.1", number)
        losses = [one.losses, two.losses]
        await until(lambda: one.losses > losses[0] and two.losses > losses[1])
        redis.resume()
        await connected_again((one, two), losses)
        await settled(one.broker)
        await settled(two.broker)
        two.handler.publish("room.1", "end")
        for subscription in (here, there):
            got = await take(subscription, "end")
            assert sorted(got[:-1]) == list(range(80)), "none missing, none twice"
            assert [number for number in got[:-1] if number >= 50] == list(range(50, 80))


async def test_connections_that_are_cut_while_messages_are_under_way() -> None:
    async with (
        two_processes() as (one, two, redis),
        one.handler.channels.subscribe("room.1", recover=True, max_items=5000) as here,
        two.handler.channels.subscribe("room.1", recover=True, max_items=5000) as there,
    ):
        for number in range(1, 601):
            (one, two)[number % 2].handler.publish("room.1", number)
            if number % 60 == 0:
                await redis.do("CLIENT", "KILL", "TYPE", "pubsub")
            elif number % 10 == 0:
                await trio.sleep(0)
        await settled(one.broker)
        await settled(two.broker)
        one.handler.publish("room.1", "end")
        for subscription in (here, there):
            got = await take(subscription, "end")
            numbers = [one for one in got[:-1] if isinstance(one, int)]
            missing = sum(one[1] for one in got[:-1] if not isinstance(one, int))
            assert len(set(numbers)) == len(numbers)
            # More than the history holds may be published while the connection is away.
            assert len(numbers) + missing == 600


async def test_a_redis_that_is_restarted_without_data_begins_anew() -> None:
    async with two_processes() as (one, two, redis):
        for number in range(3):
            one.handler.publish("room.1", number)
        await settled(one.broker)
        losses = [one.losses, two.losses]
        await redis.kill()
        await redis.start()
        await connected_again((one, two), losses)
        one.handler.publish("room.1", "new")
        async with two.handler.channels.subscribe("room.1", last=20) as late:
            assert await take(late, "new") == ["new"], "not what the former one had accepted"


async def test_an_emptied_redis() -> None:
    async with (
        two_processes() as (one, two, redis),
        one.handler.channels.subscribe(["room.1", "price.1"], recover=True) as here,
    ):
        two.handler.publish("room.1", 1)
        packet = await here.receive()
        await settled(two.broker)
        await redis.do("FLUSHALL")
        two.handler.publish("room.1", 2)
        two.handler.publish("price.1", 2.5)
        two.handler.publish("room.1", 3)
        assert await take(here, 3) == [2, 2.5, 3]
        async with two.handler.channels.subscribe("room.1", after=packet.position) as late:
            two.handler.publish("room.1", 4)
            assert await take(late, 4) == [("gap", None), 4]
        # What one process misses while it is emptied is a gap for that one only.
        await take(here, 4)
        async with two.handler.channels.subscribe("room.1", recover=True) as there:
            losses = one.losses
            one_link = one.broker._routing.links[0].exchange
            assert one_link is not None
            one.broker._settings.backoff_initial = 4.0  # long enough for the next steps
            await one_link.aclose()
            await until(lambda: one.losses > losses)
            two.handler.publish("room.1", 5)
            await settled(two.broker)
            await redis.do("FLUSHALL")
            two.handler.publish("room.1", 6)
            await until(lambda: one.broker.state == "connected")
            two.handler.publish("room.1", 7)
            assert await take(here, 7) == [("gap", None), 6, 7]
            assert await take(there, 7) == [5, 6, 7]


async def test_bounds() -> None:
    async with two_processes() as (one, two, redis):
        for number in range(50):
            one.handler.publish("small.1", [number, "x" * 200])
            one.handler.publish("price.1", number)
        one.handler.publish("small.2", "x" * 5000)
        await settled(one.broker)
        kept = await redis.do("XRANGE", "trio_ws:h{:small.1}s", "-", "+")
        sizes = [len(fields[1]) + 512 for _, fields in kept]
        assert 2000 - max(sizes) < sum(sizes) <= 2000
        assert await redis.do("HGET", "trio_ws:h{:small.1}m", "b") == str(sum(sizes)).encode()
        assert await redis.do("XLEN", "trio_ws:h{:price.1}s") == 1
        assert await redis.do("XLEN", "trio_ws:h{:small.2}s") == 0
        async with two.handler.channels.subscribe("small.1", last=50) as subscription:
            packet = await subscription.receive()
            assert packet.data[0] == packet.offset - 1 == 50 - len(kept)  # type: ignore[operator]
        async with two.handler.channels.subscribe("price.1") as subscription:
            assert (await subscription.receive()).data == 49
        one.handler.publish("short.1", 1)
        await settled(one.broker)
        async with two.handler.channels.subscribe("short.1", last=1) as subscription:
            packet = await subscription.receive()
        assert 0 < await redis.do("PTTL", "trio_ws:h{:short.1}s") <= 30_000
        await redis.do("DEL", "trio_ws:h{:short.1}s")  # as if it had expired
        async with two.handler.channels.subscribe("short.1", after=packet.position) as subscription:
            one.handler.publish("short.1", 2)
            assert await take(subscription, 2) == [2], "what is too old is no loss to those who had it"


async def test_messages_for_which_a_queue_has_no_room_are_a_gap_for_all() -> None:
    async with (
        two_processes(DURABLE, max_queue_items=5) as (one, two, redis),
        one.handler.channels.subscribe("room.1", recover=True) as here,
        two.handler.channels.subscribe("room.1", recover=True) as there,
    ):
        one.handler.publish("room.1", "before")
        await settled(one.broker)
        losses = [one.losses, two.losses]
        await redis.kill()
        await until(lambda: one.losses > losses[0] and two.losses > losses[1])
        for number in range(12):
            one.handler.publish("room.1", number)
        await redis.start()
        for subscription in (here, there):
            assert await take(subscription, 11) == ["before", ("gap", 7), 7, 8, 9, 10, 11]
        one.handler.publish("room.1", "x" * 2_000_000)
        one.handler.publish("room.1", "end")
        for subscription in (here, there):
            assert await take(subscription, "end") == [("gap", 1), "end"]


async def test_a_redis_that_has_no_memory_left() -> None:
    async with (
        two_processes() as (one, two, redis),
        two.handler.channels.subscribe("room.1", recover=True) as subscription,
    ):
        one.handler.publish("room.1", 1)
        await settled(one.broker)
        await redis.do("CONFIG", "SET", "maxmemory", "1")
        one.handler.publish("room.1", "refused")
        one.handler.publish("room.1", "refused")
        await settled(one.broker)
        assert "refused a message" in one.broker.problem
        assert one.broker.statistics().unpublished == 2
        await redis.do("CONFIG", "SET", "maxmemory", "0")
        one.handler.publish("room.1", 2)
        assert await take(subscription, 2) == [1, ("gap", 2), 2]


async def test_scripts_that_were_flushed_are_loaded_again() -> None:
    async with (
        two_processes() as (one, two, redis),
        two.handler.channels.subscribe("room.1", recover=True) as subscription,
    ):
        await redis.do("SCRIPT", "FLUSH")
        one.handler.publish("room.1", 1)
        assert await take(subscription, 1) == [1]


async def test_a_message_that_was_refused_is_taken_before_later_ones() -> None:
    """The scripts are flushed and loaded again by another program, while two messages are under way."""
    async with (
        two_processes() as (one, two, _),
        two.handler.channels.subscribe("room.1", recover=True) as here,
    ):
        one.handler.publish("room.1", 0)
        assert await take(here, 0) == [0]
        await settled(one.broker)
        exchange = one.broker._routing.links[0].exchange
        assert exchange is not None
        sent = command(b"SCRIPT", b"FLUSH")
        exchange.pending_replies.append((b"", []))
        one.handler.publish("room.1", 1)
        sent += exchange.commands()
        for script in SCRIPTS:
            sent += command(b"SCRIPT", b"LOAD", script)
            exchange.pending_replies.append((b"", []))
        one.handler.publish("room.1", 2)
        await exchange.send(sent + exchange.commands())
        assert await take(here, 2) == [1, 2]


@pytest.mark.parametrize("key", [None, b"k" * 16])
async def test_publishers_outside(key: bytes | None) -> None:
    async with two_processes(key=key) as (one, two, redis):
        await settled(one.broker)
        async with Publisher(redis.url, key=key) as publisher:
            await publisher.publish("room.1", 1)
            await trio.to_thread.run_sync(lambda: BlockingPublisher(redis.url, key=key).publish("room.1", 2))
            async with two.handler.channels.subscribe("room.1", last=10) as subscription:
                assert [(await subscription.receive()).data for _ in range(2)] == [1, 2]
                assert await publisher.publish("room.1", 3) == 1
                assert await publisher.publish("plain", 3) == 0
                assert (await subscription.receive()).offset == 3
        # A publisher without histories: the processes that receive its message store it once.
        async with (
            one.handler.channels.subscribe("room.1") as here,
            two.handler.channels.subscribe("room.*") as there,
        ):
            await settled(one.broker)
            await settled(two.broker)
            async with Publisher(redis.url, key=key) as publisher:
                publisher._settings.find = lambda name: None  # type: ignore[method-assign]
                for number in range(4, 9):
                    assert await publisher.publish("room.1", number) == 2
            for subscription in (here, there):
                packets = [await subscription.receive() for _ in range(5)]
                assert [(packet.data, packet.offset) for packet in packets] == [(n, n) for n in range(4, 9)]


async def test_bad_input_what_others_write_into_a_history() -> None:
    async with (
        two_processes(key=b"k" * 16) as (one, two, redis),
        two.handler.channels.subscribe("room.1", recover=True) as subscription,
    ):
        one.handler.publish("room.1", 1)
        assert await take(subscription, 1) == [1]
        keys = [f"trio_ws:h{{:room.1}}{letter}" for letter in "ms"]
        epoch = await redis.do("HGET", keys[0], "e")
        ((_, (_, genuine)),) = await redis.do("XRANGE", keys[1], "-", "+")
        for text in (
            b"twp1",
            b"twp1e 1",
            b"twp1e x y",
            b"twg1" + epoch + b" 2 x",
            b"twg1" + epoch + b" 2 1",
            b"twg1" + epoch + b" 2 " + genuine,
            b"twp1" + epoch + b" 2 forged",
            b"twp1" + epoch + b" 2 " + genuine,  # with a valid signature, but received before
        ):
            await redis.do("PUBLISH", "trio_ws::room.1", text)
        one.handler.publish("room.1", 2)
        assert await take(subscription, 2) == [2]
        for data in ("forged", genuine):
            number = int(await redis.do("HINCRBY", keys[0], "n", "1"))
            await redis.do("XADD", keys[1], f"{number}-99999999999999", "g", data)
        one.handler.publish("room.1", 3)
        assert await take(subscription, 3) == [3]
        assert two.broker.rejected >= 8


async def test_a_message_that_was_read_from_the_history_is_not_received_again() -> None:
    async with two_processes(key=b"k" * 16) as (one, two, redis):
        one.handler.publish("room.1", 1)
        await settled(one.broker)
        ((_, (_, genuine)),) = await redis.do("XRANGE", "trio_ws:h{:room.1}s", "-", "+")
        epoch = await redis.do("HGET", "trio_ws:h{:room.1}m", "e")
        async with two.handler.channels.subscribe("room.1", last=5, recover=True) as subscription:
            assert await take(subscription, 1) == [1]
            await redis.do("PUBLISH", "trio_ws::room.1", b"twp1" + epoch + b" 2 " + genuine)
            one.handler.publish("room.1", 2)
            assert await take(subscription, 2) == [2]


# -- the latest values ------------------------------------------------------------------------------


async def test_a_glob_gets_the_latest_values_of_all_processes() -> None:
    async with two_processes() as (one, two, redis):
        for number in range(30):
            one.handler.publish(f"price.{number}", [number, "old"])
            one.handler.publish(f"price.{number}", [number, "new"])
        one.handler.publish("room.1", "of a channel that keeps more")
        await settled(one.broker)
        await redis.do("ZADD", "trio_ws:hl:", "99999999999999", b"trio_ws::price.\xff", "99999999999999", "x")
        async with Publisher(redis.url) as publisher, process(redis) as three:
            await publisher.publish("price.outside", ["outside", "new"])
            async with two.handler.channels.subscribe(["price.*", "price.1", "room.*"]) as inbox:
                got = [(await inbox.receive()).data for _ in range(31)]
                assert sorted(got, key=str) == sorted(
                    ([number, "new"] for number in [*range(30), "outside"]), key=str
                )
                three.handler.publish("price.3", "live")
                assert (await inbox.receive()).data == "live"
                await two.broker.latest("")
                await settled(two.broker)
                assert inbox.statistics().waiting == 0


async def test_latest_values_of_few_channels_are_listed_for_a_day() -> None:
    async with redis_server() as redis, process(redis) as one:
        await redis.do("ZADD", "trio_ws:hl:", *(word for n in range(10_000) for word in (str(n), f"old.{n}")))
        one.handler.publish("price.1", 1)
        one.handler.publish("price.2", 2)
        await settled(one.broker)
        assert await redis.do("ZCARD", "trio_ws:hl:") == 10_000
        assert (await one.broker.latest(""))[:2] in ([":price.2", ":price.1"], [":price.1", ":price.2"])
        assert 0 < await redis.do("PTTL", "trio_ws:hl:") <= 86_400_000


async def publish_prices(one: Process, counts: list[int], generator: random.Random) -> None:
    """Publish numbers that increase in each channel, for ever."""
    while True:
        for _ in range(generator.choice([1, 5, 20])):
            number = generator.randrange(len(counts))
            counts[number] += 1
            one.handler.publish(f"price.{number}", [number, counts[number]])
        await trio.sleep(generator.uniform(0, 0.01))


async def follow_prices(two: Process, certain: list[int], counts: list[int], final: trio.Event) -> None:
    """Subscribe, and check that each channel has a value that is not older than these, and then newer ones.

    Args:
        two: the process.
        certain: for each channel, the newest number that a subscriber may rely on; this updates it.
        counts: the numbers that were published last.
        final: that nothing more will be published.
    """
    got = [0] * len(counts)
    async with two.handler.channels.subscribe("price.*", max_items=5) as inbox:
        least = certain.copy()
        while not final.is_set() or got != counts:
            packet = await inbox.receive()
            number, value = packet.data
            assert value > got[number], "twice, or in another order"
            assert got[number] or value >= least[number], "not the latest value"
            got[number] = value
            certain[number] = max(certain[number], value)


@pytest.mark.parametrize("seed", range(how_many(4)))
async def test_globs_that_are_added_while_values_change(seed: int) -> None:
    """Each value once and in order, and at last the latest of all, also if connections are cut.

    The first subscriber of its process begins with what Redis has, later ones with what the process has
    received, and not with less than another one had.
    """
    generator = random.Random(seed)
    counts = [0] * 40
    final = trio.Event()
    async with two_processes(DURABLE, ping_interval=0.1, ping_timeout=0.2) as (one, two, redis):
        async with trio.open_nursery() as followers:
            async with trio.open_nursery() as publishers:
                publishers.start_soon(publish_prices, one, counts, generator)
                await trio.sleep(generator.uniform(0, 0.1))
                certain = counts.copy()
                await settled(one.broker)
                for _ in range(8):
                    followers.start_soon(follow_prices, two, certain, counts, final)
                    if generator.random() < 0.5:
                        await settled(one.broker)
                    await trio.sleep(generator.uniform(0, 0.1))
                    if generator.random() < 0.5:
                        await disturb(redis, generator.choice(["kill", "stop", "cut"]))
                publishers.cancel_scope.cancel()
            for number in range(len(counts)):
                counts[number] += 1
                one.handler.publish(f"price.{number}", [number, counts[number]])
            final.set()


# -- anything at any time ---------------------------------------------------------------------------


async def publish_forever(one: Process, name: str, count: list[int], generator: random.Random) -> None:
    """Publish the numbers from 1 on, each with the name of the process."""
    while True:
        for _ in range(generator.choice([1, 1, 5, 20])):
            count[0] += 1
            one.handler.publish("long", [name, count[0]])
        await trio.sleep(generator.uniform(0, 0.02))


async def disturb(redis: RedisServer, what: str) -> None:
    match what:
        case "kill":
            await redis.kill()
            await redis.start()
        case "stop":
            redis.pause()
            await trio.sleep(0.5)
            redis.resume()
        case "cut":
            await redis.do("CLIENT", "KILL", "TYPE", "pubsub")
        case "empty":
            await redis.do("FLUSHALL")
        case _:
            raise AssertionError(what)


def check_numbers(got: list[Packet], last: dict[str, int]) -> int:
    """Check that all messages arrived in order and once, except before gaps; return the number of gaps."""
    seen = dict.fromkeys(last, 0)
    certain = dict.fromkeys(last, True)  # no gap since the last one of each publisher
    gaps = 0
    for packet in got:
        if isinstance(packet, Gap):
            gaps += 1
            certain = dict.fromkeys(last, False)
            continue
        name, number = packet.data
        assert number > seen[name], "twice, or in another order"
        assert number == seen[name] + 1 or not certain[name], f"{name} misses some before {number}, untold"
        seen[name], certain[name] = number, True
    assert seen == last
    return gaps


@pytest.mark.parametrize("seed", range(how_many(2)))
@pytest.mark.parametrize("durable", [True, False])
async def test_anything_that_happens_to_redis(durable: bool, seed: int) -> None:
    generator = random.Random(seed)
    kinds = ["kill", "stop", "cut"] if durable else ["kill", "stop", "cut", "empty"]
    options = {"ping_interval": 0.1, "ping_timeout": 0.2}
    async with (
        two_processes(*([DURABLE] if durable else []), **options) as (one, two, redis),
        one.handler.channels.subscribe("long", recover=True, max_items=100_000) as here,
        two.handler.channels.subscribe("long", recover=True, max_items=100_000) as there,
    ):
        counts = {"one": [0], "two": [0]}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_forever, one, "one", counts["one"], generator)
            nursery.start_soon(publish_forever, two, "two", counts["two"], generator)
            for _ in range(6):
                await trio.sleep(generator.uniform(0, 0.3))
                await disturb(redis, generator.choice(kinds))
            nursery.cancel_scope.cancel()
        for each in (one, two):
            await until(lambda broker=each.broker: broker.state == "connected")  # type: ignore[misc]
            await settled(each.broker)
        last = {}
        for name, each in (("one", one), ("two", two)):
            last[name] = counts[name][0] + 1
            each.handler.publish("long", [name, last[name]])
        for subscription in (here, there):
            got: list[Packet] = []
            missing = set(last)
            while missing:
                got.append(await subscription.receive())
                missing -= {name for name in last if got[-1].data == [name, last[name]]}
            gaps = check_numbers(got, last)
            assert not (durable and gaps), "nothing was lost"
