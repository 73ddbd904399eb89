"""RedisBroker and Publisher with a real Redis Cluster, whose slots move and whose nodes are killed."""

from __future__ import annotations

import os
import random
import ssl
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.channels.test_redis_histories import (
    Process,
    Rooms,
    check_numbers,
    process,
    publish_forever,
    take,
)
from tests.support.examples import how_many
from tests.support.inspect import presence_of
from tests.support.redis import our_tasks, redis_server, running, settled
from tests.support.redis_cluster import redis_cluster
from tests.support.serving import serving_in_memory
from tests.support.watching import until
from trio_ws import BlockingPublisher, BrokerError, Publisher, RedisBroker
from trio_ws.channels.presence import PRESENCE
from trio_ws.channels.redis.cluster import SLOTS, Owner, key_slot, parse_nodes
from trio_ws.channels.redis.cluster_routing import ClusterRouting
from trio_ws.channels.redis.connection import command
from trio_ws.channels.redis.histories import _TRUSTED, CLUSTER_SCRIPTS, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.redis import RedisServer
    from tests.support.redis_cluster import RedisCluster
    from trio_ws import Packet, Subscription

#: Options of a broker that notices trouble soon.
QUICK: dict[str, Any] = {"ping_interval": 0.2, "ping_timeout": 0.5}


@asynccontextmanager
async def two_processes(
    *, replicas: int = 0, spare: int = 0, **options: Any
) -> AsyncIterator[tuple[Process, Process, RedisCluster]]:
    async with (
        redis_cluster(replicas=replicas, spare=spare) as cluster,
        process(cluster, **{**QUICK, **options}) as one,
        process(cluster, **{**QUICK, **options}) as two,
    ):
        yield one, two, cluster


async def receive_all(subscription: Subscription, count: int) -> list[Any]:
    return [(await subscription.receive()).data for _ in range(count)]


async def test_channels_of_all_nodes_and_globs() -> None:
    names = [f"n{number}" for number in range(30)]
    async with (
        redis_cluster() as cluster,
        running(cluster, *names, "g*", "n1*") as (broker, heard),  # type: ignore[arg-type]
        running(cluster) as (other, _),  # type: ignore[arg-type]
    ):
        assert len(broker._routing.links) == 3
        for number in range(50):
            for name in (*names, "g1", "g2"):
                other.publish(name, b"%d" % number)
        await until(lambda: len(heard) >= 50 * 32)
        await settled(other)
        for name in (*names, "g1", "g2"):
            assert [payload for where, payload in heard if where == name] == [b"%d" % n for n in range(50)]
        assert other.statistics() == (50 * 32, 0, 0, 0, 0)
        for node in cluster.nodes:
            assert await node.do("PUBSUB", "SHARDCHANNELS")
            assert await node.do("PUBSUB", "CHANNELS") == [], "no classic subscription except of globs"
        for name in names:
            broker.unsubscribe(name)
        await settled(broker)
        for node in cluster.nodes:
            assert await node.do("PUBSUB", "SHARDCHANNELS") == []


async def test_what_is_published_before_the_cluster_is_known() -> None:
    async with redis_cluster() as cluster, running(cluster, "a", "b", "c") as (_, heard):  # type: ignore[arg-type]
        broker = RedisBroker(cluster.url)
        for name in "abc":
            broker.publish(name, b"early")
        async with broker.run(lambda *_: None, 5):
            await until(lambda: len(heard) == 3)


async def test_histories_and_positions() -> None:
    async with (
        two_processes() as (one, two, _),
        two.handler.channels.subscribe(["room.1", "room.2", "plain"], recover=True, max_items=500) as here,
        one.handler.channels.subscribe("room.*", recover=True, max_items=500) as there,
    ):
        await settled(one.broker)
        await settled(two.broker)
        for number in range(100):
            (one, two)[number % 2].handler.publish(f"room.{number % 4}", number)
            one.handler.publish("plain", number)
        got = await receive_all(here, 150)
        assert len(got) == 150
        await settled(one.broker)
        await settled(two.broker)
        for name in range(4):
            async with one.handler.channels.subscribe(f"room.{name}", last=100, max_items=500) as late:
                packets = [await late.receive() for _ in range(25)]
                assert sorted(packet.data for packet in packets) == list(range(name, 100, 4))
                assert [packet.offset for packet in packets] == list(range(1, 26))
            async with two.handler.channels.subscribe(f"room.{name}", after=packets[3].position) as late:
                assert (await late.receive()).data == packets[4].data
        assert sorted(await receive_all(there, 100)) == list(range(100))


@pytest.mark.parametrize("key", [None, b"k" * 16])
async def test_publishers(key: bytes | None) -> None:
    async with two_processes(key=key) as (one, two, cluster):
        await settled(one.broker)
        await until_declared(cluster)
        names = [f"room.{number}" for number in range(8)]
        async with (
            Publisher(cluster.url, key=key) as publisher,
            two.handler.channels.subscribe([*names, "plain"], recover=True, max_items=500) as inbox,
        ):
            await settled(two.broker)
            for name in names:
                assert await publisher.publish(name, [name, 1]) == 1
                assert await publisher.publish(name, [name, 2]) == 1
            assert await publisher.publish("plain", "x") == 1
            assert await publisher.publish("nobody", "x") == 0
            await trio.to_thread.run_sync(
                lambda: BlockingPublisher(cluster.url, key=key).publish("room.1", ["room.1", 3])
            )
            got = await receive_all(inbox, 18)
            for name in names[2:]:
                assert [one for one in got if one[0] == name] == [[name, 1], [name, 2]]
            # The slot of a channel moves between two messages.
            source = cluster.node_of(cluster.slot_of("room.1"))
            target = next(node for node in cluster.nodes if node is not source)
            slot = cluster.slot_of("room.1")
            await cluster.begin_to_move(slot, source, target)
            await cluster.move_keys(slot, source, target)
            assert await publisher.publish("room.1", ["room.1", 4]) == 1, "subscribers are at the source"
            assert (await inbox.receive()).data == ["room.1", 4]
            await cluster.end_move(slot, source, target)
            await publisher.publish("room.1", ["room.1", 5])
            assert await take(inbox, ["room.1", 5]) == [["room.1", 5]]


async def test_the_command_that_publishes() -> None:
    async with two_processes() as (one, two, cluster):
        await settled(one.broker)
        await until_declared(cluster)
        async with two.handler.channels.subscribe("room.1", recover=True) as inbox:
            await settled(two.broker)
            words = [sys.executable, "-m", "trio_ws", "publish", cluster.url, "room.1", '{"b": 2}']
            done = await trio.run_process(words, capture_stdout=True, env=dict(os.environ))
            assert done.stdout == b"1\n"
            assert (await inbox.receive()).data == {"b": 2}


async def until_declared(cluster: RedisCluster) -> None:
    """Wait until publishers can read which channels have histories."""
    node = cluster.node_of(key_slot(b"trio_ws:h:"))
    while await node.do("EXISTS", "trio_ws:h:") == 0:
        await trio.sleep(0.01)


async def test_the_latest_values_of_a_glob() -> None:
    async with two_processes() as (one, two, cluster):
        for number in range(30):
            one.handler.publish(f"price.{number}", [number, "old"])
            one.handler.publish(f"price.{number}", [number, "new"])
        await settled(one.broker)
        await until_declared(cluster)
        async with Publisher(cluster.url) as publisher, process(cluster) as three:
            await publisher.publish("price.outside", ["outside", "new"])
            async with two.handler.channels.subscribe(["price.*", "price.1"], max_items=100) as inbox:
                got = await receive_all(inbox, 31)
                assert sorted(got, key=str) == sorted(
                    ([number, "new"] for number in [*range(30), "outside"]), key=str
                )
                three.handler.publish("price.3", "live")
                assert (await inbox.receive()).data == "live"


async def test_presence_and_users() -> None:
    async with two_processes() as (one, two, cluster):
        presence = one.handler.channels.presence("room.1")
        presence_of(two.handler.channels).enter("room.1", "uid", "somebody")
        await until(lambda: dict(presence) == {"uid": "somebody"})
        # Everything about presence is in one channel, whose slot moves.
        slot = key_slot(f"trio_ws:{{{PRESENCE}:}}".encode())
        source = cluster.node_of(slot)
        await cluster.move(slot, source, next(node for node in cluster.nodes if node is not source))
        presence_of(two.handler.channels).leave("room.1", "uid")
        await until(lambda: not len(presence))


async def test_connections_that_are_cut() -> None:
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe(["long", "plain"], recover=True, max_items=5000) as here,
    ):
        await settled(two.broker)
        for number in range(300):
            one.handler.publish("long", number)
            if number % 100 == 50:
                for node in cluster.nodes:
                    await node.do("CLIENT", "KILL", "TYPE", "pubsub")
            elif number % 10 == 0:
                await trio.sleep(0)
        await settled(one.broker)
        await settled(two.broker)
        one.handler.publish("long", "end")
        got = [packet for packet in await take(here, "end") if packet != ("gap", None)]
        assert got == [*range(300), "end"]


async def test_a_slot_moves_while_messages_flow() -> None:
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe("long", recover=True, max_items=50_000) as here,
        two.handler.channels.subscribe("other", recover=True, max_items=50_000) as other,
        one.handler.channels.subscribe("lo*", max_items=50_000) as there,
    ):
        await settled(one.broker)
        await settled(two.broker)
        slot = cluster.slot_of("long")
        source = cluster.node_of(slot)
        target = next(node for node in cluster.nodes if node is not source)
        counts = {"one": [0], "two": [0]}
        generator = random.Random(1)
        async with trio.open_nursery() as nursery:
            for name, each in (("one", one), ("two", two)):
                nursery.start_soon(publish_forever, each, name, counts[name], generator)
            for _ in range(2):
                await trio.sleep(0.1)
                await cluster.begin_to_move(slot, source, target)
                await trio.sleep(0.1)
                await cluster.move_keys(slot, source, target)
                await trio.sleep(0.2)
                await cluster.end_move(slot, source, target)
                source, target = target, source
            nursery.cancel_scope.cancel()
        last = {name: count[0] + 1 for name, count in counts.items()}
        for name, each in (("one", one), ("two", two)):
            each.handler.publish("long", [name, last[name]])
        assert not await gaps_until_last(here, last), "nothing was lost"
        one.handler.publish("other", "end")
        assert await take(other, "end") == ["end"], "other slots have no gap"
        assert one.losses == two.losses == 0
        assert await gaps_until_last(there, last) == 0, "it is at a node that has not changed"


async def gaps_until_last(subscription: Subscription, last: dict[str, int]) -> int:
    """Receive up to the last number of each publisher, and check the order; return the number of gaps."""
    return check_numbers(await until_last(subscription, last), last)


async def until_last(subscription: Subscription, last: dict[str, int]) -> list[Packet]:
    """Receive up to the last number of each publisher."""
    got: list[Packet] = []
    missing = set(last)
    while missing:
        got.append(await subscription.receive())
        missing -= {name for name in last if got[-1].data == [name, last[name]]}
    return got


async def test_a_slot_that_is_being_moved_for_long() -> None:
    """Messages are appended at the new node, and reach subscribers, who are at the old one."""
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe(["room.1", "plain"], recover=True) as here,
    ):
        slot = cluster.slot_of("room.1")
        source = cluster.node_of(slot)
        target = next(node for node in cluster.nodes if node is not source)
        one.handler.publish("room.1", 0)
        assert await take(here, 0) == [0]
        await cluster.begin_to_move(slot, source, target)
        await cluster.move_keys(slot, source, target)
        for number in range(1, 6):
            one.handler.publish("room.1", number)
        assert await take(here, 5) == [1, 2, 3, 4, 5]
        async with one.handler.channels.subscribe("room.1", last=3) as late:
            assert await take(late, 5) == [3, 4, 5]
        await cluster.end_move(slot, source, target)
        one.handler.publish("room.1", 6)
        assert await take(here, 6) == [6]


async def test_a_primary_that_is_killed() -> None:
    async with (
        two_processes(replicas=1) as (one, two, cluster),
    ):
        killed = cluster.nodes[0]
        names = [f"room.{number}" for number in range(40)]
        name = next(one for one in names if cluster.node_of(cluster.slot_of(one)) is killed)
        safe = next(one for one in names if cluster.node_of(cluster.slot_of(one)) is cluster.nodes[1])
        async with (
            two.handler.channels.subscribe([name], recover=True, max_items=500) as here,
            two.handler.channels.subscribe([safe, "plain"], recover=True, max_items=500) as other,
        ):
            await settled(two.broker)
            for number in range(10):
                one.handler.publish(name, number)
            assert await take(here, 9) == list(range(10))
            await cluster.until_replicated()
            await killed.kill()
            for number in range(10, 20):
                one.handler.publish(name, number)
            one.handler.publish(safe, "meanwhile")
            assert await take(here, 19) == list(range(10, 20)), "no gap: the replica has all"
            assert [packet for packet in await take(other, "meanwhile") if packet != ("gap", None)] == [
                "meanwhile"
            ]
            await until(lambda: one.broker.state == two.broker.state == "connected")
            async with Publisher(cluster.url) as publisher:
                await publisher.publish(name, "from outside")
            assert await take(here, "from outside") == ["from outside"]


def name_at(cluster: RedisCluster, node: RedisServer) -> str:
    """Return the name of a channel at a node."""
    return next(text for n in range(99) if cluster.node_of(cluster.slot_of(text := f"room.{n}")) is node)


async def test_offsets_that_were_lost_are_not_those_of_other_messages() -> None:
    """A primary fails over to a replica that lacks some, and back, and has run all the time."""
    async with two_processes(replicas=1) as (one, two, cluster), Publisher(cluster.url) as publisher:
        await until_declared(cluster)
        first, second = cluster.nodes[0], cluster.nodes[3]
        name = name_at(cluster, first)
        async with two.handler.channels.subscribe(name, recover=True) as here:
            await settled(two.broker)
            for number in range(5):
                await publisher.publish(name, number)
            await cluster.until_replicated()
            await cluster.cut_off(second, first)
            await publisher.publish(name, "lost")
            await publisher.publish(name, "lost, too")
            packets = [await here.receive() for _ in range(7)]
            assert packets[-1].data == "lost, too"
        await settled(two.broker)
        await trio.sleep(_TRUSTED / 1000)  # the history is sure for so long that its node was no replica
        await cluster.take_over(second, first, losing=True)
        await cluster.reconnect(first)
        await cluster.take_over(first, second, losing=False)
        for number in range(5, 9):
            await publisher.publish(name, number)
        async with two.handler.channels.subscribe(name, after=packets[-1].position) as late:
            one.handler.publish(name, "end")
            assert await take(late, "end") == [("gap", None), "end"]
        async with two.handler.channels.subscribe(name, last=20) as late:
            assert await take(late, "end") == [*range(9), "end"], "the rest is kept"


async def test_what_a_replica_lacks_is_a_gap_and_the_rest_does_not_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_ws.channels.shared_histories._MAX_IDS", 3)
    async with two_processes(replicas=1) as (one, two, cluster), Publisher(cluster.url) as publisher:
        await until_declared(cluster)
        first, second = cluster.nodes[0], cluster.nodes[3]
        name = name_at(cluster, first)
        async with two.handler.channels.subscribe(name, recover=True) as here:
            await settled(two.broker)
            for number in range(9):
                one.handler.publish(name, number)
            assert await take(here, 8) == list(range(9))
            await cluster.until_replicated()
            await cluster.cut_off(second, first)
            await publisher.publish(name, "lost")
            assert await take(here, "lost") == ["lost"]
            await cluster.take_over(second, first, losing=True)
            for number in range(9, 12):
                one.handler.publish(name, number)
            assert await take(here, 11) == [("gap", None), 9, 10, 11]


async def test_what_a_replica_lacks_is_sent_again() -> None:
    async with two_processes(replicas=1) as (one, two, cluster):
        first, second = cluster.nodes[0], cluster.nodes[3]
        name = name_at(cluster, first)
        one.handler.publish(name, 1)
        await settled(one.broker)
        await cluster.until_replicated()
        await cluster.cut_off(second, first)
        for number in range(2, 6):
            one.handler.publish(name, number)
        await settled(one.broker)
        async with two.handler.channels.subscribe(name, last=20, recover=True) as inbox:
            assert await take(inbox, 5) == list(range(1, 6))
            await cluster.take_over(second, first, losing=True)
            one.handler.publish(name, 6)
            assert await take(inbox, 6) == [("gap", None), 6], "it has the others"
        async with two.handler.channels.subscribe(name, last=20) as late:
            assert await take(late, 6) == list(range(1, 7))
        assert one.broker.statistics().published == 6


async def test_plain_channels_have_a_gap_only_where_something_may_be_lost() -> None:
    async with two_processes() as (one, two, cluster):
        names = [f"p{number}" for number in range(40)]
        lost = next(one for one in names if cluster.node_of(cluster.slot_of(one)) is cluster.nodes[0])
        safe = next(one for one in names if cluster.node_of(cluster.slot_of(one)) is cluster.nodes[1])
        async with (
            two.handler.channels.subscribe(lost, recover=True) as here,
            two.handler.channels.subscribe(safe, recover=True) as there,
        ):
            await settled(two.broker)
            losses = two.losses
            await cluster.nodes[0].do("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: two.losses > losses)
            await settled(two.broker)
            one.handler.publish(lost, 1)
            one.handler.publish(safe, 1)
            assert await take(here, 1) == [("gap", None), 1]
            assert await take(there, 1) == [1]


async def test_a_slot_whose_new_node_is_lost_while_it_moves() -> None:
    """Nothing waits for that node: the slot stays where it is."""
    async with two_processes(spare=1) as (one, two, cluster):
        slot = cluster.slot_of("room.1")
        source, target = cluster.node_of(slot), cluster.nodes[3]
        await cluster.begin_to_move(slot, source, target)
        await target.kill()
        routing = one.broker._routing
        one.handler.publish("room.1", 1)  # as the channel has no keys yet, that is sent to the target
        await until(lambda: len(routing.links) == 4)
        await source.do("CLUSTER", "SETSLOT", str(slot), "STABLE")
        async with two.handler.channels.subscribe("room.1", last=1) as here:
            assert await take(here, 1) == [1]
        await until(lambda: len(routing.links) == 3)
        assert one.broker.state == "connected"


async def test_a_slot_that_moves_back_while_messages_are_under_way() -> None:
    """It moves again only after what waits for it has moved, so messages keep their order."""
    async with (
        two_processes(ping_interval=60) as (one, two, cluster),
        two.handler.channels.subscribe("room.1", recover=True) as here,
    ):
        await settled(two.broker)
        slot = cluster.slot_of("room.1")
        source = cluster.node_of(slot)
        target = next(node for node in cluster.nodes if node is not source)
        routing = one.broker._routing
        assert isinstance(routing, ClusterRouting)
        source.pause()
        one.handler.publish("room.1", 0)
        await until(lambda: len(routing.link_of(b"trio_ws::room.1").queue._sent) == 1)
        for number, node in enumerate((target, source, target), 1):
            routing._apply({slot: Owner(("127.0.0.1", node.port), 100 + number)})
            one.handler.publish("room.1", number)
            await trio.lowlevel.checkpoint()
        source.resume()
        await until(lambda: routing._in_transit == set())
        for number in range(4, 7):
            one.handler.publish("room.1", number)
        assert await take(here, 6) == list(range(7))


async def test_a_message_that_has_to_wait_is_taken_before_later_ones() -> None:
    """The move of a slot is given up between two messages that are under way."""
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe("room.1", recover=True) as here,
    ):
        one.handler.publish("room.1", 0)
        assert await take(here, 0) == [0]
        await settled(one.broker)
        await cluster.do("room.1", "DEL", "trio_ws:h{:room.1}o")  # as if it had expired
        slot = b"%d" % cluster.slot_of("room.1")
        other = await cluster.nodes[1].do("CLUSTER", "MYID")
        if cluster.node_of(cluster.slot_of("room.1")) is cluster.nodes[1]:
            other = await cluster.nodes[2].do("CLUSTER", "MYID")
        await send_with(
            one.broker,
            b"trio_ws::room.1",
            (b"CLUSTER", b"SETSLOT", slot, b"MIGRATING", other),
            lambda: one.handler.publish("room.1", 1),
            (b"CLUSTER", b"SETSLOT", slot, b"STABLE"),
            lambda: one.handler.publish("room.1", 2),
        )
        assert await take(here, 2) == [1, 2]


async def send_with(
    broker: RedisBroker, channel: bytes, *parts: tuple[bytes, ...] | Callable[[], object]
) -> None:
    """Send commands to the node of a channel, and what functions publish, all at once."""
    exchange = broker._routing.link_of(channel).exchange
    assert exchange is not None
    sent = b""
    for part in parts:
        if isinstance(part, tuple):
            exchange.pending_replies.append((b"", []))
            sent += command(*part)
        else:
            part()
            sent += exchange.commands()
    await exchange.send(sent)


async def test_a_plain_message_that_a_later_one_has_overtaken_is_dropped() -> None:
    """The scripts are flushed, and loaded again by another program, while two messages are under way."""
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe(["plain", "plain.*"]) as here,
    ):
        place = cluster.node_of(cluster.slot_of("plain"))
        names = (f"plain.{number}" for number in range(100))
        beside = next(name for name in names if cluster.node_of(cluster.slot_of(name)) is place)
        publish = one.handler.publish
        await settled(one.broker)
        await settled(two.broker)
        await send_with(
            one.broker,
            b"trio_ws::plain",
            (b"SCRIPT", b"FLUSH"),
            lambda: [publish("plain", 1), publish(beside, "beside")],
            *((b"SCRIPT", b"LOAD", script) for script in (*SCRIPTS, *CLUSTER_SCRIPTS)),
            lambda: publish("plain", 2),
        )
        assert sorted(await receive_all(here, 2), key=str) == [2, "beside"]
        # If none was accepted, none is dropped.
        await settled(one.broker)
        await send_with(
            one.broker,
            b"trio_ws::plain",
            (b"SCRIPT", b"FLUSH"),
            lambda: [publish("plain", 3), publish("plain", 4)],
        )
        await settled(one.broker)
        publish("plain", 5)
        assert await receive_all(here, 3) == [3, 4, 5]
        assert one.broker.statistics().unpublished == 1


async def test_a_plain_message_that_was_redirected_does_not_come_after_later_ones() -> None:
    """A slot is given away, and given back at once."""
    async with (
        two_processes() as (one, two, cluster),
        two.handler.channels.subscribe("plain*") as here,
    ):
        slot = b"%d" % cluster.slot_of("plain")
        place = cluster.node_of(cluster.slot_of("plain"))
        own = await place.do("CLUSTER", "MYID")
        other = await next(node for node in cluster.nodes if node is not place).do("CLUSTER", "MYID")
        publish = one.handler.publish
        await settled_in_view(one.broker)
        await settled_in_view(two.broker)
        await send_with(
            one.broker,
            b"trio_ws::plain",
            (b"CLUSTER", b"SETSLOT", slot, b"NODE", other),
            lambda: publish("plain", 1),
            (b"CLUSTER", b"SETSLOT", slot, b"NODE", own),
            lambda: publish("plain", 2),
        )
        await settled_in_view(one.broker)
        publish("plain", 3)
        assert await receive_all(here, 2) == [2, 3]
        assert one.broker.statistics().unpublished == 1


async def test_a_channel_that_is_left_and_subscribed_at_once() -> None:
    """What the node says about the former subscription does not end the new one."""
    async with redis_cluster() as cluster, running(cluster, "a") as (broker, heard):  # type: ignore[arg-type]
        missed: list[Any] = []

        def on_missed(affected: Any = None, /) -> None:
            missed.append(affected)

        broker.on_missed = on_missed
        node = cluster.node_of(key_slot(b"trio_ws:{a}"))
        node.pause()
        link = broker._routing.link_of(b"trio_ws:a")
        broker.unsubscribe("a")
        await until(lambda: link.exchange is not None and len(link.exchange.pending_replies) == 1)
        broker.subscribe("a")
        await until(lambda: link.exchange is not None and len(link.exchange.pending_replies) == 2)
        node.resume()
        await settled_in_view(broker)
        await node.do("SPUBLISH", "trio_ws:{a}", b"tws1" + bytes(24) + b"x")
        await until(lambda: heard == [("a", b"x")])
        assert missed == []


async def test_a_history_is_read_again_if_its_subscription_was_redirected() -> None:
    async with two_processes() as (one, two, cluster):
        names = [f"room.{number}" for number in range(60)]
        slots = {cluster.slot_of(name): name for name in names}
        slot, name = next((slot, name) for slot, name in slots.items() if slot < SLOTS // 3)
        plain = next(text for text in map(str, range(100_000)) if cluster.slot_of(text) == slot)
        await cluster.move(slot, cluster.nodes[0], cluster.nodes[1])
        told: list[Any] = []
        before = two.broker.on_missed
        assert before is not None

        def missed(affected: Any = None, /) -> None:
            told.append([affected(f":{one}") for one in (name, plain)])
            before(affected)

        two.broker.on_missed = missed
        async with two.handler.channels.subscribe(plain, recover=True) as there:
            await settled_in_view(two.broker)
            one.handler.publish(plain, 0)
            assert await take(there, 0) == [0], "no gap: it is new"
        await cluster.move(slot, cluster.nodes[1], cluster.nodes[2])
        told.clear()
        async with two.handler.channels.subscribe(name, recover=True) as here:
            await settled_in_view(two.broker)
            one.handler.publish(name, 1)
            assert await take(here, 1) == [1]
            assert told == [[True, False]]


async def settled_in_view(broker: RedisBroker) -> None:
    """Wait until a broker has settled after what it has yet to learn of the cluster."""
    await settled(broker)
    routing = broker._routing
    assert isinstance(routing, ClusterRouting)
    await routing.view()
    await settled(broker)


@pytest.mark.parametrize("seed", range(how_many(2)))
async def test_anything_that_happens_to_a_cluster(seed: int) -> None:
    """Each subscriber has all messages in order and once, since no data is lost."""
    generator = random.Random(seed)
    async with (
        two_processes() as (one, two, cluster),
        one.handler.channels.subscribe("long", recover=True, max_items=100_000) as here,
        two.handler.channels.subscribe("long", recover=True, max_items=100_000) as there,
    ):
        slot = cluster.slot_of("long")
        place = cluster.node_of(slot)
        counts = {"one": [0], "two": [0]}
        async with trio.open_nursery() as nursery:
            for name, each in (("one", one), ("two", two)):
                nursery.start_soon(publish_forever, each, name, counts[name], generator)
            for _ in range(6):
                await trio.sleep(generator.uniform(0, 0.3))
                match generator.choice(["cut", "stop", "move", "slow move"]):
                    case "cut":
                        await generator.choice(cluster.nodes).do("CLIENT", "KILL", "TYPE", "pubsub")
                    case "stop":
                        node = generator.choice(cluster.nodes)
                        node.pause()
                        await trio.sleep(0.4)
                        node.resume()
                    case kind:
                        target = generator.choice([node for node in cluster.nodes if node is not place])
                        await cluster.begin_to_move(slot, place, target)
                        await cluster.move_keys(slot, place, target)
                        if kind == "slow move":
                            await trio.sleep(generator.uniform(0, 0.5))
                        await cluster.end_move(slot, place, target)
                        place = target
            nursery.cancel_scope.cancel()
        for each in (one, two):
            await settled(each.broker)
        last = {name: count[0] + 1 for name, count in counts.items()}
        for name, each in (("one", one), ("two", two)):
            each.handler.publish("long", [name, last[name]])
        for subscription in (here, there):
            assert await gaps_until_last(subscription, last) == 0, "nothing was lost"


@pytest.mark.parametrize("seed", range(how_many(1)))
async def test_primaries_that_fail_while_messages_flow(seed: int) -> None:
    """Each subscriber has all messages in order and once, and gaps only if a new primary has lacked some."""
    generator = random.Random(seed)
    async with (
        two_processes(replicas=3) as (one, two, cluster),
        one.handler.channels.subscribe("long", recover=True, max_items=100_000) as here,
        two.handler.channels.subscribe("long", recover=True, max_items=100_000) as there,
    ):
        primary = cluster.node_of(cluster.slot_of("long"))
        replica = cluster.nodes[3 + cluster.nodes.index(primary)]
        counts = {"one": [0], "two": [0]}
        kinds = [generator.choice(["kill", "fail over", "lose some", "cut", "stop"]) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for name, each in (("one", one), ("two", two)):
                nursery.start_soon(publish_forever, each, name, counts[name], generator)
            for kind in kinds:
                await trio.sleep(generator.uniform(0, 0.5))
                match kind:
                    case "cut":
                        await primary.do("CLIENT", "KILL", "TYPE", "pubsub")
                        continue
                    case "stop":
                        primary.pause()
                        await trio.sleep(0.4)
                        primary.resume()
                        continue
                    case "kill":
                        await primary.kill()
                        await cluster.until_primary(replica)
                        await trio.sleep(generator.uniform(0, 0.5))
                        await primary.start()
                        await cluster.until_copying(primary)
                    case "fail over":
                        await cluster.take_over(replica, primary, losing=False)
                    case _:  # lose some
                        await cluster.cut_off(replica, primary)
                        await trio.sleep(generator.uniform(0, 0.3))
                        await cluster.take_over(replica, primary, losing=True)
                        await cluster.reconnect(primary)
                primary, replica = replica, primary
            nursery.cancel_scope.cancel()
        for each in (one, two):
            await settled_in_view(each.broker)
        last = {name: count[0] + 1 for name, count in counts.items()}
        for name, each in (("one", one), ("two", two)):
            each.handler.publish("long", [name, last[name]])
        for subscription in (here, there):
            got = await until_last(subscription, last)
            assert check_numbers(got, last) <= kinds.count("kill") + kinds.count("lose some")
            for name, end in last.items():
                numbers = [packet.data[1] for packet in got if packet.data and packet.data[0] == name]
                assert numbers == list(range(1, end + 1)), "nothing is missing, even where a gap was told"


async def test_tls_and_a_user_with_few_rights(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options = (
        "--tls-port {tls} --tls-cluster yes --tls-auth-clients no"
        f" --tls-cert-file {tmp_path}/server.pem --tls-key-file {tmp_path}/server.pem"
        f" --tls-ca-cert-file {tmp_path}/ca.pem"
    )
    commands = (
        "+hello +auth +ping +client|setname +info +set +get +evalsha +script|load"
        " +cluster|info +cluster|nodes +asking +echo"
        " +ssubscribe +sunsubscribe +psubscribe +punsubscribe +spublish +publish"
        " +hset +hget +hmget +hlen +xadd +xrange +xlen +xdel +del +pexpire +time"
        " +zadd +zremrangebyrank +zrevrange"
    )
    async with redis_cluster(options) as cluster:
        ports = []
        for node in cluster.nodes:
            await node.do(
                "ACL",
                "SETUSER",
                "some",
                "reset",
                "on",
                ">p@ss",
                "~trio_ws:h*",
                "&trio_ws:*",
                *commands.split(),
            )
            ports.append((await node.do("CONFIG", "GET", "tls-port"))[1].decode())
        url = f"rediss+cluster://some:p%40ss@127.0.0.1:{ports[0]}"
        names = ["a", "b", "c", "price.1", "room.1", "room.2", "room.3"]
        handlers = [Rooms(), Rooms()]
        brokers = [RedisBroker(url, ssl_context=context, **QUICK) for _ in handlers]
        async with (
            serving_in_memory(handlers[0], broker=brokers[0]),
            serving_in_memory(handlers[1], broker=brokers[1]),
            handlers[1].channels.subscribe(names, max_items=100) as inbox,
        ):
            for broker in brokers:
                await settled(broker)
            for name in names:
                handlers[0].publish(name, name)
            assert sorted(await receive_all(inbox, len(names))) == names
            await until_declared(cluster)
            async with Publisher(url, ssl_context=context) as publisher:
                await publisher.publish("room.1", "outside")
                await publisher.publish("price.1", "outside")
            assert await receive_all(inbox, 2) == ["outside", "outside"]
            assert [broker.problem for broker in brokers] == ["", ""]
        with pytest.raises(BrokerError, match="invalid username-password"):
            async with RedisBroker(url.replace("p%40ss", "secret"), ssl_context=context).run(
                lambda *_: None, 5
            ):
                pass


async def test_cancelled_at_any_time_it_leaves_no_task() -> None:
    async with redis_cluster() as cluster:
        for number in range(12):
            broker = RedisBroker(cluster.url)
            broker.subscribe("a")
            broker.publish("b", b"")
            with trio.move_on_after(0.005 * number):
                async with broker.run(lambda *_: None, 5):
                    broker.subscribe("c*")
                    await trio.sleep_forever()
            assert our_tasks() == []
            assert broker.state in ("new", "closed")
        for node in cluster.nodes:
            await node.until_clients(0)


async def test_a_publisher_that_is_cancelled_leaves_no_connection() -> None:
    async with redis_cluster() as cluster:
        with trio.CancelScope() as scope:
            async with Publisher(cluster.url) as publisher:
                for number in range(30):
                    await publisher.publish(str(number), number)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        for node in cluster.nodes:
            await node.until_clients(0)


async def test_bad_input_a_server_that_is_not_a_cluster() -> None:
    async with redis_server() as server:
        broker = RedisBroker(server.url.replace("redis:", "redis+cluster:"))
        with pytest.raises(BrokerError, match="not a Redis Cluster"):
            async with broker.run(lambda *_: None, 5):
                pass
        async with Publisher(server.url.replace("redis:", "redis+cluster:")) as publisher:
            with pytest.raises(BrokerError, match="not a Redis Cluster"):
                await publisher.publish("a", 1)
    for prefix in ("{", "a}b"):
        for make in (RedisBroker, Publisher):
            with pytest.raises(ValueError, match="prefix"):
                make("redis+cluster://h", prefix=prefix)


def test_slots_are_those_of_redis() -> None:
    # From the specification of Redis Cluster, and from CLUSTER KEYSLOT.
    assert key_slot(b"123456789") == 0x31C3
    assert key_slot(b"a") == 15495
    assert key_slot(b"{user1000}.following") == key_slot(b"{user1000}.followers") == key_slot(b"user1000")
    assert key_slot(b"foo{}{bar}") == key_slot(b"foo{}{bar}")
    assert key_slot(b"foo{{bar}}zap") == key_slot(b"{bar")
    assert key_slot(b"foo{bar}{zap}") == key_slot(b"bar")
    for name in (":room.1", "/ws:a{b}c", ":}x", ":{", "/{a}:b"):
        channel = f"trio_ws:{{{name}}}".encode()
        assert key_slot(channel) == key_slot(f"trio_ws:h{{{name}}}m".encode())


def test_a_view_of_the_cluster() -> None:
    text = (
        "a1 127.0.0.1:7001@17001 master - 0 1 2 connected 0-5460 [5461->-b2] 9000\n"
        "b2 :7002@17002 myself,master - 0 1 3 connected 5461-16383\n"
        "c3 10.0.0.3:7003@17003,node.example slave a1 0 1 2 connected\n"
        "d4 [::1]:7004@17004 master,fail - 0 1 1 disconnected 1-2\n"
        "e5 :0@0 master,noaddr - 0 1 9 disconnected 3\n"
    )
    owners, nodes = parse_nodes(text, ("10.0.0.2", 7002))
    assert nodes == [("127.0.0.1", 7001), ("10.0.0.2", 7002), ("node.example", 7003), ("::1", 7004)]
    assert len(owners) == SLOTS
    assert owners[1].address == ("127.0.0.1", 7001), "the greater epoch has it"
    assert owners[9000].address == ("10.0.0.2", 7002)
    for malformed in (
        "x",
        "a b c",
        "a h:x@1 master - 0 1 2 connected 0-1",
        "a h:1@1 master - 0 1 x connected 1",
    ):
        with pytest.raises((ValueError, IndexError)):
            parse_nodes(malformed, ("h", 1))
