"""The behaviour of every broker, in memory and with Redis, and the creation of brokers from URLs."""

from __future__ import annotations

import fnmatch
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.redis import Received, redis_server, settled
from tests.support.redis_cluster import redis_cluster
from tests.support.serving import all_tasks, guard, serving_in_memory
from tests.support.watching import until
from trio_ws import Broker, BrokerError, BrokerState, BrokerStatistics, RedisBroker, WebSocketHandler
from trio_ws.channels.broker_urls import broker_from
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable


class LinkBroker(Broker):
    """A user-defined broker that connects two servers, and uses only public names."""

    def __init__(self) -> None:
        self.other: LinkBroker | None = None
        self.names: set[str] = set()
        self._state: BrokerState = "new"
        self._receive: Callable[[str, bytes], None] | None = None
        self._published = self._received = 0

    @asynccontextmanager
    async def run(self, receive: Callable[[str, bytes], None], timeout: float) -> AsyncIterator[None]:  # noqa: ASYNC109
        self._receive, self._state = receive, "connected"
        yield
        self._state = "closed"

    def subscribe(self, name: str) -> None:
        self.names.add(name)

    def unsubscribe(self, name: str) -> None:
        self.names.discard(name)

    def publish(self, name: str, payload: bytes) -> None:
        self._published += 1
        if self.other is not None and any(fnmatch.fnmatchcase(name, one) for one in self.other.names):
            self.other.take(name, payload)

    def take(self, name: str, payload: bytes) -> None:
        assert self._receive is not None
        self._received += 1
        self._receive(name, payload)

    @property
    def state(self) -> BrokerState:
        return self._state

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(self._published, self._received, 0, 0, 0)


async def test_a_broker_of_a_users() -> None:
    here, there = WebSocketHandler(), WebSocketHandler()
    one, other = LinkBroker(), LinkBroker()
    one.other, other.other = other, one
    states: list[BrokerState] = [one.state]
    async with serving_in_memory(here, broker=one) as memory, serving_in_memory(there, broker=other):
        assert memory.server.broker is one
        states.append(one.state)
        async with there.channels.subscribe("news.*") as subscription:
            here.publish("sports.today", "no")
            here.publish("news.today", "yes")
            packet = await subscription.receive()
            assert (packet.channel, packet.data) == ("news.today", "yes")
    assert (one.statistics().published, other.statistics().received) == (2, 1)
    states.append(one.state)
    assert states == ["new", "connected", "closed"]


class Medium:
    """The medium that connects brokers of one kind, and waits for its state.

    Args:
        make: makes a broker.
        ordered: whether messages of different channels arrive in order.
    """

    def __init__(self, make: Callable[[], Broker], *, ordered: bool = True) -> None:
        self.make = make
        self._ordered = ordered

    def in_order(self, messages: Iterable[Any]) -> list[Any]:
        """Return messages of several channels in the order in which they arrive, if that is sure."""
        return list(messages) if self._ordered else sorted(messages)

    @asynccontextmanager
    async def running(self, *names: str) -> AsyncIterator[tuple[Broker, Received]]:
        """Run a broker with these subscriptions, which records the messages that it receives."""
        broker = self.make()
        heard: Received = []
        async with broker.run(lambda name, payload: heard.append((name, payload)), 5):
            for name in names:
                broker.subscribe(name)
            await self.settle(broker)
            yield broker, heard

    async def settle(self, broker: Broker) -> None:
        """Wait until the other side knows all subscriptions."""
        if isinstance(broker, RedisBroker):
            await settled(broker)


@asynccontextmanager
async def memory() -> AsyncIterator[Medium]:
    hub = InMemoryBus()
    with trio.fail_after(guard()):
        yield Medium(lambda: InMemoryBroker(hub))


@asynccontextmanager
async def redis() -> AsyncIterator[Medium]:
    async with redis_server() as server:
        yield Medium(lambda: RedisBroker(server.url))


@asynccontextmanager
async def cluster() -> AsyncIterator[Medium]:
    async with redis_cluster() as servers:
        yield Medium(lambda: RedisBroker(servers.url), ordered=False)


MEDIA = pytest.mark.parametrize(
    "medium", [memory, redis, pytest.param(cluster, marks=pytest.mark.slow("other servers and clients"))]
)


@MEDIA
async def test_each_broker_receives_messages_of_others_once_and_none_of_its_own(medium: Any) -> None:
    async with (
        medium() as made,
        made.running("news") as (one, heard_one),
        made.running("news") as (two, heard),
    ):
        async with made.running("else") as (three, heard_three):
            one.publish("news", b"1")
            three.publish("news", b"2")
            one.publish("else", b"3")
            await until(lambda: len(heard) == 2 and len(heard_one) == 1 and heard_three)
            assert sorted(heard) == [("news", b"1"), ("news", b"2")]
            assert heard_one == [("news", b"2")]
            assert heard_three == [("else", b"3")]
            await made.settle(one)
            assert one.statistics()[:2] == (2, 1)
            assert two.statistics()[:2] == (0, 2)


@MEDIA
async def test_a_message_that_matches_many_subscriptions_is_received_once(medium: Any) -> None:
    names = ("news.tech", "news.*", "*", "news.[st]*", "news.????", "news.[!x]ech")
    async with medium() as made, made.running(*names) as (_, heard), made.running() as (other, _):
        for number in range(20):
            other.publish("news.tech", b"%d" % number)
        other.publish("end", b"")
        await until(lambda: ("end", b"") in heard and len(heard) >= 21)
        heard.remove(("end", b""))
        assert heard == [("news.tech", b"%d" % number) for number in range(20)]


@MEDIA
async def test_only_messages_that_match_a_glob_are_received(medium: Any) -> None:
    globs = {
        "a?": ["aä", "a\U0001f600", "a*"],  # one character, not one byte
        "b[!x]": ["bä", "b["],
        "c[z-a]": [],  # a range that runs backwards matches nothing
        "d[^x]": ["d^", "dx"],  # no negation in our dialect
        "e\\*": ["e\\", "e\\f"],  # no escape either
        "f[": ["f["],  # a set without an end is its characters
        "g[*": ["g[", "g[*"],
        "h[]x]": ["h]", "hx"],
        "i[!]x]": ["iä"],
    }
    others = ["a", "aää", "bx", "b", "cz", "c-", "ca", "dy", "e*", "e", "f", "g*", "h[", "i]", "ix", "end"]
    async with medium() as made, made.running(*globs, "end") as (_, heard), made.running() as (other, _):
        names = [name for matched in globs.values() for name in matched]
        for name in names + others:
            other.publish(name, b"")
        await until(lambda: ("end", b"") in heard and len(heard) > len(names))
        assert made.in_order([name for name, _ in heard]) == made.in_order([*names, "end"])


@MEDIA
async def test_names_and_payloads_arrive_as_they_are(medium: Any) -> None:
    names = ["ä", "\U0001f600", "a b\r\n", "\0", "\ud800", "x" * 256, "]\\^-", "'\""]
    payload = bytes(range(256)) * 4096
    async with medium() as made, made.running(*names) as (_, heard), made.running() as (other, _):
        for name in names:
            other.publish(name, payload)
        other.publish(names[0], b"")
        await until(lambda: (names[0], b"") in heard and len(heard) > len(names))
        assert made.in_order(heard) == made.in_order([*((name, payload) for name in names), (names[0], b"")])


@MEDIA
async def test_unsubscribing_ends_it_and_subscribing_twice_is_once(medium: Any) -> None:
    async with medium() as made, made.running("a", "a", "b*", "end") as (broker, heard):
        async with made.running() as (other, _):
            for name in ("a", "b*", "never"):
                broker.unsubscribe(name)
            await made.settle(broker)
            other.publish("a", b"")
            other.publish("bb", b"")
            other.publish("end", b"")
            await until(lambda: heard)
            assert heard == [("end", b"")]
            broker.subscribe("a")
            await made.settle(broker)
            other.publish("a", b"again")
            await until(lambda: len(heard) == 2)
            assert heard[1] == ("a", b"again")


@MEDIA
async def test_subscribing_before_it_runs(medium: Any) -> None:
    async with medium() as made, made.running() as (other, _):
        broker = made.make()
        assert broker.state == "new"
        broker.subscribe("a")
        heard: Received = []
        async with broker.run(lambda *message: heard.append(message), 5):
            assert broker.state == "connected"
            await made.settle(broker)
            other.publish("a", b"1")
            await until(lambda: heard)
        assert broker.state == "closed"
        other.publish("a", b"2")
        await made.settle(other)
        assert heard == [("a", b"1")]


@MEDIA
async def test_a_broker_runs_once_at_a_time(medium: Any) -> None:
    async with medium() as made, made.running() as (broker, _):
        with pytest.raises(RuntimeError, match="serves one server"):
            async with broker.run(lambda *_: None, 5):
                pass
        assert broker.state == "connected"


@MEDIA
async def test_the_error_of_a_block_leaves_as_it_was_raised(medium: Any) -> None:
    async with medium() as made:
        before = all_tasks()
        error = KeyError("x")
        with pytest.raises(KeyError) as caught:
            async with made.running("a"):
                raise error
        assert caught.value is error
        group = ExceptionGroup("mine", [ValueError(1)])
        with pytest.raises(ExceptionGroup) as grouped:
            async with made.running("a"):
                raise group
        assert grouped.value is group
        assert all_tasks() == before


@MEDIA
async def test_a_cancelled_block_is_cancelled_and_its_broker_closed(medium: Any) -> None:
    async with medium() as made:
        before = all_tasks()
        broker = made.make()
        with trio.CancelScope() as scope:
            async with broker.run(lambda *_: None, 5):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert broker.state == "closed"
        assert all_tasks() == before


async def test_brokers_are_created_from_urls_or_passed_as_objects() -> None:
    memory_broker = InMemoryBroker(InMemoryBus())
    assert broker_from(memory_broker) is memory_broker
    for url in ("redis://h", "rediss://h:1/0", "unix:///p", "redis+unix:///p", "REDIS://h"):
        assert isinstance(broker_from(url), RedisBroker)


@pytest.mark.parametrize("given", [None, 7, b"redis://h", RedisBroker])
def test_bad_input_broker_of_a_wrong_type(given: Any) -> None:
    with pytest.raises(TypeError, match="broker must be a Broker or a URL"):
        broker_from(given)


@pytest.mark.parametrize("url", ["", "redis", "amqp://h", "://", "http://user:secret@h"])
def test_bad_input_broker_url_that_no_broker_has(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis://.*rediss://.*unix://") as caught:
        broker_from(url)
    assert "secret" not in str(caught.value)
    assert not isinstance(caught.value, BrokerError)
