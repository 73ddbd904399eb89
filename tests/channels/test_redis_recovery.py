"""A real Redis that is killed: subscribers receive one gap, in its place, and presence is restored."""

from __future__ import annotations

from typing import ClassVar

from tests.support.inspect import presence_of
from tests.support.redis import QUICK, redis_server, settled
from tests.support.serving import serving_in_memory
from tests.support.watching import until
from trio_ws import Gap, History, RedisBroker, WebSocketHandler


class Rooms(WebSocketHandler):
    channels_history: ClassVar = {"room.*": History()}


def lost(broker: RedisBroker) -> int:
    return broker.statistics().losses


async def test_a_redis_that_is_killed_is_one_gap() -> None:
    here, there = Rooms(), Rooms()
    async with redis_server() as redis:
        brokers = [RedisBroker(redis.url, **QUICK) for _ in range(2)]
        async with (
            serving_in_memory(here, broker=brokers[0]),
            serving_in_memory(there, broker=brokers[1]),
            here.channels.subscribe(["room.1", "plain"], recover=True) as subscription,
        ):
            for broker in brokers:
                await settled(broker)
            there.publish("room.1", "before")
            packet = await subscription.receive()
            assert packet.data == "before"
            position = packet.position
            for _ in range(2):
                losses = [lost(broker) for broker in brokers]
                await redis.kill()
                await until(lambda losses=losses: min(map(lost, brokers)) > min(losses))  # type: ignore[misc]
                await redis.start()
                await until(lambda: all(broker.state == "connected" for broker in brokers))
                for broker in brokers:
                    await settled(broker)
                there.publish("room.1", "after")
                there.publish("plain", "after")
                got = [await subscription.receive() for _ in range(4)]
                assert sorted(one.channel or "" for one in got if isinstance(one, Gap)) == ["plain", "room.1"]
                for name in ("room.1", "plain"):
                    assert [isinstance(one, Gap) for one in got if one.channel == name] == [True, False]
            async with here.channels.subscribe("room.1", after=position) as late:
                assert isinstance(await late.receive(), Gap)


async def test_presence_through_redis() -> None:
    here, there = Rooms(), Rooms()
    async with redis_server() as redis:
        async with (
            serving_in_memory(here, broker=RedisBroker(redis.url, **QUICK)),
            serving_in_memory(there, broker=RedisBroker(redis.url, **QUICK)),
        ):
            presence = here.channels.presence("room.1")
            presence_of(there.channels).enter("room.1", "uid", "somebody")
            await until(lambda: dict(presence) == {"uid": "somebody"})
            await redis.kill()
            presence_of(there.channels).enter("room.1", "other", "somebody else")
            await redis.start()
            await until(lambda: len(presence) == 2)
            presence_of(there.channels).leave("room.1", "uid")
            await until(lambda: list(presence) == ["other"])
