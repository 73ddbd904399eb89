"""The subscribers of a channel in several processes.

Publishing in one process reaches the subscribers in the others, once. The loss and return of the broker is
survived, logged and visible. Nothing blocks the publisher's connection.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.channels import Listener, Rooms, connection_of
from tests.support.redis import logged, redis_server
from tests.support.serving import guard, serving, serving_in_memory
from tests.support.watching import until
from tests.test_processes import running
from trio_ws import (
    All,
    BrokerError,
    ClientConnection,
    Has,
    IsEqual,
    RedisBroker,
    WebSocketClient,
    WebSocketServer,
    rpc_method,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from trio.testing import MockClock


class Chat(Rooms):
    """Rooms to which clients can publish."""

    @rpc_method()
    def say(self, connection: ClientConnection, room: str, text: str) -> int:
        return self.publish(room, text)


# -- two servers of one process, and a broker in memory ---------------------------------------------


async def test_every_subscriber_receives_it_once(autojump_clock: MockClock) -> None:
    one, two = Rooms(), Rooms()
    shared = InMemoryBus()
    async with (
        serving_in_memory(one, broker=InMemoryBroker(shared)) as first,
        serving_in_memory(two, broker=InMemoryBroker(shared)) as second,
        trio.open_nursery() as nursery,
    ):
        here = await Listener.join(nursery, first, "here", "news.tech,news.*,*")
        there = await Listener.join(nursery, second, "there", "news.tech,news.*,*")
        other = await Listener.join(nursery, second, "other", "sports")
        async with two.channels.subscribe("news.*") as subscription:
            assert one.publish("news.tech", {"n": 1}) == 1, "those of this process are counted"
            assert one.broadcast("all") == 1
            assert (await subscription.receive()).data == {"n": 1}
        await wait_all_tasks_blocked()
        assert here.got == there.got == [{"n": 1}, "all"]
        assert other.got == ["all"]
        nursery.cancel_scope.cancel()


async def test_channels_without_subscribers_are_not_subscribed_to(autojump_clock: MockClock) -> None:
    broker = InMemoryBroker(InMemoryBus())
    handler = Rooms()
    async with serving_in_memory(handler, broker=broker) as memory, trio.open_nursery() as nursery:
        everyone = set(broker._names)
        listener = await Listener.join(nursery, memory, "a", "x,y*")
        second = await Listener.join(nursery, memory, "b", "x")
        assert broker._names - everyone == {":x", ":y*"}
        connection_of(handler, "a").unsubscribe("x")
        assert broker._names - everyone == {":x", ":y*"}
        await second.leave()
        await wait_all_tasks_blocked()
        assert broker._names - everyone == {":y*"}
        await listener.leave()
        await wait_all_tasks_blocked()
        assert broker._names == everyone
        nursery.cancel_scope.cancel()


async def test_predicates_travel_or_are_refused(autojump_clock: MockClock) -> None:
    one, two = Rooms(), Rooms()
    shared = InMemoryBus()
    async with (
        serving_in_memory(one, broker=InMemoryBroker(shared)) as first,
        serving_in_memory(two, broker=InMemoryBroker(shared)) as second,
        trio.open_nursery() as nursery,
    ):
        listeners = [await Listener.join(nursery, second, name, "x") for name in "ab"]
        local = await Listener.join(nursery, first, "c", "x")
        connection_of(two, "a").region = "eu"
        one.publish("x", 1, predicate=IsEqual("region", "eu"))
        one.publish(
            "x", 2, predicate=All(Has("name"), ~IsEqual("region", "eu")) & (Has("name") | Has("other"))
        )
        one.broadcast(3, predicate=IsEqual("name", "b"))
        with pytest.raises(TypeError, match="cannot be sent to other processes"):
            one.publish("x", 4, predicate=lambda connection: True)
        await wait_all_tasks_blocked()
        assert [listener.got for listener in listeners] == [[1], [2, 3]]
        assert local.got == [2]
        nursery.cancel_scope.cancel()


async def test_a_full_subscription_of_another_process_does_not_hold_up_the_publisher(
    autojump_clock: MockClock,
) -> None:
    one, two = Rooms(), Rooms()
    shared = InMemoryBus()
    async with (
        serving_in_memory(one, broker=InMemoryBroker(shared)),
        serving_in_memory(two, broker=InMemoryBroker(shared)),
        two.channels.subscribe("x", policy="block", max_items=1) as subscription,
    ):
        for number in range(3):
            assert one.publish("x", number) == 0
        assert (await subscription.receive()).data == 0
        assert two.channels.statistics().channels["x"].dropped == 2


async def test_a_broker_in_memory_counts_what_it_cannot_give_out(autojump_clock: MockClock) -> None:
    handler = Rooms()
    broker = InMemoryBroker(InMemoryBus())
    broker.publish("x", b"")
    async with serving_in_memory(handler, broker=broker):
        handler.publish("x", 1)
    assert broker.state == "closed"
    broker.publish("x", b"")
    assert broker.statistics()[:3] == (1, 0, 2)


async def test_a_handler_that_served_before_the_broker_came(autojump_clock: MockClock) -> None:
    handler = Rooms()
    broker = InMemoryBroker(InMemoryBus())
    async with handler.channels.subscribe(["x", "y*"]), serving_in_memory(handler, broker=broker):
        assert {":x", ":y*"} <= broker._names


# -- Redis ------------------------------------------------------------------------------------------


async def test_two_servers_with_clients_on_each(caplog: pytest.LogCaptureFixture) -> None:
    """Redis is killed and restarted in the middle, and lost messages are counted."""
    caplog.set_level(logging.INFO, "trio_ws.channels")
    one, two = Chat(), Chat()
    async with redis_server() as redis:
        brokers = [RedisBroker(redis.url, max_queue_items=5) for _ in range(2)]
        async with (
            serving(one, broker=brokers[0]) as first,
            serving(two, broker=brokers[1]) as second,
            WebSocketClient(f"{first.url}/a/room,r*") as a,
            WebSocketClient(f"{second.url}/b/room,r*") as b,
        ):
            await redis.until_subscribed(2 * 3)  # the room, the glob, and "*"
            assert await a.call("say", "room", "1") == 1
            assert await b.call("say", "room", "2") == 1
            heard = [await said(b), await said(b)]
            assert sorted(heard) == ["1", "2"]
            assert sorted([await said(a), await said(a)]) == ["1", "2"]

            await redis.kill()
            await until(lambda: all(broker.state == "lost" for broker in brokers))
            assert first.broker is brokers[0]
            for number in range(20):
                # Publishing does not wait.
                assert await a.call("say", "room", f"lost {number}") == 1
                assert await said(a) == f"lost {number}"
            assert brokers[0].statistics().unpublished == 15
            assert brokers[0].statistics().waiting == 5

            await redis.start()
            await until(lambda: all(broker.state == "connected" for broker in brokers))
            heard = [await said(b) for _ in range(5)]
            assert heard == [f"lost {number}" for number in range(15, 20)]
            assert await b.call("say", "room", "back") == 1
            assert [await said(a), await said(b)] == ["back", "back"]
        assert any("lost" in line for line in logged(caplog, logging.WARNING))


async def said(client: WebSocketClient) -> Any:
    packet = await client.recv()
    assert packet is not None
    return packet.data


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis://nobody.invalid"])
async def test_a_broker_that_is_not_there_is_an_error_at_start(url: str) -> None:
    with trio.fail_after(guard()), pytest.raises(BrokerError):
        async with WebSocketServer(Rooms, broker=url):
            raise AssertionError("it serves without its broker")


@pytest.mark.parametrize("url", ["http://localhost", "redis:", "localhost", "redis://h:port"])
def test_a_broker_url_that_is_wrong_is_an_error_at_once(url: str) -> None:
    with pytest.raises(ValueError):
        WebSocketServer(Rooms, broker=url)


async def join(url: str, *, task_status: trio.TaskStatus[tuple[int, WebSocketClient]]) -> None:
    """Be a client in the room, and report the process that serves it."""
    async with WebSocketClient(url) as client:
        task_status.started((await client.call("join", "room"), client))
        await trio.sleep_forever()


async def test_two_worker_processes_with_clients_on_each() -> None:
    async with redis_server() as redis:
        target = "tests.support.worker_targets:Chat"
        async with running(target, workers=2, broker=redis.url) as group, trio.open_nursery() as nursery:
            clients: dict[int, WebSocketClient] = {}
            while len(clients) < 2:
                pid, client = await nursery.start(join, group.url)
                clients.setdefault(pid, client)
            await redis.until_subscribed(2 * 2)
            one, two = clients.values()
            assert await one.call("say", "room", "hello") >= 0
            assert await said(two) == "hello"
            assert await two.call("say", "room", "hello yourself") >= 0
            assert await said(one) == "hello yourself"
            nursery.cancel_scope.cancel()
