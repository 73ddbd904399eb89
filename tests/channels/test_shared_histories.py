"""Histories that a broker keeps for all processes: subscribers recover in one what they missed in another."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.network import Network
from tests.support.serving import serving_in_memory
from trio_ws import (
    Backoff,
    Broker,
    BrokerError,
    ClientConnection,
    Gap,
    History,
    Packet,
    Position,
    Subscription,
    WebSocketClient,
    WebSocketHandler,
)
from trio_ws.testing import InMemoryBroker, InMemoryBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_ws import HistoryPage, KeptMessage


class Rooms(WebSocketHandler):
    client_globs = True
    channels_history: ClassVar = {
        "room.*": History(items=10, seconds=60),
        "price.*": History(latest=True),
    }

    def may_subscribe(self, connection: ClientConnection, name: str) -> bool:
        return True


class LossyBroker(InMemoryBroker):
    """A broker that silently drops messages while `deaf` is true."""

    deaf = False

    def _deliver(self, name: str, epoch: str, message: KeptMessage) -> None:
        if not self.deaf:
            super()._deliver(name, epoch, message)


@asynccontextmanager
async def two_processes() -> AsyncIterator[tuple[Rooms, Rooms, list[LossyBroker], list[Any], InMemoryBus]]:
    bus = InMemoryBus(keeps_histories=True)
    here, there = Rooms(), Rooms()
    brokers = [LossyBroker(bus), LossyBroker(bus)]
    async with (
        serving_in_memory(here, broker=brokers[0]) as one,
        serving_in_memory(there, broker=brokers[1]) as two,
    ):
        yield here, there, brokers, [one, two], bus


def waiting(subscription: Subscription) -> list[Any]:
    """What waits in it: data, or a gap and how many messages are missing."""
    got: list[Any] = []
    while True:
        try:
            packet: Packet = subscription.receive_nowait()
        except trio.WouldBlock:
            return got
        got.append(("gap", packet.missing) if isinstance(packet, Gap) else packet.data)


async def test_all_processes_have_the_same_positions(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, *_),
        here.channels.subscribe("room.1", recover=True) as one,
        there.channels.subscribe("room.1") as two,
    ):
        here.publish("room.1", "a")
        there.publish("room.1", "b")
        got = [[await subscription.receive() for _ in range(2)] for subscription in (one, two)]
        assert [[packet.data for packet in each] for each in got] == [["a", "b"], ["a", "b"]]
        assert [packet.position for packet in got[0]] == [packet.position for packet in got[1]]
        assert got[0][0].offset == 1
        position = got[0][0].position
        async with there.channels.subscribe("room.1", after=position) as late:
            assert waiting(late) == ["b"]


async def test_a_process_reads_what_was_published_before_it_had_subscribers(
    autojump_clock: MockClock,
) -> None:
    async with two_processes() as (here, there, *_):
        for number in range(15):
            here.publish("room.1", number)
        async with there.channels.subscribe("room.1", last=3) as subscription:
            assert waiting(subscription) == [12, 13, 14]
            here.publish("room.1", 15)
            assert waiting(subscription) == [15]
        async with there.channels.subscribe("room.1", last=100) as subscription:
            assert waiting(subscription) == list(range(6, 16))


async def test_live_messages_come_first_and_the_history_later(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there, *_):
        here.publish("room.1", 0)
        here.publish("room.1", 1)
        async with there.channels.subscribe("room.*") as live:
            here.publish("room.1", 2)
            assert waiting(live) == [2]
            async with there.channels.subscribe("room.1", last=10) as late:
                assert waiting(late) == [0, 1, 2]


async def test_a_loss_of_the_broker_without_a_loss_of_messages_causes_no_gap(
    autojump_clock: MockClock,
) -> None:
    async with (
        two_processes() as (here, there, brokers, memories, _),
        WebSocketClient("ws://test/", stream=await memories[0].stream()) as client,
        client.subscribe("room.1", recover=True) as remote,
        here.channels.subscribe("room.1", recover=True) as local,
        here.channels.subscribe("room.1") as unaware,
    ):
        there.publish("room.1", 1)
        for _ in range(3):
            brokers[0].lose()
            there.publish("room.1", 2)
            brokers[0].recover()
            there.publish("room.1", 3)
            await wait_all_tasks_blocked()
        for subscription in (remote, local, unaware):
            assert waiting(subscription) == [1, 2, 3, 2, 3, 2, 3]


async def test_trimmed_messages_are_a_gap_of_their_number(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, brokers, *_),
        here.channels.subscribe(["room.1", "price.1"], recover=True) as subscription,
    ):
        there.publish("room.1", 0)
        brokers[0].lose()
        for number in range(1, 16):
            there.publish("room.1", number)
            there.publish("price.1", number)
        brokers[0].recover()
        await wait_all_tasks_blocked()
        got = waiting(subscription)
        assert [one for one in got if one != 15] == [0, ("gap", 5), *range(6, 15)]
        assert got.count(15) == 2


async def test_a_message_that_was_not_delivered_is_noticed_and_read(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, brokers, *_),
        here.channels.subscribe("room.1", recover=True) as subscription,
    ):
        there.publish("room.1", 1)
        brokers[0].deaf = True
        there.publish("room.1", 2)
        brokers[0].deaf = False
        there.publish("room.1", 3)
        there.publish("room.1", 4)
        await wait_all_tasks_blocked()
        assert waiting(subscription) == [1, 2, 3, 4]


async def test_an_emptied_broker_is_a_gap_only_where_messages_were_lost(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, brokers, _, bus),
        here.channels.subscribe("room.1", recover=True) as subscription,
        there.channels.subscribe("room.1", recover=True) as other,
    ):
        there.publish("room.1", 1)
        bus.forget()
        there.publish("room.1", 2)
        there.publish("room.1", 3)
        assert waiting(subscription) == waiting(other) == [1, 2, 3]
        brokers[0].lose()
        there.publish("room.1", 4)
        bus.forget()
        there.publish("room.1", 5)
        brokers[0].recover()
        await wait_all_tasks_blocked()
        assert waiting(subscription) == [("gap", None), 5]
        assert waiting(other) == [4, 5]
        async with here.channels.subscribe("room.1", after=Position("of another", 3)) as late:
            there.publish("room.1", 6)
            assert waiting(late) == [("gap", None), 6]


async def test_messages_that_could_not_be_appended_are_a_gap_for_all(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, brokers, *_),
        here.channels.subscribe("room.1", recover=True) as subscription,
        there.channels.subscribe("room.1", recover=True) as other,
        there.channels.subscribe("room.1") as unaware,
    ):
        here.publish("room.1", 1)
        brokers[0].lose()
        here.publish("room.1", "lost")
        there.publish("room.1", 2)
        here.publish("room.1", "lost")
        brokers[0].recover()
        here.publish("room.1", 3)
        await wait_all_tasks_blocked()
        assert waiting(subscription) == waiting(other) == [1, 2, ("gap", 2), 3]
        assert waiting(unaware) == [1, 2, 3]
        async with there.channels.subscribe("room.1", last=10) as late:
            # It requests the positions, and gets none.
            assert waiting(late) == [1, 2, 3]
        async with there.channels.subscribe("room.1", recover=True, last=3) as late:
            assert waiting(late) == [2, ("gap", 2), 3]


async def test_a_client_recovers_in_another_process(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there, _, memories, _):
        networks = [Network(memory.listener) for memory in memories]
        at = 0

        async def dial() -> trio.abc.Stream:
            return await networks[at]()

        client = WebSocketClient("ws://test/", stream=dial, reconnect=Backoff(initial=1, maximum=1))
        async with client, client.subscribe("room.1", recover=True) as subscription:
            here.publish("room.1", 0)
            await wait_all_tasks_blocked()
            for number in range(1, 9):
                networks[at].cut()
                at = 1 - at
                here.publish("room.1", number)
                await trio.sleep(3)
                there.publish("room.1", number + 0.5)
                await wait_all_tasks_blocked()
            expected: list[float] = [0]
            for number in range(1, 9):
                expected += [number, number + 0.5]
            assert waiting(subscription) == expected


async def test_the_latest_value_comes_from_other_processes(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there, _, memories, _):
        here.publish("price.1", 1)
        here.publish("price.1", 2)
        async with (
            WebSocketClient("ws://test/", stream=await memories[1].stream()) as client,
            client.subscribe("price.1") as plain,
            client.subscribe("price.1", recover=True) as recovering,
            there.channels.subscribe("price.1") as local,
        ):
            await wait_all_tasks_blocked()
            assert waiting(plain)[-1] == 2
            assert waiting(recovering)[-1] == 2
            assert waiting(local) == [2]


async def test_a_new_subscriber_begins_with_the_latest_value_that_its_process_has(
    autojump_clock: MockClock,
) -> None:
    """Messages that are delayed, or the loss of the broker, do not delay it. Newer values follow, once."""
    async with (
        two_processes() as (here, there, brokers, *_),
        there.channels.subscribe("price.*") as first,
    ):
        here.publish("price.1", 1)
        assert waiting(first) == [1]
        brokers[1].deaf = True  # the next value is on its way
        here.publish("price.1", 2)
        async with (
            there.channels.subscribe("price.1") as named,
            there.channels.subscribe("price.*") as glob,
        ):
            assert waiting(named) == waiting(glob) == [1]
            brokers[1].deaf = False
            here.publish("price.1", 3)
            await trio.sleep(1)
            assert waiting(first) == waiting(named) == waiting(glob) == [3]
        brokers[1].lose()
        here.publish("price.1", 4)
        here.publish("price.2", 5)
        async with (
            there.channels.subscribe("price.1") as named,
            there.channels.subscribe("price.*") as glob,
            there.channels.subscribe("price.2") as unknown,
        ):
            await trio.sleep(1)
            assert (waiting(named), waiting(glob), waiting(unknown)) == ([3], [3], [])
            brokers[1].recover()
            await trio.sleep(1)
            assert waiting(first) == [4, 5]
            assert (waiting(named), waiting(glob), waiting(unknown)) == ([4], [4, 5], [5])


async def test_no_subscriber_gets_an_older_value_than_it_has(autojump_clock: MockClock) -> None:
    """One that continues in a process whose broker is lost, where the newest value is an older one."""
    async with two_processes() as (here, there, brokers, memories, _):
        networks = [Network(memory.listener) for memory in memories]
        at = 0

        async def dial() -> trio.abc.Stream:
            return await networks[at]()

        client = WebSocketClient("ws://test/", stream=dial, reconnect=Backoff(initial=1, maximum=1))
        async with (
            there.channels.subscribe("price.*") as there_before,
            here.channels.subscribe("price.1") as here_before,
            client,
            client.subscribe("price.1", recover=True) as moving,
        ):
            here.publish("price.1", 1)
            brokers[1].lose()
            here.publish("price.1", 2)
            await wait_all_tasks_blocked()
            assert waiting(moving)[-1] == 2
            assert waiting(there_before) == [1]
            position = [here_before.receive_nowait() for _ in range(2)][-1].position
            at = 1
            networks[0].cut()
            async with there.channels.subscribe("price.1", after=position) as local:
                await trio.sleep(60)  # neither waits for the broker that long
                assert waiting(local) == waiting(moving) == []
                brokers[1].recover()
                here.publish("price.1", 3)
                await trio.sleep(1)
                assert waiting(local) == waiting(moving) == [3]


async def test_a_glob_gets_the_latest_values_of_channels_that_its_process_does_not_know(
    autojump_clock: MockClock,
) -> None:
    async with two_processes() as (here, there, brokers, memories, _):
        here.publish("price.1", 1)
        here.publish("price.2", 2)
        here.publish("price.1", 3)
        here.publish("room.1", "not kept for that")
        async with (
            WebSocketClient("ws://test/", stream=await memories[1].stream()) as client,
            client.subscribe("price.*") as remote,
            there.channels.subscribe("price.?") as local,
            there.channels.subscribe("*") as everything,
        ):
            await trio.sleep(1)
            for inbox in (remote, local, everything):
                assert sorted(waiting(inbox)) == [2, 3]
            here.publish("price.1", 4)
            here.publish("room.1", 5)
            await wait_all_tasks_blocked()
            assert [waiting(inbox) for inbox in (remote, local, everything)] == [[4], [4], [4, 5]]
            brokers[1].lose()
            here.publish("price.1", 6)
            here.publish("price.3", 7)
            brokers[1].recover()
            await trio.sleep(1)
            for inbox in (remote, local, everything):
                assert [one for one in sorted(waiting(inbox), key=str) if isinstance(one, int)] == [6, 7]


async def test_a_glob_gets_no_more_latest_values_than_there_may_be_channels(
    autojump_clock: MockClock,
) -> None:
    async with two_processes() as (here, there, *_):
        for number in range(2000):
            here.publish(f"price.{number}", number)
        async with there.channels.subscribe("price.*", max_items=5000) as inbox:
            await trio.sleep(1)
            got = waiting(inbox)
            assert len(got) == len(set(got)) == 1024
            assert len(there.channels.statistics().channels) == 1024


async def test_exclude_and_predicates_hold_for_replays(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, _, memories, _),
        WebSocketClient("ws://test/", stream=await memories[0].stream()) as client,
        client.subscribe("room.1", recover=True) as subscription,
    ):
        (connection,) = here.clients
        here.publish("room.1", "without", exclude=[connection])
        here.publish("room.1", "with")
        await wait_all_tasks_blocked()
        assert waiting(subscription) == ["with"]
        async with client.subscribe("room.1", last=10) as late:
            await wait_all_tasks_blocked()
            assert waiting(late) == ["with"]
        async with there.channels.subscribe("room.1", last=10) as elsewhere:
            assert waiting(elsewhere) == ["without", "with"]


async def test_block_loses_nothing_that_is_kept(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, *_),
        here.channels.subscribe("room.1", policy="block", max_items=2) as subscription,
    ):
        for number in range(5):
            there.publish("room.1", number)
        with pytest.raises(trio.WouldBlock):
            here.publish("room.1", "refused")
        assert [(await subscription.receive()).data for _ in range(5)] == list(range(5))


async def test_a_history_that_cannot_be_read_is_waited_for(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there, brokers, *_):
        there.publish("room.1", 1)
        brokers[0].lose()

        async def come_back() -> None:
            await trio.sleep(5)
            brokers[0].recover()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            async with here.channels.subscribe("room.1", last=5) as subscription:
                assert waiting(subscription) == [1]
        brokers[0].lose()
        started = trio.current_time()
        async with here.channels.subscribe("room.2", after=Position("e", 1)) as subscription:
            assert trio.current_time() - started == 30
            assert waiting(subscription) == [("gap", None)]


async def test_a_broker_without_histories_says_so() -> None:
    class Plain(InMemoryBroker):
        append = Broker.append
        read = Broker.read

    broker = Plain(InMemoryBus())
    with pytest.raises(NotImplementedError, match="Plain keeps no histories"):
        broker.append("a", b"", History())
    with pytest.raises(NotImplementedError, match="Plain keeps no histories"):
        await broker.read("a", 0, History())


async def test_a_position_that_another_process_has_given_is_looked_for(autojump_clock: MockClock) -> None:
    async with (
        two_processes() as (here, there, brokers, *_),
        here.channels.subscribe("room.1", recover=True) as subscription,
        there.channels.subscribe("room.1", recover=True) as slow,
    ):
        brokers[1].deaf = True  # it has not yet received the messages of the other
        here.publish("room.1", 1)
        here.publish("room.1", 2)
        position = (await subscription.receive()).position
        assert position is not None
        async with there.channels.subscribe("room.1", after=position._replace(offset=2)) as late:
            assert waiting(late) == []
            assert waiting(slow) == [1, 2]
            brokers[1].deaf = False
            here.publish("room.1", 3)
            assert waiting(late) == [3]
        async with there.channels.subscribe("room.1", after=position._replace(offset=9)) as late:
            assert waiting(late) == [("gap", None)], "nobody has given that one"


async def test_a_message_that_was_published_past_the_history_has_no_position(
    autojump_clock: MockClock,
) -> None:
    async with (
        two_processes() as (here, there, brokers, *_),
        there.channels.subscribe("room.1", recover=True) as subscription,
    ):
        here.publish("room.1", 1)
        brokers[0].publish(":room.1", msgspec.msgpack.encode(["plain", None]))
        here.publish("room.1", 2)
        packets = [await subscription.receive() for _ in range(3)]
        assert [(packet.data, packet.offset) for packet in packets] == [(1, 1), ("plain", None), (2, 2)]


class RefusingBroker(LossyBroker):
    """One that refuses to read a history for a while."""

    refusals = 0

    async def latest(self, namespace: str) -> list[str]:
        if self.refusals:
            self.refusals -= 1
            raise BrokerError("not now")
        return await super().latest(namespace)

    async def read(self, name: str, after: int, history: History) -> HistoryPage:
        if self.refusals:
            self.refusals -= 1
            raise BrokerError("not now")
        return await super().read(name, after, history)


async def test_a_broker_that_refuses_is_asked_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    bus = InMemoryBus(keeps_histories=True)
    here, there = Rooms(), Rooms()
    broker = RefusingBroker(bus)
    async with (
        serving_in_memory(here, broker=broker),
        serving_in_memory(there, broker=LossyBroker(bus)),
    ):
        there.publish("room.1", 1)
        broker.refusals = 12
        began = trio.current_time()
        async with here.channels.subscribe("room.1", last=5) as subscription:
            assert waiting(subscription) == [1]
        assert trio.current_time() - began == 12
    assert [record.getMessage() for record in caplog.records if "history" in record.getMessage()] == [
        "could not read a channel's history, will retry: not now (1 so far)",
        "could not read a channel's history, will retry: not now (10 so far)",
    ]
